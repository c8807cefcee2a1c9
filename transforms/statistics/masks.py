"""Figures of rows with masked places: how many, how they are shown, where they lie, and the frame around them.

Rows are `[CLS] piece [SEP] piece [SEP] …`. They are held against the law of `transforms.objectives.masking`, which is
shared with the builder as far as it is a formula (`prediction_law`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.objectives.base import Law
from transforms.objectives.masking import MaskingParameters, prediction_law
from transforms.ragged import offsets_of, ranges
from transforms.statistics.hashes import place_hashes
from transforms.statistics.judged_rows import judged_rows, words_are_judged
from transforms.statistics.left_out import count_left_out, left_out_is_judged
from transforms.statistics.mask_positions import FIXED_POINT, count_positions, count_word_positions
from transforms.statistics.mask_spans import measure_mask_spans
from transforms.statistics.masked_places import MaskedPlaces, masked_places, restored_at
from transforms.statistics.powers import changes, polynomials, row_sums
from transforms.statistics.rows import Int64, Rows

RUN_BINS = 16
"""Bins of the histogram of runs of masked places; the last has all longer ones."""

RUN_PLACES = 8
"""Masked places of a row from which on its runs are judged."""

DRAW_PLACES, CLUSTERED_DRAW_PLACES = 4, 8
"""Masked places from which on two passes are not expected to mask the same ones of three times as many and more:
four of twelve are the same in one of 495."""

MASK_LAWS: dict[str, Law] = {
    "special_tokens": (
        ("frame_errors",),
        "CLS first, SEP after every piece, no other CLS or SEP and no unlabelled mask between them",
    ),
    "mask_positions": (("mask_position_errors",), "positions inside the row, ascending, one label each"),
    "mask_labels": (("mask_label_errors",), "no label is a special token or outside the vocabulary"),
    "random_replacements": (("random_is_special",), "random replacements stand for text"),
}


def measure_masks(rows: Rows, table: pa.Table) -> MaskedPlaces:
    """Add the figures of masked rows.

    Args:
      rows: where they are added.
      table: with `mask_positions` and `mask_labels`.

    Returns:
      The places.
    """
    parameters = rows.context.parameters
    assert isinstance(parameters, MaskingParameters)
    figures, context = rows.per_row, rows.context
    pieces = rows.doc_lengths.lengths
    wrong = (rows.lengths != rows.corpus_tokens + pieces + 1) | (pieces == 0)
    wrong[np.repeat(np.arange(len(rows)), pieces)[rows.piece_tokens < 1]] = True
    figures["provenance_mismatch"] = wrong.astype(np.int64)

    places, predicted = masked_places(rows, table)
    figures["masked"] = np.diff(places.offsets)
    rows.restored_polynomials = _restored_polynomials(rows, places)
    _count_replacements(rows, places)
    is_special = context.is_special[places.label]
    figures["mask_label_errors"] += rows.count_where(is_special, places.row)

    # Special ids of the restored row: those that are not masked, and special labels.
    masked = np.zeros(len(rows.safe_ids), dtype=bool)
    masked[places.at] = True
    bare = np.flatnonzero(~masked[rows.special_at])
    special_at, special_row = rows.special_at[bare], rows.special_row[bare]
    _count_frame(rows, places, special_at, special_row)
    if is_special.any():
        special_at = np.concatenate([special_at, places.at[is_special]])
        special_row = np.concatenate([special_row, places.row[is_special]])
    candidates = np.maximum(rows.lengths - rows.count_at(special_row), 0)
    figures["mask_candidates"] = candidates
    law = prediction_law(parameters, rows.lengths, candidates)
    figures["mask_law"] = law
    breaks = predicted != law if parameters.exact_count else predicted > law
    if parameters.selection == "bernoulli":
        breaks = predicted > candidates
    figures["mask_count_errors"] = breaks.astype(np.int64)
    clustered = parameters.whole_word or parameters.selection in ("ngram", "span")
    least = CLUSTERED_DRAW_PLACES if clustered else DRAW_PLACES
    hashes = place_hashes(int(rows.lengths.max(initial=0)))[places.place]
    rows.drawn = row_sums(hashes, places.offsets), (predicted >= least) & (candidates >= 3 * predicted)
    if not words_are_judged(context):
        count_positions(rows, places, special_at, special_row, candidates)
    adjacent = (places.row[1:] == places.row[:-1]) & (places.at[1:] - places.at[:-1] == 1)
    figures["mask_run_squares"] = _run_squares(rows, places.row, adjacent)
    if is_special.any():
        special_at = np.unique(special_at)
        special_row = rows.row_of(special_at)
    _count_neighbours(rows, places.row[1:][adjacent], special_at, special_row, candidates)
    return places


def measure_drawn_masks(
    rows: Rows, places: MaskedPlaces, names: npt.NDArray[np.uint64], known: npt.NDArray[np.bool_]
) -> None:
    """Add the figures of words, n-grams and spans that are held against their draws.

    Args:
      rows: where they are added, after `measure_masks`.
      places: what that returned.
      names: of the rows' draws, uint64 [rows].
      known: rows whose name is sure, bool [rows].
    """
    judged = judged_rows(rows, places, names, known)
    if judged is not None:
        measure_mask_spans(judged)
    if judged is not None and words_are_judged(rows.context):
        count_word_positions(judged)
    if judged is not None and left_out_is_judged(rows.context):
        count_left_out(judged)


def _restored_polynomials(rows: Rows, places: MaskedPlaces) -> npt.NDArray[np.uint64]:
    """uint64 [2, rows], of the rows before they were masked: they differ at the masked places only."""
    table = rows.context.token_hashes
    if rows.per_row["mask_position_errors"].any():  # a place may be named twice
        restored = rows.safe_ids.copy()
        restored[places.at] = places.label
        return polynomials(restored, rows.offsets, table)
    shown = rows.safe_ids[places.at]
    return rows.polynomials + changes(shown, places.label, places.place, places.offsets, table)


def _count_replacements(rows: Rows, places: MaskedPlaces) -> None:
    """How masked places are shown: as the mask token, as they are, as a random token."""
    shown, figures = rows.safe_ids[places.at], rows.per_row
    as_mask = shown == rows.context.special_ids["mask"]
    as_label = ~as_mask & (shown == places.label)
    figures["shown_mask"] = row_sums(as_mask.astype(np.int64), places.offsets)
    figures["shown_unchanged"] = row_sums(as_label.astype(np.int64), places.offsets)
    figures["shown_random"] = figures["masked"] - figures["shown_mask"] - figures["shown_unchanged"]
    wrong = rows.context.is_special[shown] & ~as_mask & ~as_label
    figures["random_is_special"] = rows.count_where(wrong, places.row)


def _count_frame(rows: Rows, places: MaskedPlaces, special_at: Int64, special_row: Int64) -> None:
    """Restored rows start with CLS, have SEP after every piece, and no other CLS, SEP or unlabelled mask.

    Where the pieces contradict the row's length, which is counted apart, only its two ends are judged.

    Args:
      rows: where the figure is added.
      places: that are masked.
      special_at, special_row: special ids that are not masked, int64 [specials].
    """
    roles = rows.context.special_ids
    filled = rows.lengths >= 2
    errors = (~filled).astype(np.int64)
    first = rows.offsets[:-1]
    errors[filled] = restored_at(rows, places, first[filled]) != roles["cls"]
    fits = filled & (rows.per_row["provenance_mismatch"] == 0)
    errors[filled & ~fits] += restored_at(rows, places, rows.offsets[1:][filled & ~fits] - 1) != roles["sep"]
    pieces = rows.doc_lengths.lengths
    piece_row = np.repeat(np.arange(len(rows)), pieces)
    running = offsets_of(rows.piece_tokens)
    before_row = running[rows.doc_lengths.offsets[piece_row]]
    separator = running[1:] - before_row + ranges(pieces) + 1  # place in the row
    judged = np.flatnonzero(fits[piece_row])
    separator_at = rows.offsets[piece_row[judged]] + separator[judged]
    errors += rows.count_where(restored_at(rows, places, separator_at) != roles["sep"], piece_row[judged])
    expected = np.zeros(len(rows.safe_ids), dtype=bool)
    expected[separator_at] = True
    expected[first[filled]] = True
    stray = np.flatnonzero(fits[special_row] & ~expected[special_at])
    if len(stray):
        frame_ids = np.array([roles["cls"], roles["sep"], roles["mask"]])
        stray = stray[np.isin(rows.safe_ids[special_at[stray]], frame_ids)]
    rows.per_row["frame_errors"] = errors + rows.count_at(special_row[stray])


def _run_squares(rows: Rows, row: Int64, adjacent: npt.NDArray[np.bool_]) -> Int64:
    """[rows], Σ run² over runs of adjacent masked places, which are also counted by length.

    It tells how far whole words, or damage that is for `mask_runs` to judge, cluster the draws.

    Args:
      rows: where the runs are counted.
      row: of each masked place, int64 [places].
      adjacent: which places lie behind the one before, from the second on, bool [places − 1].
    """
    if len(row) == 0:
        return np.zeros(len(rows), np.int64)
    starts = np.append(0, np.flatnonzero(~adjacent) + 1)
    run = np.diff(np.append(starts, len(row)))
    begun = row[starts]
    rows.add_histogram("mask_run", begun, np.minimum(run, RUN_BINS) - 1, RUN_BINS)
    return row_sums(run * run, offsets_of(rows.count_at(begun)))


def _count_neighbours(rows: Rows, follows: Int64, special_at: Int64, special_row: Int64, candidates: Int64) -> None:
    """How many masked places follow a masked one, and how many would if every subset were equally likely.

    Of c candidates with a pairs of neighbours among them, m masked ones have a · m (m − 1) / (c (c − 1)) such pairs
    on average. Counted in rows of `RUN_PLACES` masked places and more, since few leave no room for runs.

    Args:
      rows: where the figures are added.
      follows: rows of the masked places that follow one, int64.
      special_at, special_row: special ids of the restored rows, ascending, each once, int64 [specials].
      candidates: of each row, int64 [rows].
    """
    # Each of n − 1 neighbouring pairs of a row has two candidates unless a special token is in it.
    begins, ends = special_at == rows.offsets[special_row], special_at == rows.offsets[special_row + 1] - 1
    beside = (np.diff(special_at) == 1) & (special_row[1:] == special_row[:-1])
    spoiled = rows.count_at(special_row[~begins]) + rows.count_at(special_row[~ends])
    pairs = np.maximum(rows.lengths - 1, 0) - spoiled + rows.count_where(beside, special_row[1:])
    masked = rows.per_row["masked"]
    judged = (masked >= RUN_PLACES) & (masked <= candidates)
    m, c = np.where(judged, masked, 0), np.where(judged, candidates, 2)
    expected = np.rint(pairs * (m * np.maximum(m - 1, 0) / (c * (c - 1))) * FIXED_POINT)
    rows.per_row["run_places"] = m
    rows.per_row["run_candidates"] = np.where(judged, candidates, 0)
    rows.per_row["run_pairs"] = np.where(judged, pairs, 0)
    rows.per_row["mask_neighbours"] = np.where(judged, rows.count_at(follows), 0)
    rows.per_row["mask_neighbours_expected"] = expected.astype(np.int64)
