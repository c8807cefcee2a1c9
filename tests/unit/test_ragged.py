"""Ragged arrays against lists of lists."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
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
