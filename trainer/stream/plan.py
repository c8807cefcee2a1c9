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
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import RequestError, did_you_mean
from schemas.fingerprint import fingerprint
from schemas.keys import draw
from trainer.stream.buckets import Bucket, buckets_of, shards_of_split
from trainer.stream.lanes import I64, MOST_LANES, Lanes, lane_count
from trainer.stream.turns import CLOCK_BITS, ORDERS, Order, Turns, curriculum

INDEX_COLUMNS = ("path", "split", "stage", "length", "rows", "row_group_rows", "tokens", "sha256")
"""What a plan needs of the index of shards."""

_RUN_STEPS = 256
"""Steps whose turns are worked out together: finding one of them alone costs as much as finding fifty."""


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
    shards: pa.Table
    """The index of the split's shards that have rows, `INDEX_COLUMNS` or more."""
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
                total += epoch * int(self.buckets[i].values.sum(dtype=np.uint64))
            if count:
                total += self.lanes(i, epoch).digest(count, self.buckets[i].values, self.buckets[i].keys)
        return f"{total & (2**64 - 1):016x}"

    def path(self, shard: int) -> str:
        """Of a shard, relative to the dataset."""
        return str(self.shards["path"][shard].as_py())


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
      shards: the index of shards, `INDEX_COLUMNS` or more of it.
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
    table = shards_of_split(shards, split)
    longest = pc.max(table["length"]).as_py()
    if tokens_per_batch < longest:
        raise RequestError(
            "A batch is too small for a single row",
            expected=f"at least {longest} tokens per batch, the longest row of the split {split!r}",
            got=f"{tokens_per_batch} tokens per batch",
            remedy=f"Raise it (--tokens-per-batch {longest}), or prepare a dataset of shorter lengths",
        )
    arguments = {
        "split": split,
        "tokens_per_batch": tokens_per_batch,
        "seed": seed,
        "order": order,
        "lanes": lanes,
        "window_row_groups": window_row_groups,
    }
    return StreamPlan(
        buckets=buckets_of(table, tokens_per_batch),
        shards=table,
        seed=seed,
        order=order,
        lanes_at_most=lanes,
        window_row_groups=window_row_groups,
        digest=fingerprint({**arguments, "shards": _content(table)}),
    )


def _content(shards: pa.Table) -> str:
    """A hash of all that the order and the examples depend on: checksums and sizes of the shards, in order."""
    content = hashlib.sha256()
    for name in ("sha256", "stage", "length", "rows", "row_group_rows"):
        column = shards[name] if name == "sha256" else shards[name].cast(pa.int64())
        # Arrow's memory is hashed as it is: a string for each of a hundred thousand shards would take longer than
        # all else. What a filter has made begins at 0.
        for buffer in column.combine_chunks().buffers()[1:]:
            content.update(buffer)
    return content.hexdigest()
