"""Checks a table of sources against itself: can its tokens, weights, passes and total, as printed, all hold?

A printed number stands for an interval, half a unit of its last place to both sides. A table closes if every number
has a value in its interval such that in each row weight · total = epochs · tokens = tokens taken, and the rows add
to the total. Ends are exact fractions, so the answer is exact too: no row is named for its rounding alone, and where
no problem is found such values exist. Nothing here reads a job; see `transforms.declared`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import inf

_LARGEST_SHOWN = 10**300
"""Products of a job's numbers can be more than a float holds."""


@dataclass(frozen=True)
class Interval:
    """A closed interval of numbers of zero or more; `high` may be infinite."""

    low: Fraction
    high: Fraction | float

    def plus(self, other: Interval) -> Interval:
        """All sums of a number of each."""
        return Interval(self.low + other.low, self.high + other.high)

    def times(self, other: Interval) -> Interval:
        """All products of a number of each; both must be finite."""
        return Interval(self.low * other.low, self.high * other.high)

    def over(self, other: Interval) -> Interval:
        """All quotients of a number of each; both must be finite, and `other` more than zero somewhere."""
        return Interval(self.low / Fraction(other.high), self.high / other.low if other.low else inf)

    def __str__(self) -> str:
        if self.high == inf:
            return f"{_show(self.low)} or more"
        return " to ".join(dict.fromkeys((_show(self.low), _show(self.high))))


@dataclass(frozen=True)
class Printed:
    """A number as printed, and what it may stand for."""

    value: Fraction
    interval: Interval


def rounded(value: int | Fraction, unit: int | Fraction) -> Printed:
    """A number of zero or more that was rounded to a multiple of `unit`.

    >>> str(rounded(Fraction("0.44"), Fraction("0.01")).interval)
    '0.435 to 0.445'
    """
    half = Fraction(unit) / 2
    return Printed(Fraction(value), Interval(max(Fraction(0), value - half), value + half))


def exactly(value: int | Fraction) -> Printed:
    """A number that was not rounded."""
    return rounded(value, 0)


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
    """By column, what the row's number would have to be for its others to hold."""


def lint_table(rows: Sequence[Row], total: Interval) -> list[Problem]:
    """What does not close in a table.

    Args:
      rows: the sources.
      total: what the rows add to, tokens; more than zero.

    Returns:
      Rows whose own numbers disagree, in the table's order. Only if there are none: two rows that need different
      totals, or rows that cannot add to the total. Empty if the table closes.

    Raises:
      ValueError: the total may be zero.
    """
    if not total.low:
        raise ValueError("lint_table: the total must be more than zero")
    wrong = [r for r in rows if _common(_readings(r, total).values()) is None]
    if not wrong:
        return list(_total_problem(rows, total))
    left = _left_by_others(rows, wrong[0], total) if len(wrong) == 1 else None
    return [_row_problem(r, total, left) for r in wrong]


def _readings(row: Row, total: Interval) -> dict[str, Interval]:
    """The tokens a row takes, by what tells them."""
    found = {}
    if row.weight:
        found["share"] = row.weight.interval.times(total)
    if row.epochs and row.tokens:
        found["passes"] = row.epochs.interval.times(row.tokens.interval)
    if row.taken:
        found["tokens taken"] = row.taken.interval
    return found


def _common(intervals: Iterable[Interval]) -> Interval | None:
    """What all have in common; None if nothing."""
    found = Interval(Fraction(0), inf)
    for interval in intervals:
        found = Interval(max(found.low, interval.low), min(found.high, interval.high))
    return found if found.low <= found.high else None


def _left_by_others(rows: Sequence[Row], row: Row, total: Interval) -> Interval | None:
    """What the other rows, each good by itself, leave of the total; None if they take more than all of it."""
    taken = exactly(0).interval
    for other in rows:
        if other is not row and (amount := _common(_readings(other, total).values())):
            taken = taken.plus(amount)
    low = total.low - Fraction(taken.high) if taken.high < total.low else Fraction(0)
    return Interval(low, total.high - taken.low) if taken.low <= total.high else None


_WORDS = {
    "weight": "a share of {}",
    "epochs": "{} passes",
    "tokens": "{} tokens available",
    "taken": "{} tokens taken",
}


