"""The documents of a block: reads the plan's slices of the token store, source by source and pass by pass.

Which documents a slice takes, and where a stage's edge cuts one, is said at `schemas.tables.PLAN`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.errors import DataError
from schemas.job import Job
from schemas.keys import draw
from schemas.place_errors import reading_errors
from schemas.storage import Location
from schemas.store import Split, part_location
from transforms.objectives.base import Documents
from transforms.ragged import Int64, Ragged, offsets_of


def read_documents(store: Location, split: Split, slices: pa.Table, job: Job) -> Iterator[tuple[str, Documents]]:
    """(source, documents) for each source and copy of a block, documents in a keyed order.

    Args:
      store: the token store.
      split: of the block.
      slices: the block's rows of the plan.
      job: its objective says which columns are read.

    Raises:
      DataError: a part is missing or damaged.
    """
    rows = slices.to_pylist()
    columns = ["doc_key", *token_columns(job)]
    for source, copy in sorted({(r["source"], r["copy"]) for r in rows}):
        with contextlib.ExitStack() as stack:
            parts = Parts(store, source, split, columns, stack)
            taken = [parts.slice(row) for row in rows if (row["source"], row["copy"]) == (source, copy)]
        table = pa.concat_tables([t.table for t in taken])
        if table.num_rows:
            keys = table["doc_key"].to_numpy()
            order = np.argsort(draw(job.seed, "document", keys, copy), kind="stable")
            lists = {c: Ragged.from_arrow(table[c]).take(order) for c in columns[1:]}
            documents = Documents(
                ids=lists["ids"],
                keys=keys[order],
                copy=copy,
                sentence_ends=lists.get("sentence_ends"),
                targets=lists.get("target_ids"),
            )
            before, behind = (np.concatenate([getattr(t, f) for t in taken])[order] for f in ("before", "behind"))
            yield source, cut_documents(documents, before, behind) if before.any() or behind.any() else documents


def token_columns(job: Job) -> list[str]:
    """The columns of the token store that the job's objective reads."""
    objective = job.objective
    return ["ids", *["sentence_ends"] * objective.reads_sentences, *["target_ids"] * objective.reads_pairs]


def cut_documents(documents: Documents, before: Int64, behind: Int64) -> Documents:
    """Whole documents without so many tokens at their beginning and at their end, int64 [documents] each."""
    lengths = documents.ids.lengths - before - behind
    ends = documents.sentence_ends
    return replace(
        documents,
        ids=documents.ids.slices(documents.ids.offsets[:-1] + before, lengths),
        sentence_ends=_cut_sentences(ends, before, lengths) if ends is not None else None,
        begins=before,
        goes_on=behind > 0,
    )


def _cut_sentences(ends: Ragged, before: Int64, lengths: Int64) -> Ragged:
    """Sentence ends within what is left of each document; a sentence that is cut ends where its document does."""
    doc = np.repeat(np.arange(len(ends)), ends.lengths)
    within = ends.flat.astype(np.int64) - before[doc]
    kept = (within > 0) & (within < lengths[doc])
    offsets = offsets_of(np.bincount(doc[kept], minlength=len(ends)) + 1)
    flat = np.empty(int(offsets[-1]), np.int32)
    is_last = np.zeros(len(flat), bool)
    is_last[offsets[1:] - 1] = True
    flat[is_last], flat[~is_last] = lengths, within[kept]
    return Ragged(flat, offsets)


@dataclass(frozen=True)
class Taken:
    """The documents of a slice; arrays are int64 [documents]."""

    table: pa.Table
    sizes: Int64
    """Tokens of each whole document."""
    before: Int64
    """Tokens left out at its beginning: an earlier stage has them."""
    behind: Int64
    """Tokens left out at its end: they are the next stage's."""


@dataclass
class Parts:
    """Reads slices of one source's parts, each opened once."""

    store: Location
    source: str
    split: Split
    columns: list[str]
    stack: contextlib.ExitStack
    files: dict[int, pq.ParquetFile] = field(default_factory=dict)

    def slice(self, row: dict[str, Any]) -> Taken:
        """The documents of a row of the plan."""
        place = part_location(self.store, self.source, self.split, row["part"])
        try:
            with reading_errors(place):
                if row["part"] not in self.files:
                    file = self.stack.enter_context(place.open_input())
                    self.files[row["part"]] = pq.ParquetFile(file, page_checksum_verification=True)
                part = self.files[row["part"]]
                chunk = part.read_row_group(row["row_group"], columns=self.columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                "A part of the token store is damaged",
                where=f"{place}, row group {row['row_group']}",
                got=str(error),
                remedy="Delete the part and run again; it is tokenized anew",
            ) from error
        counts = [pc.list_value_length(chunk[c]).to_numpy() for c in ("ids", "target_ids") if c in self.columns]
        edges = offsets_of(np.sum(counts, axis=0, dtype=np.int64))
        begin = row["token_begin"]
        first, last = np.searchsorted(edges[:-1], [begin, row["token_end"]]).tolist()
        if row["resumes"] and edges[first] > begin:
            first -= 1
        starts, stops = edges[first:last], edges[first + 1 : last + 1]
        cut_at = stops if row["cut_at"] is None else row["cut_at"]
        return Taken(
            table=chunk.slice(first, last - first),
            sizes=stops - starts,
            before=np.maximum(begin - starts, 0),
            behind=np.maximum(stops - cut_at, 0),
        )
