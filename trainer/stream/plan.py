"""The stream's plan: step → (stage, length, ordinal) → row groups and rows, by arithmetic alone.

Not a reader and not an iterator: no I/O, no PyTorch, no state. Every function here depends on the index of
shards, the seed and the arguments, so any step is as cheap as the first one.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import DataError, RequestError, did_you_mean
from schemas.fingerprint import fingerprint
from schemas.keys import U64, draw
from trainer.stream.lanes import I64, MOST_LANES, Lanes, group_values, lane_count
from trainer.stream.turns import CLOCK_BITS, ORDERS, Order, Turns, curriculum

_RUN_STEPS = 256
"""Steps whose turns are worked out together: finding one of them alone costs as much as finding fifty."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Bucket:
    """The rows of one length in one stage. Arrays are int64 with one entry a row group, in index order."""

    stage: int
    length: int
    """Tokens that every row of the bucket's batches is padded to."""
    shard: I64
    """Shard of each row group, an index into `StreamPlan.paths`."""
    row_group: I64
    """Ordinal within the shard."""
    group_rows: I64
    """Rows of the row group."""
    tokens: int
    """Sum of `input_ids` over all rows."""
    batch_rows: int
    """Rows of a global batch, over all ranks."""

    @functools.cached_property
    def rows(self) -> int:
        """Rows of the bucket, one epoch."""
        return int(self.group_rows.sum())

    @property
    def batches(self) -> int:
        """Global batches of one epoch; the last one may be partial."""
        return -(-self.rows // self.batch_rows)


@dataclass(frozen=True, kw_only=True)
class GlobalBatch:
    """What one step delivers, over all ranks."""

    step: int
    epoch: int
    bucket: int
    """Index into `StreamPlan.buckets`."""
    begin: int
    """First position of the bucket's stream in this epoch."""
    end: int
    """One past the last; `end - begin` is below the bucket's `batch_rows` in its last batch only."""

    def positions(self, rank: int, world_size: int) -> I64:
        """The positions that a rank takes: those with e mod world_size = rank, int64 ascending."""
        return np.arange(self.begin + (rank - self.begin) % world_size, self.end, world_size)


@dataclass(frozen=True, eq=False, kw_only=True)
class StreamPlan:
    """The whole order of a split. Built by `plan_stream`."""

    buckets: tuple[Bucket, ...]
    """Ascending by (stage, length)."""
    paths: tuple[str, ...]
    """Of the split's shards, relative to the dataset."""
    shard_rows: tuple[int, ...]
    shard_sha256: tuple[str, ...]
    seed: int
    order: Order
    lanes_at_most: int
    window_row_groups: int
    digest: str
    """32 hex digits of everything that the order depends on; not of the world size or the number of epochs."""

    @functools.cached_property
    def _stages(self) -> list[tuple[int, list[int]]]:
        """(first step within the epoch, indices of the buckets) of each stage, in order."""
        stages: list[tuple[int, list[int]]] = []
        first = 0
        for stage in sorted({b.stage for b in self.buckets}):
            members = [i for i, b in enumerate(self.buckets) if b.stage == stage]
            stages.append((first, members))
            first += sum(self.buckets[i].batches for i in members)
        return stages

    @functools.cached_property
    def _first_steps(self) -> list[int]:
        return [first for first, _ in self._stages]

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """Global batches of one pass over all stages."""
        return sum(b.batches for b in self.buckets)

    def batch(self, step: int) -> GlobalBatch:
        """The global batch of a step, counted from 0 over all epochs."""
        epoch, index = divmod(step, self.steps_per_epoch)
        stage = bisect.bisect_right(self._first_steps, index) - 1
        run, place = divmod(index - self._stages[stage][0], _RUN_STEPS)
        bucket, ordinal = self._run(epoch, stage, run)[place]
        b = self.buckets[bucket]
        begin = ordinal * b.batch_rows
        return GlobalBatch(step=step, epoch=epoch, bucket=bucket, begin=begin, end=min(begin + b.batch_rows, b.rows))

    @functools.lru_cache(maxsize=4)  # noqa: B019 (plans are few and live as long as the run)
    def _beginnings(self, epoch: int) -> list[tuple[int, int, int]]:
        found = []
        for stage, (first, members) in enumerate(self._stages):
            turns = self._turns(epoch, stage)
            for turn, bucket in enumerate(members):
                low, high = 0, sum(self.buckets[i].batches for i in members)  # its first batch is in [low, high)
                while high - low > 1:
                    middle = (low + high) // 2
                    low, high = (low, middle) if turns.before(middle)[turn] else (middle, high)
                found.append((epoch * self.steps_per_epoch + first + low, bucket, epoch))
        return sorted(found)

    def beginnings(self, epoch: int) -> list[tuple[int, int, int]]:
        """(first step, bucket, epoch) of each bucket in an epoch, in order."""
        return list(self._beginnings(epoch))

    @functools.lru_cache(maxsize=32)  # noqa: B019 (as above)
    def _run(self, epoch: int, stage: int, run: int) -> list[tuple[int, int]]:
        members = self._stages[stage][1]
        turns = self._turns(epoch, stage).run(run * _RUN_STEPS, _RUN_STEPS)
        return [(members[turn], ordinal) for turn, ordinal in turns]

    @functools.lru_cache(maxsize=32)  # noqa: B019 (as above)
    def _turns(self, epoch: int, stage: int) -> Turns:
        some = [self.buckets[i] for i in self._stages[stage][1]]
        lengths = [b.length for b in some]
        bits = draw(self.seed, "stream interleave", epoch, [b.stage for b in some], lengths)
        phases = [int(b) >> (64 - CLOCK_BITS) for b in bits]
        return curriculum(self.order, lengths, [b.batches for b in some], phases)

    @functools.lru_cache(maxsize=64)  # noqa: B019 (as above; some tens of bytes a row group each)
    def lanes(self, bucket: int, epoch: int) -> Lanes:
        """Where a bucket's rows are in an epoch."""
        b = self.buckets[bucket]
        return Lanes(
            seed=self.seed,
            name=(epoch, b.stage, b.length),
            count=lane_count(len(b.group_rows), self.lanes_at_most),
            window_row_groups=self.window_row_groups,
            group_rows=b.group_rows,
        )

    def delivered_rows(self, step: int) -> tuple[int, list[int]]:
        """What has been delivered before a step: whole epochs, and rows of each bucket in the current one."""
        epoch, index = divmod(step, self.steps_per_epoch)
        rows = [0] * len(self.buckets)
        for stage, (first, members) in enumerate(self._stages):
            given = self._turns(epoch, stage).before(max(0, index - first))
            for bucket, batches in zip(members, given, strict=True):
                rows[bucket] = min(batches * self.buckets[bucket].batch_rows, self.buckets[bucket].rows)
        return epoch, rows

    def examples_digest(self, step: int) -> str:
        """16 hex digits that tell which examples come before a step, however often each; the same for every order
        that has delivered the same ones. Takes time for what is begun at the step, not for what came before it.
        """
        epoch, rows = self.delivered_rows(step)
        total = 0
        for i, count in enumerate(rows):
            if epoch:
                a, b = self._row_group_keys(i)
                whole = group_values(self.buckets[i].group_rows, a, b)
                total += epoch * int(whole.sum(dtype=np.uint64))
            if count:
                total += self.lanes(i, epoch).digest(count, self._row_group_keys(i))
        return f"{total & (2**64 - 1):016x}"

    @functools.lru_cache(maxsize=64)  # noqa: B019 (as above)
    def _row_group_keys(self, bucket: int) -> tuple[U64, U64]:
        """Two random numbers for each row group, uint64 [row groups], of which its rows' values are made."""
        b = self.buckets[bucket]
        one, two = (draw(0, f"example {part}", b.shard, b.row_group) for part in ("row", "row group"))
        return one | np.uint64(1), two


def plan_stream(
    shards: pa.Table,
    *,
    split: str,
    tokens_per_batch: int,
    seed: int,
    order: Order = "natural",
    lanes: int = MOST_LANES,
    window_row_groups: int = 1,
) -> StreamPlan:
    """The plan of one split.

    Args:
      shards: the index of shards, schema `schemas.tables.SHARDS`.
      split: `train` or `validation`.
      tokens_per_batch: tokens, padding included, of a global batch at most; a bucket's batches have
        `tokens_per_batch // length` rows.
      seed: of the permutations and of the interleaving.
      order: of the lengths within a stage, see `trainer.stream.turns.curriculum`.
      lanes: into which a bucket's row groups are dealt, at most; rounded down to a power of two.
      window_row_groups: row groups of a lane whose rows are shuffled together.

    Raises:
      RequestError: the split has no rows, a row does not fit into a batch, or an argument is out of range.
      DataError: the index contradicts itself.
    """
    if order not in ORDERS:
        raise RequestError(f"There is no order {order!r}: {did_you_mean(order, ORDERS)}")
    for name, value in (("window_row_groups", window_row_groups), ("lanes", lanes)):
        if value < 1:
            raise RequestError("A stream needs at least one lane and one row group a window", got=f"{name} {value}")
    table = _rows_of_split(shards, split)
    columns = {name: table[name].to_numpy() for name in ("stage", "length", "rows", "row_group_rows", "tokens")}
    longest = int(columns["length"].max())
    if tokens_per_batch < longest:
        raise RequestError(
            "A batch is too small for a single row",
            expected=f"at least {longest} tokens per batch, the longest row of the split {split!r}",
            got=f"{tokens_per_batch} tokens per batch",
            remedy=f"Raise it (--tokens-per-batch {longest}), or prepare a dataset of shorter lengths",
        )
    buckets = []
    for stage, length in np.unique(np.stack([columns["stage"], columns["length"]], axis=1), axis=0).tolist():
        members = np.flatnonzero((columns["stage"] == stage) & (columns["length"] == length))
        shard, row_group, group_rows = _row_groups(
            members,
            columns["rows"][members].astype(np.int64),
            columns["row_group_rows"][members].astype(np.int64),
        )
        buckets.append(
            Bucket(
                stage=stage,
                length=length,
                shard=shard,
                row_group=row_group,
                group_rows=group_rows,
                tokens=int(columns["tokens"][members].sum()),
                batch_rows=tokens_per_batch // length,
            )
        )
    paths, sha256 = tuple(table["path"].to_pylist()), tuple(table["sha256"].to_pylist())
    content = hashlib.sha256("\0".join([*paths, *sha256]).encode())
    for name in ("stage", "length", "rows", "row_group_rows"):
        content.update(columns[name].astype("<i8").tobytes())
    arguments = {
        "split": split,
        "tokens_per_batch": tokens_per_batch,
        "seed": seed,
        "order": order,
        "lanes": lanes,
        "window_row_groups": window_row_groups,
    }
    return StreamPlan(
        buckets=tuple(buckets),
        paths=paths,
        shard_rows=tuple(columns["rows"].tolist()),
        shard_sha256=sha256,
        seed=seed,
        order=order,
        lanes_at_most=lanes,
        window_row_groups=window_row_groups,
        digest=fingerprint({**arguments, "shards": content.hexdigest()}),
    )


def _rows_of_split(shards: pa.Table, split: str) -> pa.Table:
    """The index's rows of a split that are not empty, checked."""
    least = pc.and_(pc.greater_equal(shards["rows"], 0), pc.greater_equal(shards["row_group_rows"], 1))
    good = pc.and_(least, pc.greater_equal(shards["length"], 1))
    for bad in shards.filter(pc.invert(good)).slice(0, 1).to_pylist():
        raise DataError(
            "The index of shards contradicts itself",
            where=bad["path"],
            expected="rows >= 0, row_group_rows >= 1 and length >= 1",
            got=f"rows {bad['rows']}, row_group_rows {bad['row_group_rows']}, length {bad['length']}",
        )
    table = shards.filter(pc.and_(pc.equal(shards["split"], split), pc.greater(shards["rows"], 0)))
    if not table.num_rows:
        every_split = sorted(set(shards["split"].unique().to_pylist()))
        raise RequestError(
            f"The dataset has no rows in the split {split!r}",
            expected=f"one of its splits: {', '.join(every_split)}" if every_split else "at least one shard",
            got=repr(split),
        )
    return table


def _row_groups(shard: I64, rows: I64, row_group_rows: I64) -> tuple[I64, I64, I64]:
    """(shard, ordinal within it, rows) of every row group of some shards."""
    groups = -(-rows // row_group_rows)
    first = np.cumsum(groups) - groups
    ordinal: npt.NDArray[np.int64] = np.arange(groups.sum()) - np.repeat(first, groups)
    size = np.repeat(row_group_rows, groups)
    return np.repeat(shard, groups), ordinal, np.minimum(size, np.repeat(rows, groups) - ordinal * size)
