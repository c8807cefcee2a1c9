"""Policies: shares that add to one exactly, caps that hold, and the laws each rule is known by."""

from __future__ import annotations

import decimal
import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit_helpers import cases

from schemas.errors import DataError, RequestError
from transforms.apportion import apportion
from transforms.policies import (
    POWER_DIGITS,
    Allocation,
    epochs,
    exact,
    proportional,
    temperature,
    unimax,
    water_fill,
    weights,
)

NAMES = st.sampled_from("abcdefgh")
SIZES = st.dictionaries(NAMES, st.integers(0, 10**14) | st.integers(0, 50), min_size=1, max_size=8).filter(
    lambda d: any(d.values())
)
SHARES = st.dictionaries(NAMES, st.fractions(0, 5, max_denominator=97), min_size=1, max_size=8).filter(
    lambda d: any(d.values())
)
CAPS = st.dictionaries(NAMES, st.none() | st.integers(0, 10**4), max_size=8)
BUDGETS = st.integers(1, 10**14) | st.integers(1, 10**4)
TEMPERATURES = st.one_of(
    st.fractions(Fraction(1, 5), 50, max_denominator=40),
    st.floats(0.25, 50),
    st.sampled_from([Fraction(1, 2), 1, 2, 3, 3.33, 100.0]),
)
PASSES = st.fractions(Fraction(1, 10), 20, max_denominator=10)


def adds_to_one(shares: dict[str, Fraction], names: Any) -> bool:
    assert set(shares) == set(names)
    assert all(isinstance(s, Fraction) for s in shares.values()), "an inexact share"
    return sum(shares.values()) == 1 and all(s >= 0 for s in shares.values())


# weights, proportional


@cases(100)
@given(SHARES, st.fractions(Fraction(1, 9), 9))
def test_weights_are_normalised_and_only_their_ratios_matter(given: dict[str, Fraction], factor: Fraction) -> None:
    shares = weights(given)
    assert adds_to_one(shares, given)
    assert weights({n: w * factor for n, w in given.items()}) == shares
    for a in given:
        for b in given:
            assert shares[a] * given[b] == shares[b] * given[a]


@cases(100)
@given(SIZES)
def test_proportional_shares_are_the_shares_of_the_tokens(available: dict[str, int]) -> None:
    total = sum(available.values())
    assert proportional(available) == {n: Fraction(count, total) for n, count in available.items()}


@pytest.mark.parametrize(
    ("wrong", "named"), [({"a": Fraction(-1), "b": Fraction(2)}, "'a'"), ({"a": Fraction(0)}, "positive")]
)
def test_weights_that_give_no_shares_are_refused(wrong: dict[str, Fraction], named: str) -> None:
    with pytest.raises(RequestError, match=named) as error:
        weights(wrong)
    assert error.value.remedy


def test_a_decimal_is_what_is_written_and_not_its_binary_neighbour() -> None:
    assert exact(0.1) == Fraction(1, 10)
    assert exact(3) == 3
    assert exact(Fraction(1, 3)) == Fraction(1, 3)


# temperature


@cases(150)
@given(SIZES, TEMPERATURES)
def test_temperature_shares_add_to_one_and_are_the_formulas(available: dict[str, int], power: Any) -> None:
    shares = temperature(available, power)
    assert adds_to_one(shares, available)
    largest = max(available.values())
    rates = {n: (count / largest) ** (1 / float(power)) if count else 0.0 for n, count in available.items()}
    for name, rate in rates.items():
        assert float(shares[name]) == pytest.approx(rate / sum(rates.values()), rel=1e-9, abs=1e-300)


