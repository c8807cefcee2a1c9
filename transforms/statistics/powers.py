"""Sums over the rows of a ragged array, and the polynomial behind the hash of a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from transforms.ragged import Int64

U64 = npt.NDArray[np.uint64]

BASES = (0x9E3779B97F4A7C15, 0xD1B54A32D192ED03)
"""Bases of the row hash's two polynomials; odd, hence invertible modulo 2**64."""

_INVERSES = tuple(pow(base, -1, 2**64) for base in BASES)

_TILE_ITEMS = 2**15
"""Ids hashed at a time: 256 KB of values."""

_Sum = TypeVar("_Sum", np.int64, np.uint64)


def row_sums(values: npt.NDArray[_Sum], offsets: Int64) -> npt.NDArray[_Sum]:
    """Sums of the rows of a ragged array; empty rows give 0, unsigned sums wrap around."""
    starts, stops = offsets[:-1], offsets[1:]
    if len(values) and (stops > starts).all():
        return np.add.reduceat(values, starts)
    sums = np.zeros(len(starts), dtype=values.dtype)
    filled = np.flatnonzero(stops > starts)
    if len(filled):  # rows without any have no place between the others, so each sum ends where the next begins
        sums[filled] = np.add.reduceat(values, starts[filled])
    return sums


def polynomials(ids: npt.NDArray[np.integer], offsets: Int64, table: U64) -> U64:
    """uint64 [2, rows], Σ table[id] · base^position modulo 2**64 for both bases.

    One product a token and base. Tile by tile, so that nothing as long as the ids leaves the processor's cache: in a
    tile of rows of one length their places line up; in another, a row's own power of the base is divided out, so that
    its place among the rows is nothing.
    """
    sums = np.zeros((2, len(offsets) - 1), np.uint64)
    lengths = np.diff(offsets)
    for rows, items in row_tiles(offsets, _TILE_ITEMS):
        values = table[ids[items].astype(np.int64)]  # numpy widens narrower indices by far more slowly
        starts, length = offsets[rows.start : rows.stop + 1] - items.start, int(lengths[rows.start])
        if length and (lengths[rows] == length).all():
            square = values.reshape(-1, length)
            for base, own in zip(BASES, sums, strict=True):
                own[rows] = np.einsum("rl,l->r", square, powers(base, length))
        else:
            for base, own, away in zip(BASES, sums, places(starts), strict=True):
                own[rows] = row_sums(values * powers(base, len(values)), starts) * away
    return sums


def changes(
    old: npt.NDArray[np.integer],
    new: npt.NDArray[np.integer],
    place: Int64,
    starts: Int64,
    table: U64,
) -> U64:
    """uint64 [2, rows], what to add to `polynomials` if some ids were others.

    Args:
      old, new: ids, [changes].
      place: of each in its row, none twice, int64 [changes].
      starts: where each row starts among the changes, int64 [rows + 1].
      table: value of each id.
    """
    values = table[new] - table[old]
    longest = int(place.max(initial=-1)) + 1
    return np.stack([row_sums(values * powers(base, longest)[place], starts) for base in BASES])


def row_tiles(offsets: Int64, items: int) -> Iterator[tuple[slice, slice]]:
    """Slices of neighbouring rows and of what they hold: about so many items, a row more at most.

    >>> [(r.stop, i.stop) for r, i in row_tiles(np.array([0, 2, 2, 5, 6]), 3)]
    [(3, 5), (4, 6)]
    """
    begin, rows = 0, len(offsets) - 1
    while begin < rows:
        stop = min(rows, int(np.searchsorted(offsets, offsets[begin] + items)))
        yield slice(begin, stop), slice(int(offsets[begin]), int(offsets[stop]))
        begin = stop


def places(offsets: Int64) -> U64:
    """uint64 [2, rows], what a row's sums are multiplied with to forget where the row begins."""
    return np.stack([powers(inverse, int(offsets[-1]) + 1)[offsets[:-1]] for inverse in _INVERSES])


_POWERS: dict[int, U64] = {}


def powers(base: int, size: int) -> U64:
    """base**0, base**1, … modulo 2**64; the longest table so far is kept."""
    known = _POWERS.get(base)
    if known is None or len(known) < size:
        factors = np.full(max(size, 2**18), base, dtype=np.uint64)
        factors[0] = 1
        known = _POWERS[base] = np.multiply.accumulate(factors)
    return known[:size]
