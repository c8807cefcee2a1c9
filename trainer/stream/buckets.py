"""Buckets: the row groups of one length in one stage, from the index of shards. Arithmetic only, no I/O."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import DataError, RequestError
from schemas.keys import U64, draw_each
from trainer.stream.lanes import I32, I64, group_values


@dataclass(frozen=True, eq=False, kw_only=True)
class Bucket:
    """The rows of one length in one stage. Arrays have one entry a row group, in index order."""

    stage: int
    length: int
    """Tokens that every row of the bucket's batches is padded to."""
    shard: I32
    """Shard of each row group, its row in the index of the split's shards."""
    row_group: I32
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

    @functools.cached_property
    def keys(self) -> U64:
        """A random number for each row group, uint64 [row groups]; see `Lanes.digest`."""
        return draw_each(0, "example", self.stage, self.length, count=len(self.group_rows))

    @functools.cached_property
    def values(self) -> U64:
        """The digest's sum over each row group, uint64 [row groups]."""
        return group_values(self.group_rows, self.keys)


def shards_of_split(shards: pa.Table, split: str) -> pa.Table:
    """The index's rows of a split that are not empty, checked.

    Raises:
      RequestError: there are none.
      DataError: the index contradicts itself.
    """
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


def buckets_of(shards: pa.Table, tokens_per_batch: int) -> tuple[Bucket, ...]:
    """The buckets of a split's shards (`shards_of_split`), ascending by (stage, length)."""
    stage, length, rows, row_group_rows, tokens = (
        shards[name].to_numpy().astype(np.int64) for name in ("stage", "length", "rows", "row_group_rows", "tokens")
    )
    name = (stage << 32) | length
    found = []
    for one in np.unique(name).tolist():
        members = np.flatnonzero(name == one)
        shard, row_group, group_rows = _row_groups(members, rows[members], row_group_rows[members])
        found.append(
            Bucket(
                stage=one >> 32,
                length=one & 0xFFFFFFFF,
                shard=shard,
                row_group=row_group,
                group_rows=group_rows,
                tokens=int(tokens[members].sum()),
                batch_rows=tokens_per_batch // (one & 0xFFFFFFFF),
            )
        )
    return tuple(found)


def _row_groups(shard: I64, rows: I64, row_group_rows: I64) -> tuple[I32, I32, I64]:
    """(shard, ordinal within it, rows) of every row group of some shards."""
    groups = -(-rows // row_group_rows)
    ends = np.cumsum(groups)
    ordinal = np.arange(ends[-1], dtype=np.int32)
    ordinal -= np.repeat((ends - groups).astype(np.int32), groups)
    size = np.repeat(row_group_rows, groups)
    size[ends - 1] = rows - (groups - 1) * row_group_rows
    return np.repeat(shard.astype(np.int32), groups), ordinal, size
