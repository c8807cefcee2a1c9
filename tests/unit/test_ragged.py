"""Ragged arrays against lists of lists."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit_helpers import cases, lists, ragged

import transforms.ragged as module
from transforms.ragged import Ragged, concatenate, gather_into, offsets_of, ranges

ROWS = st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=6), max_size=8)
WINDOW = st.sampled_from([1, 2, 5, 2**22])


@cases(150)
@given(ROWS, st.data(), WINDOW)
def test_take_is_indexing(rows: list[list[int]], data: st.DataObject, window: int) -> None:
    order = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=12)) if rows else []
    with patch.object(module, "_GATHER_ELEMENTS", window):
        taken = ragged(rows).take(np.array(order, dtype=np.int64))
    assert lists(taken) == [rows[i] for i in order]
    assert taken.flat.dtype == np.int32


@cases(150)
@given(st.lists(st.integers(0, 99), max_size=20), st.data(), WINDOW)
def test_slices_are_slicing(flat: list[int], data: st.DataObject, window: int) -> None:
    edges = data.draw(st.lists(st.tuples(st.integers(0, len(flat)), st.integers(0, len(flat))), max_size=8))
    spans = [(min(e), max(e)) for e in edges]
    starts, lengths = np.array([a for a, _ in spans], np.int64), np.array([b - a for a, b in spans], np.int64)
    with patch.object(module, "_GATHER_ELEMENTS", window):
        cut = ragged([flat]).slices(starts, lengths)
    assert lists(cut) == [flat[a:b] for a, b in spans]


DTYPES = [np.int32, np.int64, np.uint64, np.uint8, np.float32]


def numbers(size: int, dtype: Any) -> npt.NDArray[Any]:
    """Values that differ in their high bytes too, so that a copy of the wrong width or place shows."""
    return (np.arange(size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(1)).astype(dtype)


@st.composite
def slices_of(draw: st.DrawFn, size: int) -> list[tuple[int, int]]:
    """(start, length) of slices in any order, long and short, touching, empty or overlapping."""
    cuts = sorted(draw(st.lists(st.integers(0, size), max_size=9)))
    spans = [(a, b - a) for a, b in pairwise(cuts)]
    if draw(st.booleans()):
        spans = [s for s in spans if draw(st.booleans())]
    for _ in range(draw(st.integers(0, 2))):
        spans.append((draw(st.integers(0, size)), 0))
    if draw(st.booleans()) and size:
        start = draw(st.integers(0, size - 1))
        spans.append((start, draw(st.integers(1, size - start))))
    return draw(st.permutations(spans))


@cases(400)
@given(st.sampled_from(DTYPES), st.integers(0, 400), st.data(), st.sampled_from([0, 1, 32]))
def test_slices_of_every_kind_and_width_are_slicing(dtype: Any, size: int, data: st.DataObject, long: int) -> None:
    """Both ways of copying, whichever is taken: fails if one of them mixes up order, edges, gaps or bytes."""
    flat = numbers(size, dtype)
    spans = data.draw(slices_of(size))
    starts, lengths = (np.array([s[i] for s in spans], np.int64) for i in range(2))
    with patch.object(module, "_LONG_SLICE", long):
        cut = Ragged(flat, np.array([0, size])).slices(starts, lengths)
    assert lists(cut) == [flat[a : a + n].tolist() for a, n in spans]
    assert cut.flat.dtype == flat.dtype
    assert cut.offsets.dtype == np.int64
    assert len(cut.flat) == sum(n for _, n in spans)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "spans",
    [
        pytest.param([(0, 300)], id="all"),
        pytest.param([(200, 100), (0, 100), (100, 100)], id="touching, out of order"),
        pytest.param([(250, 50), (10, 90)], id="with gaps"),
        pytest.param([(10, 0), (10, 90), (100, 0), (100, 0), (150, 150), (300, 0)], id="empty ones at the edges"),
        pytest.param([(100, 0), (50, 100)], id="an empty one inside another"),
        pytest.param([(0, 200), (100, 200)], id="overlapping"),
        pytest.param([(40, 60), (40, 60)], id="one twice"),
        pytest.param([(0, 0), (300, 0)], id="nothing but empty ones"),
        pytest.param([], id="none"),
    ],
)
def test_slices_at_the_edges(dtype: Any, spans: list[tuple[int, int]]) -> None:
    flat = numbers(300, dtype)
    # A view of every second element too: its memory is not what it looks like.
    for source in (flat, np.repeat(flat, 2)[::2]):
        cut = Ragged(source, np.array([0, 300])).slices(*(np.array([s[i] for s in spans], int) for i in range(2)))
        assert lists(cut) == [flat[a : a + n].tolist() for a, n in spans]
        assert cut.flat.dtype == dtype
        assert not np.shares_memory(cut.flat, source), "rows are written to in place"


def test_long_disjoint_slices_go_by_the_fast_path_and_short_or_overlapping_ones_do_not() -> None:
    """Fails if the tests above would all take one path and say nothing of the other."""
    rows = Ragged(numbers(640, np.int32), np.array([0, 640]))
    with patch.object(Ragged, "_copy_disjoint", side_effect=AssertionError("the fast path")):
        for starts, lengths in (([0, 100], [10, 10]), ([0, 320], [321, 320])):
            rows.slices(np.array(starts), np.array(lengths))
        with pytest.raises(AssertionError, match="the fast path"):
            rows.slices(np.array([320, 0]), np.array([320, 320]))


def test_slices_beyond_the_end_are_refused_and_not_read_from_foreign_memory() -> None:
    """Fails if damaged offsets give whatever lies behind the array."""
    rows = Ragged(numbers(640, np.int32), np.array([0, 640]))
    for starts, lengths in (([0, 320], [320, 321]), ([0, 321], [10, 700]), ([600, 0], [41, 10])):
        with pytest.raises((IndexError, pa.ArrowInvalid)):
            rows.slices(np.array(starts), np.array(lengths))


@cases(100)
@given(ROWS, WINDOW)
def test_gather_writes_where_it_is_told_and_nowhere_else(rows: list[list[int]], window: int) -> None:
    source = ragged(rows)
    backwards = [sum(map(len, rows[i + 1 :])) + 2 * (len(rows) - i) for i in range(len(rows))]
    expected = [-7] * (len(source.flat) + 2 * len(rows) + 1)
    for at, row in zip(backwards, rows, strict=True):
        expected[at : at + len(row)] = row
    out = np.full(len(expected), -7, np.int64)
    with patch.object(module, "_GATHER_ELEMENTS", window):
        gather_into(out, np.array(backwards, np.int64), source.flat, source.offsets[:-1], source.lengths)
    assert out.tolist() == expected


@cases(100)
@given(st.lists(ROWS, max_size=4))
def test_concatenate_keeps_every_sequence_in_order(parts: list[list[list[int]]]) -> None:
    joined = concatenate([ragged(p) for p in parts], np.int32)
    assert lists(joined) == [row for p in parts for row in p]
    assert joined.flat.dtype == np.int32


@cases(150)
@given(ROWS, st.data())
def test_arrow_columns_come_and_go_unchanged_even_sliced_or_chunked(
    rows: list[list[int]], data: st.DataObject
) -> None:
    array = pa.array(rows, pa.list_(pa.int32()))
    begin = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(begin, len(rows)))
    assert lists(Ragged.from_arrow(array)) == rows
    assert lists(Ragged.from_arrow(array[begin:stop])) == rows[begin:stop]
    chunked = pa.chunked_array([array[:begin], array[begin:stop], array[stop:]], array.type)
    assert lists(Ragged.from_arrow(chunked)) == rows
    assert lists(Ragged.from_arrow(pa.chunked_array([], array.type))) == []
    assert Ragged.from_arrow(array[begin:stop]).to_arrow(pa.int32()).equals(array[begin:stop])


@cases(50)
@given(st.lists(st.integers(0, 7), max_size=10))
def test_offsets_and_ranges_follow_the_lengths(lengths: list[int]) -> None:
    assert offsets_of(np.array(lengths, np.int64)).tolist() == [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    assert ranges(np.array(lengths, np.int64)).tolist() == [i for n in lengths for i in range(n)]
    rows = Ragged.from_lengths(np.arange(sum(lengths)), np.array(lengths, np.int64))
    assert rows.lengths.tolist() == lengths
    assert len(rows) == len(lengths)


def test_more_elements_than_a_list_column_holds_are_refused_instead_of_wrapping_round() -> None:
    huge = np.lib.stride_tricks.as_strided(np.zeros(1, np.int8), shape=(2**31,), strides=(0,))
    with pytest.raises(OverflowError):
        Ragged(huge, np.array([0, 2**31])).to_arrow(pa.int8())
