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


def normalised_weights(job: Job, available: dict[str, int]) -> dict[str, Fraction]:
    """The sources' shares, adding to one; in proportion to `available` where the job gives no weights."""
    weights = {
        s.name: Fraction(repr(s.weight)) if s.weight is not None else Fraction(available.get(s.name, 0))
        for s in job.sources
    }
    return _normalise(weights)


def apportion(total: int, shares: dict[str, Fraction]) -> dict[str, int]:
    """Whole numbers in these proportions that add to `total` exactly.

    >>> apportion(10, {"a": Fraction(1, 3), "b": Fraction(2, 3)})
    {'a': 3, 'b': 7}
    """
    quotas = {name: total * share for name, share in _normalise(shares).items()}
    counts = {name: int(q) for name, q in quotas.items()}
    by_remainder = sorted(quotas, key=lambda name: (counts[name] - quotas[name], name))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


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
        _normalise({n: Fraction(repr(w)) for n, w in stage.mixture.items()}) if stage.mixture is not None else shares
        for stage in job.curriculum
    ]
    for name in sorted({n for w in weights for n, share in w.items() if share and not available.get(n)}):
        raise DataError(
            f"The source {name!r} has no training tokens",
            where="the token store",
            expected="at least one document in the train split",
            remedy="Give it more files, a smaller validation share, or weight 0",
        )
    caps = {
        s.name: int(Fraction(repr(s.max_epochs)) * available[s.name]) if s.max_epochs is not None else None
        for s in job.sources
        if s.name in available
    }
    tokens = _stage_tokens(job, weights, budget)
    _refuse_nothing(job, available, budget, tokens)
    if over := _over_cap(tokens, caps):
        if job.mixture.on_shortfall == "error":
            raise _shortfall(job, over, tokens, caps, available, budget)
        if job.mixture.on_shortfall == "shrink":
            smaller = int(
                budget * min(Fraction(cap, max(1, _demand(tokens, n))) for n in over if (cap := caps[n]) is not None)
            )
            while _over_cap(tokens := _stage_tokens(job, weights, smaller), caps):
                smaller -= 1  # largest remainder may round a few tokens over the cap
            _refuse_nothing(job, available, smaller, tokens)
            warnings.append(
                f"the budget shrank from {format_count(budget)} to {format_count(sum(map(_total, tokens)))} tokens, "
                f"since {', '.join(over)} reached max_epochs"
            )
        else:
            tokens = _rebalance(job, weights, tokens, caps)
            warnings.append(f"shares moved from {', '.join(over)}, which reached max_epochs, to the other sources")
    for name, count in available.items():
        epochs = _demand(tokens, name) / count if count else 0
        if epochs > 4:
            warnings.append(
                f"source {name} is seen {epochs:.1f} times; beyond 4 passes repeated tokens are worth little "
                "(arXiv 2305.16264)"
            )
    stages = [
        StagePlan(
            name=stage.stage,
            lengths=tuple(stage.lengths),
            shares=_shares(w, t),
            tokens={n: c for n, c in t.items() if c},
        )
        for stage, w, t in zip(job.curriculum, weights, tokens, strict=True)
    ]
    return stages, warnings


def _shares(weights: dict[str, Fraction], tokens: dict[str, int]) -> dict[str, Fraction]:
    """Exact shares of a stage's sources, those without a token left out.

    Counts are rounded shares; where a cap moved them, they are all there is to go by.
    """
    shares = weights if tokens == apportion(_total(tokens), weights) else _normalise(_fractions(tokens))
    return _normalise({n: s for n, s in shares.items() if s and tokens.get(n)})


def effective_tokens(tokens: float, available: float) -> float:
    """What repeated tokens are worth: U + U·R*(1 − exp(−(e − 1)/R*)), R* = 15.387756 (arXiv 2305.16264, eq. 5)."""
    if available <= 0 or tokens <= available:
        return float(tokens)
    rate = 15.387756
    return float(available * (1 + rate * (1 - exp(-(tokens / available - 1) / rate))))


def _normalise(weights: dict[str, Fraction]) -> dict[str, Fraction]:
    total = sum(weights.values())
    return {n: w / total for n, w in weights.items()} if total else weights


def _refuse_nothing(job: Job, available: dict[str, int], budget: int, tokens: list[dict[str, int]]) -> None:
    """Refuse a stage without tokens."""
    for stage, taken in zip(job.curriculum, tokens, strict=True):
        if not _total(taken):
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
        return int(sum(allocation.tokens.values())), allocation.shares, []
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
    names = [f"{i:06d}" for i in range(len(job.curriculum))]
    totals = apportion(budget, dict(zip(names, job.stage_shares(), strict=True)))
    return [apportion(totals[name], w) for name, w in zip(names, weights, strict=True)]


def _total(tokens: dict[str, int]) -> int:
    return sum(tokens.values())


def _demand(tokens: list[dict[str, int]], name: str) -> int:
    return sum(t.get(name, 0) for t in tokens)


def _over_cap(tokens: list[dict[str, int]], caps: dict[str, int | None]) -> list[str]:
    return sorted(n for n, cap in caps.items() if cap is not None and _demand(tokens, n) > cap)


def _rebalance(
    job: Job, weights: list[dict[str, Fraction]], tokens: list[dict[str, int]], caps: dict[str, int | None]
) -> list[dict[str, int]]:
    """Water-filling, stage by stage, under what is left of the caps."""
    left = dict(caps)
    result = []
    for stage, shares, wanted in zip(job.curriculum, weights, tokens, strict=True):
        total = _total(wanted)
        allocation = policies.water_fill(shares, total, left)
        if allocation.unmet:
            raise RequestError(
                f"Stage {stage.stage!r} cannot be filled",
                where="budget, max_epochs",
                expected=f"{total:,} tokens",
                got=f"{int(total - allocation.unmet):,} tokens, with every source at its max_epochs",
                remedy="Lower the budget, or raise max_epochs",
            )
        taken = apportion(total, allocation.tokens)
        left = {n: c - taken.get(n, 0) if c is not None else None for n, c in left.items()}
        result.append(taken)
    return result


def _shortfall(
    job: Job,
    over: list[str],
    tokens: list[dict[str, int]],
    caps: dict[str, int | None],
    available: dict[str, int],
    budget: int,
) -> RequestError:
    name = max(over, key=lambda n: Fraction(_demand(tokens, n), max(1, caps[n] or 0)))
    need, cap = _demand(tokens, name), caps[name] or 0
    fits = int(budget * Fraction(cap, need))
    return RequestError(
        f"The budget needs more of source {name!r} than max_epochs allows",
        where=f"budget of {budget:,} tokens, mixture.on_shortfall: {job.mixture.on_shortfall}",
        expected=f"at most {cap:,} tokens ({job.source(name).max_epochs:g} passes over {available[name]:,})",
        got=f"{need:,} tokens ({need / max(1, available[name]):.2f} passes)",
        remedy=f"Lower the budget to {fits:,} tokens (or set on_shortfall: shrink), raise max_epochs to "
        f"{need / max(1, available[name]):.2f}, or move the shares with on_shortfall: rebalance",
    )
