"""The stream's plan: step → (stage, length, ordinal) → row groups and rows, by arithmetic alone.

Not a reader and not an iterator: no I/O, no PyTorch, no state. Every function here depends on the index of
shards, the seed and the arguments, so any step is as cheap as the first one.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.errors import DataError, RequestError, did_you_mean
from schemas.fingerprint import fingerprint
from schemas.keys import draw
from trainer.turns import CLOCK_BITS, interleave, one_after_another

I64 = npt.NDArray[np.int64]
Order = Literal["natural", "short_first"]
ORDERS: tuple[Order, ...] = ("natural", "short_first")

WINDOW_ROW_GROUPS = 8
"""Row groups whose rows are shuffled together: at 2**18 tokens each, 8 MB of token ids in memory."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Bucket:
    """The rows of one length in one stage. Arrays are int64 with one entry a row group, in index order."""

    stage: int
    length: int
    """Tokens that every row of the bucket's batches is padded to."""
    shard: I64
    """Row of the index of shards."""
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


@dataclass(frozen=True, eq=False, kw_only=True)
class Windows:
    """The order of one bucket in one epoch: permuted row groups, cut into windows."""

    groups: I64
    """Permutation of the bucket's row groups."""
    starts: I64
    """First position of each window, and the bucket's rows at the end: int64 [windows + 1]."""
    size: int
    """Row groups of a window; the last window may have fewer."""

    @property
    def count(self) -> int:
        """Number of windows."""
        return len(self.starts) - 1

    def window_of(self, position: int) -> int:
        """The window that holds a position."""
        return int(np.searchsorted(self.starts, position, side="right")) - 1

    def groups_of(self, window: int) -> I64:
        """The row groups of a window, in the order in which they are read."""
        return self.groups[window * self.size : (window + 1) * self.size]


