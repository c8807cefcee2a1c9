"""Hashes of rows, by which repeats, overlaps and further passes are found; they go into samples of bounded size."""

from __future__ import annotations

import numpy as np

from schemas.keys import draw
from transforms.ragged import Int64
from transforms.statistics.accumulator import Accumulator
from transforms.statistics.passes import pass_hashes
from transforms.statistics.powers import BASE, U64, places, powers, row_sums
from transforms.statistics.rows import Rows


def hash_rows(rows: Rows) -> U64:
    """uint64 [rows], equal for equal `input_ids`."""
    return draw(0, "audit.row", rows.polynomials, rows.lengths)


def hash_texts(rows: Rows) -> U64:
    """uint64 [rows], equal for equal ids before they were masked; as `hash_rows` where nothing was."""
    if rows.restored is None:
        return hash_rows(rows)
    at, ids = rows.restored
    table = rows.context.token_hashes
    values = (table[ids] - table[rows.safe_ids[at]]) * powers(BASE, len(rows.ids))[at]
    changes = row_sums(values, np.searchsorted(at, rows.offsets))
    return draw(0, "audit.row", rows.polynomials + changes * places(rows.offsets), rows.lengths)


def collect_hashes(rows: Rows, accumulator: Accumulator, split: str, stage: int) -> None:
    """Add the rows' hashes, their hashes with provenance, and their documents' keys to the samples."""
    row_hashes = hash_rows(rows)
    accumulator.add_hashes(f"rows/{split}", _scoped(row_hashes, split, stage))
    accumulator.add_hashes(f"documents/{split}", draw(0, "audit.document", rows.doc_keys.flat))
    accumulator.add_hashes(f"occurrences/{split}", occurrence_hashes(rows, row_hashes, split, stage)[1])
    accumulator.add_hashes(f"texts/{split}", hash_texts(rows))
    if rows.drawn is not None and split == "train":
        accumulator.add_hashes("passes/train", pass_hashes(rows, *rows.drawn))


def occurrence_hashes(rows: Rows, row_hashes: U64, split: str, stage: int) -> tuple[Int64, U64]:
    """Rows that have provenance, and a hash of each with it; equal for a row that was written twice."""
    has_piece = np.flatnonzero((rows.doc_keys.lengths > 0) & (rows.doc_offsets.lengths > 0))
    key = rows.doc_keys.flat[rows.doc_keys.offsets[:-1][has_piece]]
    offset = rows.doc_offsets.flat[rows.doc_offsets.offsets[:-1][has_piece]]
    scoped = _scoped(row_hashes, split, stage)[has_piece]
    return has_piece, draw(0, "audit.occurrence", scoped, key, offset, rows.copy[has_piece])


def _scoped(row_hashes: U64, split: str, stage: int) -> U64:
    """Every stage has its own validation rows of the same documents, so there a repeat counts within a stage only."""
    return draw(0, "audit.scope", row_hashes, stage if split == "validation" else 0)
