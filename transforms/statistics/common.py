"""Figures that rows of every objective have: counts, ids, lengths, provenance.

What a figure should be is not decided here.
"""

from __future__ import annotations

import numpy as np

from schemas.keys import validation_mask
from transforms.ragged import Int64
from transforms.statistics.accumulator import LENGTH_BINS
from transforms.statistics.rows import Rows

COPY_BINS = 32
"""Passes over a source that are told apart; the last bin has all further ones."""


def measure_common(rows: Rows, column_length: Int64, split: str, stage: int, length: int) -> None:
    """Counts, lengths, ids and provenance of rows of one bucket.

    Args:
      rows: where the figures are added.
      column_length: the `length` column.
      split: the shard's split.
      stage: the shard's stage.
      length: the bucket's length.
    """
    context, n, special_ids = rows.context, rows.lengths, rows.inputs.special_ids
    rows.longest = max(context.lengths.get(stage, ()), default=length)
    figures = rows.per_row
    figures["rows"] = np.ones(len(rows), np.int64)
    figures["tokens"] = n
    figures["corpus_tokens"] = rows.corpus_tokens
    figures["pieces"] = rows.doc_lengths.lengths
    figures["length_mismatch"] = (column_length != n).astype(np.int64)
    figures["length_outside_bucket"] = ((n > length) | (n <= context.previous_length(stage, length))).astype(np.int64)
    figures["id_out_of_range"] = rows.count_at(rows.row_of(rows.inputs.outside))
    for role, figure in (("unk", "unknown_tokens"), ("pad", "padding_inside")):
        # Some vocabularies pad with the end-of-sequence token, which belongs in rows.
        shared = [r for r in context.special_ids if context.special_ids[r] == context.special_ids.get(role)]
        if shared == [role]:
            figures[figure] = rows.count_where(special_ids == context.special_ids[role], rows.special_row)
    known = np.isin(np.array(rows.sources, dtype=object), np.array(context.sources, dtype=object))
    figures["source_unknown"] = (~known[rows.code]).astype(np.int64)

    keys = rows.doc_keys.flat.astype(np.uint64, copy=False)
    piece_row = np.repeat(np.arange(len(rows)), rows.doc_keys.lengths)
    held_out = validation_mask(keys, context.validation_share)
    figures["wrong_split"] = rows.count_where(held_out != (split == "validation"), piece_row)
    same_pieces = (rows.doc_keys.lengths == rows.doc_lengths.lengths) & (
        rows.doc_keys.lengths == rows.doc_offsets.lengths
    )
    figures["provenance_ragged"] = (~same_pieces | (rows.doc_keys.lengths == 0)).astype(np.int64)

    begun = keys[rows.doc_keys.offsets[:-1][rows.doc_keys.lengths > 0]]
    other = keys != np.repeat(begun, rows.doc_keys.lengths[rows.doc_keys.lengths > 0])
    figures["concatenated_rows"] = (rows.count_at(piece_row[other]) > 0).astype(np.int64)
    offset_row = np.repeat(np.arange(len(rows)), rows.doc_offsets.lengths)
    figures["cut_pieces"] = rows.count_at(offset_row[rows.doc_offsets.flat.astype(np.int64) > 0])
    rows.add_histogram("copy", np.arange(len(rows)), np.clip(rows.copy, 0, COPY_BINS - 1), COPY_BINS)

    rows.maxima["longest_row"] = n
    rows.maxima["copy"] = rows.copy
    if same_pieces.all():
        ends = rows.doc_offsets.flat.astype(np.int64) + rows.piece_tokens
        longest = np.zeros(len(rows), np.int64)
        np.maximum.at(longest, piece_row, ends)
        rows.maxima["longest_document"] = longest
    bins = np.clip((n * LENGTH_BINS - 1) // length, 0, LENGTH_BINS - 1)
    rows.add_histogram("length", np.arange(len(rows)), bins, LENGTH_BINS)
