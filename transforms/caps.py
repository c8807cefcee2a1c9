"""Bounds on how often a source is seen, `max_epochs`, and what gives way where one binds. Exact, no I/O, no Beam."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from schemas.counts import format_count
from schemas.errors import RequestError
from schemas.job import Job
from transforms import policies
from transforms.apportion import apportion

Tokens = list[dict[str, int]]
"""Tokens of each source, by stage."""


@dataclass(frozen=True, kw_only=True)
class Capped:
    """What stages take within the caps."""

    tokens: Tokens
    moved: bool = False
    """Shares gave way, so that `tokens` are all there is to go by."""
    warnings: tuple[str, ...] = ()


def epoch_cap(job: Job, source: str, available: int) -> int | None:
    """Most tokens that a source may give, by its `max_epochs` or UniMax's; None for no bound."""
    own = job.source(source).max_epochs
    return _cap(own if own is not None else job.mixture.max_epochs, available)


def within_caps(
    job: Job,
    available: dict[str, int],
    budget: int,
    weights: list[dict[str, Fraction]],
    take: Callable[[int], Tokens],
) -> Capped:
    """What each stage takes of a budget, no source more than its `max_epochs` over all stages.

    Args:
      job: its `mixture.on_shortfall` says what gives way.
      available: tokens of the train split by source.
      budget: tokens.
      weights: exact shares of each stage.
      take: what stages take of a budget without caps.

    Raises:
      RequestError: a cap binds and nothing may give way, or nothing is left that could.
    """
    caps = {s.name: _cap(s.max_epochs, available[s.name]) for s in job.sources if s.name in available}
    tokens = take(budget)
    over = _over(tokens, caps)
    if not over:
        return Capped(tokens=tokens)
    if job.mixture.on_shortfall == "error":
        raise _shortfall(job, over, tokens, caps, available, budget)
    if job.mixture.on_shortfall == "rebalance":
        text = f"shares moved from {', '.join(over)}, which reached max_epochs, to the other sources"
        return Capped(tokens=_rebalance(job, weights, tokens, caps), moved=True, warnings=(text,))
    smaller = int(
        budget * min(Fraction(cap, max(1, demand(tokens, n))) for n in over if (cap := caps[n]) is not None)
    )
    while _over(tokens := take(smaller), caps):
        smaller -= 1  # largest remainder may round a few tokens over the cap
    text = (
        f"the budget shrank from {format_count(budget)} to {format_count(smaller)} tokens, since {', '.join(over)} "
        "reached max_epochs"
    )
    return Capped(tokens=tokens, warnings=(text,))


def demand(tokens: Tokens, source: str) -> int:
    """Tokens of a source in all stages."""
    return sum(t.get(source, 0) for t in tokens)


def _cap(passes: float | None, available: int) -> int | None:
    return int(Fraction(repr(passes)) * available) if passes is not None else None


def _over(tokens: Tokens, caps: dict[str, int | None]) -> list[str]:
    return sorted(n for n, cap in caps.items() if cap is not None and demand(tokens, n) > cap)


def _rebalance(job: Job, weights: list[dict[str, Fraction]], tokens: Tokens, caps: dict[str, int | None]) -> Tokens:
    """Water-filling, stage by stage, under what is left of the caps."""
    left = dict(caps)
    result = []
    for stage, shares, wanted in zip(job.curriculum, weights, tokens, strict=True):
        total = sum(wanted.values())
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
    tokens: Tokens,
    caps: dict[str, int | None],
    available: dict[str, int],
    budget: int,
) -> RequestError:
    name = max(over, key=lambda n: Fraction(demand(tokens, n), max(1, caps[n] or 0)))
    need, cap = demand(tokens, name), caps[name] or 0
    fits = int(budget * Fraction(cap, need))
    return RequestError(
        f"The budget needs more of source {name!r} than max_epochs allows",
        where=f"budget of {budget:,} tokens, mixture.on_shortfall: {job.mixture.on_shortfall}",
        expected=f"at most {cap:,} tokens ({job.source(name).max_epochs:g} passes over {available[name]:,})",
        got=f"{need:,} tokens ({need / max(1, available[name]):.2f} passes)",
        remedy=f"Lower the budget to {fits:,} tokens (or set on_shortfall: shrink), raise max_epochs to "
        f"{need / max(1, available[name]):.2f}, or move the shares with on_shortfall: rebalance",
    )
