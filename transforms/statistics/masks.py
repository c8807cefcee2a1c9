"""Figures of rows with masked places: how many, how they are shown, where they lie, and the frame around them.

Rows are `[CLS] piece [SEP] piece [SEP] …`. They are held against the law of `transforms.objectives.masking`, which is
shared with the builder as far as it is a formula (`prediction_law`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.keys import draw
from transforms.objectives.base import Law
from transforms.objectives.masking import MaskingParameters, prediction_law
from transforms.ragged import Ragged, offsets_of, ranges
from transforms.statistics.powers import row_sums
from transforms.statistics.rows import Int64, Rows

POSITION_BINS = 20
"""Bins of the masked positions' histogram, equal parts of a row."""

RUN_BINS = 16
"""Bins of the histogram of runs of masked places; the last has all longer ones."""

RUN_PLACES = 8
"""Masked places of a row from which on its runs are judged."""

DRAW_PLACES, CLUSTERED_DRAW_PLACES = 4, 8
"""Masked places from which on two passes are not expected to mask the same ones of three times as many and more:
four of twelve are the same in one of 495."""

FIXED_POINT = 2**32
"""Expected counts are kept as integers of this fraction, so that they add exactly."""

MASK_LAWS: dict[str, Law] = {
    "special_tokens": (
        ("frame_errors",),
        "CLS first, SEP after every piece, no other CLS or SEP and no unlabelled mask between them",
    ),
    "mask_positions": (("mask_position_errors",), "positions inside the row, ascending, one label each"),
    "mask_labels": (("mask_label_errors",), "no label is a special token or outside the vocabulary"),
    "random_replacements": (("random_is_special",), "random replacements stand for text"),
}


def measure_masks(rows: Rows, table: pa.Table) -> None:
    """Add the figures of masked rows.

    Args:
      rows: where they are added.
      table: with `mask_positions` and `mask_labels`.
    """
    parameters = rows.context.parameters
    assert isinstance(parameters, MaskingParameters)
    positions, labels = (Ragged.from_arrow(table[name]) for name in ("mask_positions", "mask_labels"))
    figures, context = rows.per_row, rows.context
    pieces = rows.doc_lengths.lengths
    wrong = (rows.lengths != rows.corpus_tokens + pieces + 1) | (pieces == 0)
    wrong[np.repeat(np.arange(len(rows)), pieces)[rows.piece_tokens < 1]] = True
    figures["provenance_mismatch"] = wrong.astype(np.int64)

    # Rows whose two lists differ in length have no masked place that could be judged.
    paired = positions.lengths == labels.lengths
    predicted = np.where(paired, positions.lengths, 0)
    place = positions.slices(positions.offsets[:-1], predicted).flat.astype(np.int64)
    label = labels.slices(labels.offsets[:-1], predicted).flat.astype(np.int64)
    row = np.repeat(np.arange(len(rows)), predicted)
    inside = (place >= 0) & (place < rows.lengths[row])
    follows = np.zeros(len(row), dtype=bool)
    follows[1:] = row[1:] == row[:-1]
    descends = np.zeros(len(row), dtype=bool)
    descends[1:] = follows[1:] & (place[1:] <= place[:-1])
    figures["mask_position_errors"] = rows.count_at(row[~inside | descends]) + ~paired
    known = (label >= 0) & (label < context.vocab_size)
    figures["mask_label_errors"] = rows.count_at(row[~known])

    row, place, label = row[inside], place[inside], label[inside]
    label_ids: npt.NDArray[np.int32] = np.where(known[inside], label, context.any_text_id).astype(np.int32)
    is_special = context.is_special[label_ids]
    at = rows.offsets[row] + place
    masked = np.zeros(len(rows.safe_ids), dtype=bool)
    masked[at] = True
    figures["masked"] = rows.count_at(row)
    rows.restored = distinct_places(at, label_ids)
    _count_replacements(rows, row, rows.safe_ids[at], label_ids)
    figures["mask_label_errors"] += rows.count_at(row[is_special])

    # Special ids of the restored row: those that are not masked, and special labels.
    bare = ~masked[rows.special_at]
    _count_frame(rows, at, label_ids, bare)
    special_row = np.concatenate([rows.special_row[bare], row[is_special]])
    special_place = np.concatenate([(rows.special_at - rows.offsets[rows.special_row])[bare], place[is_special]])
    candidates = rows.lengths - rows.count_at(special_row)
    candidates = np.maximum(candidates, 0)
    figures["mask_candidates"] = candidates
    law = prediction_law(parameters, rows.lengths, candidates)
    figures["mask_law"] = law
    breaks = predicted != law if parameters.exact_count else predicted > law
    if parameters.selection == "bernoulli":
        breaks = predicted > candidates
    figures["mask_count_errors"] = breaks.astype(np.int64)
    clustered = parameters.whole_word or parameters.selection in ("ngram", "span")
    figures["mask_run_squares"] = _run_squares(rows, row, place)
    places = row_sums(draw(0, "audit.place", place), offsets_of(figures["masked"]))
    least = CLUSTERED_DRAW_PLACES if clustered else DRAW_PLACES
    rows.drawn = places, (predicted >= least) & (candidates >= 3 * predicted)
    _count_positions(rows, row, place, special_row, special_place, candidates)
    _count_neighbours(rows, row, place, rows.offsets[special_row] + special_place, candidates)


