"""Packing of counts against packing item by item."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit_helpers import cases

from transforms.histogram_packing import (
    HistogramPacking,
    best_fit_runs,
    expected_fills,
    last_pieces,
    pack_histogram,
)
from transforms.packing import best_fit, fill
from transforms.ragged import Int64


@st.composite
def histograms(draw: st.DrawFn) -> tuple[dict[int, int], int]:
    """Few distinct lengths, often short beside the room, some without items, in any order."""
    room = draw(st.integers(1, 40))
    return draw(st.dictionaries(st.integers(1, room), st.integers(0, 25), max_size=6)), room


def arrays(histogram: dict[int, int]) -> tuple[Int64, Int64]:
    return np.array(list(histogram), np.int64), np.array(list(histogram.values()), np.int64)


def pairs(histogram: tuple[Int64, Int64]) -> dict[int, int]:
    assert {a.dtype for a in histogram} == {np.dtype(np.int64)}
    return dict(zip(*(a.tolist() for a in histogram), strict=True))


def strategies(packing: HistogramPacking) -> Counter[tuple[int, ...]]:
    """What a row holds, item by item in descending order, and how many rows hold it."""
    found: Counter[tuple[int, ...]] = Counter()
    for i, rows in enumerate(packing.strategy_rows.tolist()):
        span = slice(*packing.offsets[i : i + 2])
        held = tuple(np.repeat(packing.lengths[span], packing.items[span]).tolist())
        assert held not in found, "one combination in two strategies"
        assert rows > 0
        found[held] = rows
    return found


def naive(histogram: dict[int, int], room: int, depth: int) -> Counter[tuple[int, ...]]:
    """One item at a time to the tightest row that is not closed; of several the one that got there first."""
    rows: list[tuple[int, list[int]]] = []  # clock, items
    for clock, length in enumerate(sorted(Counter(histogram).elements(), reverse=True)):
        fits = [r for r in rows if sum(r[1]) + length <= room and len(r[1]) < depth]
        best = min(fits, key=lambda r: (room - sum(r[1]), r[0]), default=(-1, []))
        if best in fits:
            rows.remove(best)
        rows.append((clock, [*best[1], length]))
    return Counter(tuple(held) for _, held in rows)


@cases(300)
@given(histograms())
def test_rows_and_what_they_hold_are_those_of_best_fit_on_the_items(case: tuple[dict[int, int], int]) -> None:
    histogram, room = case
    lengths, counts = arrays(histogram)
    items = np.repeat(lengths, counts)
    bins = best_fit(items, room)
    packing = pack_histogram(lengths, counts, room)
    held = np.bincount(bins, items).astype(int) if len(items) else []
    assert packing.rows == len(held)
    assert pairs(packing.fills) == Counter(held)
    assert pairs(packing.depths) == Counter(np.bincount(bins).tolist() if len(items) else [])
    contents = [tuple(sorted(items[bins == b].tolist(), reverse=True)) for b in range(len(held))]
    assert strategies(packing) == Counter(contents)


@cases(400)
@given(histograms(), st.integers(1, 6))
def test_a_depth_cap_closes_rows_and_the_rule_goes_on_among_the_others(
    case: tuple[dict[int, int], int], depth: int
) -> None:
    histogram, room = case
    packing = pack_histogram(*arrays(histogram), room, depth)
    assert strategies(packing) == naive(histogram, room, depth)
    assert max(pairs(packing.depths), default=0) <= depth


@cases(100)
@given(histograms())
def test_a_depth_that_no_row_reaches_changes_nothing(case: tuple[dict[int, int], int]) -> None:
    histogram, room = case
    assert strategies(pack_histogram(*arrays(histogram), room, room)) == naive(histogram, room, room)
    assert strategies(pack_histogram(*arrays(histogram), room)) == naive(histogram, room, room)


@pytest.mark.parametrize(("room", "seed"), [(64, 1), (300, 2), (70_000, 3)])
def test_many_lengths_are_packed_as_their_items_are(room: int, seed: int) -> None:
    draws = np.random.default_rng(seed).lognormal(np.log(room / 6), 1.0, 20_000)
    items = np.clip(draws, 1, room).astype(np.int64)
    packing = pack_histogram(*np.unique(items, return_counts=True), room)
    held = np.bincount(best_fit(items, room), items).astype(int)
    assert pairs(packing.fills) == Counter(held.tolist())


def test_only_what_is_longer_than_a_row_is_cut_where_concatenation_cuts_three_documents() -> None:
    documents = np.array([14, 7, 5, 2, 3])
    last, before = last_pieces(documents, np.ones(5, np.int64), 8)
    assert (last.tolist(), before) == ([6, 7, 5, 2, 3], 1)
    packing = pack_histogram(np.append(last, 8), np.append(np.ones(5, np.int64), before), 8)
    assert packing.rows == 4
    assert strategies(packing) == {(8,): 1, (7,): 1, (6, 2): 1, (5, 3): 1}
    document, *_ = fill(documents, 8)
    assert np.flatnonzero(np.bincount(document) > 1).tolist() == [0, 1, 2]


def long_tail(sequences: int) -> tuple[Int64, Int64]:
    """Lengths of 1..512, the short ones frequent and a quarter of all at 512, as in BERT's corpus."""
    lengths = np.arange(1, 513)
    shares = np.exp(-lengths / 150)
    counts = (0.75 * sequences * shares / shares.sum()).astype(np.int64)
    counts[-1] += sequences - counts.sum()
    return lengths, counts


