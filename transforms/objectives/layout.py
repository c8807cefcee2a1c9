"""Which pieces of which documents make up which rows, and the rows' tokens.

What a row is made of is decided here and in `transforms.packing`, once for all objectives; what is hidden in it is
decided by each objective. Nothing here draws, but for the targets of short rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.keys import below, draw, happens
from transforms.objectives.base import Documents
from transforms.packing import fill, whole
from transforms.ragged import Int64, Ragged, offsets_of, ranges

LEAST_SHORT_TOKENS = 2
"""A row that is short by chance has at least this many tokens of text (google-research/bert: uniform in [2, max])."""


@dataclass(frozen=True)
class Layout:
    """Rows as pieces of documents; arrays have one entry a piece, in the order of the rows."""

    doc: Int64
    """Index of the piece's document."""
    begin: Int64
    """First token of the piece within what there is of its document."""
    length: Int64
    """Tokens of the piece, at least 1 unless a special token follows it."""
    row_offsets: Int64
    """int64 [rows + 1], the first piece of each row."""

    def __len__(self) -> int:
        return len(self.row_offsets) - 1

    @property
    def row_tokens(self) -> Int64:
        """[rows], corpus tokens."""
        return np.diff(offsets_of(self.length)[self.row_offsets])

    @property
    def row_of_piece(self) -> Int64:
        """[pieces]."""
        return np.repeat(np.arange(len(self)), np.diff(self.row_offsets))

    def take(self, rows: Int64) -> Layout:
        """The rows at these indices, in this order."""
        pieces = np.diff(self.row_offsets)[rows]
        which = np.repeat(self.row_offsets[rows], pieces) + ranges(pieces)
        return Layout(self.doc[which], self.begin[which], self.length[which], offsets_of(pieces))

    def by_length(self) -> Layout:
        """The rows in ascending order of their tokens, so that tiles of rows waste little padding."""
        return self.take(np.argsort(self.row_tokens, kind="stable"))

    def names(self, documents: Documents, seed: int) -> npt.NDArray[np.uint64]:
        """uint64 [rows], the names under which a row's draws are made.

        A row is named by where it begins (document, token, copy), so the same tokens get the same draws wherever
        else they are built.
        """
        first = self.row_offsets[:-1]
        doc = self.doc[first]
        return draw(seed, "row", documents.keys[doc], documents.first_tokens(doc) + self.begin[first], documents.copy)

    def provenance(self, documents: Documents) -> dict[str, Any]:
        """The keyword arguments of `Examples` that say where rows are from."""
        return {
            "doc_keys": Ragged(documents.keys[self.doc], self.row_offsets),
            "doc_offsets": Ragged(documents.first_tokens(self.doc) + self.begin, self.row_offsets),
            "doc_lengths": Ragged(self.length.astype(np.int32), self.row_offsets),
            "copy": np.full(len(self), documents.copy, dtype=np.int32),
        }

    def text(self, documents: Documents) -> Ragged:
        """int32, the pieces' tokens, one sequence a piece."""
        return documents.ids.slices(documents.ids.offsets[self.doc] + self.begin, self.length)

    def tokens(
        self,
        documents: Documents,
        *,
        first: int | None = None,
        after: int,
        followed: npt.NDArray[np.bool_] | None = None,
    ) -> Ragged:
        """The rows' ids: `first`, then each piece with `after` behind it.

        Args:
          documents: of which these are pieces.
          first: the special token a row begins with, if any.
          after: the special token behind a piece.
          followed: which pieces it follows, bool [pieces]; all of them by default.

        Returns:
          int32, one sequence a row.
        """
        extra = np.ones(len(self.doc), np.int64) if followed is None else followed.astype(np.int64)
        lead = 0 if first is None else 1
        units = self.length + extra
        row_lengths = np.diff(offsets_of(units)[self.row_offsets]) + lead
        offsets = offsets_of(row_lengths)
        ids = np.full(int(offsets[-1]), after, dtype=np.int32)
        is_text = np.ones(len(ids), dtype=bool)
        ends = np.cumsum(units) + (self.row_of_piece + 1) * lead
        is_text[(ends - 1)[extra > 0]] = False
        if first is not None:
            ids[offsets[:-1]] = first
            is_text[offsets[:-1]] = False
        ids[is_text] = self.text(documents).flat
        return Ragged(ids, offsets)


