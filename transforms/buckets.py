"""Length buckets: what padding rows to them costs and saves, from a histogram of row lengths. Pure numpy.

A row is padded to the shortest bucket that holds it. Each bucket is a shape a trainer compiles, hence few of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from transforms.ragged import Int64

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
    check_histogram(lengths, counts, int(ends[-1]))
    bucket = np.searchsorted(ends, lengths)
    return Padding(
        edges=ends,
        rows=np.bincount(bucket, counts, len(ends)).astype(np.float64),
        tokens=np.bincount(bucket, counts * lengths, len(ends)).astype(np.float64),
    )


def check_histogram(lengths: npt.NDArray[np.integer], counts: npt.NDArray[np.number], longest: int) -> None:
    """Refuse what is no histogram of lengths in 1..longest.

    Raises:
      ValueError: a length outside 1..longest, a count that is negative or not finite, or not as many of each.
    """
    if len(lengths) != len(counts):
        raise ValueError(f"got {len(lengths)} lengths but {len(counts)} counts")
    if len(lengths) and not 1 <= int(np.min(lengths)) <= int(np.max(lengths)) <= longest:
        raise ValueError(f"lengths must be in 1..{longest}, got {np.min(lengths)}..{np.max(lengths)}; cut first")
    if len(counts) and not 0 <= np.min(counts) <= np.max(counts) < np.inf:
        raise ValueError(f"counts must be finite and not negative, got {np.min(counts)}..{np.max(counts)}")