@cases(100)
@given(SIZES, st.dictionaries(NAMES, st.integers(1, 10**6), max_size=8), TEMPERATURES)
def test_scale_comes_first_then_the_maximum_then_the_power(
    available: dict[str, int], maximum: dict[str, int], power: Any
) -> None:
    shares = temperature(available, power, maximum, Fraction(1, 3))
    assert adds_to_one(shares, available)
    # seqio, utils.mixing_rate_num_examples: ret *= scale; ret = min(ret, maximum); ret = ret ** (1 / temperature).
    rates = {}
    for name, count in available.items():
        rate = count * (1 / 3)
        if maximum.get(name):
            rate = min(rate, maximum[name])
        rates[name] = rate
    largest = max(rates.values())
    rates = {n: (r / largest) ** (1 / float(power)) if r else 0.0 for n, r in rates.items()}
    for name, rate in rates.items():
        assert float(shares[name]) == pytest.approx(rate / sum(rates.values()), rel=1e-9, abs=1e-300)


@cases(50)
@given(SIZES)
def test_temperature_one_is_proportional_exactly(available: dict[str, int]) -> None:
    assert temperature(available, 1) == temperature(available, 1.0) == proportional(available)


@cases(50)
@given(SIZES, st.integers(1, 6))
def test_whole_powers_are_exact(available: dict[str, int], whole: int) -> None:
    assert temperature(available, Fraction(1, whole)) == weights(
        {n: Fraction(count**whole) for n, count in available.items()}
    )


@cases(100)
@given(st.integers(2, 10**15), st.integers(2, 12), st.integers(1, 11))
def test_other_powers_are_rounded_correctly_to_the_stated_digits(ratio: int, p: int, q: int) -> None:
    shares = temperature({"one": 1, "many": ratio}, Fraction(p, q))
    power = shares["many"] / shares["one"]  # ratio^(q/p), rounded
    ulp = Fraction(10) ** (len(str(int(power))) - POWER_DIGITS)
    if q % p:
        assert (power / ulp).denominator == 1, "more digits than stated"
    # In whole numbers alone: the true power is within half a unit of the last digit.
    assert (power - ulp / 2) ** p <= Fraction(ratio) ** q <= (power + ulp / 2) ** p


@cases(50)
@given(SIZES, TEMPERATURES, st.integers(1, 1000))
def test_shares_depend_on_neither_the_unit_nor_the_order_nor_a_decimal_context_somebody_set(
    available: dict[str, int], power: Any, unit: int
) -> None:
    shares = temperature(available, power)
    assert temperature({n: count * unit for n, count in available.items()}, power) == shares
    assert temperature(available, power, scale=unit) == shares
    assert temperature(dict(reversed(available.items())), power) == shares
    with decimal.localcontext(decimal.Context(prec=4, rounding=decimal.ROUND_UP)):
        assert temperature(available, power) == shares


@cases(150)
@given(SIZES, TEMPERATURES, TEMPERATURES)
def test_a_larger_temperature_never_lowers_the_share_of_the_smallest_source(
    available: dict[str, int], one: Any, other: Any
) -> None:
    low, high = sorted((exact(one), exact(other)))
    present = {n: count for n, count in available.items() if count}
    smallest, largest = min(present, key=present.__getitem__), max(present, key=present.__getitem__)
    cold, hot = temperature(available, low), temperature(available, high)
    assert cold[smallest] <= hot[smallest]
    assert cold[largest] >= hot[largest] - Fraction(1, 10**25)
    # Smaller sources never get more than larger ones.
    for a in available:
        for b in available:
            assert available[a] > available[b] or hot[a] <= hot[b]


def test_a_very_large_temperature_makes_sources_equal_and_leaves_empty_ones_out() -> None:
    shares = temperature({"a": 1, "b": 10**12, "c": 0}, 10**9)
    assert shares["c"] == 0
    assert abs(shares["a"] - Fraction(1, 2)) < Fraction(1, 10**7)


def test_a_maximum_of_zero_leaves_a_source_out() -> None:
    assert temperature({"a": 5, "b": 5}, 2, {"a": 0}) == {"a": 0, "b": 1}


@pytest.mark.parametrize(
    "changes",
    [{"temperature": 0}, {"temperature": -1.0}, {"temperature": 0.001}, {"scale": 0}, {"maximum": {"a": -1}}],
)
def test_a_temperature_scale_or_maximum_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as error:
        temperature(**{"available": {"a": 5}, "temperature": 2, **changes})
    assert error.value.got
    assert error.value.remedy


