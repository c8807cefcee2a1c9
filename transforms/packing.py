"""Packing: which row each item, or each part of it, goes to, decided from lengths alone.

Pure functions on int64 arrays of lengths. Nothing here reads a token, draws at random or knows a document: the
caller keys the order of the items beforehand and gathers the tokens afterwards (`transforms.ragged`). A length
is in whatever unit the caller packs, usually tokens with their separators; a row is a bin with room for that many.
"""

from __future__ import annotations

import numpy as np

from transforms.histogram_packing import best_fit_runs
from transforms.ragged import Int64, offsets_of, ranges


def best_fit(lengths: Int64, room: int) -> Int64:
    """Best-fit-decreasing bin packing: the bin of every item (Ding et al. 2024, arXiv 2404.10830).

    Longest items first, those of equal length in the order given; each goes to the bin with the least space that
    still holds it, of several such the one that came to that space first, and to a new bin if there is none.

    Args:
      lengths: int64 [items], each in 1..room.
      room: what a bin holds.

    Returns:
      int64 [items]: bin numbers from 0 without gaps, in the order in which bins are opened.

    Raises:
      ValueError: a length outside 1..room.

    >>> best_fit(np.array([2, 6, 3, 7]), 10).tolist()
    [1, 1, 0, 0]
    """
    if len(lengths) and not 1 <= int(lengths.min()) <= int(lengths.max()) <= room:
        raise ValueError(f"best_fit: lengths must be in 1..{room}, got {lengths.min()}..{lengths.max()}; cut first")
    # Spaces in the narrowest integer: numpy's stable sort of 16 bits is a radix sort, ten times faster than of 64.
    order = np.argsort((room - lengths).astype(np.min_scalar_type(room)), kind="stable")
    counts = np.bincount(lengths, minlength=1)
    occurring = np.flatnonzero(counts)
    runs = best_fit_runs(occurring, counts[occurring], room)
    bins = np.repeat(runs.row, runs.rows) + ranges(runs.rows)
    out = np.empty(len(lengths), np.int64)
    out[order] = np.repeat(bins, np.repeat(runs.items, runs.rows))
    return out


def powers_of_two(lengths: Int64, longest: int) -> tuple[Int64, Int64, Int64]:
    """Every item cut into powers of two, longest first: dataset decomposition (Pouransari et al. 2024, 2405.13226).

    With P the largest power of two <= `longest`, an item of l units gives floor(l / P) pieces of P and then one
    for each binary digit of l mod P in descending order, so nothing is dropped and nothing is padded.

    Args:
      lengths: int64 [items], >= 0; an item of 0 units gives no piece.
      longest: the longest piece allowed, >= 1.

    Returns:
      int64 [pieces] each, pieces in item order: the item, the first unit within it, the units.

    >>> [a.tolist() for a in powers_of_two(np.array([11, 4]), 4)]
    [[0, 0, 0, 0, 1], [0, 4, 8, 10, 0], [4, 4, 2, 1, 4]]
    """
    if longest < 1:
        raise ValueError(f"powers_of_two: the longest piece must be at least 1 unit, got {longest}")
    power = longest.bit_length() - 1
    full, rest = lengths >> power, lengths & ((1 << power) - 1)
    counts = full + np.bitwise_count(rest)
    offsets = offsets_of(counts)
    begin = ranges(counts) << power
    length = np.full(len(begin), 1 << power, np.int64)
    for digit in range(power):
        has = np.flatnonzero(rest >> digit & 1)
        higher = rest[has] >> (digit + 1)  # the digits that are cut before this one
        at = offsets[has] + full[has] + np.bitwise_count(higher)
        begin[at] = (full[has] << power) + (higher << (digit + 1))
        length[at] = 1 << digit
    return np.repeat(np.arange(len(lengths)), counts), begin, length