def distinct_places(at: Int64, ids: npt.NDArray[np.int32]) -> tuple[Int64, npt.NDArray[np.int32]]:
    """Ascending places and their ids; of a place that is named twice, which is counted as an error, the first."""
    if (at[1:] > at[:-1]).all():
        return at, ids
    places, first = np.unique(at, return_index=True)
    return places, ids[first]


def _count_replacements(rows: Rows, row: Int64, shown: npt.NDArray[np.int32], label: npt.NDArray[np.int32]) -> None:
    """How masked places are shown: as the mask token, as a random token, as they are."""
    as_mask = shown == rows.context.special_ids["mask"]
    as_label = ~as_mask & (shown == label)
    random = ~as_mask & ~as_label
    rows.per_row["shown_mask"] = rows.count_at(row[as_mask])
    rows.per_row["shown_unchanged"] = rows.count_at(row[as_label])
    rows.per_row["shown_random"] = rows.count_at(row[random])
    rows.per_row["random_is_special"] = rows.count_at(row[random & rows.context.is_special[shown]])


def _count_frame(rows: Rows, at: Int64, label: npt.NDArray[np.int32], bare: npt.NDArray[np.bool_]) -> None:
    """Restored rows start with CLS, have SEP after every piece, and no other CLS, SEP or unlabelled mask.

    Where the pieces contradict the row's length, which is counted apart, only its two ends are judged.
    """
    roles = rows.context.special_ids
    restored = rows.safe_ids.copy()
    restored[at] = label
    filled = rows.lengths >= 2
    errors = (~filled).astype(np.int64)
    errors[filled] = restored[rows.offsets[:-1][filled]] != roles["cls"]
    fits = filled & (rows.per_row["provenance_mismatch"] == 0)
    errors[filled & ~fits] += restored[rows.offsets[1:][filled & ~fits] - 1] != roles["sep"]
    pieces = rows.doc_lengths.lengths
    piece_row = np.repeat(np.arange(len(rows)), pieces)
    running = offsets_of(rows.piece_tokens)
    before_row = running[rows.doc_lengths.offsets[piece_row]]
    separator = running[1:] - before_row + ranges(pieces) + 1  # place in the row
    judged = fits[piece_row]
    expected = np.zeros(len(restored), dtype=bool)
    expected[rows.offsets[piece_row][judged] + separator[judged]] = True
    errors += rows.count_at(rows.row_of(np.flatnonzero(expected & (restored != roles["sep"]))))
    expected[rows.offsets[:-1][filled]] = True
    frame_ids = np.array([roles["cls"], roles["sep"], roles["mask"]])
    stray = bare & fits[rows.special_row] & ~expected[rows.special_at]
    stray &= np.isin(rows.safe_ids[rows.special_at], frame_ids)
    rows.per_row["frame_errors"] = errors + rows.count_at(rows.special_row[stray])


