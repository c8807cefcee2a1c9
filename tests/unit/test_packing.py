"""Packing against the same thing done item by item and unit by unit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit_helpers import cases

from transforms.packing import Int64, best_fit, chain, fill, powers_of_two, whole

LENGTHS = st.lists(st.integers(0, 12), max_size=25)


def ints(values: list[int]) -> Int64:
    return np.array(values, dtype=np.int64)


def columns(arrays: tuple[Int64, ...]) -> list[tuple[int, ...]]:
    assert {a.dtype for a in arrays} == {np.dtype(np.int64)}
    return list(zip(*(a.tolist() for a in arrays), strict=True))


@st.composite
def items_and_room(draw: st.DrawFn) -> tuple[list[int], int]:
    """Items of few distinct lengths, often short beside the room, so that bins absorb several of one length."""
    room = draw(st.integers(1, 40))
    kinds = draw(st.lists(st.integers(1, room), min_size=1, max_size=6))
    return draw(st.lists(st.sampled_from(kinds), max_size=60)), room


def oldest(stamp: int, number: int) -> int:
    return stamp


def lowest(stamp: int, number: int) -> int:
    return number


def naive_best_fit(lengths: list[int], room: int, tie: Callable[[int, int], int] = oldest) -> list[int]:
    """One item at a time to the tightest bin; among bins of equal space `tie` decides."""
    spaces: list[int] = []
    stamps: list[int] = []
    out = [-1] * len(lengths)
    for clock, i in enumerate(sorted(range(len(lengths)), key=lambda i: -lengths[i])):
        fits = [b for b, space in enumerate(spaces) if space >= lengths[i]]
        if not fits:
            fits = [len(spaces)]
            spaces.append(room)
            stamps.append(-1)
        out[i] = min(fits, key=lambda b: (spaces[b], tie(stamps[b], b)))
        spaces[out[i]] -= lengths[i]
        stamps[out[i]] = clock
    return out


def contents(bins: list[int], lengths: list[int]) -> Counter[tuple[int, ...]]:
    held: dict[int, list[int]] = {}
    for b, length in zip(bins, lengths, strict=True):
        held.setdefault(b, []).append(length)
    return Counter(tuple(sorted(h)) for h in held.values())


@cases(400)
@given(items_and_room())
def test_best_fit_by_groups_is_best_fit_item_by_item(case: tuple[list[int], int]) -> None:
    lengths, room = case
    got, expected = best_fit(ints(lengths), room), naive_best_fit(lengths, room)
    assert got.dtype == np.int64
    assert contents(got.tolist(), lengths) == contents(expected, lengths)
    assert got.tolist() == expected, "same contents, but other items of equal length: the keyed order is lost"


@pytest.mark.parametrize(("room", "seed"), [(7, 0), (64, 1), (300, 2), (70_000, 3)])
def test_best_fit_of_many_items_is_best_fit_item_by_item(room: int, seed: int) -> None:
    draws = np.random.default_rng(seed).lognormal(np.log(room / 6), 1.0, 600)
    lengths = np.clip(draws, 1, room).astype(np.int64).tolist()
    assert best_fit(ints(lengths), room).tolist() == naive_best_fit(lengths, room)


@cases(200)
@given(items_and_room())
def test_best_fit_never_overfills_and_ties_cost_no_bin(case: tuple[list[int], int]) -> None:
    lengths, room = case
    bins = best_fit(ints(lengths), room)
    held = np.bincount(bins, ints(lengths))
    assert (held > 0).all(), "bin numbers have a gap, so an empty row would be written"
    assert (held <= room).all()
    other = naive_best_fit(lengths, room, lowest)
    assert sorted(held) == sorted(np.bincount(other, ints(lengths)))


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([], []),
        ([5], [0]),
        ([8, 8, 8], [0, 1, 2]),
        ([1] * 17, [0] * 8 + [1] * 8 + [2]),
        ([2, 6, 6, 2, 2], [0, 0, 1, 1, 2]),
        ([1, 5, 3, 4, 4], [2, 0, 0, 1, 1]),
    ],
)
def test_best_fit_at_the_edges(lengths: list[int], expected: list[int]) -> None:
    given_lengths = ints(lengths)
    assert best_fit(given_lengths, 8).tolist() == expected
    assert given_lengths.tolist() == lengths, "the caller's array was changed"


def test_best_fit_keeps_the_queue_of_bins_of_equal_space_when_it_takes_a_part_of_them() -> None:
    # Bins 0 and 1, then bin 2 come to 3 units; the 2 takes bin 0 alone, so bin 1 is still before bin 2.
    lengths = [9, 9, 5, 4, 2, 1, 1]
    assert best_fit(ints(lengths), 12).tolist() == [0, 1, 2, 2, 0, 0, 1] == naive_best_fit(lengths, 12)


@pytest.mark.parametrize("lengths", [[3, 9], [0, 3], [-1]])
def test_best_fit_refuses_what_no_bin_holds_rather_than_loop_for_ever(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match=r"lengths must be in 1\.\.8, got"):
        best_fit(ints(lengths), 8)


def naive_powers(lengths: list[int], longest: int) -> list[tuple[int, ...]]:
    out: list[tuple[int, ...]] = []
    for i, length in enumerate(lengths):
        begin = 0
        while begin < length:
            piece = 1
            while piece * 2 <= min(longest, length - begin):
                piece *= 2
            out.append((i, begin, piece))
            begin += piece
    return out


@cases(300)
@given(st.lists(st.integers(0, 300), max_size=12), st.integers(1, 140))
def test_powers_of_two_cut_greedily_and_lose_no_unit(lengths: list[int], longest: int) -> None:
    pieces = columns(powers_of_two(ints(lengths), longest))
    assert pieces == naive_powers(lengths, longest)
    units = [(i, u) for i, begin, length in pieces for u in range(begin, begin + length)]
    assert units == [(i, u) for i, length in enumerate(lengths) for u in range(length)]


@pytest.mark.parametrize("longest", [1, 2, 1000, 2**20])
def test_powers_of_two_at_the_edges(longest: int) -> None:
    assert columns(powers_of_two(ints([]), longest)) == []
    lengths = [0, 1, 1, 512, 511, 1024, 0]
    assert columns(powers_of_two(ints(lengths), longest)) == naive_powers(lengths, longest)


def test_powers_of_two_refuses_pieces_of_nothing() -> None:
    with pytest.raises(ValueError, match="at least 1 unit, got 0"):
        powers_of_two(ints([3]), 0)


@cases(300)
@given(st.lists(st.integers(1, 9), max_size=60), st.data())
def test_chain_reaches_what_single_steps_reach(steps: list[int], data: st.DataObject) -> None:
    n = len(steps)
    following = [i + s for i, s in enumerate(steps)]
    starts = data.draw(st.lists(st.integers(0, n + 2), max_size=4))
    reached = set()
    for at in starts:
        while at < n:
            reached.add(at)
            at = following[at]
    assert chain(ints(following), ints(starts)).tolist() == sorted(reached)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 255, 256, 257, 1000])
def test_chain_of_single_steps_is_everything(n: int) -> None:
    assert chain(np.arange(1, n + 1), ints([0])).tolist() == list(range(n))


@cases(300)
@given(LENGTHS, st.one_of(st.integers(1, 15), st.lists(st.integers(0, 9), max_size=12)), st.integers(0, 3))
def test_fill_puts_every_unit_in_the_row_it_falls_in(lengths: list[int], rooms: int | list[int], spare: int) -> None:
    stream = [(i, u) for i, length in enumerate(lengths) for u in range(length)]
    if isinstance(rooms, int):
        rows = [position // rooms for position in range(len(stream))]
        got = columns(fill(ints(lengths), rooms))
    else:
        rooms = [*rooms, max(0, len(stream) - sum(rooms)) + spare]
        rows = [row for row, room in enumerate(rooms) for _ in range(room)][: len(stream)]
        got = columns(fill(ints(lengths), ints(rooms)))
    assert [(i, u, row) for i, begin, length, row in got for u in range(begin, begin + length)] == [
        (i, u, row) for (i, u), row in zip(stream, rows, strict=True)
    ]
    assert min((length for _, _, length, _ in got), default=1) > 0, "an empty piece"
    pieces = [(i, row) for i, _, _, row in got]
    assert len(set(pieces)) == len(pieces), "one document twice in a row, with a boundary between"


@pytest.mark.parametrize("rooms", [4, [4, 4, 4]])
def test_fill_at_the_edges(rooms: int | list[int]) -> None:
    room = rooms if isinstance(rooms, int) else ints(rooms)
    assert columns(fill(ints([]), room)) == []
    assert columns(fill(ints([0, 0]), room)) == []
    assert columns(fill(ints([4, 4]), room)) == [(0, 0, 4, 0), (1, 0, 4, 1)]
    assert columns(fill(ints([12]), room)) == [(0, 0, 4, 0), (0, 4, 4, 1), (0, 8, 4, 2)]
    assert [row for *_, row in columns(fill(ints([1] * 9), room))] == [0, 0, 0, 0, 1, 1, 1, 1, 2]


def test_fill_refuses_rows_that_would_drop_the_tail() -> None:
    with pytest.raises(ValueError, match="hold 7 units, but the items have 8"):
        fill(ints([8]), ints([3, 4]))
    with pytest.raises(ValueError, match="at least 1 unit, got 0"):
        fill(ints([8]), 0)


def naive_whole(lengths: list[int], rooms: list[int], groups: list[int] | None) -> list[int]:
    out: list[int] = []
    held = room = 0
    for i, length in enumerate(lengths):
        same = groups is None or i == 0 or groups[i] == groups[i - 1]
        if i and same and held + length <= room:
            out.append(out[-1])
            held += length
        else:
            out.append(out[-1] + 1 if i else 0)
            held, room = length, rooms[i]
    return out


@cases(400)
@given(LENGTHS, st.data())
def test_whole_is_next_fit_item_by_item(lengths: list[int], data: st.DataObject) -> None:
    n = len(lengths)
    rooms = data.draw(st.lists(st.integers(0, 30), min_size=n, max_size=n))
    groups = data.draw(st.none() | st.lists(st.integers(0, 2), min_size=n, max_size=n))
    rows = whole(ints(lengths), ints(rooms), None if groups is None else ints(groups))
    assert rows.dtype == np.int64
    assert rows.tolist() == naive_whole(lengths, rooms, groups)


@cases(150)
@given(st.lists(st.integers(1, 8), min_size=1, max_size=40), st.data())
def test_whole_mixes_no_groups_and_overfills_no_row(lengths: list[int], data: st.DataObject) -> None:
    groups = data.draw(st.lists(st.integers(0, 2), min_size=len(lengths), max_size=len(lengths)))
    rows = whole(ints(lengths), np.full(len(lengths), 8), ints(groups))
    assert np.bincount(rows, ints(lengths)).max() <= 8
    assert all(len({g for _, g in held}) == 1 for _, held in groupby(zip(rows, groups, strict=True), lambda x: x[0]))


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [([], []), ([5], [0]), ([9, 9], [0, 1]), ([8, 8], [0, 1]), ([1] * 9, [0] * 8 + [1]), ([9, 0, 1], [0, 1, 1])],
)
def test_whole_at_the_edges(lengths: list[int], expected: list[int]) -> None:
    assert whole(ints(lengths), np.full(len(lengths), 8)).tolist() == expected
    assert whole(ints(lengths), np.full(len(lengths), 8), np.zeros(len(lengths), np.int64)).tolist() == expected
