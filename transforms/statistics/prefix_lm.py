"""Figures of rows with a prefix."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from transforms.objectives.base import Law
from transforms.ragged import Int64
from transforms.statistics.packed import (
    PACKED_LAWS,
    count_piece_errors,
    is_multiple,
    longest_lengths,
    measure_pieces,
)
from transforms.statistics.places import count_places
from transforms.statistics.rows import Rows

PREFIX_LAWS: dict[str, Law] = {
    **PACKED_LAWS,
    "prefix_lengths": (("prefix_length_errors",), "prefixes of at least one id that leave at least one"),
}


def measure_prefix_lm(rows: Rows, prefix: Int64, pack: Literal["document", "concat"]) -> None:
    """Add the figures of rows of documents and EOS, and of the lengths of their prefixes.

    A row without EOS at its end is full, or lent its last id to a row that would have been EOS alone.

    Args:
      rows: where they are added.
      prefix: the column `prefix_length`, int64 [rows].
      pack: `document`: one piece a row. `concat`: a row cuts its first and last document only.
    """
    pieces, longest = measure_pieces(rows), longest_lengths(rows)
    full = np.isin(rows.lengths, np.append(longest, longest - 1))[pieces.row]
    if pack == "concat":
        wrong = (~pieces.closed & ~(pieces.last & full)) | (~pieces.first & (pieces.begin != 0))
    else:
        borrowed = (pieces.units == 2) & pieces.closed & is_multiple(pieces.begin + 1, longest)
        wrong = ~pieces.alone | (~pieces.closed & ~full) | ~(is_multiple(pieces.begin, longest) | borrowed)
    count_piece_errors(rows, pieces, wrong)

    fits = (prefix >= 1) & (prefix < rows.lengths)
    rows.per_row["prefix_length_errors"] = (~fits).astype(np.int64)
    row = np.flatnonzero(fits)
    count_places(rows, "prefix_length", row, prefix[row] - 1, rows.lengths[row] - 1, _uniform_below)


def _uniform_below(edge: Int64, size: Int64) -> npt.NDArray[np.float64]:
    return edge / size
