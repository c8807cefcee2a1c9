"""The masked places of rows as flat arrays, and what is wrong with the two columns that name them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.ragged import Ragged, offsets_of
from transforms.statistics.rows import Int64, Rows


class MaskedPlaces(NamedTuple):
    """Masked places inside their rows, row by row; [places] each but the last."""

    row: Int64
    place: Int64
    """In its row, ascending."""
    at: Int64
    """Index into the flat ids, ascending."""
    label: Int64
    """What stood there; an id of text where it is outside the vocabulary."""
    offsets: Int64
    """[rows + 1], where each row starts among the places."""


def masked_places(rows: Rows, table: pa.Table) -> tuple[MaskedPlaces, Int64]:
    """The masked places, and how many each row names, int64 [rows], those outside of it counted.

    Adds `mask_position_errors`, of places outside of their row or not ascending and of rows whose lists differ in
    length, and `mask_label_errors`, of labels outside the vocabulary.
    """
    positions, labels = (Ragged.from_arrow(table[name]) for name in ("mask_positions", "mask_labels"))
    # Rows whose two lists differ in length have no masked place that could be judged.
    paired = positions.lengths == labels.lengths
    predicted = positions.lengths
    if not paired.all():
        predicted = np.where(paired, predicted, 0)
        positions, labels = (x.slices(x.offsets[:-1], predicted) for x in (positions, labels))
    place, offsets = positions.flat.astype(np.int64), positions.offsets
    row = np.repeat(np.arange(len(rows)), predicted)
    inside = (place >= 0) & (place < np.repeat(rows.lengths, predicted))
    wrong = ~inside
    wrong[1:] |= (row[1:] == row[:-1]) & (place[1:] <= place[:-1])
    rows.per_row["mask_position_errors"] = rows.count_where(wrong, row) + ~paired
    label, unknown = _known_labels(labels.flat, rows)
    rows.per_row["mask_label_errors"] = rows.count_where(unknown, row)
    if not inside.all():
        row, place, label = row[inside], place[inside], label[inside]
        offsets = offsets_of(rows.count_at(row))
    at = rows.offsets[row] + place
    if rows.per_row["mask_position_errors"].any():
        order = np.argsort(at, kind="stable")
        place, at, label = place[order], at[order], label[order]
    return MaskedPlaces(row, place, at, label, offsets), predicted


def restored_at(rows: Rows, places: MaskedPlaces, at: Int64) -> npt.NDArray[np.int32]:
    """Ids at these indices into the flat ids as they were before they were masked."""
    ids = rows.safe_ids[at]
    if len(places.at):
        nearest = np.searchsorted(places.at, at, side="right") - 1  # of a place that is named twice the last
        masked = np.flatnonzero(places.at[nearest] == at)
        ids[masked] = places.label[nearest[masked]]
    return ids


def _known_labels(labels: npt.NDArray[np.generic], rows: Rows) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """Labels as indices, and which of them are outside the vocabulary."""
    wide = labels.astype(np.int64)
    unknown = (wide < 0) | (wide >= rows.context.vocab_size)
    if unknown.any():
        wide[unknown] = rows.context.any_text_id
    return wide, unknown
