"""Where in their rows masked places lie, beside where they would lie if all that may be masked were drawn alike.

Tokens that are drawn alone are alike. Words are not: one that is longer than what is left of its row's budget is
skipped, so long ones are masked more seldom, and they need not lie where short ones do. But which words are skipped
depends on their sizes and on the order in which they are drawn alone, so among the words of one size in a row every
subset is equally likely. The one span that the budget cuts may end within a word; so of spans it is the first tokens
of words of one size that are alike, and the second ones.
"""

from __future__ import annotations

import numpy as np

from transforms.objectives.masking import MaskingParameters
from transforms.statistics.judged_rows import JudgedRows
from transforms.statistics.masked_places import MaskedPlaces
from transforms.statistics.rows import Int64, Rows

POSITION_BINS = 20
"""Bins of the masked positions' histogram, equal parts of a row."""

FIXED_POINT = 2**32
"""Expected counts are kept as integers of this fraction, so that they add exactly."""

_SIZES, _SPAN_SIZES, _SPAN_OFFSETS = 32, 8, 8
"""Sizes of words in tokens, and of spans' words the places in them, that are told apart; the last has all others."""


def count_positions(
    rows: Rows, places: MaskedPlaces, special_at: Int64, special_row: Int64, candidates: Int64
) -> None:
    """Add `mask_position`, and `mask_position_expected` as if every candidate of a row were equally likely.

    A row with m of c candidates masked expects m/c of each bin's candidates, in units of `FIXED_POINT`: of all places
    of a row of its length, less the special ones.

    Args:
      rows: where the histograms are added.
      places: that are masked.
      special_at, special_row: special ids of the restored rows, int64 [specials].
      candidates: of each row, int64 [rows].
    """
    masked = rows.per_row["masked"]
    judged = (candidates > 0) & (masked <= candidates)
    weight = np.zeros(len(rows), np.int64)
    weight[judged] = np.rint(masked[judged] / candidates[judged] * FIXED_POINT).astype(np.int64)
    lengths, which = np.unique(rows.lengths, return_inverse=True)
    edges = -(-np.arange(POSITION_BINS + 1) * lengths[:, None] // POSITION_BINS)  # ceiling, [lengths, bins + 1]
    by_length = np.zeros(len(rows.sources) * len(lengths), np.int64)
    np.add.at(by_length, rows.code * len(lengths) + which, weight)
    whole = by_length.reshape(len(rows.sources), len(lengths)) @ np.diff(edges, axis=1)
    special_place = special_at - rows.offsets[special_row]
    bins = special_place * POSITION_BINS // rows.lengths[special_row]
    specials = np.zeros(whole.size, np.int64)
    np.add.at(specials, rows.code[special_row] * POSITION_BINS + bins, weight[special_row])
    rows.histograms["mask_position_expected"] = (whole - specials.reshape(whole.shape)).tolist()
    row, place = places.row, places.place
    if not judged.all():
        row, place = row[judged[row]], place[judged[row]]
    # Floats are exact here: the quotient of integers below 2**53 is rounded to a whole number only if it is one.
    bins = (place * POSITION_BINS / rows.lengths[row]).astype(np.int64)
    rows.add_histogram("mask_position", row, bins, POSITION_BINS)


def count_word_positions(judged: JudgedRows) -> None:
    """The same of judged rows, as if every token in words of one size in a row were equally likely."""
    rows, text, at, begin, size = judged.rows, judged.text, judged.at, judged.begin, judged.size
    parameters = rows.context.parameters
    assert isinstance(parameters, MaskingParameters)
    sizes, offsets = (_SPAN_SIZES, _SPAN_OFFSETS) if parameters.selection == "span" else (_SIZES, 1)
    kinds = sizes * offsets + 1
    # What may not be masked is of a kind of its own, 0.
    kind = np.repeat(np.where(judged.begins_unit[begin], (np.minimum(size, sizes) - 1) * offsets + 1, 0), size)
    if offsets > 1:
        kind += np.minimum(np.arange(len(kind)) - np.repeat(begin, size), offsets - 1)
    groups = len(judged.which) * kinds
    group = np.repeat(np.arange(0, groups, kinds), text.lengths) + kind
    tokens, masked = (np.bincount(x, minlength=groups) for x in (group, group[at]))
    weight = np.rint(masked / np.maximum(tokens, 1) * FIXED_POINT)
    weight[::kinds] = 0
    edges = -(-np.arange(POSITION_BINS + 1) * text.lengths[:, None] // POSITION_BINS)  # ceiling, [judged, bins + 1]
    first = rows.code[judged.which, None] * POSITION_BINS
    counter = np.repeat((first + np.arange(POSITION_BINS)).reshape(-1), np.diff(edges, axis=1).reshape(-1))
    shape = (len(rows.sources), POSITION_BINS)
    # Sums of whole numbers, exact in floats below 2**53: 2**21 tokens of a bin.
    expected = np.bincount(counter, weight[group], minlength=shape[0] * shape[1])
    rows.histograms["mask_position_expected"] = expected.astype(np.int64).reshape(shape).tolist()
    rows.histograms["mask_position"] = np.bincount(counter[at], minlength=expected.size).reshape(shape).tolist()
