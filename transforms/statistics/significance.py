"""Tail probabilities of the audit's statistical tests. No data and no gates here, only numbers.

Two tests suffice: Pearson's chi-square for many cells with large expectations, and the Chernoff bound for a
single proportion, which holds at every sample size, small ones included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

_EPSILON = 1e-15
_MOST_TERMS = 100_000


def chi_square_tail(statistic: float, degrees: int) -> float:
    """P(X ≥ statistic) for X chi-square distributed, the regularised upper incomplete gamma Q(k/2, x/2).

    Series below the mode and Lentz's continued fraction above (Press et al., Numerical Recipes, 3rd ed., 6.2);
    relative error under 1e-10 for degrees up to 10,000.

    Raises:
      ValueError: fewer than one degree of freedom.

    >>> round(chi_square_tail(3.841458820694124, 1), 12)
    0.05
    """
    if degrees < 1:
        raise ValueError(f"chi-square needs at least one degree of freedom, got {degrees}")
    a, x = degrees / 2, statistic / 2
    if x <= 0:
        return 1.0
    prefactor = math.exp(a * math.log(x) - x - math.lgamma(a))
    return 1 - prefactor * _lower_series(a, x) if x < a + 1 else prefactor * _upper_fraction(a, x)


def _lower_series(a: float, x: float) -> float:
    """Σ x^n / (a (a+1) … (a+n)), so that P(a, x) is the prefactor times this."""
    term = total = 1 / a
    for n in range(1, _MOST_TERMS):
        term *= x / (a + n)
        total += term
        if term < total * _EPSILON:
            return total
    raise ArithmeticError(f"the incomplete gamma series did not converge at a={a}, x={x}")


def _upper_fraction(a: float, x: float) -> float:
    """The continued fraction 1/(x+1-a- 1(1-a)/(x+3-a- …)), so that Q(a, x) is the prefactor times this."""
    tiny = 1e-300
    b = x + 1 - a
    c = 1 / tiny
    d = 1 / b
    fraction = d
    for n in range(1, _MOST_TERMS):
        numerator = -n * (n - a)
        b += 2
        d = 1 / (numerator * d + b or tiny)
        c = b + numerator / c or tiny
        fraction *= d * c
        if abs(d * c - 1) < _EPSILON:
            return fraction
    raise ArithmeticError(f"the incomplete gamma fraction did not converge at a={a}, x={x}")


def chi_square_quantile(tail: float, degrees: int) -> float:
    """The statistic whose upper tail has this probability, by bisection to 1e-9."""
    low, high = 0.0, float(degrees)
    while chi_square_tail(high, degrees) > tail:
        high *= 2
    while high - low > 1e-9 * max(1.0, high):
        middle = (low + high) / 2
        low, high = (middle, high) if chi_square_tail(middle, degrees) > tail else (low, middle)
    return high


def proportion_tail(successes: int, trials: int, probability: float) -> float:
    """An upper bound of the two-sided tail of a binomial proportion: 2·exp(-n·KL(observed ‖ expected)).

    Hoeffding 1963, theorem 1: valid at every n, so a gate on it never exceeds its false-alarm level.

    >>> proportion_tail(80, 100, 0.8)
    1.0
    """
    return min(1.0, 2 * math.exp(-proportion_surprise(successes, trials, probability)))


def proportion_surprise(successes: int, trials: int, probability: float) -> float:
    """n·KL(observed ‖ expected) in nats, infinite where it is impossible; −log of half of `proportion_tail`."""
    if trials == 0:
        return 0.0
    if probability <= 0 or probability >= 1:
        return 0.0 if successes == round(probability) * trials else math.inf
    observed = successes / trials
    divergence = 0.0
    if observed > 0:
        divergence += observed * math.log(observed / probability)
    if observed < 1:
        divergence += (1 - observed) * math.log((1 - observed) / (1 - probability))
    return trials * divergence


LEAST_EXPECTED = 50
"""Neighbouring cells are joined until each expects this many, so that chi-square's far tail can be trusted."""


class PlacesTest(NamedTuple):
    """Pearson's chi-square of counts against what is expected of them."""

    statistic: float
    degrees: int
    tail: float
    distance: float
    """Total variation distance, in [0, 1]."""


def places_test(observed: Sequence[int], expected: Sequence[float], spread: float = 1.0) -> PlacesTest:
    """The test of a histogram beside which stands the one its law expects.

    Args:
      observed: counts.
      expected: of each cell.
      spread: how many counts share a draw on average, by which the statistic is larger.
    """
    n = sum(observed)
    cells = _join_cells(observed, expected)
    statistic, degrees = sum((o - x) ** 2 / x for o, x in cells) / spread, max(len(cells) - 1, 0)
    tail = chi_square_tail(statistic, degrees) if degrees > 0 else 1.0
    distance = sum(abs(o - x) for o, x in zip(observed, expected, strict=True)) / 2 / n if n else 0.0
    return PlacesTest(statistic, degrees, tail, distance)


def _join_cells(observed: Sequence[int], expected: Sequence[float]) -> list[tuple[int, float]]:
    """(observed, expected) of neighbouring bins joined until each expects enough; a small rest joins the last."""
    cells: list[tuple[int, float]] = []
    count, mean = 0, 0.0
    for o, x in zip(observed, expected, strict=True):
        count, mean = count + o, mean + x
        if mean >= LEAST_EXPECTED:
            cells.append((count, mean))
            count, mean = 0, 0.0
    if cells and (count or mean):
        cells[-1] = (cells[-1][0] + count, cells[-1][1] + mean)
    return cells


def detectable_proportion(trials: int, probability: float, tail: float) -> float:
    """About the smallest deviation from this proportion that `proportion_tail` tells apart at this level."""
    if trials == 0:
        return 1.0
    return math.sqrt(2 * probability * (1 - probability) * math.log(2 / tail) / trials)
