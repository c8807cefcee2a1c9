"""Whole numbers in given proportions, by largest remainder (Hamilton's method), ties by name. Exact, pure.

Every sum is exact, and nothing depends on the order in which the proportions are given.
"""

from __future__ import annotations

from fractions import Fraction


def apportion(total: int, shares: dict[str, Fraction], owed: dict[str, Fraction] | None = None) -> dict[str, int]:
    """Whole numbers in these proportions that add to `total` exactly, each its share rounded up or down.

    Args:
      total: what they add to.
      shares: proportions, not necessarily adding to one.
      owed: what each has got too little so far, which counts when it is decided what is rounded up.

    >>> apportion(10, {"a": Fraction(1, 3), "b": Fraction(2, 3)})
    {'a': 3, 'b': 7}
    """
    quotas = {name: total * share for name, share in normalise(shares).items()}
    counts = {name: int(q) for name, q in quotas.items()}
    remainders = {name: q - counts[name] for name, q in quotas.items() if q > counts[name]}
    due = {name: r + (owed or {}).get(name, 0) for name, r in remainders.items()}
    for name in sorted(due, key=lambda name: (-due[name], name))[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def normalise(weights: dict[str, Fraction]) -> dict[str, Fraction]:
    """Weights over their sum; as they are if that is zero."""
    total = sum(weights.values())
    return {n: w / total for n, w in weights.items()} if total else weights
