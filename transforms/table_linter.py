"""Checks a declared table of sources against itself: do its tokens, weights, passes and total fit, as printed?

A printed number stands for an interval, half a unit of its last place to both sides. A table closes if every number
has a value in its interval such that in each row weight · total = epochs · tokens = tokens taken, and the rows add
to the total. Ends are exact fractions, so the answer is exact too: no row is named for its rounding alone, and where
no problem is found such values exist. Nothing here reads a job.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from functools import reduce
from math import inf


@dataclass(frozen=True)
class Interval:
    """A closed interval of numbers of zero or more; `high` may be infinite."""

    low: Fraction
    high: Fraction | float

    def meet(self, other: Interval) -> Interval | None:
        """What both have in common; None if nothing."""
        low, high = max(self.low, other.low), min(self.high, other.high)
        return Interval(low, high) if low <= high else None

    def times(self, other: Interval) -> Interval:
        """All products of a number of each; both must be finite."""
        return Interval(self.low * other.low, self.high * other.high)

    def over(self, other: Interval) -> Interval:
        """All quotients of a number of each; both must be finite."""
        low = self.low / Fraction(other.high) if other.high else Fraction(0)
        return Interval(low, self.high / other.low if other.low else inf)

    def __str__(self) -> str:
        if self.high == inf:
            return f"{_show(self.low)} or more"
        return _show(self.low) if self.low == self.high else f"{_show(self.low)} to {_show(self.high)}"


@dataclass(frozen=True)
class Printed:
    """A number as printed, and what it may stand for."""

    value: Fraction
    interval: Interval


def printed(number: str | int | float, decimals: int | None = None, unit: int | Fraction = 1) -> Printed:
    """A number that was rounded for print, such as "22" percent with a unit of 1/100.

    Args:
      number: as printed; a float counts as its decimal writing.
      decimals: places after the point that were kept, negative for those before it; default: as many as it shows.
      unit: what the number is multiplied by.

    Raises:
      ValueError: no number, or a negative one.

    >>> str(printed("0.44").interval)
    '0.435 to 0.445'
    """
    try:
        digits = Decimal(str(number))
        value = Fraction(digits)
    except (InvalidOperation, ValueError, OverflowError):
        raise ValueError(f"expected a number, got {number!r}") from None
    if value < 0:
        raise ValueError(f"expected a number of zero or more, got {number!r}")
    places = -int(digits.as_tuple().exponent) if decimals is None else decimals
    half = Fraction(1, 2) / Fraction(10) ** places
    return Printed(value * unit, Interval(max(Fraction(0), value - half) * unit, (value + half) * unit))


def exactly(number: int | Fraction) -> Printed:
    """A number that was not rounded."""
    return Printed(Fraction(number), Interval(Fraction(number), Fraction(number)))


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a table says of one source; None for what it does not say."""

    name: str
    """Unique."""
    tokens: Printed | None = None
    """Tokens available, or bytes, in the unit of the total."""
    weight: Printed | None = None
    """Share of the total; 1 for all of it."""
    epochs: Printed | None = None
    """Passes over the tokens available."""
    taken: Printed | None = None
    """Tokens of this source in the total."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Numbers that cannot all hold."""

    rows: tuple[str, ...]
    """Names of the rows it is about; none where it is the table as a whole."""
    message: str
    """For people: what the numbers stand for, and what would fit."""
    implied: dict[str, Interval]
    """By column, what the number would have to be for the others to hold."""


def lint_table(rows: Sequence[Row], total_tokens: int | Fraction | Printed) -> list[Problem]:
    """What does not close in a table.

    Args:
      rows: the sources.
      total_tokens: what the rows add to.

    Returns:
      Rows whose own numbers disagree, in the table's order, and weights that do not add to one. Only if there are
      none: two rows that need different totals, or rows that do not add to the total. Empty if the table closes.

    Raises:
      ValueError: names that repeat, or a total of zero.
    """
    total = (total_tokens if isinstance(total_tokens, Printed) else exactly(total_tokens)).interval
    names = [r.name for r in rows]
    if repeated := sorted({n for n in names if names.count(n) > 1}):
        raise ValueError(f"lint_table: two rows are named {repeated[0]!r}")
    if not total.low:
        raise ValueError("lint_table: the total must be more than zero")
    wrong = [r for r in rows if _together(_readings(r, total)) is None]
    problems = [_row_problem(r, total, _rest(rows, r, total) if len(wrong) == 1 else None) for r in wrong]
    problems += _weights_problem(rows)
    return problems or [*_total_problem(rows, total)]


def _readings(row: Row, total: Interval) -> dict[str, Interval]:
    """The tokens taken, by what tells them."""
    found = {}
    if row.weight:
        found["weight"] = row.weight.interval.times(total)
    if row.epochs and row.tokens:
        found["epochs × tokens"] = row.epochs.interval.times(row.tokens.interval)
    if row.taken:
        found["taken"] = row.taken.interval
    return found


def _together(readings: dict[str, Interval]) -> Interval | None:
    everything: Interval | None = Interval(Fraction(0), inf)
    return reduce(lambda a, b: a and a.meet(b), readings.values(), everything)


