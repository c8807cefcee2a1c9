"""The mixture: exact sums, fair rounding, caps that hold, and a shortfall that says what to do."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit_helpers import cases, job

import transforms.mixture as mixture
from schemas.errors import DataError, RequestError
from schemas.job import Job
from transforms.apportion import apportion
from transforms.mixture import effective_tokens, mix, normalised_weights

SHARES = st.dictionaries(
    st.sampled_from("abcdefg"), st.fractions(0, 5, max_denominator=97), min_size=1, max_size=7
).filter(lambda d: any(d.values()))


def mixed_job(
    weights: dict[str, float | None],
    caps: dict[str, float] | None = None,
    *,
    shortfall: str = "error",
    **changes: Any,
) -> Job:
    sources = [{"name": n, "files": [n], "weight": w, "max_epochs": (caps or {}).get(n)} for n, w in weights.items()]
    return job(sources=sources, mixture={"on_shortfall": shortfall}, **changes)


def taken(made: Job, available: dict[str, int]) -> dict[str, int]:
    stages, _ = mix(made, available)
    names = {n for s in stages for n in s.tokens}
    return {n: sum(s.tokens.get(n, 0) for s in stages) for n in names}


@cases(150)
@given(st.integers(0, 10**13), SHARES)
def test_apportioned_counts_add_up_and_are_within_one_of_their_quota(total: int, shares: dict[str, Fraction]) -> None:
    counts = apportion(total, shares)
    assert sum(counts.values()) == total
    whole = sum(shares.values())
    for name, share in shares.items():
        quota = total * share / whole
        assert math.floor(quota) <= counts[name] <= math.ceil(quota)


@cases(100)
@given(st.integers(0, 1000), SHARES)
def test_apportionment_is_by_largest_remainder_with_ties_by_name(total: int, shares: dict[str, Fraction]) -> None:
    whole = sum(shares.values())
    remainders = {n: (total * s / whole) % 1 for n, s in shares.items()}
    counts = apportion(total, shares)
    extra = {n for n, s in shares.items() if counts[n] > math.floor(total * s / whole)}
    rank = sorted(shares, key=lambda n: (-remainders[n], n))
    assert extra == set(rank[: len(extra)])


@cases(100)
@given(st.integers(0, 10**6), SHARES, st.randoms(use_true_random=False))
def test_the_order_of_the_sources_is_irrelevant(total: int, shares: dict[str, Fraction], order: Any) -> None:
    names = list(shares)
    order.shuffle(names)
    assert apportion(total, {n: shares[n] for n in names}) == apportion(total, shares)


@cases(100)
@given(
    budget=st.integers(100, 10**12),
    weights=st.lists(st.floats(0.01, 10), min_size=1, max_size=4),
    shares=st.sampled_from([[None], [None] * 3, [0.1, 0.9], [0.3, 0.3, 0.4]]),
)
def test_stages_add_to_the_budget_and_sources_to_their_stage(
    budget: int, weights: list[float], shares: list[float | None]
) -> None:
    named = dict(zip("abcd", weights, strict=False))
    curriculum = [{"stage": f"s{i}", "share": s, "lengths": [8]} for i, s in enumerate(shares)]
    made = mixed_job({**named}, budget={"tokens": budget}, curriculum=curriculum)
    stages, _ = mix(made, dict.fromkeys(named, 10**12))
    assert sum(s.total_tokens for s in stages) == budget
    for stage, share in zip(stages, shares, strict=True):
        exact = Fraction(1, len(shares)) if share is None else Fraction(str(share))
        assert abs(stage.total_tokens - budget * exact) < 1
        for name, weight in named.items():
            quota = stage.total_tokens * Fraction(repr(weight)) / sum(Fraction(repr(w)) for w in weights)
            assert abs(stage.tokens.get(name, 0) - quota) < 1
        assert sum(stage.shares.values()) == 1


def test_without_weights_sources_are_taken_in_proportion_to_what_they_have() -> None:
    made = mixed_job({"a": None, "b": None}, budget={"epochs": 1.5})
    assert taken(made, {"a": 300, "b": 700}) == {"a": 450, "b": 1050}
    assert normalised_weights(made, {"a": 300, "b": 700}) == {"a": Fraction(3, 10), "b": Fraction(7, 10)}


def test_decimal_weights_are_what_is_written_and_not_their_binary_neighbours() -> None:
    assert normalised_weights(mixed_job({"a": 0.1, "b": 0.2}), {}) == {"a": Fraction(1, 3), "b": Fraction(2, 3)}


def test_a_source_of_weight_zero_gives_nothing_and_may_be_empty() -> None:
    assert taken(mixed_job({"a": 1, "b": 0}, budget={"tokens": 10}), {"a": 5, "b": 0}) == {"a": 10}


def test_a_source_with_a_weight_but_no_tokens_is_named() -> None:
    with pytest.raises(DataError, match="'b'") as error:
        mix(mixed_job({"a": 1, "b": 1}, budget={"tokens": 10}), {"a": 5, "b": 0})
    assert error.value.remedy


CAPPED = st.fixed_dictionaries(
    {
        "available": st.lists(st.integers(1000, 10**6), min_size=2, max_size=4),
        "weights": st.lists(st.integers(1, 9), min_size=4, max_size=4),
        "caps": st.lists(st.none() | st.sampled_from([1.0, 1.5, 4.0]), min_size=4, max_size=4),
        "budget": st.integers(10**3, 3 * 10**6),
        "stages": st.integers(1, 3),
    }
)


def capped_job(case: dict[str, Any], shortfall: str) -> tuple[Job, dict[str, int], dict[str, int]]:
    available = dict(zip("abcd", case["available"], strict=False))
    made = mixed_job(
        dict(zip(available, case["weights"], strict=False)),
        {n: c for n, c in zip(available, case["caps"], strict=False) if c},
        shortfall=shortfall,
        budget={"tokens": case["budget"]},
        curriculum=[{"stage": f"s{i}", "lengths": [8]} for i in range(case["stages"])],
    )
    caps = {n: int(Fraction(c) * available[n]) for n, c in zip(available, case["caps"], strict=False) if c}
    return made, available, caps


@cases(150)
@given(CAPPED)
def test_shrink_keeps_the_ratios_and_every_cap_and_shrinks_no_more_than_it_must(case: dict[str, Any]) -> None:
    made, available, caps = capped_job(case, "shrink")
    got = taken(made, available)
    total = sum(got.values())
    whole = sum(w for _, w in zip(available, case["weights"], strict=False))
    for name, weight in zip(available, case["weights"], strict=False):
        assert got.get(name, 0) <= caps.get(name, math.inf)
        # Each stage is rounded by itself.
        assert abs(got.get(name, 0) - Fraction(total * weight, whole)) <= case["stages"]
    most = min([Fraction(cap * whole, case["weights"]["abcd".index(n)]) for n, cap in caps.items()], default=math.inf)
    wanted = min(case["budget"], most)
    assert total <= wanted + whole * case["stages"]
    # One token over a cap, from rounding in each stage, may cost whole/weight tokens, and the search steps by 1e-6.
    assert total >= wanted * (1 - 2e-6) - 2 * whole * (case["stages"] + 1)


def test_shrink_ends_after_few_steps_for_small_sources_too(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0
    real = mixture._stage_tokens

    def counted(*args: Any) -> list[dict[str, int]]:
        nonlocal steps
        steps += 1
        assert steps < 1000, "the search for a budget does not end"
        return real(*args)

    monkeypatch.setattr(mixture, "_stage_tokens", counted)
    made = mixed_job(
        {"a": 8, "b": 9, "c": 2, "d": 6},
        {"a": 1, "b": 1.5, "c": 2, "d": 2},
        shortfall="shrink",
        budget={"tokens": 538},
        curriculum=[{"stage": f"s{i}", "lengths": [8]} for i in range(3)],
    )
    assert taken(made, {"a": 14, "b": 11, "c": 20, "d": 21})["a"] <= 14


@cases(150)
@given(CAPPED)
def test_rebalance_keeps_the_budget_and_every_cap_or_says_it_cannot(case: dict[str, Any]) -> None:
    made, available, caps = capped_job(case, "rebalance")
    try:
        got = taken(made, available)
    except RequestError:
        assert len(caps) == len(available), "a source without a cap can always take the rest"
        assert sum(caps.values()) < case["budget"]
        return
    assert sum(got.values()) == case["budget"]
    assert all(got.get(n, 0) <= cap for n, cap in caps.items())
    free = [n for n in available if got.get(n, 0) < caps.get(n, math.inf)]
    # Sources below their cap keep their ratios.
    for a in free:
        for b in free:
            weights = dict(zip(available, case["weights"], strict=False))
            assert (
                abs(Fraction(got.get(a, 0), weights[a]) - Fraction(got.get(b, 0), weights[b])) <= 2 * case["stages"]
            )


def test_a_budget_that_fits_is_the_same_under_every_policy() -> None:
    found = [
        taken(mixed_job({"a": 1, "b": 2}, {"a": 2}, shortfall=s, budget={"tokens": 300}), {"a": 50, "b": 10})
        for s in ("error", "shrink", "rebalance")
    ]
    assert found == [{"a": 100, "b": 200}] * 3


def test_a_shortfall_names_the_source_what_it_needs_what_it_has_and_ways_out() -> None:
    made = mixed_job({"a": 1, "b": 3}, {"a": 2, "b": 9}, budget={"tokens": 40_000})
    with pytest.raises(RequestError) as error:
        mix(made, {"a": 3000, "b": 4000})
    paragraph = error.value.paragraph()
    assert "'a'" in paragraph
    assert "10,000" in error.value.got  # a quarter of the budget
    assert "3.33 passes" in error.value.got
    assert "6,000" in error.value.expected  # 2 passes over 3,000
    assert "24,000" in error.value.remedy  # the budget whose quarter is 6,000
    assert "shrink" in error.value.remedy
    assert "rebalance" in error.value.remedy
    # The first way out works.
    assert taken(mixed_job({"a": 1, "b": 3}, {"a": 2, "b": 9}, budget={"tokens": 24_000}), {"a": 3000, "b": 4000})


def test_the_source_that_binds_most_is_the_one_named() -> None:
    made = mixed_job({"a": 1, "b": 1}, {"a": 1, "b": 1}, budget={"tokens": 2000})
    with pytest.raises(RequestError, match="'b'"):
        mix(made, {"a": 900, "b": 300})


def test_more_than_four_passes_are_warned_of_by_name() -> None:
    made = mixed_job({"a": 1, "b": 1}, budget={"tokens": 1000})
    _, warnings = mix(made, {"a": 100, "b": 125})
    (warning,) = (w for w in warnings if "passes" in w)
    assert "source a " in warning
    assert "5.0" in warning


def test_a_first_stage_of_some_sources_leaves_later_ones_the_shares_of_all() -> None:
    stages = [{"stage": "p", "lengths": [8], "mixture": {"a": 1}}, {"stage": "q", "lengths": [8]}]
    made = job(sources=[{"name": n, "files": [n]} for n in "abc"], curriculum=stages, budget={"tokens": 601})
    found, _ = mix(made, dict.fromkeys("abc", 1000))
    assert [s.tokens for s in found] == [{"a": 301}, {"a": 100, "b": 100, "c": 100}]


def test_weights_that_do_not_add_to_one_are_normalised_and_said_so() -> None:
    stages = [{"stage": "p", "lengths": [8]}, {"stage": "q", "lengths": [8], "mixture": {"b": 0.4, "a": 0.5}}]
    tokens = {"a": 1000, "b": 1000}
    _, warnings = mix(mixed_job({"a": 0.6, "b": 0.41}, budget={"tokens": 1000}, curriculum=stages), tokens)
    assert [w for w in warnings if "add to 1.01" in w and "the weights " in w]
    assert [w for w in warnings if "add to 0.9" in w and "stage q" in w]
    assert mix(mixed_job({"a": 0.1, "b": 0.9}, budget={"tokens": 1000}), tokens)[1] == []


def test_a_stage_may_have_a_mixture_of_its_own() -> None:
    stages = [{"stage": "p", "lengths": [8]}, {"stage": "q", "lengths": [8], "mixture": {"b": 2.0}}]
    found, _ = mix(mixed_job({"a": 1, "b": 1}, budget={"tokens": 100}, curriculum=stages), {"a": 100, "b": 100})
    assert [s.tokens for s in found] == [{"a": 25, "b": 25}, {"b": 50}]


@cases(100)
@given(st.integers(0, 10**12), st.integers(1, 10**12))
def test_tokens_seen_once_are_worth_themselves_and_repeats_less(tokens: int, available: int) -> None:
    worth = effective_tokens(tokens, available)
    if tokens <= available:
        assert worth == tokens
    else:
        assert available < worth <= tokens
        assert worth <= available * (1 + 15.387756)


def test_repeated_tokens_are_worth_what_the_paper_says() -> None:
    # arXiv 2305.16264: D' = U + U R* (1 - exp(-R / R*)), R = passes - 1, with R* = 15.387756. By hand for 4 passes:
    # 3 / 15.387756 = 0.194960; 1 - exp(-0.194960) = 0.177133; 15.387756 * 0.177133 = 2.725674.
    assert effective_tokens(4 * 10**9, 10**9) == pytest.approx(3.725674e9, rel=1e-5)
    # At R = R* repeats are worth 1 - 1/e of new data.
    repeats = 15.387756
    assert (effective_tokens((1 + repeats) * 1e9, 1e9) - 1e9) / (repeats * 1e9) == pytest.approx(1 - 1 / math.e)
    assert effective_tokens(7.0, 0) == 7.0


def policy_job(mixture: dict[str, Any], epochs: dict[str, float] | None = None, **changes: Any) -> Job:
    sources = [{"name": n, "files": [n], "epochs": (epochs or {}).get(n)} for n in ("big", "mid", "small")]
    return job(sources=sources, mixture=mixture, **changes)


AVAILABLE = {"big": 16_000, "mid": 4_000, "small": 1_000}


def test_temperature_flattens_and_a_maximum_makes_a_large_source_count_less() -> None:
    made = policy_job({"policy": "temperature", "temperature": 2}, budget={"tokens": 7_000})
    # Square roots are 4 : 2 : 1 by hand, of 16 : 4 : 1.
    assert taken(made, AVAILABLE) == {"big": 4_000, "mid": 2_000, "small": 1_000}
    mixture = {"policy": "temperature", "temperature": 2, "max_tokens": 4_000}
    assert taken(policy_job(mixture, budget={"tokens": 5_000}), AVAILABLE) == {
        "big": 2_000,
        "mid": 2_000,
        "small": 1_000,
    }


def test_unimax_is_even_up_to_its_passes_and_says_or_shrinks_where_all_are_used_up() -> None:
    mixture = {"policy": "unimax", "max_epochs": 2}
    made = policy_job(mixture, budget={"tokens": 18_000})
    assert taken(made, AVAILABLE) == {"small": 2_000, "mid": 8_000, "big": 8_000}
    with pytest.raises(RequestError, match="42,000") as caught:
        mix(policy_job(mixture, budget={"tokens": 50_000}), AVAILABLE)
    assert "shrink" in caught.value.paragraph()
    with pytest.raises(RequestError, match="42,000"):
        mix(policy_job({**mixture, "on_shortfall": "rebalance"}, budget={"tokens": 50_000}), AVAILABLE)
    shrunk = policy_job({**mixture, "on_shortfall": "shrink"}, budget={"tokens": 50_000})
    assert taken(shrunk, AVAILABLE) == {"small": 2_000, "mid": 8_000, "big": 32_000}
    assert any("shrank" in warning for warning in mix(shrunk, AVAILABLE)[1])


def test_passes_give_tokens_and_budget_and_stages_divide_them() -> None:
    stages = [{"stage": "p", "share": 0.25, "lengths": [8]}, {"stage": "q", "share": 0.75, "lengths": [8]}]
    made = policy_job({"policy": "epochs"}, {"big": 0.5, "mid": 3.4, "small": 0}, curriculum=stages)
    assert taken(made, AVAILABLE) == {"big": 8_000, "mid": 13_600}
    found, _ = mix(made, AVAILABLE)
    assert [s.total_tokens for s in found] == [5_400, 16_200]


def test_proportional_takes_every_source_alike() -> None:
    assert taken(policy_job({"policy": "proportional"}, budget={"epochs": 0.5}), AVAILABLE) == {
        name: count // 2 for name, count in AVAILABLE.items()
    }


@pytest.mark.parametrize(
    ("mixture", "changes", "says"),
    [
        ({"policy": "temperature"}, {}, "needs `temperature`"),
        ({"policy": "temperature", "temperature": 0}, {}, "greater than or equal to 0.01"),
        ({"policy": "unimax"}, {}, "needs `max_epochs`"),
        ({"temperature": 2}, {}, "is for policy: temperature"),
        ({"policy": "epochs"}, {}, "needs `epochs` of every source"),
        ({"policy": "epochs"}, {"epochs": {"big": 1, "mid": 1, "small": 1}, "budget": {"epochs": 5}}, "leave it out"),
        ({"policy": "epochs"}, {"epochs": {"big": 0, "mid": 0, "small": 0}}, "are zero"),
        ({"policy": "unimax", "max_epochs": 1}, {"epochs": {"big": 1}}, "is for mixture policy: epochs"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_policy_without_its_figures_or_with_those_of_another_is_refused(
    mixture: dict[str, Any], changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        policy_job(mixture, **changes)


def test_weights_beside_another_policy_are_refused() -> None:
    with pytest.raises(ValueError, match="weights are for mixture policy: weights"):
        job(sources=[{"name": "a", "files": ["a"], "weight": 1}], mixture={"policy": "proportional"})
