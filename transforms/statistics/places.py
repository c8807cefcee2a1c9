"""Histograms of places that are drawn by a known law, beside what the law expects of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from transforms.ragged import Int64
from transforms.statistics.mask_positions import FIXED_POINT
from transforms.statistics.rows import Rows

PLACE_FLOOR = 0.02
"""Smallest total variation distance of places from their law that fails."""

PLACE_BINS = 20
"""Bins of a histogram of places, equal parts of what a place may be."""


def count_places(
    rows: Rows, name: str, row: Int64, place: Int64, size: Int64, below: Callable[[Int64, Int64], npt.ArrayLike]
) -> None:
    """Add the histogram `name` of relative places, and `name_expected` in units of `FIXED_POINT`.

    Args:
      rows: where they are added.
      name: of the histogram.
      row: of each item, int64 [items].
      place: in 0..size − 1, int64 [items].
      size: places that each item may have, at least 1, int64 [items].
      below: the law: from edges, int64 [items, PLACE_BINS + 1] in 0..size, and sizes, int64 [items, 1], the
        probability of a place below each edge.
    """
    edges = -(-np.arange(PLACE_BINS + 1) * size[:, None] // PLACE_BINS)  # ceiling
    expected = np.diff(np.asarray(below(edges, size[:, None]), dtype=np.float64), axis=1)
    fixed = np.rint(expected * FIXED_POINT).astype(np.int64)
    by_source = np.zeros((len(rows.sources), PLACE_BINS), np.int64)
    code = rows.code[row]
    for index in np.unique(code).tolist():
        by_source[index] = fixed[code == index].sum(axis=0)
    rows.histograms[f"{name}_expected"] = by_source.tolist()
    rows.add_histogram(name, row, place * PLACE_BINS // size, PLACE_BINS)
