"""A run's directory: metrics, checkpoints and samples while it goes on, `final/` once it is finished.

On an object store it is the same directory, but nothing can be added to an object: what grows is written in a local
folder, and put as a whole at every checkpoint, after every evaluation and at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.errors import RequestError
from schemas.manifest import TokenizerRecord
from schemas.place_errors import place_errors
from schemas.storage import Location
from schemas.temporaries import own_temporary_directory, temporary_path

_SUCCESS = "_SUCCESS"
"""An empty object, put last: with it `final/` is whole on an object store."""


@dataclass(frozen=True)
class Run:
    """Where a run's files go. `final/` is whole or does not count."""

    place: Location
    """The run's directory."""
    directory: Path
    """Where its files are written: the same directory, or a local folder where that is on an object store."""
    _put: dict[Path, int] = field(default_factory=dict)
    """Files that were put on the object store, and their sizes then."""

    @classmethod
    @contextlib.contextmanager
    def at(cls, out: str | os.PathLike[str]) -> Iterator[Run]:
        """A run that is written to `out`; local, `s3://` or `gs://`."""
        place = Location.of(out)
        if place.is_local:
            yield cls(place, Path(place.uri))
            return
        with own_temporary_directory() as folder:
            yield cls(place, Path(folder))

    def start(self, identity: Mapping[str, Any], *, overwrite: bool) -> None:
        """Make the directory, or go on with what is in it if it is the same run's.

        Args:
          identity: what makes two runs the same one; JSON.
          overwrite: remove what is there.

        Raises:
          RequestError: a finished run, or another one, is there and is not to be overwritten; or the place cannot
            be written.
          DataError: its store fails.
        """
        if not overwrite:
            self._refuse_others(identity)
        self.place.make_directory()
        self.place.remove_temporaries()
        with place_errors(self.place):
            if overwrite:
                # Gone before the first step: a run that is killed must not leave the old model with new metrics.
                (self.place / "final" / _SUCCESS).remove()
                for folder in ("final", "checkpoints", "tensorboard"):
                    (self.place / folder).remove_directory()
                for file in (self.metrics, self.samples):
                    (self.place / file.name).remove()
            if not self.place.is_local:
                for file in (self.metrics, self.samples):
                    with contextlib.suppress(FileNotFoundError):
                        file.write_bytes((self.place / file.name).read_bytes())
            self.metrics.touch()
            (self.place / "run.json").write_bytes((json.dumps(dict(identity), indent=2) + "\n").encode())

    def _refuse_others(self, identity: Mapping[str, Any]) -> None:
        final = self.place / "final"
        if final.exists() if self.place.is_local else (final / _SUCCESS).info():
            raise RequestError(
                "There is a finished run here already",
                where=str(self.place),
                got=f"the saved model {final}",
                remedy="Give another --out, or --overwrite to replace it",
            )
        try:
            before = json.loads((self.place / "run.json").read_bytes())
        except FileNotFoundError:
            return
        except (ValueError, OSError) as error:
            raise RequestError(
                "What is here is not a run's directory",
                where=str(self.place / "run.json"),
                got=str(error),
                remedy="Give another --out, or --overwrite to replace it",
            ) from error
        before = before if isinstance(before, dict) else {}
        mine = json.loads(json.dumps(dict(identity)))
        if changed := [k for k in {**before, **mine} if before.get(k) != mine.get(k)]:
            raise RequestError(
                "There is an unfinished run of other settings here",
                where=str(self.place),
                expected=", ".join(f"{k} {before.get(k)}" for k in changed[:3]),
                got=", ".join(f"{k} {mine.get(k)}" for k in changed[:3]),
                remedy="Give its settings to go on with it, another --out, or --overwrite to replace it",
            )

    @property
    def metrics(self) -> Path:
        """One JSON object a line."""
        return self.directory / "metrics.jsonl"

    @property
    def checkpoints(self) -> Location:
        """A directory for each checkpoint."""
        return self.place / "checkpoints"

    @property
    def samples(self) -> Path:
        """What the model makes of fixed validation examples, evaluation by evaluation."""
        return self.directory / "samples.txt"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.directory / "tensorboard"

    @property
    def final(self) -> Location:
        """The saved model and its tokenizer."""
        return self.place / "final"

    def log(self, values: dict[str, Any]) -> None:
        """Add a line to the metrics."""
        self._append(self.metrics, json.dumps(values) + "\n")

    def add_samples(self, text: str) -> None:
        """Add what the model makes of the samples to theirs."""
        self._append(self.samples, text)

    def _append(self, file: Path, text: str) -> None:
        with place_errors(Location.of(file)), file.open("a") as sink:
            sink.write(text)

    def lines(self) -> list[dict[str, Any]]:
        """The metrics, of the leading process; a last line that a kill cut off is left out."""
        lines: list[dict[str, Any]] = []
        if not self.metrics.exists():
            return lines
        for line in self.metrics.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
        return lines

    def rewind(self, step: int) -> None:
        """Forget the metrics of steps after this one, which will be done again."""
        kept = [line for line in self.lines() if line["step"] <= step]
        Location.of(self.metrics).write_bytes("".join(json.dumps(line) + "\n" for line in kept).encode())

    def publish(self) -> None:
        """Put what has grown on the object store; nothing to do for a local run."""
        if self.place.is_local:
            return
        for file in sorted([self.metrics, self.samples, *self.tensorboard.rglob("*")]):
            if file.is_file() and self._put.get(file) != (size_bytes := file.stat().st_size):
                self._upload(file, self.place / file.relative_to(self.directory).as_posix())
                self._put[file] = size_bytes

    def _upload(self, file: Path, place: Location) -> None:
        place.write_bytes(file.read_bytes())

    def save(self, models: Mapping[str, Any], dataset: Location, tokenizer: TokenizerRecord) -> None:
        """Save models and the dataset's tokenizer, for `from_pretrained`.

        Args:
          models: by subdirectory of `final/`.
          dataset: whose tokenizer it is.
          tokenizer: its special tokens.
        """
        from transformers.utils import logging

        logging.disable_progress_bar()
        temporary = Path(temporary_path(str(self.directory / "final")))
        try:
            with place_errors(Location.of(temporary)), _errors_of_safetensors():
                for name, model in models.items():
                    model.save_pretrained(temporary / name)
                    self._save_tokenizer(temporary / name, dataset / "tokenizer.json", tokenizer)
                if self.place.is_local:
                    os.replace(temporary, self.final.uri)
                    return
            for file in sorted(p for p in temporary.rglob("*") if p.is_file()):
                self._upload(file, self.final / file.relative_to(temporary).as_posix())
            (self.final / _SUCCESS).write_bytes(b"")
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # it is no more there where all went well

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


@contextlib.contextmanager
def _errors_of_safetensors() -> Iterator[None]:
    """Its writer says what the system said, such as that the disk is full, in its text alone."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        raise
