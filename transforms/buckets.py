"""Length buckets: which lengths to pad rows to, and what that saves, from a histogram of row lengths. Pure numpy.

A row is padded to the shortest bucket that holds it. Each bucket is a shape a trainer compiles, hence few of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import frexp

import numpy as np
import numpy.typing as npt

from transforms.ragged import Int64, offsets_of, ranges

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Padding:
    """What a histogram of row lengths becomes in buckets; arrays have one entry a bucket."""

    edges: Int64
    """int64 [buckets], ascending: what the bucket's rows are padded to."""
    rows: Float64
    """float64 [buckets], not whole where the histogram's counts are expectations."""
    tokens: Float64
    """float64 [buckets]: tokens of these rows, without padding."""

    @property
    def padded_tokens(self) -> Float64:
        """float64 [buckets]: positions of the rows, padding included."""
        return self.edges * self.rows

    @property
    def shares(self) -> Float64:
        """float64 [buckets] in [0, 1]: share of padding among the bucket's positions; 0 for a bucket without rows."""
        padded = self.padded_tokens
        return np.where(padded > 0, 1 - self.tokens / np.where(padded > 0, padded, 1), 0.0)

    @property
    def share(self) -> float:
        """Share of padding among all positions, in [0, 1]; 0 without rows."""
        padded = float(self.padded_tokens.sum())
        return 1 - float(self.tokens.sum()) / padded if padded else 0.0

    @property
    def speed_up(self) -> float:
        """How many times fewer positions than with every row padded to the longest; 1 without rows."""
        padded = float(self.padded_tokens.sum())
        return float(self.edges[-1] * self.rows.sum()) / padded if padded else 1.0


def padding(lengths: npt.NDArray[np.integer], counts: npt.NDArray[np.number], edges: Sequence[int]) -> Padding:
    """Sort a histogram into buckets.

    Args:
      lengths: [n] row lengths in tokens, in any order.
      counts: [n] rows of that length, at least 0.
      edges: what rows are padded to, ascending; the last is the longest.

    Raises:
      ValueError: a length outside 1..edges[-1], or edges that do not ascend.
    """
    ends = np.asarray(edges, dtype=np.int64)
    if not len(ends) or ends[0] < 1 or (np.diff(ends) <= 0).any():
        raise ValueError(f"padding: edges must ascend from 1 or more, got {list(edges)}")
    _check(lengths, counts, int(ends[-1]))
    bucket = np.searchsorted(ends, lengths)
    return Padding(
        edges=ends,
        rows=np.bincount(bucket, counts, len(ends)).astype(np.float64),
        tokens=np.bincount(bucket, counts * lengths, len(ends)).astype(np.float64),
    )


def speed_up(lengths: npt.NDArray[np.integer], counts: npt.NDArray[np.number], edges: Sequence[int]) -> float:
    """Positions with every row padded to the longest, divided by positions with each padded to its bucket.

    This is the saving of work in proportion to positions. A trainer's clock shows less for many short buckets, whose
    batches fill the device less well, and more for attention, which is quadratic.

    Args, Raises: as `padding`.

    >>> speed_up(np.array([100, 512]), np.array([3, 1]), [128, 512])  # 4·512 / (3·128 + 512)
    2.2857142857142856
    """
    return padding(lengths, counts, edges).speed_up


def best_lengths(
    lengths: npt.NDArray[np.integer],
    counts: npt.NDArray[np.number],
    longest: int,
    most: int = 8,
    multiple: int = 8,
) -> list[int]:
    """The bucket lengths with the least padding, and of such the fewest.

    Dynamic programming over the candidates e, the multiples some row reaches: with C(e) rows up to e,
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
    _check(lengths, counts, longest)
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
            break  # what a bucket more saves only falls with the number of buckets, the cost being Monge
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

    Whole counts stay in proportion exactly, unless there are more than 2^61 positions.
    """
    positions = float(np.asarray(counts, np.float64).sum()) * longest
    return np.rint(np.ldexp(np.asarray(counts, np.float64), 61 - frexp(positions)[1])).astype(np.int64)


def _check(lengths: npt.NDArray[np.integer], counts: npt.NDArray[np.number], longest: int) -> None:
    if len(lengths) != len(counts):
        raise ValueError(f"got {len(lengths)} lengths but {len(counts)} counts")
    if len(lengths) and not 1 <= int(np.min(lengths)) <= int(np.max(lengths)) <= longest:
        raise ValueError(f"lengths must be in 1..{longest}, got {np.min(lengths)}..{np.max(lengths)}; cut first")
    if len(counts) and not (np.asarray(counts) >= 0).all():
        raise ValueError(f"counts must not be negative, got {np.min(counts)}")
