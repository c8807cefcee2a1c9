"""Hashes of rows, by which repeats, overlaps and further passes are found; they go into samples of bounded size."""

from __future__ import annotations

import functools

import numpy as np

from schemas.keys import draw
from transforms.ragged import Int64
from transforms.statistics.accumulator import Accumulator
from transforms.statistics.passes import pass_hashes
from transforms.statistics.powers import U64
from transforms.statistics.rows import Rows


def hash_rows(rows: Rows) -> U64:
    """uint64 [2, rows], 128 bits, equal for equal `input_ids`."""
    return draw(0, "audit.row", rows.polynomials, rows.lengths)


def hash_texts(rows: Rows) -> U64:
    """uint64 [2, rows], equal for equal ids before they were masked; as `hash_rows` where nothing was."""
    if rows.restored_polynomials is None:
        return hash_rows(rows)
    return draw(0, "audit.row", rows.restored_polynomials, rows.lengths)


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
    """Rows that have provenance, and the hash of each with it, uint64 [2, those], equal for a row written twice."""
    has_piece = np.flatnonzero((rows.doc_keys.lengths > 0) & (rows.doc_offsets.lengths > 0))
    key = rows.doc_keys.flat[rows.doc_keys.offsets[:-1][has_piece]]
    offset = rows.doc_offsets.flat[rows.doc_offsets.offsets[:-1][has_piece]]
    scoped = _scoped(row_hashes, split, stage)[:, has_piece]
    return has_piece, draw(0, "audit.occurrence", scoped, key, offset, rows.copy[has_piece])


def _scoped(row_hashes: U64, split: str, stage: int) -> U64:
    """Every stage has its own validation rows of the same documents, so there a repeat counts within a stage only."""
    return draw(0, "audit.scope", row_hashes, stage if split == "validation" else 0)


def place_hashes(size: int) -> U64:
    """uint64 [size and more], 64 random bits for each place in a row."""
    return _place_hashes(size.bit_length())


@functools.cache
def _place_hashes(bits: int) -> U64:
    return draw(0, "audit.place", np.arange(2**bits))
