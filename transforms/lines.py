"""Lines and paragraphs of a byte range of a text file, plain or compressed: bytes only, no decoding.

A record belongs to the range in which it starts, so ranges can be cut anywhere. Memory is bounded by the longest
allowed record, and a damaged archive gives everything before the damage.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from schemas.errors import DataError
from schemas.object_store import is_storage_failure, redact
from schemas.storage import Location
from schemas.store import InputRange

EXCERPT_BYTES = 200
"""Bytes kept of a record that is too long."""

_READ_BYTES = 2**20
_BOM = b"\xef\xbb\xbf"

Found = tuple[int, bytes, int, str]
"""(offset in the decompressed file, record without its line end, bytes it takes, problem or "")."""


def lines(piece: InputRange, max_record_bytes: int) -> Iterator[Found]:
    """One record a line; with the problem `damaged_file` it is the error's message and nothing follows."""
    for offset, line, size, problem in _lines(piece, max_record_bytes):
        if _ends(piece, offset):
            return
        yield offset, line.rstrip(b"\r\n"), size, problem


def paragraphs(piece: InputRange, max_record_bytes: int) -> Iterator[Found]:
    """One record a run of lines between blank lines.

    A document belongs to the range that holds the last blank line before it (the first document of a file: to
    the first range), which both neighbours can tell without reading back.
    """
    mine = piece.begin == 0
    start, size, problem = 0, 0, ""
    held: list[bytes] = []
    for offset, line, line_size, line_problem in _lines(piece, max_record_bytes):
        if line_problem == "damaged_file":
            # The document the damage is in has lost its end, so it is part of what is lost.
            yield (start if held else offset), line, size + line_size, line_problem
            return
        if not line_problem and not line.strip():
            if held:
                yield start, b"".join(held).rstrip(b"\r\n"), size, problem
                held, size, problem = [], 0, ""
            if _ends(piece, offset):
                return
            mine = True
            yield offset, b"", line_size, ""
            continue
        if not mine:
            continue
        if not held:
            start = offset
        size += line_size
        if line_problem or size > max_record_bytes:
            problem = "too_long"
            held = held[:1] or [line[:EXCERPT_BYTES]]  # enough for the excerpt
        else:
            held.append(line)
    if held:
        yield start, b"".join(held).rstrip(b"\r\n"), size, problem


def _ends(piece: InputRange, offset: int) -> bool:
    return piece.compression is None and offset >= piece.end


def _lines(piece: InputRange, max_record_bytes: int) -> Iterator[Found]:
    """(offset, line with its end, bytes, problem) of every line from the first that starts in the range on.

    Goes on past the range's end; the caller stops. Of a line that is too long only the beginning is kept. With
    the problem `damaged_file` the line is the error's message and no more lines follow. A byte order mark is part
    of the first line's bytes and not of its text.
    """
    # The line under the first byte started before, unless the byte ahead of it is a line's end.
    position, skip_first = max(piece.begin - 1, 0), piece.begin > 0
    kept = min(EXCERPT_BYTES, max_record_bytes)
    tail = b""
    dropped = 0  # bytes of an over-long line that were not kept
    for data, damage in _blocks(piece):
        whole = (tail + data).split(b"\n")
        tail = whole.pop()
        for line in whole:
            size = dropped + len(line) + 1
            if skip_first:
                skip_first = False
            elif size > max_record_bytes:
                yield position, line, size, "too_long"
            else:
                yield position, (line.removeprefix(_BOM) if position == 0 else line) + b"\n", size, ""
            position += size
            dropped = 0
        if len(tail) > max_record_bytes:
            dropped += len(tail) - kept
            tail = tail[:kept]
        if damage:
            yield position, damage.encode(), len(tail) + dropped, "damaged_file"
            return
    if (tail or dropped) and not skip_first:
        size = dropped + len(tail)
        line = tail.removeprefix(_BOM) if position == 0 else tail
        yield position, line, size, "too_long" if size > max_record_bytes else ""


def _blocks(piece: InputRange) -> Iterator[tuple[bytes, str]]:
    """(bytes, damage) from just before the range on; a damaged archive ends with what could be read of it."""
    decoded = 0
    with _open(piece) as stream:
        while True:
            try:
                data = stream.read(_READ_BYTES)
            except OSError as error:
                if piece.compression is None or is_storage_failure(error):
                    raise _unreadable(piece, error) from error
                yield _rescue(piece, decoded), str(error)
                return
            if not data:
                return
            decoded += len(data)
            yield data, ""


def _rescue(piece: InputRange, decoded: int) -> bytes:
    """What an archive gives after its first `decoded` bytes and before the damage.

    A read that meets the damage loses what it had decoded, so the archive is opened again and read in ever smaller
    steps, down to single bytes.
    """
    rescued = b""
    step = _READ_BYTES
    while step > 1:
        step //= 32
        with _open(piece) as stream:
            try:
                left = decoded + len(rescued)
                while left:
                    left -= len(stream.read(min(left, _READ_BYTES)))
                while data := stream.read(step):
                    rescued += data
            except OSError as error:
                if is_storage_failure(error):
                    raise _unreadable(piece, error) from error
                continue  # the damage again: nearer with the next, smaller step
            break
    return rescued


def _unreadable(piece: InputRange, error: OSError) -> DataError:
    return DataError(
        "An input file cannot be read",
        where=f"source {piece.source!r}, {piece.uri}",
        got=redact(str(error)),
        remedy="Run the same command again; what is finished is kept",
    )


def _open(piece: InputRange) -> pa.NativeFile:
    place = Location(piece.uri)
    if piece.compression:
        return place.open_stream(piece.compression)
    file = place.open_input()
    file.seek(max(piece.begin - 1, 0))
    return file