@dataclass(frozen=True, eq=False, kw_only=True)
class StreamPlan:
    """The whole order of a split. Built by `plan_stream`."""

    buckets: tuple[Bucket, ...]
    """Ascending by (stage, length)."""
    paths: tuple[str, ...]
    """Of the split's shards, relative to the dataset."""
    shard_rows: tuple[int, ...]
    seed: int
    order: Order
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
    def steps_per_epoch(self) -> int:
        """Global batches of one pass over all stages."""
        return sum(b.batches for b in self.buckets)

    def batch(self, step: int) -> GlobalBatch:
        """The global batch of a step, counted from 0 over all epochs."""
        epoch, index = divmod(step, self.steps_per_epoch)
        first, members = next(s for s in reversed(self._stages) if s[0] <= index)
        counts = [self.buckets[i].batches for i in members]
        if self.order == "natural":
            turn, ordinal = interleave(counts, self._phases(epoch, tuple(members)), index - first)
        else:
            turn, ordinal = one_after_another(counts, index - first)
        bucket = self.buckets[members[turn]]
        begin = ordinal * bucket.batch_rows
        end = min(begin + bucket.batch_rows, bucket.rows)
        return GlobalBatch(step=step, epoch=epoch, bucket=members[turn], begin=begin, end=end)

    @functools.lru_cache(maxsize=16)  # noqa: B019 (plans are few and live as long as the run)
    def _phases(self, epoch: int, members: tuple[int, ...]) -> list[int]:
        """When in its first period each bucket's first batch falls due, in [0, 2**40)."""
        stages = [self.buckets[i].stage for i in members]
        lengths = [self.buckets[i].length for i in members]
        bits = draw(self.seed, "stream interleave", epoch, stages, lengths)
        return [int(b) >> (64 - CLOCK_BITS) for b in bits]

    @functools.lru_cache(maxsize=64)  # noqa: B019 (as above; 8 bytes a row group each)
    def windows(self, bucket: int, epoch: int) -> Windows:
        """The windows of a bucket in an epoch: a keyed permutation of its row groups, cut in order."""
        b = self.buckets[bucket]
        ordinals = np.arange(len(b.group_rows))
        bits = draw(self.seed, "stream row groups", epoch, b.stage, b.length, ordinals)
        groups = np.argsort(bits, kind="stable")
        sums = np.concatenate([[0], np.cumsum(b.group_rows[groups])])
        edges = np.append(np.arange(0, len(groups), self.window_row_groups), len(groups))
        return Windows(groups=groups, starts=sums[edges], size=self.window_row_groups)

    def pieces(self, batch: GlobalBatch, rank: int, world_size: int) -> list[tuple[int, slice]]:
        """The positions of a batch that a rank takes, begin + rank + k·world_size, by window.

        Returns:
          (window, positions within the window) of every window that the batch touches, in order. It lies in one,
          in two where it crosses a border, or in several small ones. A slice may be empty, so that every rank
          reads the same windows.
        """
        windows = self.windows(batch.bucket, batch.epoch)
        pieces = []
        for window in range(windows.window_of(batch.begin), windows.window_of(batch.end - 1) + 1):
            first, last = int(windows.starts[window]), int(windows.starts[window + 1])
            own = batch.begin + rank
            own += max(0, -(-(first - own) // world_size)) * world_size
            pieces.append((window, slice(own - first, min(batch.end, last) - first, world_size)))
        return pieces

    def row_order(self, bucket: int, epoch: int, window: int) -> I64:
        """The order of a window's rows: a keyed permutation, int64 [rows of the window].

        Element i is the row, counted over the window's row groups as they are read, at the window's i-th position.
        """
        b, windows = self.buckets[bucket], self.windows(bucket, epoch)
        rows = np.arange(windows.starts[window + 1] - windows.starts[window])
        return np.argsort(draw(self.seed, "stream rows", epoch, b.stage, b.length, window, rows), kind="stable")


def plan_stream(
    shards: pa.Table,
    *,
    split: str,
    tokens_per_batch: int,
    seed: int,
    order: Order = "natural",
    window_row_groups: int = WINDOW_ROW_GROUPS,
) -> StreamPlan:
    """The plan of one split.

    Args:
      shards: the index of shards, schema `schemas.tables.SHARDS`.
      split: `train` or `validation`.
      tokens_per_batch: tokens, padding included, of a global batch at most; a bucket's batches have
        `tokens_per_batch // length` rows.
      seed: of the permutations and of the interleaving.
      order: of the lengths within a stage. `natural` interleaves them in proportion, `short_first` has the
        shortest first.
      window_row_groups: row groups whose rows are shuffled together.

    Raises:
      RequestError: the split has no rows, a row does not fit into a batch, or an argument is out of range.
      DataError: the index contradicts itself.
    """
    if order not in ORDERS:
        raise RequestError(f"There is no order {order!r}: {did_you_mean(order, ORDERS)}")
    if window_row_groups < 1:
        raise RequestError("A window needs at least one row group", got=f"window_row_groups {window_row_groups}")
    every_split = sorted(set(shards["split"].to_pylist()))
    rows = [r for r in shards.drop_columns(["source_tokens"]).to_pylist() if r["split"] == split and r["rows"]]
    if not rows:
        raise RequestError(
            f"The dataset has no rows in the split {split!r}",
            expected=f"one of its splits: {', '.join(every_split)}" if every_split else "at least one shard",
            got=repr(split),
        )
    for row in rows:
        if row["rows"] < 0 or row["row_group_rows"] < 1 or row["length"] < 1:
            raise DataError(
                "The index of shards contradicts itself",
                where=row["path"],
                expected="rows >= 0, row_group_rows >= 1 and length >= 1",
                got=f"rows {row['rows']}, row_group_rows {row['row_group_rows']}, length {row['length']}",
            )
    longest = max(r["length"] for r in rows)
    if tokens_per_batch < longest:
        raise RequestError(
            "A batch is too small for a single row",
            expected=f"at least {longest} tokens per batch, the longest row of the split {split!r}",
            got=f"{tokens_per_batch} tokens per batch",
            remedy=f"Raise it (--tokens-per-batch {longest}), or prepare a dataset of shorter lengths",
        )
    buckets = []
    for stage, length in sorted({(r["stage"], r["length"]) for r in rows}):
        members = [i for i, r in enumerate(rows) if (r["stage"], r["length"]) == (stage, length)]
        shard_rows = np.array([rows[i]["rows"] for i in members], dtype=np.int64)
        row_group_rows = np.array([rows[i]["row_group_rows"] for i in members], dtype=np.int64)
        shard, row_group, group_rows = _row_groups(np.array(members), shard_rows, row_group_rows)
        buckets.append(
            Bucket(
                stage=stage,
                length=length,
                shard=shard,
                row_group=row_group,
                group_rows=group_rows,
                tokens=sum(rows[i]["tokens"] for i in members),
                batch_rows=tokens_per_batch // length,
            )
        )
    identity = ("path", "stage", "length", "rows", "row_group_rows", "sha256")
    digest = fingerprint(
        {
            "split": split,
            "tokens_per_batch": tokens_per_batch,
            "seed": seed,
            "order": order,
            "window_row_groups": window_row_groups,
            "shards": [[r[name] for name in identity] for r in rows],
        }
    )
    return StreamPlan(
        buckets=tuple(buckets),
        paths=tuple(r["path"] for r in rows),
        shard_rows=tuple(r["rows"] for r in rows),
        seed=seed,
        order=order,
        window_row_groups=window_row_groups,
        digest=digest,
    )


def _row_groups(shard: I64, rows: I64, row_group_rows: I64) -> tuple[I64, I64, I64]:
    """(shard, ordinal within it, rows) of every row group of some shards."""
    groups = -(-rows // row_group_rows)
    first = np.cumsum(groups) - groups
    ordinal = np.arange(groups.sum()) - np.repeat(first, groups)
    size = np.repeat(row_group_rows, groups)
    return np.repeat(shard, groups), ordinal, np.minimum(size, np.repeat(rows, groups) - ordinal * size)
