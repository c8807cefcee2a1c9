"""The tokenize step: every input range becomes a part of the token store."""

from __future__ import annotations

import functools
import re
import time
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from rich.markup import escape

from pipelines.progress import progress
from pipelines.run import Run
from pipelines.runners import HandedOver
from schemas.counts import format_bytes, format_count
from schemas.errors import DataError
from schemas.fingerprint import fingerprint
from schemas.job import Job
from schemas.ledger import add_counts
from schemas.storage import Location, atomic_output, for_each_place
from schemas.store import RANGES, SPLITS, InputRange, PartSidecar, Split, rejects_location, sidecar_location
from transforms.tokenize import TokenizeOptions, finished_range, tokenize_range
from transforms.vocabulary import Vocabulary

Sidecars = dict[str, dict[Split, list[PartSidecar]]]
"""The sidecars of every source and split, in the order of their parts."""

_PART = re.compile(r"/(?:split=[a-z]+|rejects)/part-(\d+)\.(?:json|parquet)$")


@dataclass(frozen=True)
class TokenizeWork:
    """Tokenizes the range of a number; what a runner's workers are sent."""

    ranges_uri: str
    job: Job
    store: str
    tokenizer_sha256: str

    def __call__(self, item: int) -> bytes:
        """Tokenize range `item` of the table of ranges."""
        piece = _read_ranges(self.ranges_uri)[item]
        tokenize_range(piece, options_for(self.job, self.store, self.tokenizer_sha256, piece.source))
        return b""


@functools.lru_cache(maxsize=2)
def _read_ranges(uri: str) -> list[InputRange]:
    """The table of ranges; its name holds its fingerprint, so a cached one is never stale."""
    with Location(uri).open_input() as file:
        return [InputRange.model_validate(row) for row in pq.read_table(file).to_pylist()]


def options_for(job: Job, store: str, tokenizer_sha256: str, source: str) -> TokenizeOptions:
    """The options of one source's ranges."""
    return TokenizeOptions(
        store=store,
        source=job.source(source),
        tokenizer_uri=f"{store}/tokenizer.json",
        tokenizer_sha256=tokenizer_sha256,
        validation=job.splits.validation,
        max_record_bytes=job.limits.max_record_bytes,
        sentences=job.objective.reads_sentences,
        pairs=job.objective.reads_pairs,
    )


def finished_sidecars(run: Run, tokenizer_sha256: str) -> tuple[list[InputRange], list[InputRange], Sidecars]:
    """All ranges, those that are still to do, and the sidecars of the others."""
    ranges = [r for source in run.ranges.values() for r in source]
    options = {name: options_for(run.job, run.store.uri, tokenizer_sha256, name) for name in run.ranges}
    found = for_each_place(run.store.is_local, lambda r: finished_range(r, options[r.source]), ranges)
    sidecars: Sidecars = {name: {split: [] for split in SPLITS} for name in run.ranges}
    for piece, done in zip(ranges, found, strict=True):
        for split in SPLITS if done else ():
            sidecars[piece.source][split].append(done[split])  # type: ignore[index]
    return ranges, [r for r, done in zip(ranges, found, strict=True) if not done], sidecars


