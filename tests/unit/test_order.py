"""The chairman rule: no beginning of the order strays from any source's share by as much as one turn."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit_helpers import cases

from transforms.order import chairman


def named(parts: list[int]) -> dict[str, Fraction]:
    return {f"s{i:02}": Fraction(p, sum(parts)) for i, p in enumerate(parts)}


def literal(shares: list[Fraction], draws: int) -> list[int]:
    """The rule word for word, draw by draw."""
    d = Fraction(1, 2 * len(shares) - 2)
    had = [0] * len(shares)
    order = []
    for n in range(1, draws + 1):
        behind = [w * n - c for w, c in zip(shares, had, strict=True)]
        open_ = [i for i, b in enumerate(behind) if b >= d]
        order.append(min(open_, key=lambda i: ((1 - d - behind[i]) / shares[i], i)))
        had[order[-1]] += 1
    return order


def largest_deficit(parts: list[int], draws: int) -> list[int]:
    """Megatron-LM, helpers.cpp, build_blending_indices: the largest of w·max(n, 1) − c, n from 0."""
    had = [0] * len(parts)
    order = []
    for n in range(draws):
        errors = [p * max(n, 1) - c * sum(parts) for p, c in zip(parts, had, strict=True)]
        order.append(errors.index(max(errors)))
        had[order[-1]] += 1
    return order


def drift(parts: list[int], order: list[int]) -> Fraction:
    """The most by which any beginning strays from any source's share, in turns; in whole numbers."""
    turns = np.asarray(order)[:, None] == np.arange(len(parts))
    had = np.cumsum(turns, axis=0)
    target = np.outer(np.arange(1, len(order) + 1), np.array(parts, dtype=object))
    return Fraction(int(np.abs(target - had.astype(object) * sum(parts)).max(initial=0)), sum(parts))


def bound(sources: int) -> Fraction:
    return 1 - Fraction(1, 2 * sources - 2)


def compositions(total: int, parts: int) -> Iterator[list[int]]:
    if parts == 1:
        yield [total]
        return
    for first in range(1, total - parts + 2):
        for rest in compositions(total - first, parts - 1):
            yield [first, *rest]


@pytest.mark.parametrize("total", range(2, 11))
def test_every_small_mixture_stays_within_the_bound_and_ends_exactly(total: int) -> None:
    for sources in range(2, total + 1):
        for parts in compositions(total, sources):
            order = chairman(named(parts), total).tolist()
            assert drift(parts, order) <= bound(sources), parts
            assert np.bincount(order, minlength=sources).tolist() == parts
            assert order == literal([Fraction(p, total) for p in parts], total), parts


@cases(60)
@given(st.lists(st.integers(1, 10**6) | st.integers(1, 9), min_size=2, max_size=60))
def test_many_sources_stay_within_the_bound(parts: list[int]) -> None:
    draws = 400
    order = chairman(named(parts), draws)
    assert order.dtype == np.int64
    assert len(order) == draws
    assert drift(parts, order.tolist()) <= bound(len(parts))


@cases(40)
@given(st.lists(st.integers(1, 10**30), min_size=2, max_size=8), st.integers(0, 120))
def test_the_order_is_the_rules_for_shares_of_any_precision(parts: list[int], draws: int) -> None:
    shares = named(parts)
    assert chairman(shares, draws).tolist() == literal(list(shares.values()), draws)


@pytest.mark.parametrize("sources", [2, 3, 10, 60])
@pytest.mark.parametrize("kind", ["equal", "one large", "geometric", "one tiny"])
def test_lopsided_mixtures_stay_within_the_bound_for_a_whole_round(sources: int, kind: str) -> None:
    parts = {
        "equal": [1] * sources,
        "one large": [1000] + [1] * (sources - 1),
        "geometric": [max(1, int(1000 * 0.8**i)) for i in range(sources)],
        "one tiny": [1] + [50] * (sources - 1),
    }[kind]
    assert drift(parts, chairman(named(parts), sum(parts)).tolist()) <= bound(sources)


def test_taking_the_largest_deficit_strays_further_so_that_this_test_can_tell() -> None:
    parts = [365, 41, 5, 1, 1]
    assert drift(parts, largest_deficit(parts, 413)) > Fraction(17, 10)
    assert drift(parts, chairman(named(parts), 413).tolist()) <= bound(5)


def test_a_rare_source_is_not_drawn_before_it_is_due() -> None:
    parts = [999, 1]
    assert largest_deficit(parts, 2)[1] == 1
    order = chairman(named(parts), 1000).tolist()
    # Its first turn opens at draw d/w = (1/2)/(1/1000) = 500, where both are due at once and the name decides.
    assert order.index(1) == 500


@cases(40)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=9), st.integers(0, 300), st.integers(0, 300))
def test_a_longer_order_begins_with_the_shorter_one(parts: list[int], one: int, other: int) -> None:
    short, long = sorted((one, other))
    assert chairman(named(parts), long)[:short].tolist() == chairman(named(parts), short).tolist()


@cases(40)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=6))
def test_the_order_repeats_once_every_share_is_met(parts: list[int]) -> None:
    total = sum(parts)
    order = chairman(named(parts), 3 * total).tolist()
    assert order == 3 * order[:total]
    assert order == literal(list(named(parts).values()), 3 * total), "the rule itself does not repeat"


def test_ties_and_indices_go_by_name_and_not_by_the_order_in_which_sources_are_given() -> None:
    assert chairman({n: Fraction(1, 4) for n in "dbca"}, 4).tolist() == [0, 1, 2, 3]
    given = {"d": Fraction(1, 2), "a": Fraction(1, 6), "c": Fraction(1, 3)}
    assert chairman(given, 60).tolist() == chairman(dict(sorted(given.items())), 60).tolist()
    assert np.bincount(chairman(given, 60)).tolist() == [10, 20, 30]


def test_a_single_source_takes_every_turn() -> None:
    assert chairman({"a": Fraction(1)}, 3).tolist() == [0, 0, 0]
    assert chairman({"a": Fraction(0), "b": Fraction(1)}, 3).tolist() == [1, 1, 1]
    assert chairman({"a": Fraction(1, 2), "b": Fraction(1, 2)}, 0).tolist() == []


@cases(40)
@given(st.lists(st.integers(1, 30), min_size=2, max_size=5), st.integers(1, 5))
def test_a_source_of_share_zero_has_no_turn_and_does_not_widen_the_bound(parts: list[int], zeros: int) -> None:
    shares = named(parts)
    order = chairman({**shares, **{f"a{i}": Fraction(0) for i in range(zeros)}}, 100)
    assert order.tolist() == (chairman(shares, 100) + zeros).tolist()


@pytest.mark.parametrize(
    "shares", [{"a": Fraction(1, 2)}, {"a": Fraction(3, 2), "b": Fraction(-1, 2)}, {}, {"a": Fraction(2)}]
)
def test_shares_that_do_not_add_to_one_are_refused(shares: dict[str, Fraction]) -> None:
    with pytest.raises(ValueError, match="add to 1"):
        chairman(shares, 3)