def _rest(rows: Sequence[Row], row: Row, total: Interval) -> Interval | None:
    """What the other rows leave of the total; None where one of them says nothing."""
    others = [_together(_readings(r, total)) for r in rows if r is not row]
    known = [o for o in others if o is not None and o.high < inf]
    if len(known) < len(others):
        return None
    low = total.low - sum(Fraction(o.high) for o in known)
    high = Fraction(total.high) - sum(o.low for o in known)
    return Interval(max(low, Fraction(0)), high) if high >= 0 else None


def _row_problem(row: Row, total: Interval, rest: Interval | None) -> Problem:
    readings = _readings(row, total)
    implied = {}
    for column, reading, factor in (
        ("weight", "weight", total),
        ("epochs", "epochs × tokens", row.tokens and row.tokens.interval),
        ("tokens", "epochs × tokens", row.epochs and row.epochs.interval),
        ("taken", "taken", exactly(1).interval),
    ):
        others = _together({n: i for n, i in readings.items() if n != reading})
        if reading in readings and factor and others:
            implied[column] = others.over(factor)
    said = {
        "weight": f"a weight of {_show(row.weight.value)} is" if row.weight else "",
        "epochs × tokens": (
            f"{_show(row.epochs.value)} passes over {_show(row.tokens.value)} tokens are"
            if row.epochs and row.tokens
            else ""
        ),
        "taken": "the tokens taken are",
    }
    message = f"{row.name} does not close: of {total} tokens, " + ", but ".join(
        f"{said[n]} {interval}" for n, interval in readings.items()
    )
    if implied:
        message += "; for the others to hold, " + " or ".join(f"{c} would be {i}" for c, i in implied.items())
    fits = [n for n, i in readings.items() if rest and i.meet(rest)]
    if rest and 0 < len(fits) < len(readings):
        message += f"; the other rows leave {rest}, which agrees with its {' and '.join(fits)}"
    return Problem(rows=(row.name,), message=message, implied=implied)


def _weights_problem(rows: Sequence[Row]) -> Iterator[Problem]:
    given = [r.weight.interval for r in rows if r.weight]
    added = Interval(sum((w.low for w in given), Fraction(0)), sum((Fraction(w.high) for w in given), Fraction(0)))
    if added.low > 1 or (added.high < 1 and rows and len(given) == len(rows)):
        yield Problem(rows=(), message=f"the weights add to {added} and not to 1", implied={})


def _total_problem(rows: Sequence[Row], total: Interval) -> Iterator[Problem]:
    """Given that every row closes by itself: do all of them, at one total?"""
    bounds: list[tuple[Interval | None, Interval | None]] = []
    lowest = highest = ("the total", total)
    for row in rows:
        readings = _readings(row, total)
        weight = row.weight.interval if row.weight else None
        readings.pop("weight", None)
        amount = _together(readings) if readings else None
        bounds.append((weight, amount))
        if weight and amount:
            needed = row.name, amount.over(weight)
            lowest = min(lowest, needed, key=lambda pair: pair[1].high)
            highest = max(highest, needed, key=lambda pair: pair[1].low)
    if lowest[1].high < highest[1].low:
        message = f"{lowest[0]} needs a total of {lowest[1]} tokens, but {highest[0]} one of {highest[1]}"
        yield Problem(rows=(lowest[0], highest[0]), message=message, implied={})
        return
    range_ = Interval(highest[1].low, Fraction(lowest[1].high))
    if rows and not _adds_up(bounds, range_):
        added = Interval(_sums(bounds, range_.low)[0], _sums(bounds, Fraction(range_.high))[1])
        message = f"the rows add to {added} tokens, which no total of {range_} fits"
        yield Problem(rows=(), message=message, implied={"total": added})


def _adds_up(bounds: list[tuple[Interval | None, Interval | None]], total: Interval) -> bool:
    """True if the rows can add to some total T of the interval.

    Per token of T, the least a row takes, max(weight.low, amount.low / T), and the most, min(weight.high,
    amount.high / T), both fall as T grows. So the smallest T that the least amounts do not exceed is the best for
    the most amounts too. The least amounts are convex in T: Newton's steps reach that T from below and, there being
    a finite number of slopes, exactly.
    """
    at = total.low
    while at <= total.high:
        low, high = _sums(bounds, at)
        if low <= at:
            return at <= high
        growth = sum((w.low for w, a in bounds if w and (not a or w.low * at >= a.low)), Fraction(0))
        if growth >= 1:
            return False
        at += (low - at) / (1 - growth)
    return False


def _sums(
    bounds: list[tuple[Interval | None, Interval | None]], total: Fraction
) -> tuple[Fraction, Fraction | float]:
    """The least and the most that the rows may add to at that total."""
    low, high = Fraction(0), Fraction(0)
    unbounded = False
    for weight, amount in bounds:
        intervals = [i for i in (weight and weight.times(Interval(total, total)), amount) if i]
        low += max((i.low for i in intervals), default=Fraction(0))
        high += min((Fraction(i.high) for i in intervals), default=Fraction(0))
        unbounded |= not intervals
    return low, inf if unbounded else high


def _show(number: Fraction | float) -> str:
    """Six digits, large numbers as 1.5T."""
    for suffix, scale in (("T", 10**12), ("B", 10**9), ("M", 10**6)):
        if number >= scale:
            return f"{float(number / scale):.6g}{suffix}"
    return f"{float(number):.6g}"
