"""The rows of one row group as arrays, with the figures found of them, and how those are added up by source.

All work is on flat arrays with offsets; nothing loops over rows or tokens. What is measured of rows is elsewhere.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.ragged import Ragged, sequences_at
from transforms.statistics.accumulator import Accumulator, Group, Measures
from transforms.statistics.context import AuditContext
from transforms.statistics.marked_ids import MarkedIds
from transforms.statistics.powers import polynomials, row_sums, row_tiles

Int64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

_MOST_COUNTERS = 2**22
"""Counters of ids by source that are counted in one go, 32 MB; where there are more, source by source."""

_TILE_TOKENS = 2**15
"""Ids counted at a time: the working set stays in the processor's cache."""


@dataclass
class Rows:
    """The rows of a row group as arrays, and the figures found so far."""

    context: AuditContext
    ids: npt.NDArray[np.int32]
    """[tokens], `input_ids` of all rows end to end, as stored."""
    inputs: MarkedIds
    """The same inside the vocabulary, with the places of special ids."""
    code: Int64
    """[rows], index into `sources`."""
    sources: list[str]
    doc_keys: Ragged
    doc_offsets: Ragged
    doc_lengths: Ragged
    copy: Int64
    longest: int = 0
    """The longest bucket's length of the rows' stage; a row that is not short has as many tokens."""
    per_row: dict[str, Int64] = field(default_factory=dict)
    """[rows] each, to be summed by source."""
    maxima: dict[str, Int64] = field(default_factory=dict)
    """[rows] each, to be maximised by source."""
    histograms: dict[str, list[list[int]]] = field(default_factory=dict)
    """By source and bin."""
    restored_polynomials: U64 | None = None
    """uint64 [2, rows], `polynomials` of the ids before they were masked, where the objective tells."""
    drawn: tuple[U64, npt.NDArray[np.bool_]] | None = None
    """A hash of what was drawn anew for each row, and of which rows two passes would hardly draw the same; [rows]."""

    @classmethod
    def of(cls, table: pa.Table, context: AuditContext) -> Rows:
        """The rows of a table with the columns every objective has."""
        ids = Ragged.from_arrow(table["input_ids"])
        source = table["source"].combine_chunks()
        if isinstance(source, pa.ChunkedArray):
            source = pa.concat_arrays(source.chunks)
        return cls(
            context=context,
            ids=ids.flat.astype(np.int32, copy=False),
            inputs=MarkedIds.of(ids, context),
            code=np.asarray(source.indices).astype(np.int64),
            sources=[str(name) for name in source.dictionary.to_pylist()],
            doc_keys=Ragged.from_arrow(table["doc_keys"]),
            doc_offsets=Ragged.from_arrow(table["doc_offsets"]),
            doc_lengths=Ragged.from_arrow(table["doc_lengths"]),
            copy=np.asarray(table["copy"].combine_chunks()).astype(np.int64),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def offsets(self) -> Int64:
        """[rows + 1], where each row starts in `ids`."""
        return self.inputs.offsets

    @property
    def safe_ids(self) -> npt.NDArray[np.int32]:
        """[tokens], ids outside the vocabulary replaced by one inside, so that tables can be indexed."""
        return self.inputs.ids

    @property
    def special_at(self) -> Int64:
        """[specials], ascending indices into the flat ids where special ids stand."""
        return self.inputs.special_at

    @property
    def special_row(self) -> Int64:
        """[specials], their rows."""
        return self.inputs.special_row

    @property
    def lengths(self) -> Int64:
        """[rows], of `input_ids`."""
        return self.inputs.lengths

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
        """uint64 [2, rows], `transforms.statistics.powers.polynomials` of the ids."""
        return polynomials(self.safe_ids, self.offsets, self.context.token_hashes)

    def row_of(self, at: Int64) -> Int64:
        """The rows of these indices into the flat ids, which ascend."""
        return sequences_at(self.offsets, at)

    def count_at(self, rows: Int64) -> Int64:
        """[rows], how often each row occurs among these row indices."""
        return np.bincount(rows, minlength=len(self))

    def count_where(self, wrong: npt.NDArray[np.bool_], rows: Int64) -> Int64:
        """[rows], how many of each row's items are wrong, which none is as a rule; both [items]."""
        return self.count_at(rows[wrong]) if wrong.any() else np.zeros(len(self), np.int64)

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
        size, present = self.context.vocab_size, self.by_source.present
        if len(present) * size <= _MOST_COUNTERS:
            first = np.searchsorted(present, self.code) * size  # counter of the row's source
            counts = np.zeros(len(present) * size, np.int64)
            for rows, items in row_tiles(self.offsets, _TILE_TOKENS):
                np.add.at(counts, self.safe_ids[items] + np.repeat(first[rows], self.lengths[rows]), 1)
            yield from zip((self.sources[i] for i in present.tolist()), counts.reshape(-1, size), strict=True)
            return
        ordered = Ragged(self.safe_ids, self.offsets).take(self.by_source.order)
        begins = ordered.offsets[self.by_source.begin].tolist()
        for index, begin, end in zip(present.tolist(), begins, [*begins[1:], len(ordered.flat)], strict=True):
            yield self.sources[index], np.bincount(ordered.flat[begin:end], minlength=size)

    @functools.cached_property
    def by_source(self) -> _BySource:
        """The rows' order by source."""
        order = np.argsort(self.code, kind="stable")
        present = np.flatnonzero(np.bincount(self.code, minlength=len(self.sources)))
        return _BySource(order, present, np.searchsorted(self.code[order], present))

    def collect(self, accumulator: Accumulator, split: str, stage: int, length: int) -> None:
        """Add all figures to the accumulator, by source."""
        order, present, begin = self.by_source
        if len(present) == 0:
            return
        sums = {
            name: np.add.reduceat(values[order], begin, dtype=np.int64).tolist()
            for name, values in self.per_row.items()
            if values.any()
        }
        maxima = {name: np.maximum.reduceat(values[order], begin).tolist() for name, values in self.maxima.items()}
        for rank, index in enumerate(present.tolist()):
            measures = Measures(
                Counter({name: counts[rank] for name, counts in sums.items() if counts[rank]}),
                {name: values[rank] for name, values in maxima.items()},
                {name: bins[index] for name, bins in self.histograms.items()},
            )
            accumulator.add(Group(split, stage, length, self.sources[index]), measures)
        for source, counts in self.count_tokens():
            accumulator.add_tokens(split, source, counts)


class _BySource(NamedTuple):
    """Rows in the order of their sources."""

    order: Int64
    """[rows]."""
    present: Int64
    """Indices of the sources that have rows, ascending."""
    begin: Int64
    """Where the rows of each of these begin in the order."""
