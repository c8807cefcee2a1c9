"""A column of lists as flat arrays, and rows of it as one rectangle. Not a tensor: numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Ragged:
    """Rows of different lengths in one flat array.

    >>> column = Ragged.of([pa.array([[1, 2], [3]], pa.list_(pa.int32()))], widest=2)
    >>> column.rectangle(np.array([1, 0]), 2)[0].tolist(), column.flat(np.array([1, 0]))[1].tolist()
    ([[3, 0], [1, 2]], [3, 1, 2])
    """

    values: I32
    """int32 [elements + widest]: the rows one after the other, and `widest` zeros."""
    starts: I64
    """int64 [rows]: where each row begins in `values`."""
    lengths: I64
    """int64 [rows]."""
    widest: int
    """Greatest width that `rectangle` can be asked for."""

    @classmethod
    def of(cls, arrays: Sequence[pa.ListArray], *, widest: int) -> Ragged:
        """Rows of several Arrow arrays of type list<int32>, one after the other."""
        offsets = [a.offsets.to_numpy().astype(np.int64) for a in arrays]
        lengths = np.concatenate([np.diff(o) for o in offsets])
        values = np.empty(int(lengths.sum()) + widest, dtype=np.int32)
        end = 0
        for array, offset in zip(arrays, offsets, strict=True):
            begin, end = end, end + int(offset[-1] - offset[0])
            values[begin:end] = array.values.to_numpy()[offset[0] : offset[-1]]
        values[end:] = 0
        return cls(values=values, starts=np.cumsum(lengths) - lengths, lengths=lengths, widest=widest)

    def rectangle(self, rows: I64, width: int) -> tuple[I32, npt.NDArray[np.bool_]]:
        """Some rows side by side, zero where a row has ended.

        Args:
          rows: int64 [N], which rows, in which order.
          width: at least the longest of them, at least 1 and at most `widest`.

        Returns:
          (int32 [N, width], bool [N, width] true where there is a value).
        """
        # Every row is copied at full width, its successors' values included, as one run of memory; what is
        # beyond its end is then zeroed. An index for every token would cost twice the copy itself.
        runs = np.lib.stride_tricks.sliding_window_view(self.values, width)
        rectangle = runs[self.starts[rows]]
        lengths = self.lengths[rows]
        if (lengths == width).all():
            return rectangle, np.ones(rectangle.shape, dtype=np.bool_)
        present = np.arange(width, dtype=np.int32) < lengths.astype(np.int32)[:, None]
        rectangle *= present
        return rectangle, present

    def flat(self, rows: I64) -> tuple[I64, I32]:
        """The elements of some rows one after the other.

        Args:
          rows: int64 [N], which rows, in which order.

        Returns:
          (int64 [elements], the position in `rows` that each element belongs to; int32 [elements]).
        """
        lengths = self.lengths[rows]
        begin = np.cumsum(lengths) - lengths
        at = np.repeat(self.starts[rows] - begin, lengths) + np.arange(lengths.sum())
        return np.repeat(np.arange(len(rows)), lengths), self.values[at]
