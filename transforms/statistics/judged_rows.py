"""Rows whose masks are held against how they were drawn: one in eight, restored and cut into what is masked as one.

Every eighth row, by its name, is enough for a law of all draws, and the words of the others need not be found.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from transforms.objectives.masking import MaskingParameters
from transforms.ragged import Ragged
from transforms.statistics.context import AuditContext
from transforms.statistics.masked_places import MaskedPlaces
from transforms.statistics.rows import Int64, Rows

Bool = npt.NDArray[np.bool_]

_ONE_ROW_IN = np.uint64(8)


class JudgedRows(NamedTuple):
    """Some of the rows of a row group as they were before they were masked, with their masked places."""

    rows: Rows
    which: Int64
    """[judged], indices of the rows."""
    names: npt.NDArray[np.uint64]
    """[judged], of the rows' draws."""
    text: Ragged
    """int32, their restored ids."""
    row: Int64
    """[places], index into `which`."""
    at: Int64
    """[places], index into the flat ids of `text`, ascending."""
    begins_unit: Bool
    """[tokens], where a unit begins: a word, or a token where tokens are masked alone."""
    blocked: Int64
    """Places of `text` that may not be masked, and one past the last, ascending."""
    begin: Int64
    """[parts], where a part of `text` begins: a unit, or a place that may not be masked."""
    size: Int64
    """[parts], tokens of each."""


def words_are_judged(context: AuditContext) -> bool:
    """True if words are masked, or runs of them, until a budget is used up, and it is known where words begin."""
    p = context.parameters
    assert isinstance(p, MaskingParameters)
    of_words = p.selection == "span" or (p.whole_word and p.selection != "bernoulli")
    return of_words and context.starts_word is not None


def judged_rows(rows: Rows, places: MaskedPlaces, names: npt.NDArray[np.uint64], known: Bool) -> JudgedRows | None:
    """Every eighth row, if its number of masks is right; None where tokens are drawn alone, which needs no sample.

    Args:
      rows: all rows, with `mask_count_errors` and `mask_position_errors`.
      places: that are masked.
      names: of the rows' draws, uint64 [rows].
      known: rows whose name is sure, bool [rows]; where words are masked one by one nothing else is drawn by it.
    """
    p = rows.context.parameters
    assert isinstance(p, MaskingParameters)
    of_words = words_are_judged(rows.context)
    if not of_words and (p.selection != "ngram" or p.whole_word):
        return None
    wrong = (rows.per_row["mask_count_errors"] > 0) | (rows.per_row["mask_position_errors"] > 0)
    sure = known | (p.selection == "exact")
    which = np.flatnonzero(sure & ~wrong & (names % _ONE_ROW_IN == 0))
    text = Ragged(rows.safe_ids, rows.offsets).take(which)
    place, label = (Ragged(x, places.offsets).take(which) for x in (places.place, places.label))
    row = np.repeat(np.arange(len(which)), place.lengths)
    at = text.offsets[row] + place.flat.astype(np.int64)
    text.flat[at] = label.flat
    begins_unit, blocked = _units(rows.context, text, of_words)
    begins_part = begins_unit.copy()
    begins_part[blocked[:-1]] = True
    begin = np.flatnonzero(begins_part)
    size = np.diff(np.append(begin, len(begins_part)))
    return JudgedRows(rows, which, names[which], text, row, at, begins_unit, blocked, begin, size)


def _units(context: AuditContext, text: Ragged, of_words: bool) -> tuple[Bool, Int64]:
    """(`begins_unit`, `blocked`)."""
    ids = text.flat.astype(np.int64)
    candidate = ~context.is_special[ids]
    blocked = np.append(np.flatnonzero(~candidate), len(ids))
    if not of_words:
        return candidate, blocked
    assert context.starts_word is not None
    continues = ~context.starts_word[ids]
    continues[1:] &= candidate[:-1]
    continues[text.offsets[:-1][text.lengths > 0]] = False
    return candidate & ~continues, blocked
