"""Gates on the random part of masking: how masked places are shown, and where they lie.

A gate fails only if the deviation is both improbable (`FALSE_ALARM` divided by the number of tests) and larger than
an effect floor: a good dataset passes at any size, and a huge one is not failed for a deviation of no consequence.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.objectives import Mlm
from transforms.gates.gate import Evidence, Gate, show_command
from transforms.statistics import FIXED_POINT
from transforms.statistics.significance import (
    chi_square_quantile,
    chi_square_tail,
    detectable_proportion,
    proportion_tail,
)

FALSE_ALARM = 1e-6
"""Probability that any statistical gate fails on a good dataset, all of them together."""

REPLACEMENT_FLOOR = 0.002
"""Smallest deviation of a share of masked places that fails: 0.2 percentage points."""

POSITION_FLOOR = 0.02
"""Smallest total variation distance between masked and maskable places that fails."""

WHOLE_WORD_POSITION_FLOOR = 0.05
"""The same where whole words are masked: long words are skipped more often, wherever in a row they are common."""

_LEAST_EXPECTED = 50
"""Neighbouring bins are joined until each expects this many, so that chi-square's far tail can be trusted."""


@dataclass(frozen=True)
class _Share:
    """One share of masked places against its law."""

    name: str
    expected: float
    count: int
    n: int

    @property
    def observed(self) -> float:
        return self.count / self.n if self.n else 0.0

    @property
    def effect(self) -> float:
        return abs(self.observed - self.expected) if self.n else 0.0

    def fails(self, level: float) -> bool:
        impossible = self.expected in (0.0, 1.0)
        improbable = proportion_tail(self.count, self.n, self.expected) < level
        return improbable and (impossible or self.effect > REPLACEMENT_FLOOR)


def expected_shares(parameters: Mlm, text_ids: int) -> dict[str, float]:
    """Law of how masked places are shown, given the number V' of ids that stand for text.

    A random token equals the original with probability 1/V', so unchanged is keep + random / V'.

    >>> {k: round(v, 3) for k, v in expected_shares(Mlm(), 100).items()}
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


def mask_gates(e: Evidence) -> list[Gate]:
    """`mask_replacement` and `mask_uniformity`."""
    sources = sorted({group.source for group, _ in e.found.select()})
    tests = 3 * (len(sources) + 1) + 1
    level = FALSE_ALARM / tests
    return [_replacement(e, sources, level), _uniformity(e, level)]


def _replacement(e: Evidence, sources: list[str], level: float) -> Gate:
    overall = _shares(e, None)
    failing = [(source, s) for source in (None, *sources) for s in _shares(e, source) if s.fails(level)]
    where = sorted({source for source, _ in failing if source is not None})
    return Gate(
        name="mask_replacement",
        passed=not failing,
        expected=", ".join(f"{s.expected:.3%} {s.name}" for s in overall),
        observed=", ".join(f"{s.observed:.3%} {s.name}" for s in overall)
        + (f"; off in {', '.join(where)}" if where else ""),
        bound=f"binomial tail ≥ {level:.0e} or deviation ≤ {REPLACEMENT_FLOOR:.1%}; smallest deviation detectable: "
        f"{max(detectable_proportion(s.n, s.expected, level) for s in overall):.2%}",
        n=overall[0].n,
        effect=max((s.effect for _, s in failing), default=max(s.effect for s in overall)),
        worst_shard=e.worst("replacement_deviation"),
        command=show_command(),
    )


def _shares(e: Evidence, source: str | None) -> list[_Share]:
    """The three shares in one source, or in all."""
    where: dict[str, str | int] = {} if source is None else {"source": source}
    assert isinstance(e.context.parameters, Mlm)
    n = e.found.total("masked", **where)
    expected = expected_shares(e.context.parameters, e.context.text_ids)
    return [_Share(name, p, e.found.total(f"shown_{name}", **where), n) for name, p in expected.items()]


def _uniformity(e: Evidence, level: float) -> Gate:
    """Pearson's chi-square of masked places by relative position.

    Places of a row are drawn without replacement and rows differ in length, both of which make the statistic
    smaller than chi-square distributed; whole words make it larger, by at most their mean squared size over size.
    """
    assert isinstance(e.context.parameters, Mlm)
    whole_word = e.context.parameters.whole_word
    observed = e.found.histogram("mask_position")
    expected = [x / FIXED_POINT for x in e.found.histogram("mask_position_expected")]
    n = sum(observed)
    cells = _join_cells(observed, expected)
    statistic = sum((o - x) ** 2 / x for o, x in cells)
    degrees = len(cells) - 1
    if whole_word and n:
        statistic /= max(1.0, e.found.total("mask_run_squares") / n)
    tail = chi_square_tail(statistic, degrees) if degrees > 0 else 1.0
    distance = sum(abs(o - x) for o, x in zip(observed, expected, strict=True)) / 2 / n if n else 0.0
    floor = WHOLE_WORD_POSITION_FLOOR if whole_word else POSITION_FLOOR
    # A distance of d needs a statistic of at least n · (2d)².
    detectable = (chi_square_quantile(level, degrees) / n) ** 0.5 / 2 if degrees > 0 else 1.0
    return Gate(
        name="mask_uniformity",
        passed=tail >= level or distance <= floor,
        expected="masked places spread over rows like the places that may be masked",
        observed=f"chi-square {statistic:.1f} with {max(degrees, 0)} degrees of freedom, distance {distance:.2%}",
        bound=f"tail ≥ {level:.0e} or distance ≤ {floor:.0%}; smallest distance detectable: {detectable:.2%}",
        n=n,
        effect=distance,
        command=show_command(),
    )


def _join_cells(observed: list[int], expected: list[float]) -> list[tuple[int, float]]:
    """(observed, expected) of neighbouring bins joined until each expects enough; a small rest joins the last."""
    cells: list[tuple[int, float]] = []
    count, mean = 0, 0.0
    for o, x in zip(observed, expected, strict=True):
        count, mean = count + o, mean + x
        if mean >= _LEAST_EXPECTED:
            cells.append((count, mean))
            count, mean = 0, 0.0
    if cells and (count or mean):
        cells[-1] = (cells[-1][0] + count, cells[-1][1] + mean)
    return cells
