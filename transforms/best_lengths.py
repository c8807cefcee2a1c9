"""Which length buckets to pad rows to: those with the least padding, from a histogram of row lengths. Pure numpy."""

from __future__ import annotations

from math import frexp

import numpy as np
import numpy.typing as npt

from transforms.buckets import check_histogram
from transforms.ragged import Int64, offsets_of, ranges


def best_lengths(
    lengths: npt.NDArray[np.integer],
    counts: npt.NDArray[np.number],
    longest: int,
    most: int = 8,
    multiple: int = 8,
) -> list[int]:
    """The bucket lengths with the least padding, and of such the fewest.

    Dynamic programming over the candidates e, the multiples that lengths reach: with C(e) rows up to e,
    best[k](e) = min over a ≤ e of best[k−1](a) + e·(C(e) − C(a)). The cost of a bucket (a, e] is Monge
    (cost(a, c) + cost(b, d) ≤ cost(a, d) + cost(b, c) for a ≤ b ≤ c ≤ d), so the best a does not fall as e grows,
    and a layer takes O(m log m) by bisection and not O(m²). Counts are scaled to integers, so that equal sums
    compare equal on every machine.

    Args:
      lengths: [n] row lengths in tokens, in any order.
      counts: [n] rows of that length, at least 0.
      longest: the last bucket, whether or not a row reaches it, and whether or not it is a multiple.
      most: the largest number of buckets.
      multiple: what every other bucket is a multiple of.

    Returns:
      Ascending lengths, at most `most`, the last `longest`.

    Raises:
      ValueError: a length outside 1..longest, a negative count, or a bound below 1.

    >>> best_lengths(np.array([30, 60, 500]), np.array([100, 5, 40]), 512, most=3)
    [32, 64, 512]
    >>> best_lengths(np.array([30, 60, 500]), np.array([100, 5, 40]), 512, most=2)
    [32, 512]
    """
    if min(longest, most, multiple) < 1:
        raise ValueError(f"best_lengths: need at least 1, got longest {longest}, most {most}, multiple {multiple}")
    check_histogram(lengths, counts, longest)
    ceilings = np.minimum(-(-np.asarray(lengths, np.int64) // multiple) * multiple, longest)
    edges = np.unique(np.append(ceilings, [0, longest]))
    rows = np.zeros(len(edges), np.int64)
    np.add.at(rows, np.searchsorted(edges, ceilings), _whole(counts, longest))
    up_to = np.cumsum(rows)
    best = edges * up_to
    layers: list[Int64] = []
    while len(layers) < most - 1:
        better, origin = _layer(best, edges, up_to)
        if better[-1] == best[-1]:
            # The cost being Monge, what a bucket more saves only falls with the number of buckets (Aggarwal, Schieber
            # and Tokuyama 1994, on paths of k links), so two more save nothing either.
            break
        layers.append(origin)
        best = better
    chosen, at = [longest], len(edges) - 1
    for origin in reversed(layers):
        at = int(origin[at])
        chosen.append(int(edges[at]))
    return chosen[::-1]


def _layer(best: Int64, edges: Int64, up_to: Int64) -> tuple[Int64, Int64]:
    """One bucket more: for each edge the least cost and the smallest origin that has it, both int64 [edges].

    Origins are found for every 2^s-th edge, then for those half way between, whose origins lie between their
    neighbours': a pass looks at about 2 origins an edge in all.
    """
    m = len(edges)
    least, origin = np.zeros_like(best), np.zeros_like(best)
    stride = 1 << (m.bit_length() - 1)
    while stride:
        at = np.arange(stride - 1, m, 2 * stride)
        low = np.where(at >= stride, origin[at - stride], 0)
        after = np.minimum(at + stride, m - 1)
        high = np.where(at + stride < m, np.minimum(origin[after], at), at)
        width = high - low + 1
        a = np.repeat(low, width) + ranges(width)
        e = np.repeat(at, width)
        cost = best[a] + edges[e] * (up_to[e] - up_to[a])
        starts = offsets_of(width)[:-1]
        least[at] = np.minimum.reduceat(cost, starts)
        origin[at] = np.minimum.reduceat(np.where(cost == np.repeat(least[at], width), a, m), starts)
        stride //= 2
    return least, origin


def _whole(counts: npt.NDArray[np.number], longest: int) -> Int64:
    """Counts times a power of two, rounded, as large as sums of count · length in int64 allow.

    Whole counts stay in proportion exactly, unless there are 2^61 positions or more.
    """
    positions = float(np.asarray(counts, np.float64).sum()) * longest
    return np.rint(np.ldexp(np.asarray(counts, np.float64), 61 - frexp(positions)[1])).astype(np.int64)
