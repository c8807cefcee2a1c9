"""Best-fit-decreasing packing of a histogram: items of one length go into rows of one history, all at once.

The rule is that of best-fit-decreasing bin packing (Ding et al. 2024, arXiv 2404.10830), worked out on counts as
histogram packing does (Krell et al. 2021, arXiv 2107.02027, "longest pack first"), so 16 million items are packed in
the time of their distinct lengths. `transforms.packing.best_fit` says which item goes where by the same runs. Pure.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass
from math import frexp
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from transforms.buckets import check_histogram
from transforms.ragged import Int64, offsets_of, ranges


class Runs(NamedTuple):
    """Rows `row` to `row + rows − 1` get `items` items of `length` each; int64 [runs] each, longest items first."""

    row: Int64
    rows: Int64
    length: Int64
    items: Int64


@dataclass(frozen=True, kw_only=True)
class HistogramPacking:
    """Rows by what they hold, in strategies as Krell et al. call them: combinations of lengths, no two alike."""

    offsets: Int64
    """int64 [strategies + 1]: strategy i is entries `offsets[i]:offsets[i + 1]` of the next two."""
    lengths: Int64
    """int64 [entries]: the lengths a row holds, within a strategy descending and each once."""
    items: Int64
    """int64 [entries]: how many items of that length a row holds."""
    strategy_rows: Int64
    """int64 [strategies]: how many rows there are of each, at least 1."""

    @property
    def rows(self) -> int:
        """Rows in all."""
        return int(self.strategy_rows.sum())

    @property
    def fills(self) -> tuple[Int64, Int64]:
        """What rows hold, ascending, and how many rows hold that, int64 [fills] each."""
        return self._rows_by(self.lengths * self.items)

    @property
    def depths(self) -> tuple[Int64, Int64]:
        """Items in a row, ascending, and how many rows have so many, int64 [depths] each."""
        return self._rows_by(self.items)

    def _rows_by(self, entries: Int64) -> tuple[Int64, Int64]:
        return _histogram(np.add.reduceat(entries, self.offsets[:-1]), self.strategy_rows)


def pack_histogram(lengths: Int64, counts: Int64, room: int, depth: int | None = None) -> HistogramPacking:
    """The rows of best-fit decreasing, without the items.

    Args:
      lengths: int64 [n] in any order, in whatever unit the caller packs.
      counts: int64 [n]: items of that length, at least 0.
      room: what a row holds.
      depth: the most items in a row, at least 1; None for as many as fit. A row that has so many is closed, and the
        rule goes on among the others.

    Raises:
      ValueError: a length outside 1..room, a negative count, or a depth below 1.

    >>> packing = pack_histogram(np.array([8, 7, 6, 5, 3, 2]), np.array([1, 1, 1, 1, 1, 1]), 8)
    >>> packing.rows, [a.tolist() for a in packing.fills], [a.tolist() for a in packing.depths]
    (4, [[7, 8], [1, 3]], [[1, 2], [2, 2]])
    """
    runs = best_fit_runs(lengths, counts, room, depth)
    # Where one run begins or ends, rows begin to differ; between two such places they all have the same runs.
    edges = np.unique(np.append(runs.row, runs.row + runs.rows))
    first, end = np.searchsorted(edges, runs.row), np.searchsorted(edges, runs.row + runs.rows)
    run = np.repeat(np.arange(len(first)), end - first)
    strategy = first[run] + ranges(end - first)
    order = np.argsort(strategy, kind="stable")  # runs stay longest items first
    return HistogramPacking(
        offsets=offsets_of(np.bincount(strategy)),
        lengths=runs.length[run[order]],
        items=runs.items[run[order]],
        strategy_rows=np.diff(edges),
    )


def expected_fills(
    lengths: Int64, counts: npt.NDArray[np.number], room: int
) -> tuple[Int64, npt.NDArray[np.float64]]:
    """What rows hold where many more items than these are packed, of lengths in the same proportion.

    So a few documents that stand for a corpus do not make its rows look empty: one of 300 units gives no row of 300
    in a room of 8192, but 300 / 8100 of a row with 27 such. Packed are the counts times the power of two that makes
    them 2^39 to 2^40 items, and what fewer than one row in a million holds is left out: mostly the single rows that
    whole items leave over at last, for which nobody wants a length bucket.

    Args:
      lengths: int64 [n] in any order, in whatever unit the caller packs.
      counts: [n]: items of that length, at least 0, not whole where they are expectations.
      room: what a row holds.

    Returns:
      int64 [fills], what rows hold, ascending; float64 [fills], how many rows hold that.

    Raises:
      ValueError: a length outside 1..room, or a count that is negative or not finite.

    >>> [a.tolist() for a in expected_fills(np.array([3]), np.array([1.0]), 8)]
    [[6], [0.5]]
    """
    check_histogram(lengths, counts, room)
    scale = 40 - frexp(float(counts.sum()))[1]
    fills, rows = pack_histogram(lengths, np.rint(np.ldexp(counts, scale)).astype(np.int64), room).fills
    usual = rows * 1_000_000 >= rows.sum()
    return fills[usual], np.ldexp(rows[usual], -scale)


def best_fit_runs(lengths: Int64, counts: Int64, room: int, depth: int | None = None) -> Runs:
    """Best-fit decreasing: longest items first, each to the row with the least space that still holds it.

    Of several such rows it takes the one that came to that space first, and a new one if there is none. Rows are
    numbered from 0 in the order in which they are opened. Rows of equal space wait in a queue of spans of neighbours;
    spans are split and never joined. Space mod length is less than half of space, so a span is moved at most
    log2(room) times, and each length splits at most one: O(n · log(room)) runs, however many the items.

    Args, Raises: as `pack_histogram`.
    """
    check_histogram(lengths, counts, room)
    most = room if depth is None else depth
    if most < 1:
        raise ValueError(f"depth: a row must be allowed at least 1 item, got {depth}")
    distinct, items_of = _histogram(lengths, counts)
    shortest = int(distinct[0]) if len(distinct) else room
    spaces: list[int] = []  # ascending: those that some open row has
    queues: dict[int, deque[tuple[int, int, int]]] = {}  # by space: first row, rows, items in each

    def queue_of(space: int) -> deque[tuple[int, int, int]]:
        if space not in queues:
            queues[space] = deque()
            insort(spaces, space)
        return queues[space]

    runs: list[tuple[int, int, int, int]] = []
    opened = 0
    for length, left in zip(distinct[::-1].tolist(), items_of[::-1].tolist(), strict=True):
        while left:
            at = bisect_left(spaces, length)
            if at < len(spaces):
                space = spaces[at]
                row, rows, held = queues[space].popleft()
                if not queues[space]:
                    del spaces[at], queues[space]
            else:
                space, row, held = room, opened, 0
                rows = -(-left // min(room // length, most))
                opened += rows
            # Item by item a row is filled up before the next is begun, since after each item it is the tightest
            # fit more than before: with items of 3, rows with 7 and 8 left end at 1 and 2, having had two each.
            each = min(space // length, most - held)
            full = min(rows, left // each)
            rest = left - full * each if full < rows else 0  # less than `each`, for one row more
            for begin, n, items in ((row, full, each), (row + full, 1, rest)):
                if n and items:
                    runs.append((begin, n, length, items))
                    left -= n * items
                    if space - items * length >= shortest and held + items < most:
                        queue_of(space - items * length).append((begin, n, held + items))
            untouched = rows - full - (rest > 0)
            if untouched:  # to the front, whence they came
                queue_of(space).appendleft((row + full + (rest > 0), untouched, held))
    return Runs(*np.array(runs, dtype=np.int64).reshape(-1, 4).T)


def last_pieces(lengths: Int64, counts: Int64, longest: int) -> tuple[Int64, int]:
    """A histogram of documents cut every `longest` units, those that fit left whole.

    Args:
      lengths: int64 [n], at least 1.
      counts: int64 [n]: documents of that length.
      longest: the longest piece.

    Returns:
      int64 [n]: the length of a document's last piece, 1..longest, and how many pieces of `longest` units all
      documents have before their last.

    >>> last_pieces(np.array([8, 20]), np.array([5, 2]), 8)
    (array([8, 4]), 4)
    """
    before = (lengths - 1) // longest
    return lengths - before * longest, int((before * counts).sum())


def _histogram(values: Int64, counts: Int64) -> tuple[Int64, Int64]:
    """Distinct values that occur, ascending, and how often, int64 each."""
    distinct, place = np.unique(values, return_inverse=True)
    total = np.zeros(len(distinct), np.int64)
    np.add.at(total, place, counts)
    return distinct[total > 0], total[total > 0]
