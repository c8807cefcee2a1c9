"""The masked places of rows as flat arrays, and what is wrong with the two columns that name them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.ragged import Ragged, offsets_of
from transforms.statistics.rows import Int64, Rows


class MaskedPlaces(NamedTuple):
    """Masked places inside their rows, row by row, as stored; [places] each but the last."""

    row: Int64
    at: Int64
    """Index into the flat ids."""
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
    return MaskedPlaces(row, rows.offsets[row] + place, label, offsets), predicted


def _known_labels(labels: npt.NDArray[np.generic], rows: Rows) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """Labels as indices, and which of them are outside the vocabulary."""
    wide = labels.astype(np.int64)
    unknown = (wide < 0) | (wide >= rows.context.vocab_size)
    if unknown.any():
        wide[unknown] = rows.context.any_text_id
    return wide, unknown
