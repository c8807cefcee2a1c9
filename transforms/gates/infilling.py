"""Gates on infilled rows: how much is hidden, and behind how many masks, as far as tokens without words can tell."""

from __future__ import annotations

import math

from transforms.gates.chance import FALSE_ALARM
from transforms.gates.gate import Evidence, Gate
from transforms.gates.passes import passes_differ
from transforms.statistics.infilling import FIXED_POINT

FLOOR = 0.05
"""Smallest relative deviation that fails. Words of some length may be more common where masks are rarer, at the edges
of rows. fairseq#3486 hides about a tenth less than asked for."""


def infilling_gates(e: Evidence, ratio: float) -> list[Gate]:
    """`passes_differ`, and two gates that judge all rows and those of each source.

    The sum of many independent rows strays by more than z standard deviations with a probability of about
    2·exp(−z²/2), or less.
    """
    sources: list[str | None] = [None, *sorted({group.source for group, _ in e.found.select()})]
    z = math.sqrt(2 * math.log(2 * 3 * len(sources) / FALSE_ALARM))
    return [_hidden(e, sources, ratio, z), _masks(e, sources, z), passes_differ(e)]


def _hidden(e: Evidence, sources: list[str | None], ratio: float, z: float) -> Gate:
    """Hidden tokens are the share of the words, and more only as far as ceil in rows of few words explains."""
    off, detectable = [], []
    for source in sources:
        hidden, least, most = (_total(e, f, source) for f in ("hidden_tokens", "hidden_least", "hidden_most"))
        noise = z * math.sqrt(_total(e, "hidden_squares", source) * FIXED_POINT)
        below, above = least * (1 - FLOOR) - noise, most * (1 + FLOOR) + noise
        if not below <= hidden <= above:
            off.append(
                f"{hidden / FIXED_POINT:,.0f} in {source or 'all sources'}, {below / FIXED_POINT:,.0f} to "
                f"{above / FIXED_POINT:,.0f} expected"
            )
        detectable.append(FLOOR + noise / max(least, 1))
    hidden, least, most = (_total(e, f, None) for f in ("hidden_tokens", "hidden_least", "hidden_most"))
    share = ratio / max(least, 1)
    return Gate(
        name="hidden_tokens",
        passed=not off,
        expected=f"{ratio:.2%} of the tokens hidden, up to {share * most:.2%} since rows of few words round up",
        observed="; ".join(off[:3]) or f"{share * hidden:.2%}",
        bound=f"{z:.1f} standard deviations and {FLOOR:.0%}; smallest relative deviation detectable: "
        f"{detectable[0]:.1%}",
        n=round(least / FIXED_POINT / ratio),
        effect=abs(hidden / least - 1) if least else 0.0,
    )


def _masks(e: Evidence, sources: list[str | None], z: float) -> Gate:
    """There are no more masks than spans of the law's mean length need; fewer if words have many tokens."""
    off, detectable = [], []
    for source in sources:
        masks, most = (_total(e, f, source) for f in ("masks", "masks_most"))
        noise = z * math.sqrt(_total(e, "masks_variance", source) / FIXED_POINT)
        bound = most / FIXED_POINT * (1 + FLOOR) + noise
        if masks > bound:
            off.append(f"{masks:,} in {source or 'all sources'}, at most {bound:,.0f} expected")
        detectable.append(bound * FIXED_POINT / max(most, 1) - 1)
    masks, most = _total(e, "masks", None), _total(e, "masks_most", None)
    return Gate(
        name="mask_counts",
        passed=not off,
        expected=f"at most {most / FIXED_POINT:,.0f} masks on average, as many as if every token were a word",
        observed="; ".join(off[:3]) or f"{masks:,}",
        bound=f"{z:.1f} standard deviations and {FLOOR:.0%}; smallest relative excess detectable: "
        f"{max(detectable[0], 0.0):.1%}",
        n=masks,
        effect=masks * FIXED_POINT / most if most else 0.0,
    )


def _total(e: Evidence, figure: str, source: str | None) -> int:
    return e.found.total(figure) if source is None else e.found.total(figure, source=source)
