"""Runs of masked places against the lengths that n-grams and spans draw.

Which items were taken in which order a shard does not say, and items that touch are one run. But an item's length is
a draw by the name of the row and the item's first place (`transforms.objectives.walk`), and it has that length unless
it meets what is masked already, a place that may not be masked, or the row's budget. So the last item of a run ends
where its draw says, or at such a place: a run at whose end no item of it could end is cut by the budget, and of those
a row has few.
"""

from __future__ import annotations

import numpy as np

from schemas.keys import draw
from transforms.objectives.masking import MaskingParameters
from transforms.objectives.selection import ngram_law, span_length_law
from transforms.objectives.walk import item_lengths
from transforms.statistics.judged_rows import JudgedRows

RUNS = ("ngram", "span")
"""Selections that mask places in runs, whose lengths are judged here."""


def measure_mask_spans(judged: JudgedRows) -> None:
    """Add `mask_run_errors`, runs that end where no draw says and no budget explains.

    An item at which the budget binds gets what is left, less than the t tokens that it wants, and so do all that
    follow it, so a row has at most t − 1 of those; the one span that is cut uses the budget up. Rows whose number of
    masks is wrong are for another law.
    """
    rows, which, names, text, row, at = judged.rows, judged.which, judged.names, judged.text, judged.row, judged.at
    begins_unit, blocked = judged.begins_unit, judged.blocked
    p = rows.context.parameters
    assert isinstance(p, MaskingParameters)
    if p.selection not in RUNS or len(at) == 0:
        return
    ends = text.offsets[1:]
    unit_at = np.append(np.flatnonzero(begins_unit), len(begins_unit))
    number = np.cumsum(begins_unit, dtype=np.int64) - 1  # of the unit that a place is in

    begins_run = np.append(True, (np.diff(at) != 1) | (row[1:] != row[:-1]))[: len(at)]
    run, first = np.cumsum(begins_run) - 1, np.flatnonzero(begins_run)
    run_row, run_stop = row[first], at[np.append(first, len(at))[1:] - 1] + 1
    after_run = number[run_stop - 1] + 1  # number of the unit behind it
    in_unit = run_stop < unit_at[after_run]  # the last unit goes on, unless a place that may not be masked follows
    in_unit &= run_stop < np.minimum(blocked[np.searchsorted(blocked, run_stop)], ends[run_row])

    item = np.flatnonzero(begins_unit[at])
    row, begin = row[item], at[item]
    stop = np.minimum(blocked[np.searchsorted(blocked, begin)], ends[row])
    fits = number[stop - 1] - number[begin] + 1
    bits = draw(rows.context.seed, "select.length", names[row], begin - text.offsets[row])
    if p.selection == "span":
        wants = item_lengths(bits, span_length_law(p.span_geometric_p, p.max_span_words), p.max_span_words)
    else:
        wants = item_lengths(bits, ngram_law(p.max_ngram), np.minimum(fits, p.max_ngram))
    wants = np.minimum(fits, wants)
    ends_here = number[begin] + wants == after_run[run[item]]
    explained = np.bincount(run[item[ends_here]], minlength=len(first)) > 0
    wrong = ~explained | in_unit

    allowed = np.ones(len(which), np.int64)
    if p.selection == "ngram":
        of_wrong = wrong[run[item]]
        tokens = np.minimum(unit_at[number[begin] + wants], stop) - begin
        np.maximum.at(allowed, row[of_wrong], tokens[of_wrong] - 1)
    for figure, counts in (
        ("mask_runs_judged", np.bincount(run_row, minlength=len(which))),
        ("mask_run_errors", np.maximum(np.bincount(run_row[wrong], minlength=len(which)) - allowed, 0)),
    ):
        rows.per_row[figure] = np.zeros(len(rows), np.int64)
        rows.per_row[figure][which] = counts
