"""A run's directory: metrics, checkpoints and samples while it goes on, `final/` once it is finished."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import RequestError
from schemas.manifest import TokenizerRecord
from schemas.storage import Location, place_errors


@dataclass(frozen=True)
class Run:
    """Where a run's files go. `final/` appears whole or not at all."""

    directory: Path

    @classmethod
    def start(cls, out: str | os.PathLike[str], identity: Mapping[str, Any], *, overwrite: bool) -> Run:
        """Make the directory, or go on with what is in it if it is the same run's.

        Args:
          out: a local directory.
          identity: what makes two runs the same one; JSON.
          overwrite: remove what is there.

        Raises:
          RequestError: a finished run, or another one, is there and is not to be overwritten; or the place cannot
            be written.
        """
        place = Location.of(out)
        if not place.is_local:
            raise RequestError("A run is written to a local directory", where=str(place), remedy="Give a local --out")
        run = cls(Path(place.uri))
        if not overwrite:
            run._refuse_others(identity)
        place.make_directory()
        with place_errors(place):
            if overwrite:
                # Gone before the first step: a run that is killed must not leave the old model with new metrics.
                for old in (run.final, run.checkpoints, run.tensorboard):
                    shutil.rmtree(old, ignore_errors=True)
                for file in (run.metrics, run.samples):
                    file.unlink(missing_ok=True)
            run.metrics.touch()
            (run.directory / "run.json").write_text(json.dumps(dict(identity), indent=2) + "\n")
        return run

    def _refuse_others(self, identity: Mapping[str, Any]) -> None:
        if self.final.exists():
            raise RequestError(
                "There is a finished run here already",
                where=str(self.directory),
                got=f"the saved model {self.final}",
                remedy="Give another --out, or --overwrite to replace it",
            )
        try:
            before = json.loads((self.directory / "run.json").read_text())
        except FileNotFoundError:
            return
        except (ValueError, OSError) as error:
            raise RequestError(
                "What is here is not a run's directory",
                where=str(self.directory / "run.json"),
                got=str(error),
                remedy="Give another --out, or --overwrite to replace it",
            ) from error
        before = before if isinstance(before, dict) else {}
        mine = json.loads(json.dumps(dict(identity)))
        if changed := [k for k in {**before, **mine} if before.get(k) != mine.get(k)]:
            raise RequestError(
                "There is an unfinished run of other settings here",
                where=str(self.directory),
                expected=", ".join(f"{k} {before.get(k)}" for k in changed[:3]),
                got=", ".join(f"{k} {mine.get(k)}" for k in changed[:3]),
                remedy="Give its settings to go on with it, another --out, or --overwrite to replace it",
            )

    @property
    def metrics(self) -> Path:
        """One JSON object a line."""
        return self.directory / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """A directory for each checkpoint."""
        return self.directory / "checkpoints"

    @property
    def samples(self) -> Path:
        """What the model makes of fixed validation examples, evaluation by evaluation."""
        return self.directory / "samples.txt"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.directory / "tensorboard"

    @property
    def final(self) -> Path:
        """The saved model and its tokenizer."""
        return self.directory / "final"

    def log(self, values: dict[str, Any]) -> None:
        """Add a line to the metrics."""
        with self.metrics.open("a") as sink:
            sink.write(json.dumps(values) + "\n")

    def lines(self) -> list[dict[str, Any]]:
        """The metrics; a last line that a kill cut off is left out."""
        lines = []
        for line in self.metrics.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
        return lines

    def rewind(self, step: int) -> None:
        """Forget the metrics of steps after this one, which will be done again."""
        kept = [line for line in self.lines() if line["step"] <= step]
        temporary = self.metrics.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(temporary, self.metrics)

    def save(self, models: Mapping[str, Any], dataset: Location, tokenizer: TokenizerRecord) -> None:
        """Save models and the dataset's tokenizer, for `from_pretrained`.

        Args:
          models: by subdirectory of `final/`.
          dataset: whose tokenizer it is.
          tokenizer: its special tokens.
        """
        from transformers.utils import logging

        logging.disable_progress_bar()
        temporary = self.directory / f".final.{os.getpid()}.tmp"
        with place_errors(Location.of(temporary)):
            for name, model in models.items():
                model.save_pretrained(temporary / name)
                self._save_tokenizer(temporary / name, dataset / "tokenizer.json", tokenizer)
            os.replace(temporary, self.final)

    def _save_tokenizer(self, directory: Path, place: Location, record: TokenizerRecord) -> None:
        from tokenizers import Tokenizer
        from transformers import PreTrainedTokenizerFast

        content = place.read_bytes()
        tokenizer = Tokenizer.from_str(content.decode())
        roles = {
            f"{role}_token": tokenizer.id_to_token(i)
            for role, i in record.special_ids.items()
            if role in ("pad", "unk", "cls", "sep", "mask", "bos", "eos")
        }
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles).save_pretrained(directory)
        # The wrapper writes the same tokenizer in its own words; the dataset's own bytes are what was trained on.
        (directory / "tokenizer.json").write_bytes(content)
