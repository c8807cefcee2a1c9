"""Lays the sources' token streams out over stages and blocks. A pure function: no Beam, no I/O of tokens.

Each source is an endless stream: its chunks in a keyed order, then again in another keyed order for the next pass,
and so on. A stage takes the next interval of every stream, so nothing is repeated before a source is used up and
nothing is left out. A block takes an exact proportion of every source's interval, so each block is a stratified
sample of its stage; sources too small for a slice of every block take turns.

Intervals are counted in tokens. Of two blocks that share a document the one with its first token has it whole. Stages
are exact to the token: a document that a stage's edge runs through is cut there, and the next stage begins with its
rest. Pairs of texts cannot be cut; these go by their first token at a stage's edge too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.fingerprint import fingerprint
from schemas.job import Job
from schemas.keys import draw, text_key
from schemas.plan import Plan, SourceChunks, StagePlan
from schemas.store import PartSidecar
from schemas.tables import PLAN
from transforms.blocks import block_ends, block_tokens_for
from transforms.mixture import mix
from transforms.ragged import ranges


def chunks_of(source: str, sidecars: Sequence[PartSidecar]) -> SourceChunks:
    """The chunks of one source and split from its parts' sidecars."""
    counts = [len(s.chunk_tokens) for s in sidecars]
    group = ranges(np.array(counts, dtype=np.int64)).astype(np.int32)
    place = np.array([text_key(s.file, str(s.begin)) for s in sidecars], dtype=np.uint64)
    documents, tokens, length, times = (
        np.frombuffer(b"".join(getattr(s, name) for s in sidecars), np.int64)
        for name in ("chunk_documents", "chunk_tokens", "length_tokens", "length_documents")
    )
    lengths, which = np.unique(length, return_inverse=True)
    times = np.bincount(which, times, len(lengths)).astype(np.int64)
    return SourceChunks(
        name=source,
        part=np.repeat(np.array([s.part for s in sidecars], dtype=np.int32), counts),
        row_group=group,
        order_key=draw(0, "chunk", np.repeat(place, counts), group) if len(group) else np.zeros(0, np.uint64),
        documents=documents,
        tokens=tokens,
        lengths=dict(zip(lengths.tolist(), times.tolist(), strict=True)),
    )


def make_plan(job: Job, train: dict[str, SourceChunks], validation: dict[str, SourceChunks]) -> Plan:
    """The whole plan.

    Args:
      job: the job.
      train, validation: the chunks of every source, by name.

    Returns:
      The plan; its table has the train blocks of every stage in order, then the validation blocks. Every stage
      has its own validation rows, all validation documents once, cut for that stage's lengths.

    Raises:
      RequestError, DataError: as `transforms.mixture.mix`.
    """
    available = {name: chunks.available_tokens for name, chunks in train.items()}
    stages, warnings = mix(job, available)
    block_tokens = block_tokens_for(job, sum(available.values()))
    tables: list[pa.Table] = []
    blocks = 0
    position = dict.fromkeys(train, 0)
    for number, stage in enumerate(stages):
        ends = block_ends(stage.tokens, stage.shares, block_tokens)
        cut = not job.objective.reads_pairs
        rows = [_slices(job.seed, train[n], position[n], position[n] + ends[n], cut) for n in sorted(ends)]
        blocks += _append(tables, rows, sorted(ends), "train", number, blocks)
        for name, end in ends.items():
            position[name] += int(end[-1])
    used = {name for stage in stages for name in stage.tokens}
    held_out = {n: c.available_tokens for n, c in validation.items() if n in used and c.available_tokens}
    for number in range(len(stages) if held_out else 0):
        ends = block_ends(
            held_out, {n: Fraction(t, sum(held_out.values())) for n, t in held_out.items()}, block_tokens
        )
        rows = [_slices(job.seed, validation[n], 0, ends[n], cut=False) for n in sorted(ends)]
        blocks += _append(tables, rows, sorted(ends), "validation", number, blocks)
    if not held_out and job.splits.validation > 0:
        warnings.append("no document fell into the validation split; raise splits.validation to hold some out")
    return Plan(
        stages=tuple(stages),
        table=pa.concat_tables(tables).unify_dictionaries() if tables else PLAN.empty_table(),
        blocks=blocks,
        block_tokens=block_tokens,
        available_tokens=available,
        warnings=tuple(warnings),
    )


@dataclass(frozen=True)
class _Slices:
    """Slices of one source's chunks; arrays have one entry a slice."""

    block: npt.NDArray[np.int32]
    part: npt.NDArray[np.int32]
    row_group: npt.NDArray[np.int32]
    copy: npt.NDArray[np.int32]
    token_begin: npt.NDArray[np.int64]
    token_end: npt.NDArray[np.int64]
    resumes: npt.NDArray[np.bool_]
    cut_at: npt.NDArray[np.int64]
    """-1 for none."""