def _run_squares(rows: Rows, row: Int64, place: Int64) -> Int64:
    """[rows], Σ run² over runs of adjacent masked places, which are also counted by length.

    It tells how far whole words, or damage that is for `mask_runs` to judge, cluster the draws.
    """
    if len(row) == 0:
        return np.zeros(len(rows), np.int64)
    starts = np.flatnonzero(np.r_[True, (row[1:] != row[:-1]) | (place[1:] != place[:-1] + 1)])
    run = np.diff(np.append(starts, len(row)))
    rows.add_histogram("mask_run", row[starts], np.minimum(run, RUN_BINS) - 1, RUN_BINS)
    return np.bincount(row[starts], weights=run * run, minlength=len(rows)).astype(np.int64)


def _count_neighbours(rows: Rows, row: Int64, place: Int64, special_at: Int64, candidates: Int64) -> None:
    """How many masked places follow a masked one, and how many would if every subset were equally likely.

    Of c candidates with a pairs of neighbours among them, m masked ones have a · m (m − 1) / (c (c − 1)) such pairs
    on average. Counted in rows of `RUN_PLACES` masked places and more, since few leave no room for runs.
    """
    special_at = np.unique(special_at)
    special_row = rows.row_of(special_at)
    # Each of n − 1 neighbouring pairs of a row has two candidates unless a special token is in it.
    begins, ends = special_at == rows.offsets[special_row], special_at == rows.offsets[special_row + 1] - 1
    beside = (np.diff(special_at) == 1) & (special_row[1:] == special_row[:-1])
    spoiled = rows.count_at(special_row[~begins]) + rows.count_at(special_row[~ends])
    pairs = np.maximum(rows.lengths - 1, 0) - spoiled + rows.count_at(special_row[1:][beside])
    follows = np.flatnonzero((row[1:] == row[:-1]) & (place[1:] == place[:-1] + 1)) + 1
    masked = rows.per_row["masked"]
    judged = (masked >= RUN_PLACES) & (masked <= candidates)
    m, c = np.where(judged, masked, 0), np.where(judged, candidates, 2)
    expected = np.rint(pairs * (m * np.maximum(m - 1, 0) / (c * (c - 1))) * FIXED_POINT)
    rows.per_row["run_places"] = m
    rows.per_row["run_candidates"] = np.where(judged, candidates, 0)
    rows.per_row["run_pairs"] = np.where(judged, pairs, 0)
    rows.per_row["mask_neighbours"] = np.where(judged, rows.count_at(row[follows]), 0)
    rows.per_row["mask_neighbours_expected"] = expected.astype(np.int64)


def _count_positions(
    rows: Rows, row: Int64, place: Int64, special_row: Int64, special_place: Int64, candidates: Int64
) -> None:
    """Histogram of masked positions, and the one expected if every candidate of a row were equally likely.

    A row with m of c candidates masked expects m/c of each bin's candidates, in units of `FIXED_POINT`.
    """
    edges = -(-np.arange(POSITION_BINS + 1) * rows.lengths[:, None] // POSITION_BINS)  # ceiling, [rows, bins + 1]
    in_bin = np.diff(edges, axis=1)
    bins = special_place * POSITION_BINS // rows.lengths[special_row]
    specials = np.bincount(special_row * POSITION_BINS + bins, minlength=len(rows) * POSITION_BINS)
    in_bin -= specials.reshape(in_bin.shape)
    masked = rows.per_row["masked"]
    judged = (candidates > 0) & (masked <= candidates)
    weight = np.zeros(len(rows), np.int64)
    weight[judged] = np.rint(masked[judged] / candidates[judged] * FIXED_POINT).astype(np.int64)
    by_source = np.zeros((len(rows.sources), POSITION_BINS), np.int64)
    expected = in_bin * weight[:, None]
    for index in np.unique(rows.code).tolist():
        by_source[index] = expected[rows.code == index].sum(axis=0)
    rows.histograms["mask_position_expected"] = by_source.tolist()
    counted = judged[row]
    rows.add_histogram(
        "mask_position", row[counted], place[counted] * POSITION_BINS // rows.lengths[row[counted]], POSITION_BINS
    )
