"""Lays the sources' token streams out over stages and blocks. A pure function: no Beam, no I/O of tokens.

Each source is an endless stream: its chunks in a keyed order, then again in another keyed order for the next pass,
and so on. A stage takes the next interval of every stream, so nothing is repeated before a source is used up and
nothing is left out. A block takes an exact proportion of every source's interval, so each block is a stratified
sample of its stage. Intervals are counted in tokens; a document belongs to the interval its first token is in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.fingerprint import fingerprint
from schemas.job import Job
from schemas.keys import draw, text_key
from schemas.plan import Plan, SourceChunks, StagePlan
from schemas.store import PartSidecar
from schemas.tables import PLAN
from transforms.mixture import mix
from transforms.ragged import ranges

_LEAST_BLOCK_TOKENS, _MOST_BLOCK_TOKENS = 2**20, 2**25


def chunks_of(source: str, sidecars: Sequence[PartSidecar]) -> SourceChunks:
    """The chunks of one source and split from its parts' sidecars."""
    lengths: dict[int, int] = {}
    for sidecar in sidecars:
        for length, documents in sidecar.lengths:
            lengths[length] = lengths.get(length, 0) + documents
    counts = [len(s.chunks) for s in sidecars]
    group = ranges(np.array(counts, dtype=np.int64)).astype(np.int32)
    place = np.array([text_key(s.file, str(s.begin)) for s in sidecars], dtype=np.uint64)
    flat = np.array([c for s in sidecars for c in s.chunks], dtype=np.int64).reshape(-1, 2)
    return SourceChunks(
        name=source,
        part=np.repeat(np.array([s.part for s in sidecars], dtype=np.int32), counts),
        row_group=group,
        order_key=draw(0, "chunk", np.repeat(place, counts), group) if len(group) else np.zeros(0, np.uint64),
        documents=flat[:, 0],
        tokens=flat[:, 1],
        lengths=lengths,
    )


