"""The text of rows as pieces in the order in which they are read, and a random order of their sentences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.keys import draw
from transforms.objectives.base import Documents
from transforms.objectives.layout import Layout
from transforms.ragged import Int64, offsets_of, ranges


@dataclass(frozen=True)
class Pieces:
    """Slices of the documents' flat ids; arrays have one entry a piece, in the order of the rows."""

    begin: Int64
    length: Int64
    row_offsets: Int64
    """int64 [rows + 1], the first piece of each row."""

    @classmethod
    def of(cls, documents: Documents, layout: Layout) -> Pieces:
        """The rows' pieces as they are laid out."""
        return cls(documents.ids.offsets[layout.doc] + layout.begin, layout.length, layout.row_offsets)

    def sentences(self, documents: Documents) -> Pieces:
        """The same text cut at the ends of sentences; a sentence that a row cuts is one on either side."""
        assert documents.sentence_ends is not None
        sizes = documents.sentence_ends.lengths
        ends = documents.sentence_ends.flat + np.repeat(documents.ids.offsets[:-1], sizes)  # ascending
        stop = self.begin + self.length
        first = np.searchsorted(ends, self.begin, side="right")
        count = np.searchsorted(ends, stop, side="left") - first + 1
        offsets = offsets_of(count)
        end = np.minimum(ends[np.repeat(first, count) + ranges(count)], np.repeat(stop, count))
        begin = np.roll(end, 1)
        begin[offsets[:-1]] = self.begin
        return Pieces(begin, end - begin, offsets[self.row_offsets])

    def permuted(self, names: npt.NDArray[np.uint64], share: float, seed: int) -> Pieces:
        """The pieces of each row in a random order; best a few rows at a time.

        Args:
          names: uint64 [rows], under which draws are made.
          share: of a row's pieces, rounded up and drawn at random, that change places among themselves.
          seed: the job's.
        """
        counts = np.diff(self.row_offsets)
        row, ordinal = np.repeat(np.arange(len(counts)), counts), ranges(counts)
        moved = np.arange(len(row))
        if share < 1:
            by_chance = _by_chance(draw(seed, "sentences.moved", names[row], ordinal), row)
            chosen = ordinal < np.ceil(share * counts - 1e-9)[row]  # of the k-th of a row by chance
            moved = by_chance[chosen]
        places = draw(seed, "sentences.order", names[row[moved]], ordinal[moved])
        order = np.arange(len(row))
        order[moved] = moved[_by_chance(places, row[moved])]
        return Pieces(self.begin[order], self.length[order], self.row_offsets)

    def rows(self, begin: int, stop: int) -> Pieces:
        """Rows `begin` to `stop`."""
        first, last = self.row_offsets[begin], self.row_offsets[stop]
        return Pieces(self.begin[first:last], self.length[first:last], self.row_offsets[begin : stop + 1] - first)


def _by_chance(bits: npt.NDArray[np.uint64], row: Int64) -> Int64:
    """Indices by row, and within a row by random bits."""
    order = np.argsort(bits)
    # numpy's stable sort of 16 bits is a radix sort, and a few rows can be told apart by so many.
    return order[np.argsort(row.astype(np.min_scalar_type(int(row.max(initial=0))))[order], kind="stable")]