def _slices(seed: int, chunks: SourceChunks, start: int, ends: npt.NDArray[np.int64], cut: bool) -> _Slices:
    """The stream from `start` on, cut at `ends` (positions in the stream) and at chunk edges.

    Args:
      seed: the job's.
      chunks: of the source.
      start: where the stage begins.
      ends: where each of its blocks ends.
      cut: documents are cut where the stage begins and where it ends.
    """
    parts = []
    available = chunks.available_tokens
    reach = chunks.longest_document_tokens
    stop = int(ends[-1]) if len(ends) else start
    for copy in range(start // available, -(-stop // available)):
        origin = copy * available
        order = np.argsort(draw(seed, "order", text_key(chunks.name), copy, chunks.order_key), kind="stable")
        edges = np.concatenate([[0], np.cumsum(chunks.tokens[order])]) + origin
        low, high = max(start, origin), min(stop, origin + available)
        inside = [at[np.searchsorted(at, low, "right") : np.searchsorted(at, high, "left")] for at in (edges, ends)]
        cuts = np.unique(np.concatenate([[low], *inside, [high]]))
        begin, end = cuts[:-1], cuts[1:]
        chunk = np.searchsorted(edges, begin, side="right") - 1
        which = order[chunk]
        # Only a document of the chunk that the stage ends in can go beyond, if it begins no farther before than
        # the longest is long. No other slice says so: its block stays as it is when the stage grows.
        goes_beyond = cut & (edges[chunk] < stop) & (stop < edges[chunk + 1]) & (end > stop - reach)
        parts.append(
            _Slices(
                block=np.searchsorted(ends, begin, side="right").astype(np.int32),
                part=chunks.part[which],
                row_group=chunks.row_group[which],
                copy=np.full(len(begin), copy, np.int32),
                token_begin=begin - edges[chunk],
                token_end=end - edges[chunk],
                resumes=cut & (begin == start) & (begin > edges[chunk]),
                cut_at=np.where(goes_beyond, stop - edges[chunk], -1),
            )
        )
    return _Slices(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(_Slices)))


def _append(
    tables: list[pa.Table], rows: list[_Slices], names: list[str], split: str, stage: int, first_block: int
) -> int:
    """Add a stage's table, sorted by block then source; returns its number of blocks."""
    block = np.concatenate([r.block for r in rows])
    # Numbered without gaps: a block may be too small to hold a token of any source.
    filled = np.bincount(block) > 0
    shard = (np.cumsum(filled, dtype=np.int32) - 1)[block]
    order = np.argsort(shard, kind="stable")  # sources follow each other already, each in order of its blocks
    shard = shard[order]
    source = np.repeat(np.arange(len(rows), dtype=np.int32), [len(r.block) for r in rows])[order]
    values = {
        "block": first_block + shard,
        "split": pa.DictionaryArray.from_arrays(np.zeros(len(order), np.int32), [split]),
        "stage": np.full(len(order), stage, np.int32),
        "shard": shard,
        "source": pa.DictionaryArray.from_arrays(source, pa.array(names, pa.string())),
    }

    def column(field: pa.Field) -> pa.Array:
        if field.name in values:
            return pa.array(values[field.name]).cast(field.type)
        array = pa.array(np.concatenate([getattr(r, field.name) for r in rows])[order]).cast(field.type)
        return pc.if_else(pc.equal(array, -1), None, array) if field.nullable else array

    tables.append(pa.table([column(f) for f in PLAN], schema=PLAN))
    return int(filled.sum())


def block_fingerprint(
    dataset: str, stage: StagePlan | Sequence[int], slices: pa.Table, part_sha256: dict[tuple[str, int], str]
) -> str:
    """What a block's shards are made from; a commit with another fingerprint is stale.

    Args:
      dataset: the dataset's fingerprint.
      stage: the stage, or its lengths.
      slices: the block's rows of the plan.
      part_sha256: digest of each (source, part) of the block's split.
    """
    lengths = list(stage.lengths if isinstance(stage, StagePlan) else stage)
    columns = ["source", "part", "row_group", "copy", "token_begin", "token_end", "resumes", "cut_at"]
    rows = list(zip(*(slices[c].to_pylist() for c in columns), strict=True))
    parts = {f"{s}/{p}": part_sha256[(s, p)] for s, p, *_ in rows}
    return fingerprint({"dataset": dataset, "lengths": lengths, "slices": rows, "parts": parts})
