"""Buckets: the row groups of one length in one stage, from the index of shards. Arithmetic only, no I/O."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import DataError, RequestError
from schemas.keys import U64, draw_each
from trainer.stream.lanes import I64, group_values
from trainer.stream.tables import allocate


@dataclass(frozen=True, eq=False, kw_only=True)
class Bucket:
    """The rows of one length in one stage. Row groups are numbered in index order."""

    stage: int
    length: int
    """Tokens that every row of the bucket's batches is padded to."""
    shards: I64
    """int64 [shards]: rows of the index of the split's shards."""
    group_ends: I64
    """int64 [shards]: one past the last row group of each."""
    group_rows: npt.NDArray[np.unsignedinteger]
    """[row groups]: rows of each."""
    tokens: int
    """Sum of `input_ids` over all rows."""
    batch_rows: int
    """Rows of a global batch, over all ranks."""

    @functools.cached_property
    def rows(self) -> int:
        """Rows of the bucket, one epoch."""
        return int(self.group_rows.sum(dtype=np.int64))

    @property
    def batches(self) -> int:
        """Global batches of one epoch; the last one may be partial."""
        return -(-self.rows // self.batch_rows)

    def place(self, group: int) -> tuple[int, int]:
        """The shard of a row group, as its row in the index of the split's shards, and its ordinal within it."""
        which = int(np.searchsorted(self.group_ends, group, side="right"))
        return int(self.shards[which]), group - int(self.group_ends[which - 1] if which else 0)

    @functools.cached_property
    def keys(self) -> U64:
        """A random number for each row group, uint64 [row groups]; see `Lanes.digest`."""
        return draw_each(0, "example", self.stage, self.length, out=allocate(len(self.group_rows), np.uint64))

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
        ends, group_rows = _row_groups(rows[members], row_group_rows[members])
        found.append(
            Bucket(
                stage=one >> 32,
                length=one & 0xFFFFFFFF,
                shards=members,
                group_ends=ends,
                group_rows=group_rows,
                tokens=int(tokens[members].sum()),
                batch_rows=tokens_per_batch // (one & 0xFFFFFFFF),
            )
        )
    return tuple(found)


def _row_groups(rows: I64, row_group_rows: I64) -> tuple[I64, npt.NDArray[np.unsignedinteger]]:
    """(one past the last row group of each shard, rows of every row group) of some shards."""
    groups = -(-rows // row_group_rows)
    ends = np.cumsum(groups)
    # The smallest numbers that hold them: they are looked up in random order.
    size = np.repeat(np.minimum(rows, row_group_rows).astype(np.min_scalar_type(int(row_group_rows.max()))), groups)
    size[ends - 1] = rows - (groups - 1) * row_group_rows
    return ends, size
