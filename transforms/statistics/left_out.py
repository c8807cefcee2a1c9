"""Words that were left out though they fit into what a row's budget has left.

Whole words are taken in a random order, and one that exceeds the rest of the budget is skipped
(google-research/bert, create_pretraining_data.py). The rest only becomes less, so whatever the order was, each word
that is not masked at the end is longer than what is left.
"""

from __future__ import annotations

import numpy as np

from transforms.objectives.masking import MaskingParameters
from transforms.ragged import sequences_at
from transforms.statistics.context import AuditContext
from transforms.statistics.judged_rows import JudgedRows, words_are_judged


def left_out_is_judged(context: AuditContext) -> bool:
    """True if words are masked one by one: the words of n-grams and spans that fit may lie beside masked ones."""
    p = context.parameters
    assert isinstance(p, MaskingParameters)
    return p.selection == "exact" and words_are_judged(context)


def count_left_out(judged: JudgedRows) -> None:
    """Add `mask_left_out`, words of judged rows that are not masked and no longer than the rest of the budget."""
    rows, which, text, begin = judged.rows, judged.which, judged.text, judged.begin
    masked = np.zeros(len(text.flat), dtype=bool)
    masked[judged.at] = True
    row = sequences_at(text.offsets, begin)
    rest = rows.per_row["mask_law"][which] - rows.per_row["masked"][which]
    wrong = judged.begins_unit[begin] & ~masked[begin] & (judged.size <= rest[row])
    rows.per_row["mask_left_out"] = np.zeros(len(rows), np.int64)
    rows.per_row["mask_left_out"][which] = np.bincount(row[wrong], minlength=len(which))
