"""Figures that follow from an objective's law: masked places, replacements, end-of-sequence tokens.

Each function holds rows against the law of `transforms.objectives`, which it shares with the builder as far as
the law is a formula (`prediction_counts`), and adds counts of what breaks it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.objectives import Mlm
from transforms.objectives.mlm import prediction_counts
from transforms.ragged import Ragged, offsets_of, ranges
from transforms.statistics.rows import Int64, Rows
from transforms.statistics.spans import measure_span_corruption

POSITION_BINS = 20
"""Bins of the masked positions' histogram, equal parts of a row."""

FIXED_POINT = 2**32
"""Expected counts are kept as integers of this fraction, so that they add exactly."""


def measure_objective(rows: Rows, table: pa.Table) -> None:
    """Add the figures of the rows' objective."""
    if rows.context.kind == "mlm":
        measure_mlm(rows, Ragged.from_arrow(table["mask_positions"]), Ragged.from_arrow(table["mask_labels"]))
    elif rows.context.kind == "span_corruption":
        measure_span_corruption(rows, Ragged.from_arrow(table["target_ids"]))
    else:
        measure_causal(rows)


def measure_causal(rows: Rows) -> None:
    """Rows are pieces of documents, each followed by one EOS, where the last piece may go on in the next row.

    So the length is Σ doc_lengths + pieces, or one less, and a piece after the first starts its document.
    """
    eos_id = rows.context.special_ids["eos"]
    pieces = rows.doc_lengths.lengths
    piece_row = np.repeat(np.arange(len(rows)), pieces)
    extra = rows.lengths - rows.corpus_tokens
    negative = rows.count_at(piece_row[rows.piece_tokens < 0])
    fits = ((extra == pieces) | (extra == pieces - 1)) & (negative == 0)
    rows.per_row["provenance_mismatch"] = (~fits).astype(np.int64)
    rows.per_row["eos_tokens"] = rows.count_at(rows.special_row[rows.safe_ids[rows.special_at] == eos_id])

    ordinal = ranges(pieces)
    running = offsets_of(rows.piece_tokens)
    before_row = running[rows.doc_lengths.offsets[piece_row]]
    eos_at = rows.offsets[piece_row] + running[1:] - before_row + ordinal
    ends_here = fits[piece_row] & (ordinal < extra[piece_row])
    lacks_eos = piece_row[ends_here][rows.ids[eos_at[ends_here]] != eos_id]
    rows.per_row["boundary_errors"] = rows.count_at(lacks_eos)
    if (rows.doc_offsets.lengths == pieces).all():
        rows.per_row["boundary_errors"] += rows.count_at(
            piece_row[(ordinal > 0) & (rows.doc_offsets.flat.astype(np.int64) != 0)]
        )


def measure_mlm(rows: Rows, positions: Ragged, labels: Ragged) -> None:
    """Rows are `[CLS] piece [SEP]`, with a law for how many places are predicted, which, and how they are shown."""
    parameters = rows.context.parameters
    assert isinstance(parameters, Mlm)
    figures, context = rows.per_row, rows.context
    figures["provenance_mismatch"] = (
        (rows.lengths != rows.corpus_tokens + 2) | (rows.doc_lengths.lengths != 1)
    ).astype(np.int64)

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
    _count_replacements(rows, row, rows.safe_ids[at], label_ids)
    figures["mask_label_errors"] += rows.count_at(row[is_special])

    # Special ids of the restored row: those that are not masked, and special labels.
    bare = ~masked[rows.special_at]
    _count_frame(rows, at, label_ids, bare)
    special_row = np.concatenate([rows.special_row[bare], row[is_special]])
    special_place = np.concatenate([(rows.special_at - rows.offsets[rows.special_row])[bare], place[is_special]])
    candidates = rows.lengths - rows.count_at(special_row)
    law = prediction_counts(parameters, rows.lengths, np.maximum(candidates, 0))
    figures["mask_law"] = law
    breaks = predicted > law if parameters.whole_word else predicted != law
    figures["mask_count_errors"] = breaks.astype(np.int64)
    if parameters.whole_word:
        figures["mask_run_squares"] = _run_squares(rows, row, place)
    _count_positions(rows, row, place, special_row, special_place, candidates)


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
    """Restored rows start with CLS, end with SEP and hold neither of them nor an unlabelled mask in between."""
    roles = rows.context.special_ids
    restored = rows.safe_ids.copy()
    restored[at] = label
    filled = rows.lengths >= 2
    first, last = rows.offsets[:-1][filled], rows.offsets[1:][filled] - 1
    errors = (~filled).astype(np.int64)
    errors[filled] = (restored[first] != roles["cls"]).astype(np.int64) + (restored[last] != roles["sep"])
    place = rows.special_at - rows.offsets[rows.special_row]
    interior = bare & (place > 0) & (place < rows.lengths[rows.special_row] - 1)
    frame_ids = np.array([roles["cls"], roles["sep"], roles["mask"]])
    stray = interior & np.isin(rows.safe_ids[rows.special_at], frame_ids)
    rows.per_row["frame_errors"] = errors + rows.count_at(rows.special_row[stray])


def _run_squares(rows: Rows, row: Int64, place: Int64) -> Int64:
    """[rows], Σ run² over runs of adjacent masked places: how far whole words cluster the draws."""
    if len(row) == 0:
        return np.zeros(len(rows), np.int64)
    starts = np.flatnonzero(np.r_[True, (row[1:] != row[:-1]) | (place[1:] != place[:-1] + 1)])
    run = np.diff(np.append(starts, len(row)))
    return np.bincount(row[starts], weights=run * run, minlength=len(rows)).astype(np.int64)


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
