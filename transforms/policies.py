"""Shares of the sources by policy, and budgets dealt out under caps: exact fractions, no job, no I/O, no Beam.

A policy turns the tokens available into shares that add to one, or, where it caps sources, straight into tokens.
Whole tokens are dealt afterwards (`transforms.mixture.apportion`), which keeps every cap that is a whole number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction

from schemas.errors import DataError, RequestError

POWER_DIGITS = 30
"""Significant digits of a power that is not rational. 100 T tokens are 15 digits, so no token depends on the rest."""

_WORKING = Context(prec=POWER_DIGITS + 30, rounding=ROUND_HALF_EVEN, Emax=MAX_EMAX, Emin=MIN_EMIN)
_ROUNDED = Context(prec=POWER_DIGITS, rounding=ROUND_HALF_EVEN, Emax=MAX_EMAX, Emin=MIN_EMIN)

_LEAST_TEMPERATURE = Fraction(1, 100)
"""Below it the largest source takes all, and exact powers grow to thousands of digits."""


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """What a policy takes from each source."""

    tokens: dict[str, Fraction]
    """Exact tokens by source."""
    unmet: Fraction
    """Tokens of the budget that no source could give; zero unless every source with a share is at its cap."""

    @property
    def shares(self) -> dict[str, Fraction]:
        """Shares of what is taken, adding to one; all zero where nothing is."""
        total = sum(self.tokens.values())
        return {n: t / total for n, t in self.tokens.items()} if total else dict(self.tokens)


def exact(number: int | float | Fraction) -> Fraction:
    """The number as it is written: 0.1 is a tenth and not its binary neighbour."""
    return number if isinstance(number, Fraction) else Fraction(str(number))


def weights(given: Mapping[str, Fraction]) -> dict[str, Fraction]:
    """The weights, normalised to add to one.

    Raises:
      RequestError: a weight is negative, or none is positive.

    >>> weights({"a": Fraction(1), "b": Fraction(3)})
    {'a': Fraction(1, 4), 'b': Fraction(3, 4)}
    """
    if wrong := sorted(n for n, w in given.items() if w < 0):
        raise RequestError(
            f"The weight of source {wrong[0]!r} is negative",
            where="mixture",
            expected="weights of zero or more",
            got=f"{float(given[wrong[0]]):g}",
            remedy="Give 0 to leave a source out",
        )
    total = sum(given.values())
    if not total:
        raise RequestError(
            "No source has a positive weight",
            where="mixture",
            expected="at least one positive weight",
            got=f"{len(given)} sources, all of weight 0",
            remedy="Give one of the sources a weight",
        )
    return {n: Fraction(w) / total for n, w in given.items()}


def proportional(available: Mapping[str, int]) -> dict[str, Fraction]:
    """Shares in proportion to the tokens available.

    Raises:
      DataError: no source has any.
    """
    require_tokens(available)
    return weights({n: Fraction(count) for n, count in available.items()})


def temperature(
    available: Mapping[str, int],
    temperature: int | float | Fraction,
    maximum: Mapping[str, int] | None = None,
    scale: int | float | Fraction = 1,
) -> dict[str, Fraction]:
    """Shares in proportion to min(scale · n, maximum)^(1/T): `proportional` at T = 1, near equality at a large T.

    The order is seqio's: scale, cap, power (seqio `utils.mixing_rate_num_examples`), but for a maximum of 0, which
    leaves a source out and is no maximum to seqio. Where 1/T is a whole number, powers are exact; else each is taken
    relative to the smallest source and rounded to `POWER_DIGITS` significant digits. ln, exp and division of
    `decimal` are correctly rounded by definition, so the shares are the same on every machine, and since each of
    these steps keeps order, a larger T never lowers the share of the smallest source.

    Args:
      available: tokens by source.
      temperature: T, at least 0.01; a float counts as its decimal writing.
      maximum: most tokens, after scaling, by source; sources not named have none.
      scale: what the tokens are multiplied by before the maximum applies.

    Raises:
      RequestError: T or scale out of range, or a maximum that is negative.
      DataError: no source has tokens.

    >>> temperature({"a": 16, "b": 1}, 2)
    {'a': Fraction(4, 5), 'b': Fraction(1, 5)}
    """
    power, factor = exact(temperature), exact(scale)
    caps = {n: Fraction(cap) for n, cap in (maximum or {}).items()}
    if power < _LEAST_TEMPERATURE:
        raise _out_of_range("temperature", power, f"at least {float(_LEAST_TEMPERATURE):g}")
    if factor <= 0:
        raise _out_of_range("scale", factor, "more than 0")
    if wrong := sorted(n for n, cap in caps.items() if cap < 0):
        raise _out_of_range(f"maximum of source {wrong[0]!r}", caps[wrong[0]], "zero or more")
    require_tokens(available)
    scaled = {n: factor * count for n, count in available.items()}
    rates = {n: min(r, caps.get(n, r)) for n, r in scaled.items()}
    least = min((r for r in rates.values() if r), default=Fraction(1))
    return weights({n: _root(r / least, power) if r else Fraction(0) for n, r in rates.items()})


def unimax(available: Mapping[str, int], budget: int | Fraction, max_epochs: int | float | Fraction) -> Allocation:
    """As even as a cap of passes allows (UniMax, Chung et al. 2023, arXiv 2304.09151, algorithm 1).

    Sources by size ascending, each gets min(what is left / sources left, max_epochs · its tokens).

    Args:
      available: tokens by source.
      budget: tokens to deal out.
      max_epochs: N, the most passes over a source.

    Raises:
      RequestError: a budget or a number of passes that is not positive.
      DataError: no source has tokens.

    >>> unimax({"a": 10, "b": 100}, 90, 2).tokens
    {'a': Fraction(20, 1), 'b': Fraction(70, 1)}
    """
    passes = exact(max_epochs)
    if passes <= 0:
        raise _out_of_range("max_epochs", passes, "more than 0")
    _require_budget(budget)
    require_tokens(available)
    caps = {n: passes * count for n, count in available.items()}
    tokens: dict[str, Fraction] = {}
    left = Fraction(budget)
    for name in sorted(available, key=lambda n: (available[n], n)):
        tokens[name] = min(left / (len(available) - len(tokens)), caps[name])
        left -= tokens[name]
    return Allocation(tokens={n: tokens[n] for n in available}, unmet=left)


def epochs(available: Mapping[str, int], passes: Mapping[str, int | float | Fraction]) -> Allocation:
    """So many passes over each source; the budget follows. Sources without passes give nothing.

    Raises:
      RequestError: a negative number of passes, or a source that is not available.
    """
    if unknown := sorted(set(passes) - set(available)):
        raise RequestError(
            f"The mixture gives passes over {unknown[0]!r}, which is no source",
            where="mixture",
            expected=f"one of {', '.join(sorted(available))}",
            remedy="Name a source, or take the entry out",
        )
    given = {n: exact(passes.get(n, 0)) for n in available}
    for name, value in sorted(given.items()):
        if value < 0:
            raise _out_of_range(f"number of passes over source {name!r}", value, "zero or more")
    return Allocation(tokens={n: given[n] * count for n, count in available.items()}, unmet=Fraction(0))


def water_fill(
    shares: Mapping[str, Fraction], budget: int | Fraction, caps: Mapping[str, int | Fraction | None]
) -> Allocation:
    """Deal a budget in these proportions under caps: fix the sources over their cap, rescale the rest, repeat.

    What one source cannot give goes to the others in proportion to their shares, never to one with a share of zero.
    A source once over its cap stays so, for each round gives the free ones more: the order of fixing is no matter.

    Args:
      shares: proportions, not necessarily adding to one.
      budget: tokens to deal out.
      caps: most tokens by source; None or no entry for no cap.

    Returns:
      Tokens of every source in `shares`; `unmet` is what is over where all of them are at their cap.

    Raises:
      RequestError: shares or a budget that make no sense.

    >>> water_fill({"a": Fraction(1), "b": Fraction(1)}, 100, {"a": 30}).tokens
    {'a': Fraction(30, 1), 'b': Fraction(70, 1)}
    """
    _require_budget(budget)
    wanted = weights(shares)
    limits = {n: Fraction(cap) for n, cap in caps.items() if cap is not None and n in wanted}
    tokens = dict.fromkeys(wanted, Fraction(0))
    free = {n: s for n, s in wanted.items() if s}
    left = Fraction(budget)
    while free:
        whole = sum(free.values())
        dealt = {n: left * s / whole for n, s in free.items()}
        over = [n for n in free if n in limits and dealt[n] > limits[n]]
        if not over:
            return Allocation(tokens={**tokens, **dealt}, unmet=Fraction(0))
        for name in over:
            tokens[name] = limits[name]
            left -= limits[name]
            del free[name]
    return Allocation(tokens=tokens, unmet=left)


def _root(ratio: Fraction, power: Fraction) -> Fraction:
    """ratio^(1/power), exact where 1/power is whole; ratio is 1 or more."""
    if power.numerator == 1:
        return ratio**power.denominator
    number = _WORKING.divide(Decimal(ratio.numerator), Decimal(ratio.denominator))
    exponent = _WORKING.divide(
        _WORKING.multiply(_WORKING.ln(number), Decimal(power.denominator)), Decimal(power.numerator)
    )
    return Fraction(_ROUNDED.plus(_WORKING.exp(exponent)))


def require_tokens(available: Mapping[str, int]) -> None:
    """Refuse sources that have no training tokens together.

    Raises:
      DataError: so it is.
    """
    if not any(available.values()):
        raise DataError(
            "No source has training tokens",
            where="the token store",
            expected="at least one document in the train split",
            remedy="Give more files, or a smaller validation share",
        )


def _require_budget(budget: int | Fraction) -> None:
    if budget <= 0:
        raise _out_of_range("budget", Fraction(budget), "more than 0 tokens")


def _out_of_range(name: str, value: Fraction, expected: str) -> RequestError:
    return RequestError(
        f"The {name} is out of range",
        where="mixture, budget",
        expected=expected,
        got=f"{float(value):g}",
        remedy=f"Give {expected}",
    )
