"""The gate on further passes over a source: what is drawn at random is drawn anew."""

from __future__ import annotations

from transforms.gates.gate import Evidence, Gate
from transforms.statistics.passes import repeated_draws

REPEATED_DRAWS_BOUND = 0.01
"""Largest share of further passes over a piece that may draw the same. Not zero, since few masks in a short row may
fall on the same places; masks that were drawn once and copied are far above it (Liu et al. 2019, section 4.1)."""


def passes_differ(e: Evidence) -> Gate:
    """A piece of text that comes again has other masks, or other spans, than in the passes before."""
    same, further = repeated_draws(e.found.samples.get("passes/train"))
    share = same / further if further else 0.0
    return Gate(
        name="passes_differ",
        passed=share <= REPEATED_DRAWS_BOUND,
        expected="a piece that comes again in a further pass is drawn anew",
        observed=f"{same:,} of {further:,} pieces that come again are drawn as before",
        bound=f"share ≤ {REPEATED_DRAWS_BOUND:g}, since few draws in a short row may come out the same",
        n=further,
        effect=share,
    )
