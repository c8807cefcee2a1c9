"""Reads the records of an input range: documents with their ids, and rejects with their reasons.

A record belongs to the range in which it starts, so ranges can be cut anywhere. Bad records never stop the
reading; each becomes a `Reject`. Memory is bounded by the batch and the longest allowed record.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import DataError
from schemas.job import Source
from schemas.store import InputRange
from transforms.inputs import open_parquet
from transforms.lines import EXCERPT_BYTES, lines, paragraphs

BATCH_BYTES = 2**20
"""About this many bytes of records come in one batch."""


@dataclass(frozen=True)
class Reject:
    """A record that is no document."""

    offset: int
    """Byte in the decompressed file, or row of a Parquet file."""
    reason: str
    """invalid_utf8, invalid_json, missing_text, text_not_string, empty, too_long or damaged_file."""
    detail: str
    size_bytes: int
    excerpt: str


@dataclass
class Records:
    """A batch of records in file order."""

    ids: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    read_bytes: int = 0
    """Bytes read for this batch, everything counted."""
    text_bytes: int = 0
    """UTF-8 bytes of `texts`."""
    format_bytes: int = 0
    """Bytes that are neither text nor rejected: syntax, other fields, line ends, blank lines."""

    def accept(self, doc_id: str, offset: int, text: str, text_bytes: int, size_bytes: int) -> None:
        """Add a document whose record takes `size_bytes`."""
        self.ids.append(doc_id)
        self.offsets.append(offset)
        self.texts.append(text)
        self.read_bytes += size_bytes
        self.text_bytes += text_bytes
        self.format_bytes += size_bytes - text_bytes

    def reject(self, offset: int, reason: str, detail: str, raw: bytes, size_bytes: int) -> None:
        """Add a reject whose record takes `size_bytes`."""
        excerpt = raw[:EXCERPT_BYTES].decode("utf-8", "replace")
        self.rejects.append(Reject(offset, reason, detail, size_bytes, excerpt))
        self.read_bytes += size_bytes

    def skip(self, size_bytes: int) -> None:
        """Count bytes that hold no record, such as a blank line."""
        self.read_bytes += size_bytes
        self.format_bytes += size_bytes


def read_records(piece: InputRange, source: Source, max_record_bytes: int) -> Iterator[Records]:
    """The records of a range, in batches of about `BATCH_BYTES`.

    Raises:
      DataError: the file is gone or cannot be read at all.
    """
    try:
        if piece.format == "parquet":
            yield from _read_parquet(piece, source, max_record_bytes)
        else:
            yield from _read_lines(piece, source, max_record_bytes)
    except FileNotFoundError as error:
        raise DataError(
            "An input file has gone",
            where=f"source {source.name!r}, {piece.uri}",
            remedy="Put it back and run again; what is finished is kept",
        ) from error


def _read_lines(piece: InputRange, source: Source, max_record_bytes: int) -> Iterator[Records]:
    records = paragraphs if piece.format == "txt" else lines
    batch = Records()
    for offset, raw, size, problem in records(piece, max_record_bytes):
        if problem == "damaged_file":
            batch.reject(offset, problem, raw.decode(), b"", size)
        elif problem:
            batch.reject(offset, problem, f"{size} bytes, limit {max_record_bytes}", raw, size)
        elif not raw.strip():
            batch.skip(size)
        elif piece.format == "jsonl":
            _add_json(batch, piece, source, offset, raw, size)
        else:
            _add_text(batch, f"{piece.file}:{offset}", offset, raw, size)
        if batch.read_bytes >= BATCH_BYTES:
            yield batch
            batch = Records()
    yield batch


def _add_text(batch: Records, doc_id: str, offset: int, raw: bytes, size: int) -> None:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        batch.reject(offset, "invalid_utf8", f"byte {error.start}: {error.reason}", raw, size)
        return
    if not text.strip():
        batch.reject(offset, "empty", "", raw, size)
        return
    batch.accept(doc_id, offset, text, len(raw), size)


def _add_json(batch: Records, piece: InputRange, source: Source, offset: int, raw: bytes, size: int) -> None:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        batch.reject(offset, "invalid_utf8", f"byte {error.start}: {error.reason}", raw, size)
        return
    try:
        record = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        batch.reject(offset, "invalid_json", str(error), raw, size)
        return
    if not isinstance(record, dict):
        batch.reject(offset, "invalid_json", f"expected an object, got {type(record).__name__}", raw, size)
        return
    text = record.get(source.text)
    if text is None:
        detail = f"no field {source.text!r}; fields: {', '.join(list(record)[:10])}"
        batch.reject(offset, "missing_text", detail, raw, size)
    elif not isinstance(text, str):
        detail = f"field {source.text!r} is {type(text).__name__}"
        batch.reject(offset, "text_not_string", detail, raw, size)
    elif not text.strip():
        batch.reject(offset, "empty", "", raw, size)
    else:
        doc_id = _doc_id(record.get(source.id) if source.id else None, piece, offset)
        batch.accept(doc_id, offset, text, len(text.encode()), size)


def _doc_id(value: object, piece: InputRange, offset: int) -> str:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return f"{piece.file}:{offset}"


def _ids(column: pa.Array) -> list[object]:
    """The column's values; None for text that is no UTF-8, so that its place names the document instead."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return list(column.to_pylist())
    raw = column.cast(pa.large_binary()).to_pylist()
    return [None if r is None or "\ufffd" in (t := r.decode("utf-8", "replace")) else t for r in raw]


def _rows_of_a_batch(parquet: pq.ParquetFile, piece: InputRange) -> int:
    groups = [parquet.metadata.row_group(g) for g in range(piece.begin, piece.end)]
    size = sum(g.total_byte_size for g in groups) / max(1, sum(g.num_rows for g in groups))
    return int(min(4096, max(1, BATCH_BYTES / max(size, 1))))


def _read_parquet(piece: InputRange, source: Source, max_record_bytes: int) -> Iterator[Records]:
    parquet = open_parquet(piece.uri, source)
    row = sum(parquet.metadata.row_group(g).num_rows for g in range(piece.begin))
    columns = [source.text] + ([source.id] if source.id else [])
    try:
        for arrow in parquet.iter_batches(
            batch_size=_rows_of_a_batch(parquet, piece),
            row_groups=range(piece.begin, piece.end),
            columns=columns,
            use_threads=False,
        ):
            batch = Records()
            texts = arrow.column(source.text).cast(pa.large_binary()).to_pylist()
            ids = _ids(arrow.column(source.id)) if source.id else [None] * len(texts)
            for raw, doc_id in zip(texts, ids, strict=True):
                if raw is None:
                    batch.reject(row, "missing_text", f"column {source.text!r} is null", b"", 0)
                elif len(raw) > max_record_bytes:
                    batch.reject(row, "too_long", f"{len(raw)} bytes, limit {max_record_bytes}", raw, len(raw))
                else:
                    _add_text(batch, _doc_id(doc_id, piece, row), row, raw, len(raw))
                row += 1
            yield batch
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            "A Parquet input is damaged",
            where=f"source {source.name!r}, {piece.uri}, about row {row}",
            got=str(error),
            remedy="Replace the file, or leave it out of `files`",
        ) from error
