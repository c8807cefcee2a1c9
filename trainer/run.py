"""A run's directory: `metrics.jsonl` while it goes on, `final/` once it is finished. Knows no training."""

from __future__ import annotations

import json
import os
import shutil
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
    def start(cls, out: str | os.PathLike[str], *, overwrite: bool) -> Run:
        """Make the directory and empty its metrics.

        Raises:
          RequestError: a finished run is there and is not to be overwritten, or the place cannot be written.
        """
        place = Location.of(out)
        if not place.is_local:
            raise RequestError("A run is written to a local directory", where=str(place), remedy="Give a local --out")
        run = cls(Path(place.uri))
        if run.final.exists() and not overwrite:
            raise RequestError(
                "There is a finished run here already",
                where=str(run.directory),
                got=f"the saved model {run.final}",
                remedy="Give another --out, or --overwrite to replace it",
            )
        place.make_directory()
        with place_errors(place):
            # Gone before the first step: a run that is killed must not leave the old model with new metrics.
            if run.final.exists():
                shutil.rmtree(run.final)
            run.metrics.write_text("")
        return run

    @property
    def metrics(self) -> Path:
        """One JSON object a line."""
        return self.directory / "metrics.jsonl"

    @property
    def final(self) -> Path:
        """The saved model and its tokenizer."""
        return self.directory / "final"

    def log(self, values: dict[str, Any]) -> None:
        """Add a line to the metrics."""
        with self.metrics.open("a") as sink:
            sink.write(json.dumps(values) + "\n")

    def save(self, model: Any, dataset: Location, tokenizer: TokenizerRecord) -> None:
        """Save the model and the dataset's tokenizer, for `from_pretrained`."""
        from transformers.utils import logging

        logging.disable_progress_bar()
        temporary = self.directory / f".final.{os.getpid()}.tmp"
        with place_errors(Location.of(temporary)):
            model.save_pretrained(temporary)
            self._save_tokenizer(temporary, dataset / "tokenizer.json", tokenizer)
            os.replace(temporary, self.final)

    def _save_tokenizer(self, directory: Path, place: Location, record: TokenizerRecord) -> None:
        from tokenizers import Tokenizer
        from transformers import PreTrainedTokenizerFast

        content = place.read_bytes()
        tokenizer = Tokenizer.from_str(content.decode())
        roles = {f"{role}_token": tokenizer.id_to_token(i) for role, i in record.special_ids.items()}
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles).save_pretrained(directory)
        # The wrapper writes the same tokenizer in its own words; the dataset's own bytes are what was trained on.
        (directory / "tokenizer.json").write_bytes(content)
