"""How many tokens each stage takes from each source: exact rational arithmetic, no I/O, no Beam.

Shares are fractions; whole tokens are dealt by largest remainder (Hamilton's method), ties by name, so that every
sum is exact and the result does not depend on the order of the sources.
"""

from __future__ import annotations

from fractions import Fraction
from math import exp

from schemas.counts import format_count
from schemas.errors import DataError, RequestError
from schemas.job import Job
from schemas.plan import StagePlan
from transforms import policies
from transforms.apportion import apportion, normalise
from transforms.caps import demand, within_caps


def normalised_weights(job: Job, available: dict[str, int]) -> dict[str, Fraction]:
    """The sources' shares, adding to one; in proportion to `available` where the job gives no weights."""
    weights = {
        s.name: Fraction(repr(s.weight)) if s.weight is not None else Fraction(available.get(s.name, 0))
        for s in job.sources
    }
    return normalise(weights)


def mix(job: Job, available: dict[str, int]) -> tuple[list[StagePlan], list[str]]:
    """What each stage takes from each source.

    Args:
      job: budget, weights, caps and curriculum.
      available: tokens of the train split by source.

    Returns:
      The stages, and warnings for people.

    Raises:
      RequestError: a cap makes the budget impossible and `on_shortfall` is `error`.
      DataError: a source with a weight has no training tokens.
    """
    policies.require_tokens(available)
    budget, shares, warnings = _by_policy(job, available)
    weights = [
        normalise({n: Fraction(repr(w)) for n, w in stage.mixture.items()}) if stage.mixture is not None else shares
        for stage in job.curriculum
    ]
    _refuse_empty(job, weights, available)
    warnings += _not_normalised(job)
    capped = within_caps(job, available, budget, weights, lambda total: _stage_tokens(job, weights, total))
    tokens, warnings = capped.tokens, [*warnings, *capped.warnings]
    _refuse_nothing(job, available, budget, tokens)
    for name, count in available.items():
        epochs = demand(tokens, name) / count if count else 0
        if epochs > 4:
            warnings.append(
                f"source {name} is seen {epochs:.1f} times; beyond 4 passes repeated tokens are worth little "
                "(arXiv 2305.16264)"
            )
    stages = [
        StagePlan(
            name=stage.stage,
            lengths=tuple(stage.declared_lengths),
            shares=_shares(_fractions(t) if capped.moved else w, t),
            tokens={n: c for n, c in t.items() if c},
        )
        for stage, w, t in zip(job.curriculum, weights, tokens, strict=True)
    ]
    return stages, warnings


def _shares(shares: dict[str, Fraction], tokens: dict[str, int]) -> dict[str, Fraction]:
    """Exact shares of a stage's sources, those without a token left out."""
    return normalise({n: s for n, s in shares.items() if s and tokens.get(n)})


def effective_tokens(tokens: float, available: float) -> float:
    """What repeated tokens are worth: U + U·R*(1 − exp(−(e − 1)/R*)), R* = 15.387756 (arXiv 2305.16264, eq. 5)."""
    if available <= 0 or tokens <= available:
        return float(tokens)
    rate = 15.387756
    return float(available * (1 + rate * (1 - exp(-(tokens / available - 1) / rate))))


def _refuse_empty(job: Job, weights: list[dict[str, Fraction]], available: dict[str, int]) -> None:
    """Refuse a share of a source that has no tokens."""
    for stage, shares in zip(job.curriculum, weights, strict=True):
        for name in sorted(n for n, share in shares.items() if share and not available.get(n)):
            if stage.mixture is not None:
                raise RequestError(
                    f"The mixture of stage {stage.stage!r} names source {name!r}, which has no training tokens",
                    where=f"curriculum, stage {stage.stage!r}, mixture",
                    expected="sources with at least one document in the train split",
                    remedy="Take it out of the mixture, give it more files, or hold out a smaller validation share",
                )
            raise DataError(
                f"The source {name!r} has no training tokens",
                where="the token store",
                expected="at least one document in the train split",
                remedy="Give it more files, a smaller validation share, or weight 0",
            )


