"""How far two datasets differ, field by field: Jensen-Shannon divergence of what was counted. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from transforms.statistics.accumulator import Accumulator, Group
from transforms.statistics.context import AuditContext
from transforms.statistics.sentinels import SPAN_EDGES
from transforms.statistics.summary import length_counts

Counts = Mapping[str, float]
"""How often each value of a field occurs, by the value in words."""

MOST_MOVERS = 5
"""Values named for each field, those that moved most first."""

_SHOWN = ("mask", "random", "unchanged")


@dataclass(frozen=True, kw_only=True)
class FieldChange:
    """How one field differs between two datasets."""

    field: str
    divergence_bits: float
    """Jensen-Shannon divergence in bits, in [0, 1]."""
    chance_bits: float
    """About what two draws of as many from one law would differ by."""
    both: bool
    """Both datasets have the field; objectives have fields of their own."""
    movers: tuple[tuple[str, float, float], ...]
    """(value, share there, share here), those whose share changed most first."""

    @property
    def beyond_chance_bits(self) -> float:
        """Divergence that chance does not explain."""
        return max(0.0, self.divergence_bits - self.chance_bits)


def compare_counts(field: str, there: Counts, here: Counts) -> FieldChange:
    """How a field changed from there to here.

    The divergence is H(m) − (H(p) + H(q)) / 2 for m = (p + q) / 2 (Lin 1991, IEEE Trans. Inf. Theory 37). Of two
    samples of one law with k values it is about (k − 1)(1/n + 1/n') / (8 ln 2) bits.

    >>> compare_counts("source", {"a": 1, "b": 1}, {"a": 2}).divergence_bits.__round__(4)
    0.3113
    """
    values = sorted({*there, *here})
    counts = np.array([[side.get(value, 0.0) for value in values] for side in (there, here)], dtype=np.float64)
    totals = counts.sum(axis=1, keepdims=True)
    if not values or not totals.any():
        return FieldChange(field=field, divergence_bits=0.0, chance_bits=0.0, both=False, movers=())
    shares = counts / np.maximum(totals, 1)
    movement = np.abs(shares[1] - shares[0])
    order = [i for i in np.argsort(-movement, kind="stable")[:MOST_MOVERS].tolist() if movement[i] > 0]
    if not totals.all():
        return FieldChange(
            field=field,
            divergence_bits=1.0,
            chance_bits=0.0,
            both=False,
            movers=_movers(values, shares, order),
        )
    divergence = _entropy(shares.mean(axis=0)) - (_entropy(shares[0]) + _entropy(shares[1])) / 2
    chance = (len(values) - 1) * float((1 / np.maximum(totals, 1)).sum()) / (8 * math.log(2))
    return FieldChange(
        field=field,
        divergence_bits=min(1.0, max(0.0, divergence)),
        chance_bits=min(1.0, chance),
        both=True,
        movers=_movers(values, shares, order),
    )


def _movers(
    values: Sequence[str], shares: npt.NDArray[np.float64], order: Sequence[int]
) -> tuple[tuple[str, float, float], ...]:
    return tuple((values[i], float(shares[0, i]), float(shares[1, i])) for i in order)


def _entropy(shares: npt.NDArray[np.float64]) -> float:
    kept = shares[shares > 0]
    return float(-(kept * np.log2(kept)).sum())


def compare_fields(there: Mapping[str, Counts], here: Mapping[str, Counts]) -> list[FieldChange]:
    """How each field that either has changed, those that moved most first, those of one alone last."""
    changes = [compare_counts(field, there.get(field, {}), here.get(field, {})) for field in {**there, **here}]
    return sorted(changes, key=lambda c: (not c.both, -c.beyond_chance_bits, -c.divergence_bits, c.field))


def count_fields(
    found: Accumulator, context: AuditContext, stage_names: Mapping[int, str], token_names: Sequence[str]
) -> dict[str, Counts]:
    """What is compared of a dataset: train rows by every field that is counted.

    Args:
      found: what was measured.
      context: what it was held against.
      stage_names: by number.
      token_names: by id.
    """

    def by(key: Callable[[Group], str], figure: str) -> Counts:
        counts: dict[str, float] = {}
        for group, measures in found.select(split="train"):
            counts[key(group)] = counts.get(key(group), 0) + measures.sums[figure]
        return counts

    fields: dict[str, Counts] = {
        "source": by(lambda g: g.source, "corpus_tokens"),
        "stage": by(lambda g: stage_names.get(g.stage, str(g.stage)), "corpus_tokens"),
        "bucket": by(lambda g: str(g.length), "rows"),
        "length": {f"≤ {edge:g} tokens": n for edge, n in length_counts(found.select(split="train")).items()},
        "token": _named(found.token_counts("train"), token_names),
    }
    for source in sorted({group.source for group, _ in found.select(split="train")}):
        fields[f"token in {source}"] = _named(found.token_counts("train", source), token_names)
    for name in sorted({h for _, m in found.select() for h in m.histograms}):
        if name != "length" and not name.endswith("_expected"):
            bins = found.histogram(name, split="train")
            labels = _labels(name, len(bins), context)
            fields[name.replace("_", " ")] = {labels[i]: n for i, n in enumerate(bins) if n}
    if shown := {name: found.total(f"shown_{name}", split="train") for name in _SHOWN}:
        fields["replacement"] = shown if any(shown.values()) else {}
    rows, not_next = (found.total(f, split="train") for f in ("rows", "pairs_not_next"))
    if not_next:
        fields["pair label"] = {"next": rows - not_next, "not next": not_next}
    return {name: counts for name, counts in fields.items() if counts}


def _labels(histogram: str, bins: int, context: AuditContext) -> list[str]:
    """What the bins of a histogram are called."""
    if histogram == "special":
        return [*sorted(context.special_ids), "other"]
    if histogram == "copy":
        return [f"pass {i + 1}" for i in range(bins)]
    if histogram == "span_length":
        return [f"≥ {edge} tokens" for edge in SPAN_EDGES.tolist()]
    if histogram == "denoiser":
        return [d.name for d in context.parameters.denoisers]  # type: ignore[attr-defined]
    return [f"part {i + 1} of {bins}" for i in range(bins)]


def _named(counts: npt.NDArray[np.int64], names: Sequence[str]) -> Counts:
    return {names[i]: int(counts[i]) for i in np.flatnonzero(counts).tolist()}