def test_sixteen_million_sequences_are_packed_without_an_array_over_them() -> None:
    lengths, counts = long_tail(16_000_000)
    tracemalloc.start()
    packing = pack_histogram(lengths, counts, 512)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 16_000_000 / 8
    assert len(packing.strategy_rows) < 3 * 512
    fills, rows = packing.fills
    tokens = int((lengths * counts).sum())
    assert int((fills * rows).sum()) == tokens
    assert -(-tokens // 512) <= packing.rows < 1.001 * tokens / 512


def test_every_item_is_in_a_row_however_many_there_are() -> None:
    counts = np.array([10**15, 3, 10**15 + 1])
    runs = best_fit_runs(np.array([3, 5, 7]), counts, 12)
    items = {n: int((runs.items * runs.rows)[runs.length == n].sum()) for n in (3, 5, 7)}
    assert items == {3: 10**15, 5: 3, 7: 10**15 + 1}
    assert strategies(pack_histogram(np.array([3, 5, 7]), counts, 12)) == {
        (7, 5): 3,
        (7, 3): 10**15 - 2,
        (3, 3): 1,
    }


def test_neither_the_order_of_the_lengths_nor_how_often_one_is_given_matters() -> None:
    packing = pack_histogram(np.array([3, 7, 3, 5]), np.array([2, 1, 4, 0]), 10, 3)
    assert strategies(packing) == strategies(pack_histogram(np.array([3, 7]), np.array([6, 1]), 10, 3))
    assert strategies(packing) == {(7, 3): 1, (3, 3, 3): 1, (3, 3): 1}


@pytest.mark.parametrize("lengths", [[], [4]])
def test_no_items_need_no_rows(lengths: list[int]) -> None:
    packing = pack_histogram(np.array(lengths, np.int64), np.zeros(len(lengths), np.int64), 8)
    assert packing.rows == 0
    assert pairs(packing.fills) == pairs(packing.depths) == {}
    assert strategies(packing) == {}


@pytest.mark.parametrize(
    ("lengths", "counts", "depth", "said"),
    [
        ([0], [1], None, r"lengths must be in 1\.\.8, got 0"),
        ([9], [1], None, r"lengths must be in 1\.\.8, got 9"),
        ([5], [-1], None, r"not negative, got -1"),
        ([5, 6], [1], None, "2 lengths but 1 counts"),
        ([5], [1], 0, "at least 1 item, got 0"),
    ],
)
def test_what_no_row_can_hold_is_refused_rather_than_packed_for_ever(
    lengths: list[int], counts: list[int], depth: int | None, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        pack_histogram(np.array(lengths), np.array(counts), 8, depth)


@cases(150)
@given(st.dictionaries(st.integers(1, 60), st.integers(0, 5), max_size=8), st.integers(1, 30))
def test_pieces_of_a_histogram_are_those_of_its_documents(histogram: dict[int, int], longest: int) -> None:
    last, before = last_pieces(*arrays(histogram), longest)
    found = Counter(dict.fromkeys(last.tolist(), 0))
    for length, n in zip(last.tolist(), histogram.values(), strict=True):
        found[length] += n
    found[longest] += before
    pieces = [min(longest, n - begin) for n in Counter(histogram).elements() for begin in range(0, n, longest)]
    assert +found == Counter(pieces)


@cases(100)
@given(histograms(), st.sampled_from([2.0**-10, 2.0**7]))
def test_expected_rows_are_in_proportion_to_the_counts_and_hold_the_units(
    case: tuple[dict[int, int], int], scale: float
) -> None:
    (lengths, counts), room = arrays(case[0]), case[1]
    fills, rows = expected_fills(lengths, counts, room)
    more_fills, more_rows = expected_fills(lengths, counts * scale, room)
    assert fills.tolist() == more_fills.tolist()
    assert (rows * scale).tolist() == more_rows.tolist()
    assert (fills * rows).sum() == pytest.approx((lengths * counts).sum(), rel=1e-5)


@cases(60)
@given(histograms())
def test_expected_rows_are_those_of_the_same_items_many_times_over(case: tuple[dict[int, int], int]) -> None:
    (lengths, counts), room = arrays(case[0]), case[1]
    _, rows = expected_fills(lengths, counts, room)
    assert pack_histogram(lengths, counts * 10_000, room).rows / 10_000 == pytest.approx(rows.sum(), abs=0.01)


def test_expected_rows_hold_no_remainder_that_asks_for_a_bucket_of_its_own() -> None:
    lengths, counts = np.array([3, 5]), np.array([7, 2])
    assert pack_histogram(lengths, counts, 11).fills[0].tolist() == [3, 9, 10]
    assert expected_fills(lengths, counts, 11)[0].tolist() == [9, 10]
