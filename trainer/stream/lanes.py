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

from schemas.keys import U64, draw

I64 = npt.NDArray[np.int64]

MOST_LANES = 64
"""Lanes of a bucket at most; a power of two, so that it is divided by every usual number of ranks."""

_FEW_LANES, _LANE_ROW_GROUPS = 8, 4


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
    group_rows: I64
    """int64 [row groups]: rows of each, in index order."""

    @functools.cached_property
    def groups(self) -> I64:
        """int64 [row groups]: the keyed permutation of the row groups, lane by lane."""
        bits = draw(self.seed, "stream row groups", *self.name, np.arange(len(self.group_rows)))
        dealt = np.argsort(bits, kind="stable")
        return np.concatenate([dealt[lane :: self.count] for lane in range(self.count)])

    @functools.cached_property
    def _lane_groups(self) -> I64:
        """int64 [C + 1]: where each lane's row groups begin in `groups`."""
        sizes = (len(self.group_rows) - np.arange(self.count) + self.count - 1) // self.count
        return np.concatenate([[0], np.cumsum(sizes)])

    @functools.cached_property
    def _windows(self) -> tuple[I64, I64, I64, I64]:
        """(first entry of `groups`, lane, first row within the lane, rows), int64 [windows], and one more entry."""
        begins, lanes = [], []
        for lane in range(self.count):
            first = np.arange(self._lane_groups[lane], self._lane_groups[lane + 1], self.window_row_groups)
            begins.append(first)
            lanes.append(np.full(len(first), lane))
        begin, lane_of = np.append(np.concatenate(begins), len(self.groups)), np.concatenate(lanes)
        sums = np.concatenate([[0], np.cumsum(self.group_rows[self.groups])])
        rows = np.diff(sums[begin])
        return begin, lane_of, sums[begin[:-1]] - sums[self._lane_groups[lane_of]], rows

    @functools.cached_property
    def lane_rows(self) -> I64:
        """int64 [C]: rows of each lane."""
        sums = np.concatenate([[0], np.cumsum(self.group_rows[self.groups])])
        return np.diff(sums[self._lane_groups])

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

    @functools.cached_property
    def _window_keys(self) -> I64:
        """int64 [windows], ascending: lane · (rows + 1) + first row within the lane."""
        _, lane, first, _ = self._windows
        return lane * (self.rows + 1) + first

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
        keys = lane * (self.rows + 1) + ordinal
        window = np.searchsorted(self._window_keys, keys, side="right") - 1
        return window, ordinal - self._windows[2][window]

    @property
    def windows(self) -> int:
        """Number of windows."""
        return len(self._windows[1])

    def next_window(self, window: int) -> int | None:
        """The one after it in the same lane, None if it is the last."""
        lane = self._windows[1]
        return window + 1 if window + 1 < len(lane) and lane[window + 1] == lane[window] else None

    def window_groups(self, window: int) -> I64:
        """The row groups of a window, in the order in which they are read."""
        begin = self._windows[0]
        return self.groups[begin[window] : begin[window + 1]]

    def window_rows(self, window: int) -> int:
        """Rows of a window."""
        return int(self._windows[3][window])

    def lane_of(self, window: int) -> int:
        """The lane that a window belongs to."""
        return int(self._windows[1][window])

    def row_order(self, window: int) -> I64:
        """The keyed permutation of a window's rows, int64 [rows].

        Element i is the row, counted over the window's row groups as they are read, at the window's i-th place.
        """
        rows = np.arange(self.window_rows(window))
        return np.argsort(draw(self.seed, "stream rows", *self.name, window, rows), kind="stable")

    def row_of(self, window: int, place: int) -> tuple[int, int]:
        """(row group of the bucket, row within it) at a place of a window."""
        groups = self.window_groups(window)
        ends = np.cumsum(self.group_rows[groups])
        row = int(self.row_order(window)[place])
        group = int(np.searchsorted(ends, row, side="right"))
        return int(groups[group]), row - int(ends[group] - self.group_rows[groups[group]])

    def digest(self, rows: int, keys: tuple[U64, U64]) -> int:
        """A 64-bit sum that tells the set of examples in the first `rows` positions.

        An example's value is a·r + b modulo 2**64, r its row within its row group, a and b random for the row group
        (`keys`, uint64 [row groups] each). The sum over a whole row group is a·n(n − 1)/2 + b·n; so only the windows
        that have begun and not ended are looked at row by row, and a late step costs no more than an early one.
        """
        taken = self._taken(rows)
        total = 0
        for lane in np.flatnonzero(taken):
            lane_windows = self._lane_windows(int(lane))
            ends = self._windows[2][lane_windows] + self._windows[3][lane_windows]
            whole = int(np.searchsorted(ends, taken[lane], side="right"))
            if whole:
                begin = self._windows[0][lane_windows[0]]
                groups = self.groups[begin : self._windows[0][lane_windows[whole - 1] + 1]]
                total += _sum(group_values(self.group_rows[groups], keys[0][groups], keys[1][groups]))
            if rest := int(taken[lane] - (ends[whole - 1] if whole else 0)):
                window = int(lane_windows[whole])
                groups = self.window_groups(window)
                group = np.repeat(groups, self.group_rows[groups])
                row = np.concatenate([np.arange(n) for n in self.group_rows[groups]]).astype(np.uint64)
                some = self.row_order(window)[:rest]
                total += _sum(keys[0][group[some]] * row[some] + keys[1][group[some]])
        return total & (2**64 - 1)

    def _lane_windows(self, lane: int) -> I64:
        lanes = self._windows[1]
        return np.arange(np.searchsorted(lanes, lane), np.searchsorted(lanes, lane, side="right"))

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


def group_values(rows: I64, a: U64, b: U64) -> U64:
    """The digest's sum over whole row groups, uint64 [row groups], modulo 2**64."""
    n = rows.astype(np.uint64)
    pairs = (rows * (rows - 1) // 2).astype(np.uint64)
    return a * pairs + b * n


def _sum(values: U64) -> int:
    with np.errstate(over="ignore"):
        return int(values.sum(dtype=np.uint64))
