"""What a job declares of its sources, checked against itself: tokens, weights, passes and budget as a printed table.

A job file keeps numbers and not how they were written, so what each was rounded to is read from its digits:

- Weights are a column, rounded alike: to the decimals of the weight that shows most of them, or to as many
  significant digits as the one that shows most; the coarser of the two. 0.60 arrives as 0.6, but beside 0.22 it
  stands for 0.595 to 0.605. Nothing is coarser than a whole number: 60 stands for 59.5 to 60.5.
- Passes are another such column. Beside 0.44, 2.9 stands for 2.85 to 2.95. It shows at least one decimal and two
  digits, since passes are seldom rounded to whole ones: 2 stands for 1.95 to 2.05.
- `tokens` given by hand are rounded to the place of their last digit that is not zero: 410e9 stands for 405e9 to
  415e9. Not by column, since counted and rounded numbers may stand side by side.
- Tokens counted from data, a budget and the stages' shares are exact.

So a number may be taken for a coarser one than it is, never for a finer one: what is named cannot hold.
Nothing here mixes; see `transforms.mixture`.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction

from schemas.job import Job
from transforms.policies import exact
from transforms.table_linter import Interval, Printed, Problem, Row, exactly, lint_table, rounded


def declared_problems(job: Job, available: Mapping[str, int]) -> list[Problem]:
    """What of a job's own declared `tokens`, `weight`, `epochs` and `budget` cannot all hold.

    The policy uses some of these numbers and only checks the others; here they are all alike. Weights are shares if
    they can add to one as rounded, else each counts over their sum. A source's share of the whole is its weight, or
    that of the stage's own mixture, by the stages' shares. Without weights `policy: weights` takes sources in
    proportion to their tokens, and so does this.

    Args:
      job: the job.
      available: tokens of the train split by source, counted; not looked at for sources that give `tokens`. Leave out
        a source of which there is an estimate only: nothing is then said of it by its tokens.

    Returns:
      Problems, each with a message for people; none where the numbers agree within their rounding.
    """
    tokens = {
        s.name: _count(s.tokens) if s.tokens is not None else exactly(available[s.name])
        for s in job.sources
        if s.tokens is not None or s.name in available
    }
    passes = {s.name: s.epochs for s in job.sources if s.epochs is not None}
    epochs = _column(passes, least_decimals=1, least_digits=2)
    shares = _shares_of_the_whole(job, tokens)
    rows = [
        Row(name=s.name, tokens=tokens.get(s.name), weight=shares.get(s.name), epochs=epochs.get(s.name))
        for s in job.sources
    ]
    given = job.budget.tokens  # what passes or caps make of it is not what the job declares
    total = exactly(given).interval if given is not None else _budget(job, rows)
    return lint_table(rows, total) if total and total.low else []


def _budget(job: Job, rows: list[Row]) -> Interval | None:
    """What passes over the tokens available add to; None where some are not known."""
    added = exactly(0).interval
    for row in rows:
        passes = row.epochs if job.mixture.policy == "epochs" else exactly(exact(job.budget.epochs or 0))
        if row.tokens is None or passes is None:
            return None
        added = added.plus(passes.interval.times(row.tokens.interval))
    return added


def _shares_of_the_whole(job: Job, tokens: Mapping[str, Printed]) -> dict[str, Printed]:
    """The sources' shares of the budget; empty where the job's weights do not say them."""
    given = {s.name: s.weight for s in job.sources if s.weight is not None}
    by_default: dict[str, Printed] | None = None
    if given:
        by_default = _shares(_column(given))
    elif (
        job.mixture.policy == "weights" and len(tokens) == len(job.sources) and any(t.value for t in tokens.values())
    ):
        by_default = _shares(tokens)
    whole = {s.name: exactly(0) for s in job.sources}
    for stage, part in zip(job.curriculum, job.stage_shares(), strict=True):
        shares = by_default if stage.mixture is None else _shares(_column(stage.mixture))
        if shares is None:
            return {}
        for name, share in shares.items():
            taken = share.interval.times(exactly(part).interval)
            whole[name] = Printed(whole[name].value + share.value * part, whole[name].interval.plus(taken))
    return whole


def _shares(weights: Mapping[str, Printed]) -> dict[str, Printed]:
    """Weights as they are if they can add to one, else each over the sum of all."""
    least = sum((w.interval.low for w in weights.values()), Fraction(0))
    most = sum((Fraction(w.interval.high) for w in weights.values()), Fraction(0))
    if least <= 1 <= most:
        return dict(weights)
    added = sum(w.value for w in weights.values())
    shares = {}
    for name, weight in weights.items():
        low, high = weight.interval.low, Fraction(weight.interval.high)
        # A share is least where its weight is least and all others are most.
        interval = Interval(low / (low + most - high), high / (high + least - low))
        shares[name] = Printed(weight.value / added, interval)
    return shares


def _column(numbers: Mapping[str, float], least_decimals: int = 0, least_digits: int = 1) -> dict[str, Printed]:
    """Numbers rounded alike, to decimals or to significant digits: see the module's docstring."""
    written = {n: Decimal(str(x)).normalize() for n, x in numbers.items()}
    decimals = max([least_decimals, *(-int(n.as_tuple().exponent) for n in written.values())])
    digits = max([least_digits, *(len(n.as_tuple().digits) for n in written.values())])
    printed = {}
    for name, number in written.items():
        places = min(decimals, max(0, digits - 1 - number.adjusted())) if number else decimals
        printed[name] = rounded(Fraction(number), Fraction(10) ** -places)
    return printed


def _count(tokens: int) -> Printed:
    """Tokens given by hand, rounded to the place of the last digit that is not zero."""
    zeros = len(str(tokens)) - len(str(tokens).rstrip("0"))
    return rounded(tokens, 10**zeros)
