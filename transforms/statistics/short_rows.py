"""Figures of rows with a shorter target by chance: how many are short, and whether those keep to it that tell it.

A target is named by where its row begins, which not every row shows: with `pack: document` only the first piece of a
document has an ordinal that is known, and with `pack: sentences` only a row of several documents is surely more than
one sentence, which may be longer than its target. Rows of `pack: full` are named by their order in the block.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from schemas.keys import draw
from transforms.objectives.layout import short_targets
from transforms.statistics.rows import Int64, Rows

_FRAME = 2
"""[CLS] and the last [SEP]; a separator between two pieces is a unit of the row."""


def measure_short_rows(rows: Rows, pack: Literal["document", "sentences", "full"], rate: float) -> None:
    """Add the figures of rows of pieces; none where no target is shorter.

    Args:
      rows: where they are added.
      pack: how rows are filled.
      rate: share of rows whose target is uniform in [2, room].
    """
    if rate == 0:
        return
    room, units, figures = rows.longest - _FRAME, rows.lengths - _FRAME, rows.per_row
    key, begin, known = first_pieces(rows)
    told = known & (begin == 0 if pack == "document" else rows.doc_keys.lengths > 1)
    if pack == "full":
        # A separator that would be a row's first unit or its last is left out: up to two less than the target.
        figures["short_rows"] = (units < room - 2).astype(np.int64)
        figures["short_rows_by_separators"] = ((units == room - 3) | (units == room - 4)).astype(np.int64)
        return
    figures["short_rows"] = (units < room).astype(np.int64)
    names = (
        draw(rows.context.seed, "short", key, rows.copy, begin)
        if pack == "document"
        else draw(rows.context.seed, "short", key, begin, rows.copy)
    )
    figures["short_targets_told"] = told.astype(np.int64)
    figures["short_target_errors"] = (told & (units > short_targets(names, room, rate))).astype(np.int64)


def first_pieces(rows: Rows) -> tuple[npt.NDArray[np.uint64], Int64, npt.NDArray[np.bool_]]:
    """(document key, first token there, whether both are known) of the piece that each row begins with; [rows]."""
    known = (rows.doc_keys.lengths > 0) & (rows.doc_keys.lengths == rows.doc_offsets.lengths)
    key, begin = np.zeros(len(rows), np.uint64), np.zeros(len(rows), np.int64)
    key[known] = rows.doc_keys.flat[rows.doc_keys.offsets[:-1][known]]
    begin[known] = rows.doc_offsets.flat[rows.doc_offsets.offsets[:-1][known]]
    return key, begin, known