def chain(following: Int64, starts: Int64) -> Int64:
    """The indices reached from `starts` by going from i to `following[i]`, again and again.

    Pointer jumping (Wyllie 1979): a table of jumps of 1, 2, 4, … steps doubles the part of each chain that is
    marked, so log2(longest chain) rounds of O(n) replace a walk of single steps. Holds two tables and a mask.

    Args:
      following: int64 [n], following[i] > i; n or more is the end.
      starts: int64 [starts] in any order; n or more is the end here too.

    Returns:
      int64 [reached], ascending, each index once.

    >>> chain(np.array([2, 2, 3, 9, 9]), np.array([0])).tolist()
    [0, 2, 3]
    """
    n = len(following)
    jump = np.append(np.minimum(following, n), n)  # from the end the next is the end, so a jump may overshoot
    reached = np.zeros(n + 1, bool)
    reached[np.minimum(starts, n)] = True
    while True:
        # Marked here: all within 2**t - 1 steps of a start, and `jump` goes 2**t steps, so no step is left out.
        landed = jump[np.flatnonzero(reached)]
        if len(landed) == 0 or int(landed.min()) == n:
            return np.flatnonzero(reached[:n])
        reached[landed] = True
        jump = jump[jump]


def fill(lengths: Int64, rooms: Int64 | int) -> tuple[Int64, Int64, Int64, Int64]:
    """The items end to end, cut wherever a row is full: what each row holds of each item.

    Args:
      lengths: int64 [items], >= 0.
      rooms: what each row holds, >= 0, int64 [rows] with a sum of at least that of `lengths`; or one number for all.

    Returns:
      int64 [pieces] each, in stream order: the item, the first unit within it, the units (never 0), the row.
      Rows are full but for the last that has anything.

    Raises:
      ValueError: the rows hold less than the items have.

    >>> [a.tolist() for a in fill(np.array([3, 5]), 4)]
    [[0, 1, 1], [0, 0, 1], [3, 1, 4], [0, 0, 1]]
    """
    items = offsets_of(lengths)
    total = int(items[-1])
    if isinstance(rooms, np.ndarray):
        rows = offsets_of(rooms)
    elif rooms >= 1:
        rows = np.arange(0, total + rooms, rooms)
    else:
        raise ValueError(f"fill: a row must have room for at least 1 unit, got {rooms}")
    if int(rows[-1]) < total:
        raise ValueError(f"fill: the rows hold {rows[-1]} units, but the items have {total}")
    # From the row that holds an item's first unit to the one that holds its last; items of 0 units are in none.
    item = np.flatnonzero(lengths)
    first = np.searchsorted(rows, items[item], side="right") - 1
    counts = np.searchsorted(rows, items[item + 1], side="left") - first
    row = np.repeat(first, counts) + ranges(counts)
    item = np.repeat(item, counts)
    begin = np.maximum(items[item], rows[row])
    length = np.minimum(items[item + 1], rows[row + 1]) - begin
    if isinstance(rooms, np.ndarray) and not rooms.all():  # an item passes rows of no room without a piece there
        some = length > 0
        item, begin, length, row = item[some], begin[some], length[some], row[some]
    return item, begin - items[item], length, row


def whole(lengths: Int64, rooms: Int64, groups: Int64 | None = None) -> Int64:
    """Whole items only, in the order given (next fit): the row of each item.

    A row that begins at item i takes items while their sum is at most rooms[i] and they are of i's group. It takes
    item i in any case; the caller cuts what is longer than a row beforehand.

    Args:
      lengths: int64 [items], >= 0.
      rooms: int64 [items], >= 0: what a row holds that begins at this item.
      groups: int64 [items]: no row holds items of two groups, nor goes on after an item of another.

    Returns:
      int64 [items]: row numbers from 0, ascending, without gaps.

    >>> whole(np.array([2, 3, 4, 1]), np.full(4, 5)).tolist()
    [0, 0, 1, 1]
    """
    n = len(lengths)
    ends = offsets_of(lengths)
    index = np.arange(n)
    # Where the next row begins if one begins at i: after the last item that ends within the room.
    following = np.searchsorted(ends, ends[:-1] + rooms, side="right") - 1
    following = np.maximum(following, index + 1)
    if groups is not None:
        group_ends = np.append(np.flatnonzero(groups[1:] != groups[:-1]) + 1, n)
        following = np.minimum(following, group_ends[np.searchsorted(group_ends, index, side="right")])
    begins = np.zeros(n, bool)
    begins[chain(following, index[:1])] = True
    return np.cumsum(begins) - 1
