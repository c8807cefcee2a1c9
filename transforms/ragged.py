"""Ragged arrays: many sequences as one flat array and their offsets, the shape all token work is done in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Int64 = npt.NDArray[np.int64]

_GATHER_ELEMENTS = 2**15
"""Elements gathered by index at a time, so that the index array stays in the processor's cache."""

_LONG_SLICE = 32
"""Elements of a slice, on average, from which copying slice by slice is faster than by index."""


@dataclass(frozen=True)
class Ragged:
    """`flat` holds the sequences end to end; sequence i is `flat[offsets[i]:offsets[i + 1]]`.

    >>> r = Ragged(np.arange(5), np.array([0, 2, 5]))
    >>> r.take(np.array([1, 0])).flat.tolist()
    [2, 3, 4, 0, 1]
    """

    flat: npt.NDArray[np.generic]
    """[elements] of any dtype."""
    offsets: Int64
    """int64 [sequences + 1], ascending from 0 to len(flat)."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64:
        """int64 [sequences]."""
        return np.diff(self.offsets)

    @classmethod
    def from_lengths(cls, flat: npt.NDArray[np.generic], lengths: npt.NDArray[np.integer]) -> Ragged:
        """From the sequences' lengths."""
        return cls(flat, offsets_of(lengths))

    @classmethod
    def from_arrow(cls, array: pa.ListArray | pa.ChunkedArray) -> Ragged:
        """From a list column; copies only where the column has several chunks."""
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks() if array.num_chunks != 1 else array.chunk(0)
        if isinstance(array, pa.ChunkedArray):  # pyarrow combines zero chunks into a chunked array
            array = pa.array([], type=array.type)
        offsets = np.asarray(array.offsets).astype(np.int64)
        flat = np.asarray(array.values)[offsets[0] : offsets[-1]] if len(offsets) else np.asarray(array.values)
        return cls(flat, offsets - offsets[0] if len(offsets) else np.zeros(1, np.int64))

    def to_arrow(self, value_type: pa.DataType) -> pa.ListArray:
        """As a list column.

        Raises:
          OverflowError: more than 2**31 - 1 elements, the most a list column holds.
        """
        if len(self.flat) >= 2**31:
            raise OverflowError(f"{len(self.flat)} elements do not fit one list column")
        return pa.ListArray.from_arrays(self.offsets.astype(np.int32), pa.array(self.flat, type=value_type))

    def take(self, order: npt.NDArray[np.integer]) -> Ragged:
        """The sequences at these indices, in this order."""
        return self.slices(self.offsets[:-1][order], self.lengths[order])

    def slices(self, starts: npt.NDArray[np.integer], lengths: npt.NDArray[np.integer]) -> Ragged:
        """Sequences `flat[starts[i]:starts[i] + lengths[i]]`, one for each i."""
        offsets = offsets_of(lengths)
        if offsets[-1] >= _LONG_SLICE * len(lengths) > 0:
            order = np.lexsort((lengths, starts))  # an empty slice before the one that begins there
            begins = np.asarray(starts, dtype=np.int64)[order]
            ends = begins + np.asarray(lengths)[order]
            if (begins[1:] >= ends[:-1]).all():
                return Ragged(self._copy_disjoint(order, begins, ends), offsets)
        out = np.empty(int(offsets[-1]), dtype=self.flat.dtype)
        gather_into(out, offsets[:-1], self.flat, starts, lengths)
        return Ragged(out, offsets)

    def _copy_disjoint(self, order: Int64, begins: Int64, ends: Int64) -> npt.NDArray[np.generic]:
        """Slices that do not overlap, given in ascending order, end to end in their own order.

        To Arrow they are byte strings with gaps between them, of which it takes every second: one copy of memory a
        slice and not one index an element, some five times faster.
        """
        flat = np.ascontiguousarray(self.flat)
        size = flat.dtype.itemsize
        edges = np.empty(2 * len(begins) + 1, dtype=np.int64)
        edges[0:-1:2], edges[1::2], edges[-1] = begins * size, ends * size, ends[-1] * size
        strings = pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), len(edges) - 1, [None, pa.py_buffer(edges), pa.py_buffer(flat)]
        )
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = 2 * np.arange(len(order))
        taken = strings.take(pa.array(rank))
        data = np.frombuffer(taken.buffers()[2], dtype=flat.dtype) if taken.buffers()[2] is not None else flat[:0]
        return data[: int((ends - begins).sum())]


def offsets_of(lengths: npt.NDArray[np.integer]) -> Int64:
    """Offsets from lengths: int64 [sequences + 1] starting at 0."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def gather_into(
    out: npt.NDArray[np.generic],
    out_starts: npt.NDArray[np.integer],
    flat: npt.NDArray[np.generic],
    starts: npt.NDArray[np.integer],
    lengths: npt.NDArray[np.integer],
) -> None:
    """Copy `flat[starts[i]:][:lengths[i]]` to `out[out_starts[i]:]` for every i, in bounded memory."""
    ends = np.cumsum(lengths, dtype=np.int64)
    begin = 0
    while begin < len(lengths):
        done = int(ends[begin - 1]) if begin else 0
        stop = max(begin + 1, int(np.searchsorted(ends, done + _GATHER_ELEMENTS, side="right")))
        n = lengths[begin:stop]
        within = ranges(n)
        out[np.repeat(out_starts[begin:stop], n) + within] = flat[np.repeat(starts[begin:stop], n) + within]
        begin = stop


def tiles(lengths: npt.NDArray[np.integer], positions: int) -> Iterator[slice]:
    """Runs of neighbouring sequences that take at most `positions` places when all are padded to their longest.

    A sequence that is longer than that is a tile of its own.
    """
    begin = 0
    while begin < len(lengths):
        near = np.maximum.accumulate(lengths[begin : begin + max(1, positions // max(1, int(lengths[begin])))])
        fit = np.searchsorted(near * np.arange(1, len(near) + 1), positions, side="right")
        yield slice(begin, begin + max(1, int(fit)))
        begin += max(1, int(fit))


def sequences_at(offsets: Int64, at: npt.NDArray[np.integer]) -> Int64:
    """int64, the sequence that each place of the flat array is in; places ascend.

    One search a sequence instead of one a place.

    >>> sequences_at(np.array([0, 2, 2, 5]), np.array([1, 2, 4])).tolist()
    [0, 2, 2]
    """
    return np.repeat(np.arange(len(offsets) - 1), np.diff(np.searchsorted(at, offsets)))


def ranges(lengths: npt.NDArray[np.integer]) -> Int64:
    """0..lengths[0]-1, 0..lengths[1]-1, … as one int64 array.

    >>> ranges(np.array([2, 0, 3])).tolist()
    [0, 1, 0, 1, 2]
    """
    offsets = offsets_of(lengths)
    return np.arange(offsets[-1], dtype=np.int64) - np.repeat(offsets[:-1], lengths)


def concatenate(parts: list[Ragged], dtype: npt.DTypeLike) -> Ragged:
    """The sequences of all parts, in order."""
    if not parts:
        return Ragged(np.zeros(0, dtype), np.zeros(1, np.int64))
    return Ragged.from_lengths(
        np.concatenate([p.flat for p in parts]).astype(dtype, copy=False),
        np.concatenate([p.lengths for p in parts]),
    )
