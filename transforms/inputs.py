"""Finds the input files of a job and cuts them into ranges, the units of work of `tokenize`."""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import DataError, RequestError, did_you_mean
from schemas.job import Job, Source
from schemas.place_errors import reading_errors
from schemas.storage import FileInfo, Location
from schemas.store import InputRange

_COMPRESSION = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
_FORMATS = {".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".txt": "txt"}

_EXPANSION = 3.5
"""Usual ratio of text to compressed bytes; only balances the work."""


@dataclass(frozen=True)
class InputFile:
    """One input file of a source."""

    uri: str
    file: str
    """Path relative to the deepest folder that all files of the source share."""
    size_bytes: int
    mtime_ns: int
    format: str
    compression: str | None


def find_inputs(job: Job) -> dict[str, list[InputFile]]:
    """The input files of every source, sorted by relative path.

    Raises:
      RequestError: a file is missing, a pattern matches nothing, or a format cannot be told.
    """
    return {source.name: _find(source) for source in job.sources if source.files}


def cut_ranges(job: Job, inputs: dict[str, list[InputFile]]) -> dict[str, list[InputRange]]:
    """The input ranges of every source; the ordinal in the list is the part.

    Raises:
      RequestError: a Parquet file lacks the column of the text, or it is of another type.
      DataError: a Parquet file cannot be opened.
    """
    ranges = {}
    for name, files in inputs.items():
        source = job.source(name)
        cut = functools.partial(_cut, source=source, range_bytes=job.limits.range_bytes)
        with ThreadPoolExecutor(16) as pool:  # footers of Parquet files are waited for; other files are not opened
            cuts = list((pool.map if any(f.format == "parquet" for f in files) else map)(cut, files))
        flat = [(file, cut) for file, file_cuts in zip(files, cuts, strict=True) for cut in file_cuts]
        ranges[name] = [
            InputRange(
                source=name,
                part=part,
                uri=file.uri,
                file=file.file,
                format=file.format,  # type: ignore[arg-type]
                compression=file.compression,  # type: ignore[arg-type]
                begin=begin,
                end=end,
                size_bytes=file.size_bytes,
                mtime_ns=file.mtime_ns,
                cost_bytes=cost,
            )
            for part, (file, (begin, end, cost)) in enumerate(flat)
        ]
    return ranges


def _find(source: Source) -> list[InputFile]:
    found: dict[str, FileInfo] = {}
    for pattern in source.files:
        place = Location.of(pattern)
        matches = place.glob()
        if not matches:
            _explain_nothing(source, place)
        found.update({m.uri: m for m in matches})
    infos = [found[uri] for uri in sorted(found)]
    paths = [Location(i.uri).path for i in infos]
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [_input_file(source, i, path[len(root) :].lstrip("/")) for i, path in zip(infos, paths, strict=True)]


def _explain_nothing(source: Source, place: Location) -> None:
    where = f"source {source.name!r}"
    if place.root.exists() and any(c in place.uri for c in "*?["):
        raise RequestError(
            f"The pattern {place.uri} matches no file",
            where=where,
            expected="at least one file",
            remedy="Mend `files`; relative paths are relative to the job file",
        )
    if not place.root.exists():
        raise RequestError(
            f"There is no bucket {place.root}", where=where, got=place.uri, remedy="Mend the bucket's name in `files`"
        )
    if place.exists():
        raise RequestError(
            f"{place.uri} is a directory",
            where=where,
            expected="files or a pattern",
            remedy=f"Write a pattern such as {place.uri}/*.jsonl",
        )
    raise RequestError(
        f"There is no file {place.uri}",
        where=where,
        remedy="Mend `files`; relative paths are relative to the job file",
    )


def _input_file(source: Source, info: FileInfo, relative: str) -> InputFile:
    stem, suffix = os.path.splitext(relative.lower())
    compression = _COMPRESSION.get(suffix)
    if compression:
        suffix = os.path.splitext(stem)[1]
    kind = source.format if source.format != "auto" else _FORMATS.get(suffix)
    if kind is None:
        raise RequestError(
            f"The format of {info.uri} cannot be told from its suffix",
            where=f"source {source.name!r}",
            expected="a name that ends with .jsonl, .json, .parquet or .txt, then optionally .gz, .zst or .bz2",
            remedy="Rename the file, or give the source a `format`: jsonl, parquet, txt or lines",
        )
    if kind == "parquet" and compression:
        raise RequestError(
            f"{info.uri} is a compressed Parquet file",
            where=f"source {source.name!r}",
            expected="a plain .parquet file, which is compressed inside",
            remedy="Decompress it",
        )
    if source.holds_pairs and kind in ("txt", "lines"):
        raise RequestError(
            f"{info.uri} is plain text and has no fields",
            where=f"source {source.name!r}",
            expected=f"jsonl or Parquet with the fields {source.input!r} and {source.target!r} of the pairs",
            remedy="Give files of one of these formats, or `text` in place of `input` and `target`",
        )
    return InputFile(info.uri, relative, info.size_bytes, info.mtime_ns, kind, compression)


def _cut(file: InputFile, source: Source, range_bytes: int) -> list[tuple[int, int, int]]:
    """(begin, end, cost in bytes) of each range of a file."""
    if file.format == "parquet":
        return _cut_parquet(file, source, range_bytes)
    if file.compression:
        # No compressed format here can be entered in the middle.
        return [(0, file.size_bytes, int(file.size_bytes * _EXPANSION))]
    pieces = max(1, round(file.size_bytes / range_bytes))
    edges = [file.size_bytes * i // pieces for i in range(pieces + 1)]
    return [(a, b, b - a) for a, b in pairwise(edges)]


def _cut_parquet(file: InputFile, source: Source, range_bytes: int) -> list[tuple[int, int, int]]:
    metadata = open_parquet(file.uri, source).metadata
    names = {name for _, name in source.text_fields}
    leaves = [i for i in range(metadata.num_columns) if metadata.schema.column(i).path in names]
    groups = [metadata.row_group(g) for g in range(metadata.num_row_groups)]
    sizes = [sum(group.column(leaf).total_uncompressed_size for leaf in leaves) for group in groups]
    cuts, begin, total = [], 0, 0
    for group, size in enumerate(sizes):
        total += size
        if total >= range_bytes or group == len(sizes) - 1:
            cuts.append((begin, group + 1, total))
            begin, total = group + 1, 0
    return cuts or [(0, 0, 0)]


def open_parquet(uri: str, source: Source) -> pq.ParquetFile:
    """Open a Parquet input and check the columns the source names.

    Raises:
      RequestError, DataError: as `cut_ranges`.
    """
    try:
        with reading_errors(Location(uri)):
            parquet = pq.ParquetFile(Location(uri).open_input(), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            "A Parquet input cannot be opened", where=f"source {source.name!r}, {uri}", got=str(error)
        ) from error
    schema = parquet.schema_arrow
    for key, column in (*source.text_fields, ("id", source.id)):
        if column is not None and column not in schema.names:
            raise RequestError(
                f"The Parquet file has no column {column!r}",
                where=f"source {source.name!r}, {uri}",
                expected=f"the column that `{key}` names",
                got=f"columns {', '.join(schema.names)}",
                remedy=f"Set `{key}` of the source: {did_you_mean(column, schema.names)}",
            )
    for key, column in source.text_fields:
        kind: Any = schema.field(column).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_binary(kind)):
            raise RequestError(
                f"The column {column!r} holds no text",
                where=f"source {source.name!r}, {uri}",
                expected="string or binary",
                got=str(kind),
                remedy=f"Set `{key}` of the source to the column that holds the {key}",
            )
    return parquet


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_string_view(kind))
