"""Tail probabilities against published values and exact sums."""

from __future__ import annotations

import math

import pytest

from transforms.statistics.significance import (
    chi_square_quantile,
    chi_square_tail,
    detectable_proportion,
    proportion_tail,
)


@pytest.mark.parametrize(
    ("statistic", "degrees", "tail"),
    [
        # Percentage points of the chi-square distribution (Abramowitz and Stegun, table 26.8).
        (3.841458820694124, 1, 0.05),
        (6.634896601021213, 1, 0.01),
        (5.991464547107979, 2, 0.05),
        (18.307038053275146, 10, 0.05),
        (30.14352720564616, 19, 0.05),
        (36.19086912927004, 19, 0.01),
        (124.34211340400407, 100, 0.05),
    ],
)
def test_chi_square_tail_matches_published_percentage_points(statistic: float, degrees: int, tail: float) -> None:
    assert chi_square_tail(statistic, degrees) == pytest.approx(tail, rel=1e-10)


@pytest.mark.parametrize("statistic", [1e-3, 0.5, 2.0, 20.0, 60.0, 300.0, 1200.0])
@pytest.mark.parametrize("degrees", [2, 4, 20, 200])
def test_chi_square_tail_with_even_degrees_is_the_poisson_sum(statistic: float, degrees: int) -> None:
    half = statistic / 2
    exact = math.fsum(math.exp(k * math.log(half) - half - math.lgamma(k + 1)) for k in range(degrees // 2))
    assert chi_square_tail(statistic, degrees) == pytest.approx(exact, rel=1e-9)


def test_chi_square_tail_with_one_degree_is_the_normal_tail_far_out() -> None:
    for z in (0.1, 1.0, 5.0, 8.0, 20.0):
        assert chi_square_tail(z * z, 1) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1e-10)


def test_chi_square_tail_needs_a_degree_of_freedom() -> None:
    with pytest.raises(ValueError, match="got 0"):
        chi_square_tail(1.0, 0)


def test_quantile_inverts_the_tail() -> None:
    for tail in (0.5, 1e-3, 1e-8):
        assert chi_square_tail(chi_square_quantile(tail, 19), 19) == pytest.approx(tail, rel=1e-6)


@pytest.mark.parametrize(("trials", "probability"), [(10, 0.1), (50, 0.8), (200, 0.1)])
def test_proportion_tail_never_understates_the_exact_binomial_tail(trials: int, probability: float) -> None:
    mass = [math.comb(trials, k) * probability**k * (1 - probability) ** (trials - k) for k in range(trials + 1)]
    for k in range(trials + 1):
        one_sided = math.fsum(mass[k:]) if k > trials * probability else math.fsum(mass[: k + 1])
        assert proportion_tail(k, trials, probability) >= min(1.0, one_sided) * (1 - 1e-9)


def test_proportion_tail_knows_what_is_impossible() -> None:
    assert proportion_tail(1, 10, 0.0) == 0.0
    assert proportion_tail(0, 10, 0.0) == 1.0
    assert proportion_tail(9, 10, 1.0) == 0.0
    assert proportion_tail(0, 0, 0.3) == 1.0


def test_a_deviation_of_the_detectable_size_is_detected() -> None:
    size = detectable_proportion(100_000, 0.8, 1e-7)
    assert proportion_tail(round(100_000 * (0.8 + 1.1 * size)), 100_000, 0.8) < 1e-7
    assert proportion_tail(round(100_000 * (0.8 + 0.5 * size)), 100_000, 0.8) > 1e-7