# unimax


def at_one_level(made: Allocation, shares: dict[str, Fraction], caps: dict[str, Fraction]) -> bool:
    """Water-filling's law: there is one level, and each source takes its share of it or its cap if that is less."""
    levels = [made.tokens[n] / s for n, s in shares.items() if s and made.tokens[n] != caps.get(n)]
    if len(set(levels)) > 1:
        return False
    full = [caps[n] / s for n, s in shares.items() if s and n in caps and made.tokens[n] == caps[n]]
    return not levels or all(f <= levels[0] for f in full)


@cases(150)
@given(SIZES, BUDGETS, PASSES)
def test_unimax_is_as_even_as_its_cap_of_passes_allows(
    available: dict[str, int], budget: int, passes: Fraction
) -> None:
    made = unimax(available, budget, passes)
    caps = {n: passes * count for n, count in available.items()}
    assert set(made.tokens) == set(available)
    assert sum(made.tokens.values()) + made.unmet == budget
    assert all(0 <= made.tokens[n] <= caps[n] for n in available)
    assert at_one_level(made, dict.fromkeys(available, Fraction(1)), caps)
    assert made.unmet == max(0, budget - sum(caps.values()))
    assert made.tokens == water_fill(dict.fromkeys(available, Fraction(1)), budget, caps).tokens


@cases(100)
@given(SIZES, BUDGETS, BUDGETS, PASSES, PASSES)
def test_more_passes_or_a_larger_budget_never_take_less(
    available: dict[str, int], one: int, other: int, n: Fraction, m: Fraction
) -> None:
    small, large = sorted((one, other))
    few, many = sorted((n, m))
    base = unimax(available, small, few)
    assert unimax(available, small, many).unmet <= base.unmet
    more = unimax(available, large, few)
    assert all(more.tokens[name] >= base.tokens[name] for name in available)
    smallest = min(available, key=available.__getitem__)
    assert unimax(available, small, many).tokens[smallest] >= base.tokens[smallest]


def test_unimax_gives_the_budgets_a_published_implementation_gives() -> None:
    # The example of https://pypi.org/project/unimax-sampling.
    available = {"swe": 179955884499, "fas": 184595788282, "ekk": 42541080893, "isl": 10027573389, "fao": 549707867}
    made = unimax(available, 250_000_000_000, 4)
    assert {n: float(t) for n, t in made.tokens.items()} == pytest.approx(
        {
            "fao": 2198831468,
            "isl": 40110293556,
            "ekk": 69230291658.66667,
            "swe": 69230291658.66,
            "fas": 69230291658.66,
        }
    )
    assert made.unmet == 0
    assert float(made.shares["isl"]) == pytest.approx(0.160441174224)


def test_unimax_says_how_much_of_the_budget_no_source_can_give() -> None:
    made = unimax({"a": 10, "b": 30}, 100, 2)
    assert made.tokens == {"a": 20, "b": 60}
    assert made.unmet == 20
    assert made.shares == {"a": Fraction(1, 4), "b": Fraction(3, 4)}


# epochs


@cases(100)
@given(SIZES, st.dictionaries(NAMES, st.fractions(0, 9, max_denominator=20), max_size=8))
def test_passes_fix_the_tokens_and_the_budget_follows(available: dict[str, int], passes: dict[str, Fraction]) -> None:
    given = {n: p for n, p in passes.items() if n in available}
    made = epochs(available, given)
    assert made.tokens == {n: given.get(n, 0) * count for n, count in available.items()}
    assert made.unmet == 0
    assert not sum(made.tokens.values()) or adds_to_one(made.shares, available)


def test_passes_over_an_unknown_source_or_fewer_than_none_are_refused() -> None:
    with pytest.raises(RequestError, match="'x'"):
        epochs({"a": 5}, {"x": 1})
    with pytest.raises(RequestError, match="'a'"):
        epochs({"a": 5}, {"a": -0.5})
    assert epochs({"a": 30}, {"a": 0.1}).tokens == {"a": 3}


# water filling