def tokenize(run: Run, vocabulary: Vocabulary) -> Sidecars:
    """Tokenize what is not tokenized yet.

    Returns:
      The sidecars of the whole store.

    Raises:
      DataError: more records were rejected than the job allows, or an input cannot be read.
    """
    began = time.monotonic()
    ranges, todo, sidecars = finished_sidecars(run, vocabulary.sha256)
    _remove_ranges(run.output)
    if todo:
        folders = [run.store / name / "split=train" for name in run.ranges]
        stale = {sidecar_location(run.store, r.source, "train", r.part).uri for r in todo}
        stale &= {file.uri for folder in folders for file in folder.files()}
        # So that counting sidecars counts finished work.
        for_each_place(run.store.is_local, lambda uri: Location(uri).remove(), sorted(stale))
        ranges_uri = _write_ranges(run.output, ranges)
        index = {(r.source, r.part): i for i, r in enumerate(ranges)}
        work = TokenizeWork(ranges_uri, run.job, run.store.uri, vocabulary.sha256)
        items = [index[(r.source, r.part)] for r in todo]
        try:
            with progress(run.console, "tokenize", "ranges", len(ranges), lambda: _count_sidecars(folders)):
                run.engine.run_each("Tokenize", items, [r.cost_bytes for r in todo], work)
        except HandedOver:
            raise  # the job that reads the table has yet to begin
        except BaseException:
            Location(ranges_uri).remove()
            raise
        Location(ranges_uri).remove()
        _, unfinished, sidecars = finished_sidecars(run, vocabulary.sha256)
        if unfinished:
            raise DataError(
                "Some input ranges are not tokenized",
                where=f"source {unfinished[0].source!r}, {unfinished[0].uri}",
                got=f"{len(unfinished)} of {len(ranges)} ranges without a valid sidecar",
                remedy="An input may have changed during the run; run again",
            )
    _remove_extra_parts(run)
    train = [s for by_split in sidecars.values() for s in by_split["train"]]
    everything = [s for by_split in sidecars.values() for parts in by_split.values() for s in parts]
    tokens, size = sum(s.tokens for s in everything), sum(s.text_bytes for s in everything)
    seconds = time.monotonic() - began
    speed = f"{format_bytes(size / seconds)}/s, {seconds:.1f} s" if todo else "done before"
    run.say(
        f"[bold]tokenize[/]     {sum(s.documents for s in everything):,} documents, {format_bytes(size)} of text → "
        f"{format_count(tokens)} tokens  [dim]{speed}[/]"
    )
    _check_rejects(run, train)
    return sidecars


def _remove_ranges(output: Location) -> None:
    """Delete the tables of ranges that killed runs left behind; this run holds the lock."""
    for file in output.files():
        if "/.ranges-" in file.uri:
            Location(file.uri).remove()


def _write_ranges(output: Location, ranges: list[InputRange]) -> str:
    """Write the table the workers read their ranges from."""
    rows = [r.model_dump() for r in ranges]
    place = output / f".ranges-{fingerprint(rows)}.parquet"
    with atomic_output(place) as sink:
        pq.write_table(pa.Table.from_pylist(rows, schema=RANGES), pa.PythonFile(sink, mode="w"))
    return place.uri


def _count_sidecars(folders: list[Location]) -> int:
    return sum(1 for folder in folders for f in folder.files() if f.uri.endswith(".json") and "/." not in f.uri)


def _remove_extra_parts(run: Run) -> None:
    """Delete parts beyond the last range, which an earlier set of inputs left behind."""
    for name, ranges in run.ranges.items():
        for folder in (*(run.store / name / f"split={s}" for s in SPLITS), run.store / name / "rejects"):
            for file in folder.files():
                if (match := _PART.search(file.uri)) and int(match.group(1)) >= len(ranges):
                    Location(file.uri).remove()


def _check_rejects(run: Run, sidecars: list[PartSidecar]) -> None:
    """Say what was rejected; fail the run where it is more than the job allows."""
    for source in run.job.sources:
        parts = [s for s in sidecars if s.source == source.name]
        records, reasons = sum(s.range_records for s in parts), add_counts(s.rejected for s in parts)
        rejected = sum(reasons.values())
        if not rejected:
            continue
        share, counts = rejected / records, ", ".join(f"{reason} {n:,}" for reason, n in reasons.items())
        first = next(s for s in parts if s.rejected)
        with rejects_location(run.store, source.name, first.part).open_input() as file:
            example = pq.read_table(file).slice(0, 1).to_pylist()[0]
        shown = f"{example['file']} at {example['offset']:,}: {example['reason']} {example['detail']}".rstrip()
        if share > run.job.limits.max_reject_share:
            raise DataError(
                f"Too many records of source {source.name!r} are bad",
                where=f"{run.store / source.name / 'rejects'}, the first in {shown}",
                expected=f"at most {run.job.limits.max_reject_share:.2%} of the records (limits.max_reject_share)",
                got=f"{rejected:,} of {records:,} records rejected ({share:.2%}): {counts}",
                remedy="Mend the input, or raise limits.max_reject_share; the token store is kept",
            )
        run.say(
            f"  [yellow]rejected[/] {rejected:,} of {records:,} records of {source.name} ({share:.2%}): {counts}; "
            f"the first: {escape(shown)}"
        )
