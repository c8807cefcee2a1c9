"""Reads the records of an input range: documents with their ids, and rejects with their reasons.

A record belongs to the range in which it starts, so ranges can be cut anywhere. Bad records never stop the
reading; each becomes a `Reject`. Memory is bounded by the batch and the longest allowed record.

Lines of JSON are parsed one by one. pyarrow's reader is no faster in blocks of a batch's size, gives up the whole
block for one bad line, and takes two objects on one line for two records.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import DataError
from schemas.job import Source
from schemas.place_errors import reading_errors
from schemas.storage import Location
from schemas.store import InputRange
from transforms.inputs import open_parquet
from transforms.lines import lines, paragraphs
from transforms.records import Records
from transforms.texts import from_binary, is_utf8, is_visible

BATCH_BYTES = 2**22
"""About this many bytes of records come in one batch, in which words repeat often enough."""


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
    batch = Records(source)
    for offset, raw, size, problem in records(piece, max_record_bytes):
        if problem == "damaged_file":
            batch.reject(offset, problem, raw.decode(), b"", size)
        elif problem:
            batch.reject(offset, problem, f"{size} bytes, limit {max_record_bytes}", raw, size)
        elif not raw.strip():
            batch.skip(size)
        elif piece.format == "jsonl":
            _add_json(batch, piece, offset, raw, size)
        else:
            _add_encoded(batch, f"{piece.file}:{offset}", offset, [raw], raw, size)
        if batch.read_bytes >= BATCH_BYTES:
            yield batch
            batch = Records(source)
    yield batch


def _add_encoded(batch: Records, doc_id: str, offset: int, texts: list[bytes], raw: bytes, size: int) -> None:
    """Add a document of these texts, of which one may be no UTF-8, or blank."""
    try:
        decoded = [text.decode("utf-8") for text in texts]
    except UnicodeDecodeError as error:
        batch.reject(offset, "invalid_utf8", f"byte {error.start}: {error.reason}", raw, size)
        return
    for (key, _), text in zip(batch.source.text_fields, decoded, strict=True):
        if not text.strip():
            batch.reject(offset, "empty" if key == "text" else f"empty_{key}", "", raw, size)
            return
    batch.accept(doc_id, offset, texts, size)


def _add_json(batch: Records, piece: InputRange, offset: int, raw: bytes, size: int) -> None:
    """Add the document of a line, or the reject that says what is wrong with it."""
    source = batch.source
    try:
        record = orjson.loads(raw)
        text = record[source.text]
        if not source.holds_pairs and text.strip():
            doc_id = _doc_id(record.get(source.id) if source.id else None, piece, offset)
            batch.accept(doc_id, offset, [text.encode()], size)
            return
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        pass  # what it is that went wrong, and whether at all, is found out step by step
    _add_json_by_steps(batch, piece, offset, raw, size)


def _add_json_by_steps(batch: Records, piece: InputRange, offset: int, raw: bytes, size: int) -> None:
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
    texts = []
    for key, name in batch.source.text_fields:
        text = record.get(name)
        if text is None:
            detail = f"no field {name!r}; fields: {', '.join(list(record)[:10])}"
            batch.reject(offset, f"missing_{key}", detail, raw, size)
            return
        if not isinstance(text, str):
            batch.reject(offset, f"{key}_not_string", f"field {name!r} is {type(text).__name__}", raw, size)
            return
        texts.append(text.encode())
    doc_id = _doc_id(record.get(batch.source.id) if batch.source.id else None, piece, offset)
    _add_encoded(batch, doc_id, offset, texts, raw, size)


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
    names = [name for _, name in source.text_fields]
    try:
        with reading_errors(Location(piece.uri)):
            for arrow in parquet.iter_batches(
                batch_size=_rows_of_a_batch(parquet, piece),
                row_groups=range(piece.begin, piece.end),
                columns=names + ([source.id] if source.id else []),
                use_threads=False,
            ):
                batch = Records(source)
                columns = [arrow.column(n).cast(pa.large_binary()) for n in names]
                ids = _ids(arrow.column(source.id)) if source.id else [None] * arrow.num_rows
                named = [_doc_id(doc_id, piece, row + i) for i, doc_id in enumerate(ids)]
                _add_rows(batch, named, row, columns, max_record_bytes)
                row += arrow.num_rows
                yield batch
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            "A Parquet input is damaged",
            where=f"source {source.name!r}, {piece.uri}, about row {row}",
            got=str(error),
            remedy="Replace the file, or leave it out of `files`",
        ) from error


def _add_rows(batch: Records, ids: list[str], first: int, columns: list[pa.Array], max_record_bytes: int) -> None:
    """Add the documents of rows; those of one text at once, where no text is bad UTF-8."""
    good = np.zeros(len(ids), dtype=bool)
    if len(columns) == 1 and not batch.source.prefix:
        present = columns[0].is_valid().to_numpy(zero_copy_only=False)
        texts = from_binary(columns[0].fill_null(b""))
        if is_utf8(texts):
            good = present & (texts.lengths <= max_record_bytes) & is_visible(texts)
            rows = np.flatnonzero(good)
            taken = texts if len(rows) == len(ids) else texts.take(rows)
            batch.accept_all([ids[i] for i in rows.tolist()], (rows + first).tolist(), taken)
    for i in np.flatnonzero(~good).tolist():
        _add_row(batch, ids[i], first + i, tuple(c[i].as_py() for c in columns), max_record_bytes)


def _add_row(batch: Records, doc_id: str, row: int, cells: tuple[bytes | None, ...], max_record_bytes: int) -> None:
    present = [cell for cell in cells if cell is not None]
    raw, size = b" ".join(present), sum(map(len, present))
    absent = [column for column, cell in zip(batch.source.text_fields, cells, strict=True) if cell is None]
    if size > max_record_bytes:
        batch.reject(row, "too_long", f"{size} bytes, limit {max_record_bytes}", raw, size)
    elif absent:
        key, name = absent[0]
        batch.reject(row, f"missing_{key}", f"column {name!r} is null", raw, size)
    else:
        _add_encoded(batch, doc_id, row, present, raw, size)