@cases(200)
@given(SHARES, BUDGETS, CAPS)
def test_water_filling_keeps_caps_the_budget_and_the_ratios_of_the_rest(
    shares: dict[str, Fraction], budget: int, caps: dict[str, int | None]
) -> None:
    made = water_fill(shares, budget, caps)
    limits = {n: Fraction(c) for n, c in caps.items() if c is not None}
    assert sum(made.tokens.values()) + made.unmet == budget
    assert all(0 <= t <= limits.get(n, budget) for n, t in made.tokens.items())
    assert all(not made.tokens[n] for n, s in shares.items() if not s), "a source of share zero was given the rest"
    assert at_one_level(made, shares, limits)
    open_ended = any(s and n not in limits for n, s in shares.items())
    assert made.unmet == (
        0 if open_ended else max(Fraction(0), budget - sum(limits[n] for n, s in shares.items() if s))
    )
    assert water_fill(dict(reversed(shares.items())), budget, caps) == made


@cases(100)
@given(SHARES, BUDGETS, BUDGETS, CAPS, NAMES, st.integers(1, 1000))
def test_a_larger_budget_or_cap_never_takes_less(
    shares: dict[str, Fraction], one: int, other: int, caps: dict[str, int | None], name: str, raised: int
) -> None:
    small, large = sorted((one, other))
    base, more = water_fill(shares, small, caps), water_fill(shares, large, caps)
    assert all(more.tokens[n] >= t for n, t in base.tokens.items())
    higher = {**caps, name: cap + raised if (cap := caps.get(name)) is not None else None}
    wider = water_fill(shares, small, higher)
    assert wider.unmet <= base.unmet
    assert wider.tokens.get(name, 0) >= base.tokens.get(name, 0)


@cases(150)
@given(SHARES, BUDGETS, CAPS)
def test_whole_tokens_keep_every_whole_cap(
    shares: dict[str, Fraction], budget: int, caps: dict[str, int | None]
) -> None:
    made = water_fill(shares, budget, caps)
    taken = budget - made.unmet
    assert taken.denominator == 1
    dealt = apportion(int(taken), made.tokens) if taken else dict.fromkeys(shares, 0)
    assert all(c is None or dealt.get(n, 0) <= c for n, c in caps.items())
    assert all(dealt[n] == caps[n] for n in made.tokens if made.tokens[n] == caps.get(n))


def test_a_source_may_be_over_its_cap_only_after_another_was_fixed() -> None:
    # 100 by 6:3:1 is 60, 30, 10. With a at 20, the rest is 80 by 3:1 = 60, 20, over b's cap of 50.
    made = water_fill({"a": Fraction(6), "b": Fraction(3), "c": Fraction(1)}, 100, {"a": 20, "b": 50})
    assert made.tokens == {"a": 20, "b": 50, "c": 30}


def test_a_source_of_share_zero_takes_nothing_even_if_all_others_are_full() -> None:
    made = water_fill({"a": Fraction(1), "b": Fraction(0)}, 100, {"a": 30})
    assert made.tokens == {"a": 30, "b": 0}
    assert made.unmet == 70


# common


def test_no_tokens_at_all_is_an_error_of_the_data() -> None:
    for policy in (proportional, lambda a: temperature(a, 2), lambda a: unimax(a, 10, 1)):
        with pytest.raises(DataError):
            policy({"a": 0})


@pytest.mark.parametrize("budget", [0, -5])
def test_a_budget_of_nothing_is_refused(budget: int) -> None:
    with pytest.raises(RequestError):
        unimax({"a": 5}, budget, 1)
    with pytest.raises(RequestError):
        water_fill({"a": Fraction(1)}, budget, {})
    with pytest.raises(RequestError):
        unimax({"a": 5}, 10, 0)


def test_square_roots_are_what_a_table_of_roots_says() -> None:
    shares = temperature({"a": 2, "b": 1}, 2)
    assert str(float(shares["a"] / shares["b"])) == str(math.sqrt(2))
    # OEIS A002193: 1.41421356237309504880168872420969807856967…
    assert shares["a"] / shares["b"] == Fraction("1.41421356237309504880168872421")
