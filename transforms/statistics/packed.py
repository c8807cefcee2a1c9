"""Figures of rows that are pieces of documents, with one EOS behind each piece that ends its document.

A shard does not say which pieces EOS follows; it follows from where EOS stands. `measure_pieces` finds that out and
counts what contradicts it; how pieces may be cut is each objective's law (`measure_packed` has those of causal).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from transforms.objectives.base import Law
from transforms.ragged import Int64, offsets_of, ranges
from transforms.statistics.rows import Rows

PACKED_LAWS: dict[str, Law] = {
    "document_boundaries": (
        ("boundary_errors", "piece_errors"),
        "EOS behind each piece that ends its document and nowhere else, documents cut only as `pack` says",
    ),
}


@dataclass(frozen=True)
class Pieces:
    """The pieces of all rows by their provenance, and which of them EOS follows; [pieces] each."""

    row: Int64
    alone: npt.NDArray[np.bool_]
    """No other piece in the row."""
    first: npt.NDArray[np.bool_]
    """First of its row."""
    last: npt.NDArray[np.bool_]
    """Last of its row."""
    begin: Int64
    """First token within the document, or behind the stage's edge that cuts it."""
    length: Int64
    """Corpus tokens; 0 for a piece that is EOS alone."""
    ends: npt.NDArray[np.bool_]
    """EOS follows."""
    closed: npt.NDArray[np.bool_]
    """EOS follows, or the document goes on behind the stage's edge."""
    judged: npt.NDArray[np.bool_]
    """The row's length and lists agree with each other, so that the above can be relied on."""
    bounds: Int64
    """[pieces + 1], corpus tokens of all rows before each piece."""

    @property
    def units(self) -> Int64:
        """Corpus tokens and EOS."""
        return self.length + self.ends


def measure_pieces(rows: Rows, frame_at: Int64 | None = None) -> Pieces:
    """Find the pieces and add the figures that hold however they are cut.

    Args:
      rows: a row's length is Σ doc_lengths + its EOS tokens + other special tokens of its frame.
      frame_at: flat indices of those others, ascending.
    """
    frame_at = np.zeros(0, np.int64) if frame_at is None else frame_at
    eos_at = rows.special_at[rows.safe_ids[rows.special_at] == rows.context.special_ids["eos"]]
    eos_row = rows.row_of(eos_at)
    eos, frames = rows.count_at(eos_row), rows.count_at(rows.row_of(frame_at))
    pieces = rows.doc_lengths.lengths
    row = np.repeat(np.arange(len(rows)), pieces)
    fits = (rows.lengths == rows.corpus_tokens + eos + frames) & (eos <= pieces) & (pieces > 0)
    fits[row[rows.piece_tokens < 0]] = False
    rows.per_row["provenance_mismatch"] = (~fits).astype(np.int64)
    rows.per_row["eos_tokens"] = eos

    length = np.maximum(rows.piece_tokens, 0)
    bounds = offsets_of(length)
    before = np.searchsorted(frame_at, eos_at) - np.searchsorted(frame_at, rows.offsets[eos_row])
    text_before = eos_at - rows.offsets[eos_row] - ranges(eos) - before
    ends, errors = _followed(rows, row, length, bounds, eos_row, text_before, fits)
    rows.per_row["boundary_errors"] = errors

    # Rows whose lists differ in length have no offsets; `provenance_ragged` counts them.
    aligned = rows.doc_offsets.lengths == pieces
    begin = np.zeros(len(row), np.int64)
    starts = rows.doc_offsets.slices(rows.doc_offsets.offsets[:-1], np.where(aligned, pieces, 0))
    begin[aligned[row]] = starts.flat
    judged = (fits & aligned & (errors == 0))[row]
    edge, is_cut = _stage_edges(rows, row, begin, length)
    begin -= edge
    ordinal = ranges(pieces)
    found = Pieces(
        row=row,
        alone=pieces[row] == 1,
        first=ordinal == 0,
        last=ordinal == pieces[row] - 1,
        begin=begin,
        length=length,
        ends=ends,
        closed=ends | is_cut,
        judged=judged,
        bounds=bounds,
    )
    rows.per_row["documents_begun"] = rows.count_at(row[judged & (begin == 0)])
    rows.per_row["documents_ended"] = rows.count_at(row[judged & found.closed])
    ended = np.where(judged & found.closed, begin + length, 0)
    rows.per_row["ended_tokens"] = np.diff(offsets_of(ended)[rows.doc_lengths.offsets])
    return found


