"""Rows of one bucket in memory: flat arrays that windows are copied into, and rows of them as rectangles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.stream.columns import Limits, Piece
from trainer.stream.lanes import I32, I64

Bool = npt.NDArray[np.bool_]
Values = npt.NDArray[Any]
"""uint16 where all values fit, else int32."""


class RowStore:
    """Slots of rows. A slot holds one window; its memory is used again for the next one, so that it never grows.

    Row numbers count over all slots; `null_row` is an empty row, which stands for padding and for rows that could
    not be read.
    """

    def __init__(self, limits: Mapping[str, Limits], *, slot_rows: int, slots: int) -> None:
        """Make room.

        Args:
          limits: of each column.
          slot_rows: rows of the largest window.
          slots: windows that there is room for.
        """
        self._widths = {name: max(1, limit.most) for name, limit in limits.items()}
        self._lists = [name for name, limit in limits.items() if limit.most]
        self._slot_rows = slot_rows
        # Half the memory for most vocabularies. It is the operating system's until it is written to, so room for
        # full rows costs nothing until there are some.
        self._values: dict[str, Values] = {
            name: np.empty(0, dtype=np.uint16 if limit.values <= 1 << 16 else np.int32)
            for name, limit in limits.items()
        }
        self._starts: dict[str, I64] = {name: np.empty(0, dtype=np.int64) for name in self._lists}
        self._lengths: dict[str, I64] = dict(self._starts)
        self._views: dict[tuple[str, int], Values] = {}
        self._slots = 0
        self._free: list[int] = []
        self.grow(slots)

    def grow(self, slots: int) -> None:
        """Make room for so many windows in all, while nobody writes to any."""
        rows = slots * self._slot_rows
        for name, width in self._widths.items():
            # A row is taken at full width (see `rectangle`), so the last one needs as much behind it.
            values = np.empty(rows * width + width, dtype=self._values[name].dtype)
            values[rows * width :] = 0
            old = self._slots * self._slot_rows * width
            values[:old] = self._values[name][:old]
            self._values[name] = values
        for name in self._lists:
            for table in (self._starts, self._lengths):
                grown = np.zeros(rows + 1, dtype=np.int64)
                grown[: self._slots * self._slot_rows] = table[name][: self._slots * self._slot_rows]
                table[name] = grown
            self._starts[name][-1] = rows * self._widths[name]
        self._free += reversed(range(self._slots, slots))
        self._slots = slots
        self._views.clear()

    @property
    def slots(self) -> int:
        """Windows that there is room for."""
        return self._slots

    @property
    def null_row(self) -> int:
        """A row of no tokens."""
        return self._slots * self._slot_rows

    def take(self) -> int | None:
        """A free slot, as the row of the store that is its first; None where there is none."""
        return self._free.pop() * self._slot_rows if self._free else None

    def release(self, first: int) -> None:
        """Let a slot be used again."""
        self._free.append(first // self._slot_rows)

    def put(self, first: int, pieces: Sequence[Piece | None], rows: Sequence[int], order: I64) -> None:
        """Copy the row groups of a window into a slot; any thread may, one a slot.

        Args:
          first: the slot's first row.
          pieces: their columns; None is a row group of empty rows.
          rows: of each row group.
          order: int64 [rows of the window]: which row, counted over the row groups, comes at which place. The row
            at place i becomes row `first + i` of the store.
        """
        mine = slice(first, first + len(order))
        for name in self._values:
            if name not in self._lists:
                found = [p[name].values if p else np.zeros(n, np.int32) for p, n in zip(pieces, rows, strict=True)]
                self._values[name][mine] = np.concatenate(found)[order]
                continue
            counts = [p[name].lengths if p else np.zeros(n, np.int64) for p, n in zip(pieces, rows, strict=True)]
            lengths = np.concatenate(counts)
            begin = place = first * self._widths[name]
            for values in (p[name].values for p in pieces if p):
                self._values[name][place : place + len(values)] = values
                place += len(values)
            self._lengths[name][mine] = lengths[order]
            self._starts[name][mine] = (begin + np.cumsum(lengths) - lengths)[order]

    def lengths(self, name: str, rows: I64) -> I64:
        """Elements of some rows, int64 [N]."""
        return self._lengths[name][rows]

    def scalars(self, name: str, rows: I64) -> I32:
        """A column of one value a row, int32 [N]; 0 for the null row."""
        return self._values[name][rows].astype(np.int32)

    def rectangle(self, name: str, rows: I64, out: I64, *, fill: int) -> Bool | None:
        """Some rows side by side.

        Args:
          name: of a column of lists.
          rows: int64 [N].
          out: int64 [N, width], where they are put; as wide as the longest of them, and at most as the column.
          fill: what stands behind a row's end.

        Returns:
          bool [N, width], true where there is a value; None if there is one everywhere.
        """
        # Every row is copied at full width, its successors' values included, as one run of memory; what is beyond its
        # end is then filled. An index for every token would cost twice the copy itself.
        width = out.shape[1]
        if (name, width) not in self._views:
            values = self._values[name]
            self._views[name, width] = np.lib.stride_tricks.as_strided(
                values,
                shape=(len(values) - width + 1, width),
                strides=(values.itemsize, values.itemsize),
                writeable=False,
            )
        view, starts, lengths = self._views[name, width], self._starts[name][rows], self._lengths[name][rows]
        full = bool((lengths == width).all())
        present = None if full else np.arange(width, dtype=np.int32) < lengths.astype(np.int32)[:, None]
        out[:] = view[starts]
        if present is not None:
            np.copyto(out, fill, where=~present)
        return present

    def flat(self, names: Sequence[str], rows: I64) -> tuple[I64, list[Values]]:
        """The elements of some rows one after the other.

        Args:
          names: columns of the same width whose rows have the same lengths.
          rows: int64 [N].

        Returns:
          (int64 [elements], the position in `rows` that each element belongs to; values [elements] of each column).
        """
        lengths = self._lengths[names[0]][rows]
        begin = np.cumsum(lengths) - lengths
        at = np.repeat(self._starts[names[0]][rows] - begin, lengths) + np.arange(lengths.sum())
        return np.repeat(np.arange(len(rows)), lengths), [self._values[name][at] for name in names]