def _not_normalised(job: Job) -> list[str]:
    """Says where weights do not add to one, which makes each a share of their sum."""
    given = {"the weights": {s.name: s.weight for s in job.sources} if job.mixture.policy == "weights" else {}}
    given |= {f"the weights of stage {s.stage}": dict(s.mixture or {}) for s in job.curriculum}
    notes = []
    for name, weights in given.items():
        added = sum(Fraction(repr(w)) for w in weights.values() if w is not None)
        if added not in (0, 1):
            notes.append(f"{name} add to {float(added):.6g}; each counts as its part of that")
    return notes


def _refuse_nothing(job: Job, available: dict[str, int], budget: int, tokens: list[dict[str, int]]) -> None:
    """Refuse a stage without tokens."""
    for stage, taken in zip(job.curriculum, tokens, strict=True):
        if not sum(taken.values()):
            raise RequestError(
                f"Stage {stage.stage!r} gets no tokens",
                where="budget, curriculum",
                expected="at least one token a stage",
                got=f"a budget of {budget:,} tokens of {sum(available.values()):,} available",
                remedy="Raise the budget, or drop the stage",
            )


def _fractions(counts: dict[str, int]) -> dict[str, Fraction]:
    return {name: Fraction(count) for name, count in counts.items()}


def _by_policy(job: Job, available: dict[str, int]) -> tuple[int, dict[str, Fraction], list[str]]:
    """The budget in tokens, the shares of stages without a mixture of their own, and warnings."""
    budget = job.budget.tokens
    if budget is None:
        budget = int(Fraction(repr(job.budget.epochs)) * sum(available.values()))
    mixture = job.mixture
    if mixture.policy == "weights":
        return budget, normalised_weights(job, available), []
    if mixture.policy == "temperature":
        assert mixture.temperature is not None
        maximum = dict.fromkeys(available, mixture.max_tokens) if mixture.max_tokens is not None else {}
        return budget, policies.temperature(available, mixture.temperature, maximum), []
    if mixture.policy == "unimax":
        assert mixture.max_epochs is not None
        allocation = policies.unimax(available, budget, mixture.max_epochs)
        most = int(budget - allocation.unmet)
        if most == budget:
            return budget, allocation.shares, []
        if mixture.on_shortfall != "shrink":  # no other source is left that shares could move to
            raise _more_than_all(budget, most, mixture.max_epochs)
        text = f"the budget shrank from {format_count(budget)} to {format_count(most)} tokens, all at max_epochs"
        return most, allocation.shares, [text]
    if mixture.policy == "epochs":
        allocation = policies.epochs(available, {s.name: s.epochs or 0.0 for s in job.sources if s.name in available})
        whole = {name: int(tokens) for name, tokens in allocation.tokens.items()}
        return sum(whole.values()), normalise(_fractions(whole)), []
    return budget, policies.proportional(available), []


def _more_than_all(budget: int, most: int, passes: float) -> RequestError:
    return RequestError(
        "The budget needs more passes over the sources than mixture.max_epochs allows",
        where="budget, mixture",
        expected=f"at most {most:,} tokens, {passes:g} passes over every source",
        got=f"{budget:,} tokens",
        remedy=f"Lower the budget to {most:,} tokens (or set on_shortfall: shrink), or raise mixture.max_epochs",
    )


def _stage_tokens(job: Job, weights: list[dict[str, Fraction]], budget: int) -> list[dict[str, int]]:
    """What each stage takes: in each, shares rounded up or down.

    Stages of the job's own shares round up what earlier ones rounded down, so that a source's sum over them is exact
    too: a budget of one epoch takes every token once, and not one twice and another never.
    """
    names = [f"{i:06d}" for i in range(len(job.curriculum))]
    totals = apportion(budget, dict(zip(names, job.stage_shares(), strict=True)))
    result: list[dict[str, int]] = []
    owed: dict[str, Fraction] = {}
    for stage, shares, name in zip(job.curriculum, weights, names, strict=True):
        if stage.mixture is not None:
            result.append(apportion(totals[name], shares))
            continue
        tokens = apportion(totals[name], shares, owed)
        owed = {n: owed.get(n, 0) + totals[name] * share - tokens[n] for n, share in shares.items()}
        result.append(tokens)
    return result