def document_rows(documents: Documents, room: int, *, short_rate: float = 0.0, seed: int = 0) -> Layout:
    """A row is one document, or one piece of a document cut every `room` tokens.

    With `short_rate`, so many of the pieces have a target drawn uniformly from [2, room] instead, each piece its own
    (google-research/bert draws once a document, which floods short rows from one document).
    """
    lengths = documents.ids.lengths
    if short_rate == 0:
        pieces = -(-lengths // room)  # ceiling
        doc = np.repeat(np.arange(len(documents)), pieces)
        begin = ranges(pieces) * room
        length = np.minimum(lengths[doc] - begin, room)
        return Layout(doc, begin, length, np.arange(len(doc) + 1))
    parts: list[tuple[Int64, Int64, Int64]] = []
    doc, at, ordinal = np.arange(len(documents)), np.zeros(len(documents), np.int64), 0
    while len(doc):  # every document's next piece at a time
        names = draw(seed, "short", documents.keys[doc], documents.copy, documents.first_tokens(doc) + ordinal)
        length = np.minimum(short_targets(names, room, short_rate), lengths[doc] - at)
        parts.append((doc, at, length))
        going_on = at + length < lengths[doc]
        doc, at, ordinal = doc[going_on], (at + length)[going_on], ordinal + 1
    which, begin, length = (np.concatenate([p[i] for p in parts]) for i in range(3)) if parts else (doc, at, at)
    order = np.lexsort((begin, which))
    return Layout(which[order], begin[order], length[order], np.arange(len(which) + 1))


def full_rows(
    documents: Documents, room: int, *, separators: int = 1, short_rate: float = 0.0, seed: int = 0
) -> Layout:
    """Rows are filled to `room` units with documents, cut wherever a row is full.

    Args:
      documents: in the order in which they are laid end to end.
      room: units of a row, its tokens and its separators.
      separators: 1 if a unit follows each document's end, 0 if none does.
      short_rate: share of rows with a shorter target.
      seed: of their draw.
    """
    rooms: int | Int64 = room
    lengths = documents.ids.lengths + separators
    if short_rate and len(documents):
        rooms, left = np.zeros(0, np.int64), int(lengths.sum())
        while left > 0:  # the sum of targets is not known beforehand; a turn leaves a fraction to the next
            ordinals = len(rooms) + np.arange(left // room + 16)
            names = draw(seed, "short", documents.keys[0], documents.copy, ordinals)
            rooms = np.append(rooms, short_targets(names, room, short_rate))
            left = int(lengths.sum()) - int(rooms.sum())
    doc, begin, units, row = fill(lengths, rooms)
    length = np.minimum(units, documents.ids.lengths[doc] - begin)
    kept = length > 0  # a separator alone is no piece
    doc, begin, length, row = doc[kept], begin[kept], length[kept], row[kept]
    starts = np.flatnonzero(np.append(True, row[1:] != row[:-1])) if len(row) else np.zeros(0, np.int64)
    return Layout(doc, begin, length, np.append(starts, len(doc)))


def sentence_rows(documents: Documents, room: int, *, short_rate: float = 0.0, seed: int = 0) -> Layout:
    """Rows of whole sentences that follow each other, across documents, as many as fit.

    A separator lies between documents; a sentence longer than a row is cut. RoBERTa's FULL-SENTENCES (Liu et al.
    2019, section 4.2).

    Args:
      documents: in the order in which they are laid end to end, with their sentences.
      room: units of a row, its tokens and the separators between its documents.
      short_rate: share of rows with a shorter target.
      seed: of their draw.
    """
    doc, begin, length = sentences_of(documents, most=room)
    opens = np.ones(len(doc), dtype=np.int64)
    opens[1:] = doc[1:] != doc[:-1]
    rooms = np.full(len(doc), room)
    if short_rate:
        first = documents.first_tokens(doc) + begin
        rooms = short_targets(draw(seed, "short", documents.keys[doc], first, documents.copy), room, short_rate)
    # The separator before a document costs a unit unless the row begins there.
    row = whole(length + opens, rooms + opens, None)
    starts = np.ones(len(doc), dtype=bool)
    starts[1:] = (row[1:] != row[:-1]) | (opens[1:] > 0)
    first = np.flatnonzero(starts)  # sentence of each piece
    totals = offsets_of(length)
    pieces = np.bincount(row[first], minlength=int(row[-1]) + 1) if len(row) else np.zeros(0, np.int64)
    return Layout(doc[first], begin[first], np.diff(totals[np.append(first, len(doc))]), offsets_of(pieces))


def sentences_of(documents: Documents, *, most: int) -> tuple[Int64, Int64, Int64]:
    """(document, first token, tokens) of every sentence, those longer than `most` cut into full pieces and a rest."""
    assert documents.sentence_ends is not None
    ends = documents.sentence_ends
    doc = np.repeat(np.arange(len(documents)), ends.lengths)
    stop = ends.flat.astype(np.int64)
    begin = np.append(0, stop[:-1]) if len(stop) else stop
    begin[ends.offsets[:-1][ends.lengths > 0]] = 0
    pieces = -(-(stop - begin) // most)
    which = np.repeat(np.arange(len(doc)), pieces)
    start = begin[which] + ranges(pieces) * most
    return doc[which], start, np.minimum(stop[which] - start, most)


def short_targets(names: npt.NDArray[np.uint64], room: int, rate: float) -> Int64:
    """Targets of rows, int64: `room`, or with probability `rate` uniform in [2, room]."""
    least = min(LEAST_SHORT_TOKENS, room)
    short = least + below(draw(0, "short.target", names), room - least + 1)
    return np.where(happens(names, rate), short, room)
