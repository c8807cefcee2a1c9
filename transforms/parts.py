"""Tokenized documents, and the writer of a part of the token store; `transforms.tokenize` says what goes into it."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.storage import HashingSink, Location, atomic_output
from schemas.store import CHUNK_TOKENS
from schemas.tables import parquet_options
from transforms.ragged import Int64, Ragged, concatenate, offsets_of

_EXACT_LENGTHS = 8192
"""Document lengths up to this are counted exactly in a sidecar, longer ones to three digits."""


@dataclass(frozen=True)
class Tokenized:
    """Documents as token ids, in file order."""

    keys: npt.NDArray[np.uint64]
    """uint64 [documents]."""
    doc_ids: list[str]
    text_bytes: Int64
    """int64 [documents]: UTF-8 bytes of their texts."""
    lists: dict[str, Ragged]
    """int32 sequences of each document by column: `ids`, as the schema says `sentence_ends` and `target_ids`."""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def tokens(self) -> Int64:
        """int64 [documents]: tokens of each, of a pair both sides."""
        both = [self.lists[column].lengths for column in ("ids", "target_ids") if column in self.lists]
        return np.sum(both, axis=0, dtype=np.int64)

    def take(self, rows: npt.NDArray[np.integer]) -> Tokenized:
        """The documents at these indices."""
        return Tokenized(
            self.keys[rows],
            [self.doc_ids[i] for i in rows.tolist()],
            self.text_bytes[rows],
            {column: ragged.take(rows) for column, ragged in self.lists.items()},
        )

    def to_arrow(self, schema: pa.Schema) -> pa.Table:
        """As rows of the token store."""
        lists = {column: ragged.to_arrow(pa.int32()) for column, ragged in self.lists.items()}
        return pa.table({"doc_key": self.keys, "doc_id": self.doc_ids, **lists}, schema=schema)

    @staticmethod
    def joined(parts: list[Tokenized]) -> Tokenized:
        """The documents of all parts, of which there is one at least, in order."""
        return Tokenized(
            np.concatenate([p.keys for p in parts]),
            [i for p in parts for i in p.doc_ids],
            np.concatenate([p.text_bytes for p in parts]),
            {column: concatenate([p.lists[column] for p in parts], np.int32) for column in parts[0].lists},
        )


@dataclass
class PartWriter:
    """Writes one split's part chunk by chunk; a chunk closes at the first document that fills it."""

    place: Location
    schema: pa.Schema
    """Of `schemas.tables.token_store_schema`."""
    stack: contextlib.ExitStack
    pending: list[Tokenized] = field(default_factory=list)
    pending_tokens: int = 0
    chunks: list[tuple[int, int]] = field(default_factory=list)
    lengths: Counter[int] = field(default_factory=Counter)
    text_bytes: int = 0
    sink: HashingSink | None = None
    writer: pq.ParquetWriter | None = None

    def add(self, documents: Tokenized) -> None:
        """Add documents."""
        self.pending.append(documents)
        self.text_bytes += int(documents.text_bytes.sum())
        self.pending_tokens += int(documents.tokens.sum())
        if self.pending_tokens >= CHUNK_TOKENS:
            self._flush(final=False)

    def close(self) -> None:
        """Write what is pending and the footer; the file gets its name when the stack ends."""
        if self.pending:
            self._flush(final=True)
        if self.writer is not None:
            self.writer.close()

    def _flush(self, *, final: bool) -> None:
        documents = Tokenized.joined(self.pending)
        offsets = offsets_of(documents.tokens)
        begin = 0
        while True:
            # A chunk ends with the document that brings it to CHUNK_TOKENS, whatever the batches were.
            stop = int(np.searchsorted(offsets, offsets[begin] + CHUNK_TOKENS, side="left"))
            if stop > len(documents):
                break
            self._write(documents.take(np.arange(begin, stop)))
            begin = stop
        rest = documents.take(np.arange(begin, len(documents)))
        if final and len(rest):
            self._write(rest)
        self.pending, self.pending_tokens = [rest], int(offsets[-1] - offsets[begin])

    def _write(self, chunk: Tokenized) -> None:
        if self.writer is None:
            self.sink = self.stack.enter_context(atomic_output(self.place))
            self.writer = pq.ParquetWriter(
                pa.PythonFile(self.sink, mode="w"), self.schema, **parquet_options(self.schema)
            )
            self.stack.callback(self.writer.close)  # before the sink closes, also after an error
        self.writer.write_table(chunk.to_arrow(self.schema), row_group_size=len(chunk))
        lengths = chunk.tokens
        self.chunks.append((len(chunk), int(lengths.sum())))
        scale = 10 ** np.maximum(0, np.floor(np.log10(lengths)).astype(np.int64) - 2)
        rounded = np.where(lengths <= _EXACT_LENGTHS, lengths, lengths // scale * scale)
        self.lengths.update(dict(zip(*(a.tolist() for a in np.unique(rounded, return_counts=True)), strict=True)))
