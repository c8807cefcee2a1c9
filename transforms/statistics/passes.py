"""Whether a piece of text that comes in several passes over its source is drawn anew in each.

A hash of 64 bits holds all of it: what the row is made of above, so that a sample by threshold keeps all passes of a
piece or none, then the pass, then what was drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from schemas.keys import draw
from transforms.statistics.samples import HashSample

if TYPE_CHECKING:
    from transforms.statistics.rows import Rows

U64 = npt.NDArray[np.uint64]

_DRAW_BITS = 18
_COPY_BITS = 6


def pass_hashes(rows: Rows, drawn: U64, judged: npt.NDArray[np.bool_]) -> U64:
    """uint64, one for each row that is judged and whose lists of provenance agree.

    Args:
      rows: of which these are.
      drawn: a hash of what was drawn for each row, uint64 [rows].
      judged: rows that are worth comparing, bool [rows].
    """
    pieces = rows.doc_keys.lengths
    agree = (pieces == rows.doc_offsets.lengths) & (pieces == rows.doc_lengths.lengths) & (pieces > 0)
    which = np.flatnonzero(judged & agree)
    columns = [
        c.slices(c.offsets[:-1][which], pieces[which]) for c in (rows.doc_keys, rows.doc_offsets, rows.doc_lengths)
    ]
    running = np.zeros(len(columns[0].flat) + 1, np.uint64)
    np.cumsum(draw(0, "audit.piece", *(c.flat.astype(np.uint64) for c in columns)), out=running[1:])
    text = draw(0, "audit.pieces", running[columns[0].offsets[1:]] - running[columns[0].offsets[:-1]])
    low = np.uint64(_DRAW_BITS + _COPY_BITS)
    copy = rows.copy[which].astype(np.uint64) & np.uint64(2**_COPY_BITS - 1)
    mine = drawn[which] & np.uint64(2**_DRAW_BITS - 1)
    return (text >> low << low) | (copy << np.uint64(_DRAW_BITS)) | mine


def repeated_draws(sample: HashSample | None) -> tuple[int, int]:
    """(further passes over a piece that drew nothing new, further passes over a piece)."""
    if sample is None:
        return 0, 0
    text = sample.hashes >> np.uint64(_DRAW_BITS + _COPY_BITS)
    passes = len(np.unique(sample.hashes >> np.uint64(_DRAW_BITS)))
    draws = len(np.unique(text << np.uint64(_DRAW_BITS) | (sample.hashes & np.uint64(2**_DRAW_BITS - 1))))
    return max(0, passes - draws), passes - len(np.unique(text))
