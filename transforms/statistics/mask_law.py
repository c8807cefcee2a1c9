"""What masking expects of all rows together and of a shard alone, and which deviations are of no consequence."""

from __future__ import annotations

from transforms.objectives.masking import MaskingParameters
from transforms.statistics.accumulator import Accumulator

BUDGET_PLACES = 500
"""Places of the law from which on a shard alone is held to what of them rows have at least."""

REPLACEMENT_FLOOR = 0.002
"""Smallest deviation of a share of masked places that fails: 0.2 percentage points."""

POSITION_FLOOR = 0.02
"""Smallest total variation distance between masked and maskable places that fails."""

RUN_POSITION_FLOOR = {"ngram": 0.10, "span": 0.15}
"""The same where runs are masked: fewer runs can cover a place near a row's edge than one in its middle."""


def expected_shares(parameters: MaskingParameters, text_ids: int) -> dict[str, float]:
    """Law of how masked places are shown, given the number V' of ids that stand for text.

    A random token equals the original with probability 1/V', so unchanged is keep + random / V'.

    >>> {k: round(v, 3) for k, v in expected_shares(MaskingParameters(kind="mlm"), 100).items()}
    {'mask': 0.8, 'random': 0.099, 'unchanged': 0.101}
    """
    same = parameters.random_replace_prob / max(1, text_ids)
    # Rates that add to one by decimals may miss it by one bit, and what is impossible must expect exactly 0.
    keep = round(1 - parameters.mask_replace_prob - parameters.random_replace_prob, 12)
    return {
        "mask": parameters.mask_replace_prob,
        "random": parameters.random_replace_prob - same,
        "unchanged": keep + same,
    }


def position_floor(parameters: MaskingParameters) -> float:
    """Smallest distance of masked places from their law that fails."""
    return RUN_POSITION_FLOOR.get(parameters.selection, POSITION_FLOOR)


def clustering(found: Accumulator, **where: str | int) -> float:
    """Mean length of the run a masked place lies in, by which runs inflate the variance of counts; 1 without runs."""
    masked, squares = found.total("masked", **where), found.total("mask_run_squares", **where)
    return max(1.0, squares / masked) if masked else 1.0
