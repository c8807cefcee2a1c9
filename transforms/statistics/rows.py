"""Figures of one row group that hold for every objective: counts, ids, lengths, provenance.

All work is on flat arrays with offsets; nothing loops over rows or tokens. What a figure should be is not
decided here.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.keys import validation_mask
from transforms.ragged import Ragged, sequences_at
from transforms.statistics.accumulator import LENGTH_BINS, Accumulator, Group, Measures
from transforms.statistics.context import AuditContext
from transforms.statistics.powers import polynomials, row_sums

Int64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

COPY_BINS = 32
"""Passes over a source that are told apart; the last bin has all further ones."""


@dataclass
class Rows:
    """The rows of a row group as arrays, and the figures found so far."""

    context: AuditContext
    ids: npt.NDArray[np.int32]
    """[tokens], `input_ids` of all rows end to end, as stored."""
    offsets: Int64
    """[rows + 1], where each row starts in `ids`."""
    safe_ids: npt.NDArray[np.int32]
    """[tokens], ids outside the vocabulary replaced by one inside, so that tables can be indexed."""
    code: Int64
    """[rows], index into `sources`."""
    sources: list[str]
    special_at: Int64
    """[specials], ascending indices into the flat ids where special ids stand."""
    special_row: Int64
    """[specials], their rows."""
    doc_keys: Ragged
    doc_offsets: Ragged
    doc_lengths: Ragged
    copy: Int64
    per_row: dict[str, Int64] = field(default_factory=dict)
    """[rows] each, to be summed by source."""
    maxima: dict[str, Int64] = field(default_factory=dict)
    """[rows] each, to be maximised by source."""
    histograms: dict[str, list[list[int]]] = field(default_factory=dict)
    """By source and bin."""
    restored: tuple[Int64, npt.NDArray[np.int32]] | None = None
    """Places in the flat ids, ascending, and what stood there before they were masked, where the objective tells."""
    drawn: tuple[U64, npt.NDArray[np.bool_]] | None = None
    """A hash of what was drawn anew for each row, and of which rows two passes would hardly draw the same; [rows]."""

    @classmethod
    def of(cls, table: pa.Table, context: AuditContext) -> Rows:
        """The rows of a table with the columns every objective has."""
        ids = Ragged.from_arrow(table["input_ids"])
        flat = ids.flat.astype(np.int32, copy=False)
        safe = flat
        if len(flat) and (flat.min() < 0 or flat.max() >= context.vocab_size):
            safe = np.where((flat < 0) | (flat >= context.vocab_size), np.int32(context.any_text_id), flat)
        special_at = np.flatnonzero(context.is_special[safe])
        source = table["source"].combine_chunks()
        if isinstance(source, pa.ChunkedArray):
            source = pa.concat_arrays(source.chunks)
        return cls(
            context=context,
            ids=flat,
            offsets=ids.offsets,
            safe_ids=safe,
            code=np.asarray(source.indices).astype(np.int64),
            sources=[str(name) for name in source.dictionary.to_pylist()],
            special_at=special_at,
            special_row=sequences_at(ids.offsets, special_at),
            doc_keys=Ragged.from_arrow(table["doc_keys"]),
            doc_offsets=Ragged.from_arrow(table["doc_offsets"]),
            doc_lengths=Ragged.from_arrow(table["doc_lengths"]),
            copy=np.asarray(table["copy"].combine_chunks()).astype(np.int64),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @functools.cached_property
    def lengths(self) -> Int64:
        """[rows], of `input_ids`."""
        return np.diff(self.offsets)

    @functools.cached_property
    def piece_tokens(self) -> Int64:
        """[pieces], corpus tokens by the provenance."""
        return self.doc_lengths.flat.astype(np.int64)

    @functools.cached_property
    def corpus_tokens(self) -> Int64:
        """[rows], corpus tokens by the provenance."""
        return row_sums(self.piece_tokens, self.doc_lengths.offsets)

    @functools.cached_property
    def polynomials(self) -> U64:
        """uint64 [rows], `transforms.statistics.powers.polynomials` of the ids."""
        return polynomials(self.context.token_hashes[self.safe_ids], self.offsets)

    def row_of(self, at: Int64) -> Int64:
        """The rows of these indices into the flat ids, which ascend."""
        return sequences_at(self.offsets, at)

    def count_at(self, rows: Int64) -> Int64:
        """[rows], how often each row occurs among these row indices."""
        return np.bincount(rows, minlength=len(self)).astype(np.int64)

    def add_histogram(self, name: str, rows: Int64, bins: Int64, size: int) -> None:
        """Count items by the source of their row and their bin."""
        flat = np.bincount(self.code[rows] * size + bins, minlength=len(self.sources) * size)
        self.histograms[name] = flat.reshape(len(self.sources), size).tolist()

    def add_law(self, name: str, row: Int64, which: Int64, expected: Int64) -> None:
        """Add the histogram `name_expected`, the sum of what the law of each item expects, by the source of its row.

        Args:
          name: of the histogram beside it.
          row: of each item, int64 [items].
          which: law of each item, int64 [items].
          expected: of each law, in units of a fixed point, int64 [laws, bins].
        """
        size = len(expected)
        items = np.bincount(self.code[row] * size + which, minlength=len(self.sources) * size)
        self.histograms[f"{name}_expected"] = (items.reshape(len(self.sources), size) @ expected).tolist()

    def count_tokens(self) -> Iterator[tuple[str, Int64]]:
        """Sources that have rows, each with how often its rows have each id, int64 [vocab_size]."""
        size, present = self.context.vocab_size, np.unique(self.code)
        if len(present) == 0:
            return
        ids, ends = self.safe_ids, np.array([len(self.safe_ids)])
        if len(present) > 1:
            order = np.argsort(self.code, kind="stable")
            ids = Ragged(self.safe_ids, self.offsets).take(order).flat.astype(np.int32, copy=False)
            ends = np.cumsum(self.lengths[order])[np.searchsorted(self.code[order], present, side="right") - 1]
        for index, begin, end in zip(present.tolist(), [0, *ends[:-1].tolist()], ends.tolist(), strict=True):
            yield self.sources[index], np.bincount(ids[begin:end], minlength=size)

    def collect(self, accumulator: Accumulator, split: str, stage: int, length: int) -> None:
        """Add all figures to the accumulator, by source."""
        size = len(self.sources)
        sums = {
            name: np.bincount(self.code, weights=values, minlength=size).astype(np.int64).tolist()
            for name, values in self.per_row.items()
        }
        maxima = {}
        for name, values in self.maxima.items():
            greatest = np.full(size, np.iinfo(np.int64).min)
            np.maximum.at(greatest, self.code, values)
            maxima[name] = greatest.tolist()
        for index in np.unique(self.code).tolist():
            measures = Measures(
                Counter({name: counts[index] for name, counts in sums.items() if counts[index]}),
                {name: values[index] for name, values in maxima.items()},
                {name: bins[index] for name, bins in self.histograms.items()},
            )
            accumulator.add(Group(split, stage, length, self.sources[index]), measures)
        for source, counts in self.count_tokens():
            accumulator.add_tokens(split, source, counts)


def measure_common(rows: Rows, column_length: Int64, split: str, stage: int, length: int) -> None:
    """Counts, lengths, ids and provenance of rows of one bucket.

    Args:
      rows: where the figures are added.
      column_length: the `length` column.
      split: the shard's split.
      stage: the shard's stage.
      length: the bucket's length.
    """
    context, flat, n = rows.context, rows.ids, rows.lengths
    special_ids = rows.safe_ids[rows.special_at]
    figures = rows.per_row
    figures["rows"] = np.ones(len(rows), np.int64)
    figures["tokens"] = n
    figures["corpus_tokens"] = rows.corpus_tokens
    figures["pieces"] = rows.doc_lengths.lengths
    figures["special_tokens"] = rows.count_at(rows.special_row)
    figures["length_mismatch"] = (column_length != n).astype(np.int64)
    figures["length_outside_bucket"] = ((n > length) | (n <= context.previous_length(stage, length))).astype(np.int64)
    if rows.safe_ids is not flat:
        outside = np.flatnonzero((flat < 0) | (flat >= context.vocab_size))
        figures["id_out_of_range"] = rows.count_at(rows.row_of(outside))
    for role, figure in (("unk", "unknown_tokens"), ("pad", "padding_inside")):
        # Some vocabularies pad with the end-of-sequence token, which belongs in rows.
        shared = [r for r in context.special_ids if context.special_ids[r] == context.special_ids.get(role)]
        if shared == [role]:
            figures[figure] = rows.count_at(rows.special_row[special_ids == context.special_ids[role]])
    known = np.isin(np.array(rows.sources, dtype=object), np.array(context.sources, dtype=object))
    figures["source_unknown"] = (~known[rows.code]).astype(np.int64)

    keys = rows.doc_keys.flat.astype(np.uint64, copy=False)
    piece_row = np.repeat(np.arange(len(rows)), rows.doc_keys.lengths)
    held_out = validation_mask(keys, context.validation_share)
    figures["wrong_split"] = rows.count_at(piece_row[held_out != (split == "validation")])
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
    roles = sorted(context.special_ids)
    role_of = np.full(context.vocab_size, len(roles))
    for index, role in enumerate(roles):
        role_of[context.special_ids[role]] = index
    rows.add_histogram("special", rows.special_row, role_of[special_ids], len(roles) + 1)

    rows.maxima["longest_row"] = n
    rows.maxima["copy"] = rows.copy
    if same_pieces.all():
        ends = rows.doc_offsets.flat.astype(np.int64) + rows.piece_tokens
        longest = np.zeros(len(rows), np.int64)
        np.maximum.at(longest, piece_row, ends)
        rows.maxima["longest_document"] = longest
    bins = np.clip((n * LENGTH_BINS - 1) // length, 0, LENGTH_BINS - 1)
    rows.add_histogram("length", np.arange(len(rows)), bins, LENGTH_BINS)
