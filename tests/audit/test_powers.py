"""The polynomials of rows, against sums in plain Python."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from transforms.ragged import Int64, offsets_of
from transforms.statistics import powers

TABLE = np.arange(1, 60, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)

# Rows of one length have a path of their own, and tiles are made small so that a few rows need several.
LENGTHS = st.lists(st.integers(0, 12), max_size=20) | st.tuples(st.integers(0, 12), st.integers(0, 20)).map(
    lambda one: [one[0]] * one[1]
)


def plain(rows: list[list[int]]) -> list[list[int]]:
    return [
        [sum(int(TABLE[i]) * pow(base, k, 2**64) for k, i in enumerate(row)) % 2**64 for row in rows]
        for base in powers.BASES
    ]


def rows_of(ids: Int64, offsets: Int64) -> list[list[int]]:
    return [ids[a:b].tolist() for a, b in itertools.pairwise(offsets.tolist())]


@given(LENGTHS, st.integers(1, 40), st.data())
def test_polynomials_are_those_of_each_row_and_follow_its_changes(
    lengths: list[int], tile: int, data: st.DataObject
) -> None:
    offsets = offsets_of(np.array(lengths, dtype=np.int64))
    size = int(offsets[-1])
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    ids = draw.integers(0, len(TABLE), size)
    before, powers._TILE_ITEMS = powers._TILE_ITEMS, tile
    try:
        found = powers.polynomials(ids, offsets, TABLE)
    finally:
        powers._TILE_ITEMS = before
    assert found.tolist() == plain(rows_of(ids, offsets))
    at = np.flatnonzero(draw.random(size) < 0.3)
    other = ids.copy()
    other[at] = draw.integers(0, len(TABLE), len(at))
    starts = np.searchsorted(at, offsets)
    place = at - np.repeat(offsets[:-1], np.diff(starts))
    changed = found + powers.changes(ids[at], other[at], place, starts, TABLE)
    assert changed.tolist() == plain(rows_of(other, offsets))