def _row_problem(row: Row, total: Interval, left: Interval | None) -> Problem:
    readings = _readings(row, total)
    says = []
    if row.weight:
        says.append(f"a share of {_show(row.weight.value)} is {readings['share']}")
    if row.epochs and row.tokens:
        passes = f"{_show(row.epochs.value)} passes over {_show(row.tokens.value)} tokens"
        says.append(f"{passes} are {readings['passes']}")
    if row.taken:
        says.append(f"the tokens taken are {readings['tokens taken']}")
    message = f"the numbers of {row.name} do not fit together: of {total} tokens, {', but '.join(says)}"
    implied = _implied(row, readings, total)
    if implied:
        message += f"; its other numbers fit {' or '.join(_WORDS[c].format(i) for c, i in implied.items())}"
    agrees = [n for n, i in readings.items() if left and _common([i, left])]
    if 0 < len(agrees) < len(readings):
        message += f"; the other sources leave {left}, which agrees with its {' and '.join(agrees)}"
    return Problem(rows=(row.name,), message=message, implied=implied)


def _implied(row: Row, readings: dict[str, Interval], total: Interval) -> dict[str, Interval]:
    """By column, what the row's number would have to be for its other readings to hold."""
    implied = {}
    for column, reading, factor in (
        ("weight", "share", total),
        ("epochs", "passes", row.tokens and row.tokens.interval),
        ("tokens", "passes", row.epochs and row.epochs.interval),
        ("taken", "tokens taken", exactly(1).interval),
    ):
        others = _common(i for n, i in readings.items() if n != reading)
        if reading in readings and others and factor and factor.high:
            implied[column] = others.over(factor)
    return implied


_Bounds = list[tuple[Interval, Interval]]
"""By row, its share of the total and the tokens it takes by its other numbers."""


def _total_problem(rows: Sequence[Row], total: Interval) -> Iterator[Problem]:
    """Given that every row closes by itself at some total: do all of them, at one?"""
    bounds: _Bounds = []
    needed = [("the total", total)]
    for row in rows:
        readings = _readings(row, total)
        amount = _common(i for n, i in readings.items() if n != "share")
        assert amount is not None, "the row closes"
        share = row.weight.interval if row.weight else Interval(Fraction(0), inf)
        if row.weight and share.high and amount.high < inf:
            needed.append((row.name, amount.over(share)))
        bounds.append((share, amount))
    (small, at_most), (large, at_least) = min(needed, key=lambda n: n[1].high), max(needed, key=lambda n: n[1].low)
    if at_most.high < at_least.low:
        message = f"{small} needs a total of {at_most} tokens, but {large} one of {at_least}"
        yield Problem(rows=(small, large), message=message, implied={})
        return
    at = _least_total(bounds, at_least.low, Fraction(at_most.high))
    if (least := _least(bounds, at)) > at:
        message = f"the sources add to {_show(least)} tokens or more, beyond a total of {_show(at)}"
        yield Problem(rows=(), message=message, implied={})
    elif (most := sum(min(w.high * at, a.high) for w, a in bounds)) < at:
        message = f"the sources add to no more than {_show(most)} tokens, short of a total of {_show(at)}"
        yield Problem(rows=(), message=message, implied={})


def _least(bounds: _Bounds, total: Fraction) -> Fraction:
    """The fewest tokens that the rows can take of that total."""
    return sum((max(w.low * total, a.low) for w, a in bounds), Fraction(0))


def _least_total(bounds: _Bounds, total: Fraction, last: Fraction) -> Fraction:
    """The smallest total from `total` to `last` that the fewest tokens do not exceed; `last` if they always do.

    Per token of a total T, the fewest tokens of a row, max(weight.low, amount.low / T), and the most,
    min(weight.high, amount.high / T), both fall as T grows: if the most fall short of this total, they do of every
    larger one. The fewest are convex in T, so Newton's steps reach the total from below and, there being a finite
    number of slopes, exactly.
    """
    while (over := _least(bounds, total) - total) > 0 and total < last:
        slope = sum((w.low for w, a in bounds if w.low * total >= a.low), Fraction(0))
        total = min(last, total + over / (1 - slope)) if slope < 1 else last
    return total


def _show(number: Fraction | float) -> str:
    """Six digits, large numbers as 1.5T."""
    suffix, scale = next((s for s in (("T", 10**12), ("B", 10**9), ("M", 10**6)) if number >= s[1]), ("", 1))
    return f"{float(min(number / scale, _LARGEST_SHOWN)):.6g}{suffix}"
