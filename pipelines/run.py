"""A job under way: what follows from the job file, found once and handed from step to step."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rich.console import Console

from pipelines.engine import Engine
from pipelines.lock import lock
from schemas.errors import RequestError
from schemas.fingerprint import dataset_fingerprint, fingerprint, plan_fingerprint
from schemas.job import Job
from schemas.jobfile import load_job
from schemas.storage import Location
from schemas.store import InputRange
from transforms.inputs import InputFile, cut_ranges, find_inputs
from transforms.objectives.registry import objective_for
from transforms.vocabulary import Vocabulary, future_vocabulary, read_vocabulary


@dataclass
class Run:
    """A job, where it reads and writes, and what it is called."""

    uri: str
    """Of the job file."""
    job: Job
    engine: Engine
    console: Console

    @classmethod
    def load(cls, uri: str, engine: Engine, console: Console) -> Run:
        """Read the job file.

        Raises:
          RequestError: it is no valid job.
        """
        return cls(uri, load_job(uri), engine, console)

    @property
    def output(self) -> Location:
        """The dataset's directory."""
        return Location.of(self.job.output)

    @property
    def store(self) -> Location:
        """The token store's directory."""
        assert self.job.tokens is not None  # load_job fills it in
        return Location.of(self.job.tokens)

    @property
    def owns_store(self) -> bool:
        """True if the store lies in the dataset's directory, so that no other job shares it."""
        return self.store.uri.startswith(self.output.uri + "/")

    @cached_property
    def inputs(self) -> dict[str, list[InputFile]]:
        """The input files by source."""
        missing = [s.name for s in self.job.sources if not s.files]
        if missing:
            raise RequestError(
                f"The source {missing[0]!r} has no files",
                where=self.uri,
                expected="`files`; a source with `tokens` can only be planned",
                remedy="Give `files`, or run `shardmill plan`",
            )
        return find_inputs(self.job)

    @cached_property
    def ranges(self) -> dict[str, list[InputRange]]:
        """The input ranges by source."""
        return cut_ranges(self.job, self.inputs)

    @cached_property
    def tokenizer_file(self) -> bytes | None:
        """The tokenizer the job names; None if it trains one."""
        if self.job.tokenizer.file is None:
            return None
        place = Location.of(self.job.tokenizer.file)
        try:
            return place.read_bytes()
        except (FileNotFoundError, IsADirectoryError) as error:
            raise RequestError(
                f"There is no tokenizer file {place}",
                where="tokenizer.file",
                expected="a Hugging Face tokenizer.json",
                remedy="Mend the path, or train one with `tokenizer: {train: …}`",
            ) from error

    @cached_property
    def fingerprint(self) -> str:
        """Of the dataset; see `schemas.fingerprint`."""
        special = dict(sorted(self.job.tokenizer.special_tokens.items()))
        identity: dict[str, Any] = {"special_tokens": special}
        if self.tokenizer_file is not None:
            identity["sha256"] = hashlib.sha256(self.tokenizer_file).hexdigest()
        elif self.job.tokenizer.train is not None:
            identity["train"] = self.job.tokenizer.train.model_dump()
            # The sample follows the weights, so the vocabulary does too.
            identity["weights"] = {s.name: s.weight for s in self.job.in_effect.sources}
        files = {name: [(f.file, f.size_bytes) for f in fs] for name, fs in self.inputs.items()}
        return dataset_fingerprint(self.job, identity, files)

    @cached_property
    def plan_fingerprint(self) -> str:
        """Of the plan; see `schemas.fingerprint`."""
        return plan_fingerprint(self.job, self.fingerprint)

    @property
    def inputs_fingerprint(self) -> str:
        """Of the input files as they are now, modification times included."""
        return fingerprint({n: [(f.file, f.size_bytes, f.mtime_ns) for f in fs] for n, fs in self.inputs.items()})

    def check(self) -> None:
        """Refuse what cannot be done, before any data moves or any file is written.

        Raises:
          RequestError: the tokenizer lacks a token, a length is too short, an input is missing or lacks a column.
          DataError: a Parquet input cannot be opened.
        """
        self._check_objective()
        _ = self.ranges

    def _check_objective(self) -> None:
        names = {str(r): t for r, t in self.job.tokenizer.special_tokens.items()}
        if self.tokenizer_file is not None:
            vocabulary = read_vocabulary(self.tokenizer_file, names, where=str(self.job.tokenizer.file))
        else:
            assert self.job.tokenizer.train is not None
            vocabulary = future_vocabulary(self.job.tokenizer.train.vocab_size)
        self.resolved_objective(vocabulary)

    def resolved_objective(
        self, vocabulary: Vocabulary, stages: Sequence[Sequence[int]] | None = None
    ) -> dict[str, Any]:
        """The objective's kind, parameters and the numbers that follow at every length.

        Args:
          vocabulary: of the tokenizer.
          stages: the lengths of each stage; default: as far as the job file says them.
        """
        objective = objective_for(self.job.objective, vocabulary)
        stages = [stage.declared_lengths for stage in self.job.curriculum] if stages is None else stages
        lengths = sorted({length for stage in stages for length in stage})
        return {**self.job.objective.model_dump(), "resolved": [objective.resolve(length) for length in lengths]}

    def lock(self) -> AbstractContextManager[None]:
        """Hold the output directory for this process; see `pipelines.lock`.

        Raises:
          RequestError: another run holds it.
        """
        return lock(self.output)

    def say(self, text: str) -> None:
        """A line for the person at the terminal."""
        self.console.print(text, highlight=False)
