"""The walk of whole words, n-grams and spans through rows: items in a random order, until a row's budget is used.

They are defined one item after the other, and computed for all items of all rows at once in rounds (`walk`,
`_settle`), whose result is that of the loop a row; the tests hold it against that loop. Not here: what each selection
asks for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.keys import draw
from transforms.ragged import offsets_of

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Float64 = npt.NDArray[np.float64]

_POSITION = np.uint64(2**24 - 1)
"""The low bits of a unit's key in a row's order hold its position in the tile; the 40 high ones are random."""

_BLOCK_POSITIONS = 2**15
"""Positions drawn for at a time. Freed arrays of more go back to the system (glibc's trim threshold), and to fault
their pages in again costs more than the draws: 10 ns a position against 4."""

_FIRST_WINDOW = 4
"""Units seen in a turn beyond those that should use up the budget; doubles each turn, never alters the result."""


@dataclass(frozen=True)
class Maskable:
    """Rows in which positions are to be chosen."""

    names: UInt64
    """uint64 [rows]: what a row's draws are named by."""
    lengths: npt.NDArray[np.integer]
    """int [rows]: tokens of the row, special tokens counted."""
    candidate: Bool
    """bool [rows, width]: positions that may be predicted, never special tokens or padding."""
    starts: Bool | None = None
    """bool [rows, width]: tokens that start a word by the vocabulary, None if it does not tell. A word also starts at
    a row's begin and after a position that is not a candidate."""


def draws(rows: Maskable, seed: int) -> Iterator[tuple[slice, UInt64]]:
    """The draws of all positions, a block of rows at a time: the rows and uint64 [rows of the block, width]."""
    count, width = rows.candidate.shape
    step = max(1, _BLOCK_POSITIONS // max(1, width))
    for at in range(0, count, step):
        block = slice(at, min(at + step, count))
        yield block, draw(seed, "select", rows.names[block, None], np.arange(width))


def run(begin: Int64, lengths: Int64) -> Int64:
    """Integers from `begin[i]` on, `lengths[i]` of them, end to end."""
    offsets = offsets_of(lengths)
    return np.arange(offsets[-1]) + np.repeat(begin - offsets[:-1], lengths)


@dataclass(frozen=True)
class Units:
    """The words (or tokens) of a tile, row after row, by positions in the flat [rows * width] array."""

    starts: Bool
    """bool [rows, width]: where a unit begins."""
    begin: Int64
    """int64 [units]: a unit's first position."""
    end: Int64
    """int64 [units]: one past its last."""

    @classmethod
    def of(cls, rows: Maskable, *, whole_word: bool) -> Units:
        """The words of rows, or their single tokens."""
        candidate = rows.candidate
        if not whole_word:
            begin = np.flatnonzero(candidate)
            return cls(candidate, begin, begin + 1)
        if rows.starts is None:
            raise ValueError("whole words are asked for, but `starts` does not tell where words start")
        inside = candidate & ~rows.starts  # a piece that continues the word before it
        inside[:, :1] = False
        inside[:, 1:] &= candidate[:, :-1]
        starts, last = candidate & ~inside, candidate.copy()
        last[:, :-1] &= ~inside[:, 1:]
        return cls(starts, np.flatnonzero(starts), np.flatnonzero(last) + 1)

    def run_ends(self) -> Int64:
        """int64 [units]: the number of the first unit that does not follow on this one without a gap in its row."""
        ends_run = np.ones(len(self.begin), dtype=bool)
        ends_run[:-1] = self.begin[1:] != self.end[:-1]
        width = self.starts.shape[1]
        if self.starts[:, :1].any():  # else a gap precedes each row
            ends_run[:-1] |= self.begin[1:] % width == 0
        last = np.flatnonzero(ends_run)
        return np.repeat(last + 1, np.diff(last, prepend=-1))

    def in_random_order(self, rows: Maskable, seed: int) -> UInt64:
        """uint64 [rows, width]: keys that ascend, a unit's first position in their low 24 bits, padded at the end."""
        width = self.starts.shape[1]
        order = np.empty(self.starts.shape, dtype=np.uint64)
        for block, bits in draws(rows, seed):
            bits &= ~_POSITION
            bits |= np.arange(block.start * width, block.stop * width, dtype=np.uint64).reshape(-1, width)
            bits |= self.starts[block].astype(np.uint64) - np.uint64(1)  # all bits set where no unit begins
            bits.sort(axis=1)
            order[block] = bits
        return order


def walk(
    rows: Maskable, counts: Int64, seed: int, *, law: Float64, whole_word: bool, cut: bool
) -> tuple[Int64, Int64]:
    """Items of some units each, taken in a random order of their first units until the budget is used.

    An item wants n units, drawn from `law`. With `cut` (spans) it gets those before the first chosen one, and the
    last item only the tokens left. Without, n is drawn from what fits in the run and shrinks to what is left; the
    item gets all n or, if one of them is chosen, none.

    Each turn takes a window of items from the rows' orders, sees what they get if the budget never binds (`_settle`)
    and keeps what comes before the first item at which it does. Turns are few: less is left each time.

    Returns:
      int64 [items], int64 [items]: first positions in the flat array, and tokens from there on.
    """
    units, width, most = Units.of(rows, whole_word=whole_word), rows.candidate.shape[1], len(law)
    begin, end = units.begin, units.end
    if (positions := rows.candidate.size) > int(_POSITION):
        raise ValueError(f"a tile has at most {_POSITION} positions, got {positions}: give fewer rows at a time")
    if len(begin) == 0:
        return begin, begin
    order = units.in_random_order(rows, seed)
    number = np.empty(positions, dtype=np.int32)  # of the unit that begins at a position
    number[begin] = np.arange(len(begin), dtype=np.int32)
    available = np.count_nonzero(units.starts, axis=1)
    run_ends = units.run_ends() if most > 1 else None  # lone words need no lengths and cannot overlap
    tokens_an_item = float(law @ np.arange(1, most + 1)) * float(end.sum() - begin.sum()) / len(begin)
    chosen, window = np.zeros(len(begin), dtype=bool), _FIRST_WINDOW
    left, at = counts.astype(np.int64), np.zeros(len(counts), dtype=np.int64)
    taken = [(begin[:0], begin[:0])]
    while len(walking := np.flatnonzero((left > 0) & (at < available))):
        enough = (left[walking] / tokens_an_item).astype(np.int64) + window
        size = np.minimum(available[walking] - at[walking], enough)
        first, walker = offsets_of(size)[:-1], np.repeat(np.arange(len(walking)), size)
        row = walking[walker]
        place = (order.reshape(-1)[run(walking * width + at[walking], size)] & _POSITION).astype(np.int64)
        unit = number[place].astype(np.int64)
        wants = np.ones(len(unit), dtype=np.int64)
        if run_ends is not None:
            bits, fits = draw(seed, "select.length", rows.names[row], place - row * width), run_ends[unit] - unit
            wants = np.minimum(fits, item_lengths(bits, law, most if cut else np.minimum(fits, most)))
        tokens = end[unit + wants - 1] - place
        while not cut and (big := tokens > left[row]).any():
            wants -= big
            tokens = np.where(wants > 0, end[unit + wants - 1] - place, 0)

        gets = wants if run_ends is None else _settle(unit, wants, chosen, whole=not cut)
        used = np.where(gets > 0, end[unit + gets - 1] - place, 0)
        before = np.cumsum(used) - used
        room = (left[walking] + before[first])[walker] - before
        stop = first + size  # the first item whose fate is not sealed by this turn
        if cut:
            used = np.clip(room, 0, used)
        else:
            # Having shrunk to what was left at the turn's begin, it would have to shrink further: next turn.
            binds = np.flatnonzero(tokens > room)
            np.minimum.at(stop, walker[binds], binds)
            used[np.arange(len(used)) >= stop[walker]] = 0
            undone = np.flatnonzero((gets > 0) & (used == 0))
            chosen[run(unit[undone], gets[undone])] = False
        served = np.flatnonzero(used)
        taken.append((place[served], used[served]))
        left[walking] -= np.add.reduceat(used, first)
        at[walking] += stop - first
        window *= 2
    return np.concatenate([places for places, _ in taken]), np.concatenate([lengths for _, lengths in taken])


def item_lengths(bits: UInt64, law: Float64, most: Int64 | int) -> Int64:
    """n with P(n) = law[n - 1], renormalised on 1..most (int [items]), from 64 random bits; int64 [items]."""
    below = np.cumsum(law)
    uniform = (bits >> np.uint64(11)) * 2.0**-53
    return np.minimum(1 + np.searchsorted(below, uniform * below[most - 1], side="right"), most)


def _settle(unit: Int64, wants: Int64, chosen: Bool, *, whole: bool) -> Int64:
    """What items get of units `unit[i]:unit[i] + wants[i]`, if they are served in turn; marks that in `chosen`.

    An item gets the units before the first chosen one; if `whole`, all or none. In a round every item in play claims
    its units, and of a unit's claims the earliest item's counts. An item whose claims count for all its units (not
    `whole`: for its first) depends on no earlier item, so it is served now. What it gets ends where the claim of
    another counts: the leftmost earlier item that begins within its reach is served in this round too, since what
    could keep that one out would begin further left, or claim this item's first unit. Rounds are few, about log n
    in a random order (Blelloch, Fineman and Shun, arXiv 1202.3205).

    Args:
      unit: first units of items, earlier items first, int64 [items].
      wants: units wanted, int64 [items]; 0 gets none.
      chosen: units already chosen, bool [units].
      whole: an item gets all it wants or nothing.

    Returns:
      int64 [items]: units each item gets.
    """
    gets = np.zeros(len(unit), dtype=np.int64)
    claim = np.empty(len(chosen), dtype=np.int64)
    item = np.flatnonzero((wants > 0) & ~chosen[unit])
    while len(item):
        want = wants[item]
        # [most, items]: an item's units, its last repeated, which changes nothing below.
        place = unit[item] + np.minimum(np.arange(want.max())[:, None], want - 1)
        claim[place] = len(unit)
        np.minimum.at(claim, place.reshape(-1), np.tile(item, len(place)))
        lost = np.logical_or.accumulate((claim[place] != item) | chosen[place], axis=0)
        reach = np.minimum(np.count_nonzero(~lost, axis=0), want)
        gets[item] = np.where(reach == want, want, 0) if whole else reach
        served = np.flatnonzero(gets[item])
        chosen[np.minimum(place[:, served], (unit + gets - 1)[item[served]])] = True
        # An item served is blocked now by itself.
        item = item[~chosen[place if whole else place[:1]].any(axis=0)]
    return gets
