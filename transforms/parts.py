"""Writes one part of the token store, chunk by chunk; `transforms.tokenize` says what goes into it."""

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
from schemas.tables import TOKEN_STORE, parquet_options
from transforms.ragged import Ragged, concatenate

_EXACT_LENGTHS = 8192
"""Document lengths up to this are counted exactly in a sidecar, longer ones to three digits."""


@dataclass
class PartWriter:
    """Writes one split's part chunk by chunk; a chunk closes at the first document that fills it."""

    place: Location
    stack: contextlib.ExitStack
    keys: list[npt.NDArray[np.uint64]] = field(default_factory=list)
    ids: list[Ragged] = field(default_factory=list)
    doc_ids: list[str] = field(default_factory=list)
    pending_tokens: int = 0
    chunks: list[tuple[int, int]] = field(default_factory=list)
    lengths: Counter[int] = field(default_factory=Counter)
    text_bytes: int = 0
    sink: HashingSink | None = None
    writer: pq.ParquetWriter | None = None

    def add(self, keys: npt.NDArray[np.uint64], ids: Ragged, doc_ids: list[str], text_bytes: int) -> None:
        """Add documents, whose texts take `text_bytes` together."""
        self.keys.append(keys)
        self.ids.append(ids)
        self.doc_ids += doc_ids
        self.text_bytes += text_bytes
        self.pending_tokens += len(ids.flat)
        if self.pending_tokens >= CHUNK_TOKENS:
            self._flush(final=False)

    def close(self) -> None:
        """Write what is pending and the footer; the file gets its name when the stack ends."""
        self._flush(final=True)
        if self.writer is not None:
            self.writer.close()

    def _flush(self, *, final: bool) -> None:
        ids, keys = concatenate(self.ids, np.int32), np.concatenate([*self.keys, np.zeros(0, np.uint64)])
        begin = 0
        while True:
            # A chunk ends with the document that brings it to CHUNK_TOKENS, whatever the batches were.
            stop = int(np.searchsorted(ids.offsets, ids.offsets[begin] + CHUNK_TOKENS, side="left"))
            if stop > len(ids):
                break
            self._write(ids, keys, begin, stop)
            begin = stop
        if final and begin < len(ids):
            self._write(ids, keys, begin, len(ids))
            begin = len(ids)
        rest = Ragged(ids.flat[ids.offsets[begin] :], ids.offsets[begin:] - ids.offsets[begin])
        self.ids, self.keys, self.doc_ids = [rest], [keys[begin:]], self.doc_ids[begin:]
        self.pending_tokens = len(rest.flat)

    def _write(self, ids: Ragged, keys: npt.NDArray[np.uint64], begin: int, stop: int) -> None:
        chunk = Ragged(
            ids.flat[ids.offsets[begin] : ids.offsets[stop]], ids.offsets[begin : stop + 1] - ids.offsets[begin]
        )
        if self.writer is None:
            self.sink = self.stack.enter_context(atomic_output(self.place))
            self.writer = pq.ParquetWriter(
                pa.PythonFile(self.sink, mode="w"), TOKEN_STORE, **parquet_options(TOKEN_STORE)
            )
            self.stack.callback(self.writer.close)  # before the sink closes, also after an error
        table = pa.table([keys[begin:stop], self.doc_ids[begin:stop], chunk.to_arrow(pa.int32())], schema=TOKEN_STORE)
        self.writer.write_table(table, row_group_size=table.num_rows)
        self.chunks.append((stop - begin, len(chunk.flat)))
        lengths = chunk.lengths
        scale = 10 ** np.maximum(0, np.floor(np.log10(lengths)).astype(np.int64) - 2)
        rounded = np.where(lengths <= _EXACT_LENGTHS, lengths, lengths // scale * scale)
        self.lengths.update(dict(zip(*(a.tolist() for a in np.unique(rounded, return_counts=True)), strict=True)))