def _stage_edges(rows: Rows, row: Int64, begin: Int64, length: Int64) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """(token of the last stage's edge before each piece, 0 for none; whether it ends at one), [pieces] each.

    What is behind an edge is judged like a document of its own.
    """
    edge, ends = np.zeros(len(row), np.int64), np.zeros(len(row), bool)
    cuts = rows.context.cuts
    if not cuts or len(rows.doc_keys.flat) != len(row):  # `provenance_ragged` counts lists that differ
        return edge, ends
    found = np.flatnonzero(np.isin(rows.doc_keys.flat, np.array([key for key, _, _ in cuts], np.uint64)))
    key, copy = rows.doc_keys.flat[found], rows.copy[row[found]]
    for cut_key, cut_copy, token in cuts if len(found) else ():  # ascending in their tokens
        same = found[(key == np.uint64(cut_key)) & (copy == cut_copy)]
        edge[same[begin[same] >= token]] = token
        ends[same[begin[same] + length[same] == token]] = True
    return edge, ends


def _followed(
    rows: Rows,
    row: Int64,
    length: Int64,
    bounds: Int64,
    eos_row: Int64,
    text_before: Int64,
    fits: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.bool_], Int64]:
    """(which pieces EOS follows, [pieces]; EOS tokens that contradict the pieces, [rows]).

    EOS can stand where a piece with tokens ends, once for that piece and once for each piece of EOS alone behind
    it, and at a row's beginning once for each piece of EOS alone there. These places are the slots: one for the
    beginning of each row and one for each piece with tokens, in the rows' order.
    """
    filled = length > 0
    so_far = offsets_of(filled.astype(np.int64))
    slot = row + so_far[1:]
    ends_at = bounds[1:][filled]
    row_bounds = bounds[rows.doc_lengths.offsets[:-1]]
    opening = np.arange(len(rows)) + so_far[rows.doc_lengths.offsets[:-1]]
    place = np.empty(len(rows) + len(ends_at), np.int64)
    place[opening], place[slot[filled]] = row_bounds, ends_at
    judged = fits[eos_row]
    at = (row_bounds[eos_row] + text_before)[judged]
    eos_slot = eos_row[judged] + np.searchsorted(ends_at, at, side="right")
    found = place[eos_slot] == at
    errors = rows.count_at(eos_row[judged][~found])
    surplus = np.bincount(eos_slot[found], minlength=len(place)) - np.bincount(slot[~filled], minlength=len(place))
    most = np.ones(len(place), np.int64)
    most[opening] = 0
    slot_row = np.empty(len(place), np.int64)
    slot_row[opening], slot_row[slot[filled]] = np.arange(len(rows)), row[filled]
    wrong = ((surplus < 0) | (surplus > most)) & fits[slot_row]
    errors += rows.count_at(slot_row[wrong])
    return ~filled | (surplus[slot] > 0), errors


def longest_lengths(rows: Rows) -> Int64:
    """Lengths of full rows: each stage's longest, ascending. Rows do not say of which stage they are."""
    return np.unique([lengths[-1] for lengths in rows.context.lengths.values() if lengths]).astype(np.int64)


def is_multiple(values: Int64, steps: Int64) -> npt.NDArray[np.bool_]:
    """Whether each value is a multiple of one of these steps."""
    return (values[:, None] % np.maximum(steps, 1) == 0).any(axis=1)


def count_piece_errors(rows: Rows, pieces: Pieces, wrong: npt.NDArray[np.bool_]) -> None:
    """Add `piece_errors`: pieces that break the objective's law, bool [pieces], or begin before their document."""
    rows.per_row["piece_errors"] = rows.count_at(pieces.row[pieces.judged & (wrong | (pieces.begin < 0))])


def measure_packed(rows: Rows, pack: Literal["concat", "best_fit", "decompose"]) -> None:
    """Add the figures of rows of documents and EOS alone.

    `concat`: a row cuts its first and last document only, the last if the row is full. `best_fit`: a piece without
    EOS is a full row, so documents are cut at multiples of that. `decompose`: pieces are powers of two, EOS counted,
    longest first; those that share a row are shorter than the shortest length.
    """
    pieces = measure_pieces(rows)
    full = np.isin(rows.lengths, longest_lengths(rows))[pieces.row]
    if pack == "concat":
        wrong = (~pieces.closed & ~(pieces.last & full)) | (~pieces.first & (pieces.begin != 0))
    elif pack == "best_fit":
        wrong = (~pieces.closed & ~(pieces.alone & full)) | ~is_multiple(pieces.begin, longest_lengths(rows))
    else:
        units = np.maximum(pieces.units, 1)
        shortest = max((lengths[0] for lengths in rows.context.lengths.values() if lengths), default=0)
        wrong = (np.bitwise_count(units) != 1) | (pieces.begin % units != 0) | (~pieces.alone & (units >= shortest))
    count_piece_errors(rows, pieces, wrong)
