"""Gates on draws: shares against their probabilities, and places against the law by which they are drawn.

A gate fails only if the deviation is both improbable and larger than an effect floor: a good dataset passes at any
size, and a huge one is not failed for a deviation of no consequence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from transforms.gates.gate import Evidence, Gate
from transforms.statistics.mask_positions import FIXED_POINT
from transforms.statistics.places import PLACE_FLOOR
from transforms.statistics.significance import (
    chi_square_quantile,
    detectable_proportion,
    places_test,
    proportion_tail,
)

SHARE_FLOOR = 0.005
"""Smallest deviation of a share that fails: half a percentage point."""

FALSE_ALARM = 1e-6
"""Probability that any statistical gate fails on a good dataset, all of them together."""


class Share(NamedTuple):
    """So many of n, where each is drawn alone; `probability` is the mean of theirs (Hoeffding 1963, theorem 1)."""

    hits: int
    n: int
    probability: float
    spread: float = 1.0
    """How many share a draw, on average."""

    @property
    def observed(self) -> float:
        """The share; 0 of nothing."""
        return self.hits / self.n if self.n else 0.0

    @property
    def effect(self) -> float:
        """Deviation of the share."""
        return abs(self.observed - self.probability) if self.n else 0.0

    def fails(self, level: float, floor: float) -> bool:
        """True if it is improbable and large, or impossible."""
        impossible = self.probability in (0.0, 1.0)
        hits, draws = round(self.hits / self.spread), round(self.n / self.spread)
        return proportion_tail(hits, draws, self.probability) < level and (impossible or self.effect > floor)


def sources_of(e: Evidence) -> list[str]:
    """Names of the sources that were seen, in order."""
    return sorted({group.source for group, _ in e.found.select()})


def share_gate(name: str, law: str, shares: Mapping[str, Share], tests: int, floor: float = SHARE_FLOOR) -> Gate:
    """A gate on a share in all rows, under the empty name, and in each source.

    Args:
      name: of the gate.
      law: in words.
      shares: by source.
      tests: statistical tests of all gates of the dataset, which share the false-alarm level.
      floor: smallest deviation that fails.
    """
    level, overall = FALSE_ALARM / tests, shares[""]
    failing = {source: s for source, s in shares.items() if s.fails(level, floor)}
    where = ", ".join(sorted(filter(None, failing)))
    detectable = detectable_proportion(overall.n, overall.probability, level)
    return Gate(
        name=name,
        passed=not failing,
        expected=f"{overall.probability:.3%} {law}",
        observed=f"{overall.observed:.3%} of {overall.n:,}" + (f"; off in {where}" if where else ""),
        bound=f"binomial tail ≥ {level:.0e} or deviation ≤ {floor:.1%}; smallest deviation detectable: "
        f"{detectable:.2%}",
        n=overall.n,
        effect=max((s.effect for s in failing.values()), default=overall.effect),
    )


def places_gate(
    e: Evidence, name: str, histogram: str, law: str, tests: int, floor: float = PLACE_FLOOR, spread: float = 1.0
) -> Gate:
    """Pearson's chi-square of the places in a histogram, beside which stands the one its law expects.

    Each place is drawn by its own row's law, which makes the statistic at most chi-square distributed: with
    different laws the variance of a bin's count is less than that of a multinomial of their mean. Where `spread`
    places on average share a draw, the statistic is larger by that factor.
    """
    # Half of the level is for all rows together, half for the worst of the shards.
    level = FALSE_ALARM / tests / 2
    observed = e.found.histogram(histogram)
    found = places_test(observed, [x / FIXED_POINT for x in e.found.histogram(f"{histogram}_expected")], spread)
    n = sum(observed)
    # A distance of d needs a statistic of at least n · (2d)².
    detectable = (chi_square_quantile(level, found.degrees) / n) ** 0.5 / 2 if found.degrees > 0 else 1.0
    alone, worst = worst_shard(e, f"{histogram}_surprise", level)
    return Gate(
        name=name,
        passed=alone == "" and (found.tail >= level or found.distance <= floor),
        expected=law,
        observed=f"chi-square {found.statistic:.1f} with {found.degrees} degrees of freedom, distance "
        f"{found.distance:.2%}{alone}",
        bound=f"tail ≥ {level:.0e} or distance ≤ {floor:.0%}; smallest distance detectable: {detectable:.2%}",
        n=n,
        effect=found.distance,
        worst_shard=worst,
    )


def worst_shard(e: Evidence, figure: str, level: float) -> tuple[str, str | None]:
    """(why the most surprising shard fails alone, empty where it does not; its path).

    Shards put down their surprise, −log of the tail, only where their deviation is above the gate's floor.
    """
    surprise, path = e.found.worst.get(figure, (0.0, ""))
    bound = math.log(2 * max(1, e.found.shards["read"]) / level)
    return (f"; a shard alone has a tail of e^−{surprise:.0f}" if surprise > bound else "", path or None)
