"""The order of one bucket in one epoch: row groups dealt into lanes, rows shuffled within windows. Arithmetic only.

Position e of the bucket's stream belongs to lane e mod C while all lanes last; a rank p of P takes the positions with
e mod P = p. So if P divides C, a row group is read by one rank alone; for any other P the order is the same and only
reading is amplified. Lanes hold whole row groups and so differ in rows: where one ends, the others go on without it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.keys import U64, draw, draw_each
from trainer.stream.tables import allocate

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

MOST_LANES = 64
"""Lanes of a bucket at most; a power of two, so that it is divided by every usual number of ranks."""

_TILE = 1 << 15
"""Entries of a table that are worked on at a time: what comes in between stays in the processor's cache."""

_FEW_LANES, _LANE_ROW_GROUPS = 8, 4

_ODD = np.uint64(0xD1342543DE82EF95)
"""Any odd number far above the rows of a row group: it keeps sets of different sizes apart."""


def lane_count(row_groups: int, most: int = MOST_LANES) -> int:
    """Lanes of a bucket, a power of two.

    A lane that ends leaves the mixing to the others, so beyond eight lanes each has four row groups or more.

    >>> [lane_count(n) for n in (1, 5, 20, 80, 10**6)]
    [1, 4, 8, 16, 64]
    """
    wanted = max(min(row_groups, _FEW_LANES), row_groups // _LANE_ROW_GROUPS)
    return 1 << (min(wanted, most).bit_length() - 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Lanes:
    """Where every position of a bucket's stream is, for one epoch. Windows are numbered lane by lane."""

    seed: int
    name: tuple[int, int, int]
    """(epoch, stage, length): what draws are named by."""
    count: int
    """Lanes, C."""
    window_row_groups: int
    group_rows: npt.NDArray[np.unsignedinteger]
    """[row groups]: rows of each, in index order."""

    @functools.cached_property
    def groups(self) -> I64:
        """int64 [row groups]: the keyed permutation of the row groups, lane by lane."""
        count = len(self.group_rows)
        bits = draw_each(self.seed, "stream row groups", *self.name, out=allocate(count, np.uint64))
        # The lowest bits of each draw give way to its row group, so that sorting numbers is enough; sorting indices
        # by their draws takes ten times as long.
        low = np.uint64((1 << count.bit_length()) - 1)
        bits &= ~low
        for begin in range(0, count, _TILE):
            bits[begin : begin + _TILE] |= np.arange(begin, min(begin + _TILE, count), dtype=np.uint64)
        bits.sort()
        bits &= low
        return bits.view(np.int64)

    @functools.cached_property
    def _lane_groups(self) -> I64:
        """int64 [C + 1]: where each lane's row groups begin in `groups`."""
        sizes = (len(self.group_rows) - np.arange(self.count) + self.count - 1) // self.count
        return np.concatenate([[0], np.cumsum(sizes)])

    @functools.cached_property
    def _lane_windows(self) -> I64:
        """int64 [C + 1]: where each lane's windows begin."""
        return np.concatenate([[0], np.cumsum(-(-np.diff(self._lane_groups) // self.window_row_groups))])

    @functools.cached_property
    def _row_sums(self) -> I64:
        """int64 [row groups + 1]: rows before each entry of `groups`."""
        sums = allocate(len(self.groups) + 1, np.int64)
        sums[0] = 0
        for begin in range(0, len(self.groups), _TILE):
            some = self.groups[begin : begin + _TILE]
            np.cumsum(self.group_rows[some], out=sums[begin + 1 : begin + 1 + len(some)])
            sums[begin + 1 : begin + 1 + len(some)] += sums[begin]
        return sums

    @functools.cached_property
    def lane_rows(self) -> I64:
        """int64 [C]: rows of each lane."""
        return np.diff(self._row_sums[self._lane_groups])

    @functools.cached_property
    def rows(self) -> int:
        """Rows of all lanes."""
        return int(self.group_rows.sum())

    @functools.cached_property
    def _segments(self) -> tuple[I64, I64, I64, I64]:
        """Stretches in which the same lanes last: (first position, first round, lanes left, which ones [·, C])."""
        ends = np.unique(self.lane_rows)
        first_round = np.concatenate([[0], ends[:-1]])
        alive = [np.flatnonzero(self.lane_rows > r) for r in first_round]
        left = np.array([len(a) for a in alive])
        which = np.zeros((len(alive), self.count), dtype=np.int64)
        for i, lanes in enumerate(alive):
            which[i, : len(lanes)] = lanes
        sizes = (ends - first_round) * left
        return np.cumsum(sizes) - sizes, first_round, left, which

    def place(self, positions: I64) -> tuple[I64, I64]:
        """The lane of each position, and the ordinal of its row within the lane; int64 like `positions`."""
        first, first_round, left, which = self._segments
        if len(first) == 1:
            return positions % self.count, positions // self.count
        segment = np.searchsorted(first, positions, side="right") - 1
        beyond, lanes = positions - first[segment], left[segment]
        return which[segment, beyond % lanes], first_round[segment] + beyond // lanes

    def locate(self, positions: I64) -> tuple[I64, I64]:
        """The window of each position, and its place within the window; int64 like `positions`."""
        lane, ordinal = self.place(positions)
        row = self._row_sums[self._lane_groups[lane]] + ordinal
        entry = np.searchsorted(self._row_sums, row, side="right") - 1
        nth = (entry - self._lane_groups[lane]) // self.window_row_groups
        return self._lane_windows[lane] + nth, row - self._row_sums[
            self._lane_groups[lane] + nth * self.window_row_groups
        ]

    @property
    def windows(self) -> int:
        """Number of windows."""
        return int(self._lane_windows[-1])

    def lane_of(self, window: int) -> int:
        """The lane that a window belongs to."""
        return int(np.searchsorted(self._lane_windows, window, side="right")) - 1

    def next_window(self, window: int) -> int | None:
        """The one after it in the same lane, None if it is the last."""
        return window + 1 if window + 1 < self._lane_windows[self.lane_of(window) + 1] else None

    def _entries(self, window: int) -> slice:
        """Where a window's row groups are in `groups`."""
        lane = self.lane_of(window)
        begin = int(self._lane_groups[lane] + (window - self._lane_windows[lane]) * self.window_row_groups)
        return slice(begin, min(begin + self.window_row_groups, int(self._lane_groups[lane + 1])))

    def window_groups(self, window: int) -> I64:
        """The row groups of a window, in the order in which they are read."""
        return self.groups[self._entries(window)]

    def window_rows(self, window: int) -> int:
        """Rows of a window."""
        return int(self.group_rows[self.window_groups(window)].sum())

    def row_order(self, window: int) -> I64:
        """The keyed permutation of a window's rows, int64 [rows].

        Element i is the row, counted over the window's row groups as they are read, at the window's i-th place.
        """
        rows = np.arange(self.window_rows(window))
        return np.argsort(draw(self.seed, "stream rows", *self.name, window, rows), kind="stable")

    def row_of(self, window: int, place: int) -> tuple[int, int]:
        """(row group of the bucket, row within it) at a place of a window."""
        groups = self.window_groups(window)
        ends = np.cumsum(self.group_rows[groups].astype(np.int64))
        row = int(self.row_order(window)[place])
        group = int(np.searchsorted(ends, row, side="right"))
        return int(groups[group]), row - int(ends[group] - self.group_rows[groups[group]])

    def digest(self, rows: int, values: U64, keys: U64) -> int:
        """A 64-bit sum that tells the set of examples in the first `rows` positions.

        An example's value is key · (row + an odd constant) modulo 2**64, with the row within its row group and a
        random key for the row group. The sum over a whole row group has a closed form (`group_values`); so only the
        windows that have begun and not ended are looked at row by row, and a late step costs no more than an early
        one.

        Args:
          rows: positions, from the first on.
          values: uint64 [row groups], the sum over each, see `group_values`.
          keys: uint64 [row groups].
        """
        taken = self._taken(rows)
        total = 0
        for lane in np.flatnonzero(taken).tolist():
            begin = int(self._lane_groups[lane])
            row = int(self._row_sums[begin] + taken[lane])
            entry = int(np.searchsorted(self._row_sums, row, side="right")) - 1
            window = int(self._lane_windows[lane]) + (entry - begin) // self.window_row_groups
            # The row after the last one taken may be the first of the next lane: then all windows are whole.
            whole = self._entries(window).start if window < self._lane_windows[lane + 1] else entry
            for first in range(begin, whole, _TILE):
                total += _sum(values[self.groups[first : min(first + _TILE, whole)]])
            if rest := row - int(self._row_sums[whole]):
                groups = self.window_groups(window)
                group = np.repeat(groups, self.group_rows[groups].astype(np.int64))
                row_of_group = np.concatenate([np.arange(n) for n in self.group_rows[groups]]).astype(np.uint64)
                some = self.row_order(window)[:rest]
                total += _sum(example_values(keys[group[some]], row_of_group[some]))
        return total & (2**64 - 1)

    def _taken(self, rows: int) -> I64:
        """int64 [C]: how many of the first `rows` positions each lane has given."""
        first, first_round, left, which = self._segments
        if rows == 0:
            return np.zeros(self.count, dtype=np.int64)
        segment = int(np.searchsorted(first, rows - 1, side="right")) - 1
        beyond = rows - int(first[segment])
        taken = np.minimum(self.lane_rows, first_round[segment])
        lanes = which[segment, : left[segment]]
        taken[lanes] += beyond // left[segment]
        taken[lanes[: beyond % left[segment]]] += 1
        return taken


def group_values(rows: npt.NDArray[np.unsignedinteger], keys: U64) -> U64:
    """The digest's sums over whole row groups, uint64: key · (n(n − 1)/2 + n · constant) modulo 2**64."""
    values = allocate(len(rows), np.uint64)
    for begin in range(0, len(rows), _TILE):
        some = slice(begin, begin + _TILE)
        n = rows[some].astype(np.uint64)
        values[some] = keys[some] * ((n * (n - np.uint64(1)) >> np.uint64(1)) + n * _ODD)
    return values


def example_values(keys: U64, rows: U64) -> U64:
    """The digest's value of single examples, uint64 [N]: of the row group's key and of the row within it."""
    return keys * (rows + _ODD)


def _sum(values: U64) -> int:
    return int(values.sum(dtype=np.uint64))