def block_tokens_for(job: Job, available_tokens: int) -> int:
    """Corpus tokens of a block: the job's word, or a power of two near a 256th of the corpus.

    It follows from the corpus and not from the budget, so that a larger budget appends blocks and changes none.
    """
    if job.limits.block_tokens is not None:
        return job.limits.block_tokens
    wanted = 1 << max(0, available_tokens // 256).bit_length()
    return min(_MOST_BLOCK_TOKENS, max(_LEAST_BLOCK_TOKENS, wanted))


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
        rows = [_slices(job.seed, train[n], position[n], position[n] + ends[n]) for n in sorted(ends)]
        blocks += _append(tables, rows, sorted(ends), "train", number, blocks)
        for name, end in ends.items():
            position[name] += int(end[-1])
    used = {name for stage in stages for name in stage.tokens}
    held_out = {n: c.available_tokens for n, c in validation.items() if n in used and c.available_tokens}
    for number in range(len(stages) if held_out else 0):
        ends = block_ends(
            held_out, {n: Fraction(t, sum(held_out.values())) for n, t in held_out.items()}, block_tokens
        )
        rows = [_slices(job.seed, validation[n], 0, ends[n]) for n in sorted(ends)]
        blocks += _append(tables, rows, sorted(ends), "validation", number, blocks)
    if not held_out and job.splits.validation > 0:
        warnings.append("no document fell into the validation split; raise splits.validation to hold some out")
    return Plan(
        stages=tuple(stages),
        table=pa.concat_tables(tables) if tables else PLAN.empty_table(),
        blocks=blocks,
        block_tokens=block_tokens,
        available_tokens=available,
        warnings=tuple(warnings),
    )


def block_ends(
    tokens: dict[str, int], shares: dict[str, Fraction], block_tokens: int
) -> dict[str, npt.NDArray[np.int64]]:
    """Where each block ends in each source's interval, int64 [blocks], the last at the interval's end.

    Args:
      tokens: the stage's tokens by source.
      shares: their exact shares, of which `tokens` are the rounded counts.
      block_tokens: tokens of a block.

    Block b ends at floor(share · block_tokens · (b + 1)): any run of blocks holds every source's share to within
    one token, and the ends do not move when the stage grows, but for the last block's, which is where the stage ends.
    """
    total = sum(tokens.values())
    blocks = max(1, -(-total // block_tokens))
    ends = {}
    for name, count in tokens.items():
        share = shares[name] * block_tokens
        ends[name] = np.array(
            [min(count, share.numerator * b // share.denominator) for b in range(1, blocks)] + [count],
            dtype=np.int64,
        )
    return ends


@dataclass(frozen=True)
class _Slices:
    """Slices of one source's chunks; arrays have one entry a slice."""

    block: npt.NDArray[np.int64]
    part: npt.NDArray[np.int32]
    row_group: npt.NDArray[np.int32]
    copy: npt.NDArray[np.int64]
    begin: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]


def _slices(seed: int, chunks: SourceChunks, start: int, ends: npt.NDArray[np.int64]) -> _Slices:
    """The stream from `start` on, cut at `ends` (positions in the stream) and at chunk edges."""
    parts = []
    available = chunks.available_tokens
    stop = int(ends[-1]) if len(ends) else start
    for copy in range(start // available, -(-stop // available)):
        origin = copy * available
        order = np.argsort(draw(seed, "order", text_key(chunks.name), copy, chunks.order_key), kind="stable")
        edges = np.concatenate([[0], np.cumsum(chunks.tokens[order])]) + origin
        low, high = max(start, origin), min(stop, origin + available)
        cuts = np.union1d(edges, ends)
        cuts = np.unique(np.concatenate([[low], cuts[(cuts > low) & (cuts < high)], [high]]))
        begin, end = cuts[:-1], cuts[1:]
        chunk = np.searchsorted(edges, begin, side="right") - 1
        which = order[chunk]
        parts.append(
            _Slices(
                block=np.searchsorted(ends, begin, side="right"),
                part=chunks.part[which],
                row_group=chunks.row_group[which],
                copy=np.full(len(begin), copy),
                begin=begin - edges[chunk],
                end=end - edges[chunk],
            )
        )
    fields = ("block", "part", "row_group", "copy", "begin", "end")
    return _Slices(*(np.concatenate([getattr(p, f) for p in parts]) for f in fields))


def _append(
    tables: list[pa.Table], rows: list[_Slices], names: list[str], split: str, stage: int, first_block: int
) -> int:
    """Add a stage's table, sorted by block then source; returns its number of blocks."""
    # Numbered without gaps: a block may be too small to hold a token of any source.
    shard = np.unique(np.concatenate([r.block for r in rows]), return_inverse=True)[1]
    source = np.repeat(np.arange(len(rows)), [len(r.block) for r in rows])
    order = np.lexsort((source, shard))

    def column(field: str) -> npt.NDArray[np.int64]:
        values: npt.NDArray[np.int64] = np.concatenate([getattr(r, field) for r in rows])[order]
        return values

    count = len(order)
    values = {
        "block": first_block + shard[order],
        "split": pa.array([split]).take(pa.array(np.zeros(count, np.int32))),
        "stage": np.full(count, stage),
        "shard": shard[order],
        "source": pa.array(names, pa.string()).take(pa.array(source[order])),
        "part": column("part"),
        "row_group": column("row_group"),
        "copy": column("copy"),
        "token_begin": column("begin"),
        "token_end": column("end"),
    }
    tables.append(pa.table([pa.array(values[f.name]).cast(f.type) for f in PLAN], schema=PLAN))
    return int(shard.max()) + 1 if count else 0


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
    columns = ["source", "part", "row_group", "copy", "token_begin", "token_end"]
    rows = list(zip(*(slices[c].to_pylist() for c in columns), strict=True))
    parts = {f"{s}/{p}": part_sha256[(s, p)] for s, p, *_ in rows}
    return fingerprint({"dataset": dataset, "lengths": lengths, "slices": rows, "parts": parts})
