"""Reading records: every byte of a file lands in exactly one range, and every record in exactly one place."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import zlib
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from unit_helpers import cases, input_range, source

import transforms.lines as lines
import transforms.read as read
from schemas.errors import DataError, RequestError
from schemas.job import Source
from schemas.store import InputRange

BOM = b"\xef\xbb\xbf"
LIMIT = 260  # just above the excerpt's 200 bytes, so that over-long records are cheap to generate

Found = tuple[int, str, str]
"""Offset, "document" or the reject's reason, and the document's text."""


def read_all(pieces: Iterable[InputRange], of: Source | None = None, limit: int = LIMIT) -> tuple[list[Found], int]:
    """Everything found, in order, and the bytes read; checks the accounts of every batch."""
    found: list[Found] = []
    total = 0
    for piece in pieces:
        for batch in read.read_records(piece, of or source(), limit):
            documents = [(o, "document", t) for o, t in zip(batch.offsets, batch.texts, strict=True)]
            rejects = [(r.offset, r.reason, "") for r in batch.rejects]
            assert documents == sorted(documents, key=lambda f: f[0])
            assert rejects == sorted(rejects, key=lambda f: f[0])
            assert batch.text_bytes == sum(len(t.encode()) for t in batch.texts)
            assert batch.read_bytes == batch.text_bytes + batch.format_bytes + sum(
                r.size_bytes for r in batch.rejects
            )
            found += sorted(documents + rejects, key=lambda f: f[0])
            total += batch.read_bytes
    return found, total


def cut(path: Path, kind: str, points: Iterable[int]) -> list[InputRange]:
    """The ranges of a file cut at these points."""
    size = path.stat().st_size
    edges = [0, *sorted({p % size for p in points} - {0}), size] if size else [0, 0]
    return [input_range(path, kind, begin=a, end=b) for a, b in pairwise(edges)]


def text_outcome(offset: int, record: bytes, size: int, limit: int) -> Found:
    """What a record of plain text must become."""
    if size > limit:
        return offset, "too_long", ""
    try:
        text = record.rstrip(b"\r\n").decode("utf-8")
    except UnicodeDecodeError:
        return offset, "invalid_utf8", ""
    return (offset, "document", text) if text.strip() else (offset, "empty", "")


def lines_oracle(data: bytes, limit: int) -> list[Found]:
    """`lines`, read the slow and obvious way; a byte order mark counts as bytes of the first record."""
    found, offset = [], 0
    for line in io.BytesIO(data).readlines():
        text = line.removeprefix(BOM) if offset == 0 else line
        if text.strip() or len(line) > limit:
            found.append(text_outcome(offset, text, len(line), limit))
        offset += len(line)
    return found


def txt_oracle(data: bytes, limit: int) -> list[Found]:
    """`txt`: runs of lines between blank lines, read the slow and obvious way."""
    found, offset, start, size, held = [], 0, 0, 0, b""
    for line in [*io.BytesIO(data).readlines(), b""]:
        text = line.removeprefix(BOM) if offset == 0 else line
        if text.strip() or len(line) > limit:
            start = start if held else offset
            held += text
            size += len(line)
        elif held:
            found.append(text_outcome(start, held, size, limit))
            size, held = 0, b""
        offset += len(line)
    return found


# Letters of 1 to 4 bytes, spaces of several kinds, and characters that only `str` takes for line ends.
TEXT = st.text(st.sampled_from('ab \t\r\x0b\x1cé—\u2028\u3000中😀"\\'), max_size=12)
LINE = st.one_of(
    TEXT.map(str.encode),
    st.just(b""),
    st.binary(max_size=6).map(lambda b: b.replace(b"\n", b"")),
    st.integers(150, 700).map(lambda n: b"x" * n),
    st.integers(80, 300).map(lambda n: "中".encode() * n),
)
END = st.sampled_from([b"\n", b"\n", b"\r\n"])
CUTS = st.lists(st.integers(1, 10**6), max_size=8)
READ_BYTES = st.integers(3, 40) | st.just(2**20)
BATCH_BYTES = st.sampled_from([1, 64, 2**20])


@st.composite
def text_files(draw: st.DrawFn) -> bytes:
    data = b"".join(line + end for line, end in draw(st.lists(st.tuples(LINE, END), max_size=14)))
    if data and draw(st.booleans()):
        data = data[:-1]  # the last line has no line end
    return (BOM if draw(st.booleans()) else b"") + data


@cases(200)
@given(data=text_files(), cuts=CUTS, read_bytes=READ_BYTES, batch_bytes=BATCH_BYTES)
@example(data=b"a\r\n\r\nb", cuts=[4], read_bytes=3, batch_bytes=1)  # a cut between \r and \n of a blank line
@example(data=b"\n\n\nx\n", cuts=[4, 5, 6], read_bytes=4, batch_bytes=1)
@example(data=b"x" * LIMIT + b"\n" + b"y" * (LIMIT - 1) + b"\n", cuts=[], read_bytes=7, batch_bytes=1)
@pytest.mark.parametrize(("kind", "oracle"), [("lines", lines_oracle), ("txt", txt_oracle)])
def test_every_text_record_is_read_once_in_order_wherever_the_file_is_cut(
    tmp_path: Path, kind: str, oracle, data: bytes, cuts: list[int], read_bytes: int, batch_bytes: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    pieces = cut(path, kind, cuts) if data else [input_range(path, kind)]
    with patch.object(lines, "_READ_BYTES", read_bytes), patch.object(read, "BATCH_BYTES", batch_bytes):
        found, total = read_all(pieces)
    assert found == oracle(data, LIMIT)
    assert total == len(data)


@st.composite
def json_lines(draw: st.DrawFn) -> tuple[bytes, list[Found]]:
    """A JSON Lines file and what must be found in it, known from how each line was made."""
    data = BOM if draw(st.booleans()) else b""
    expected: list[Found] = []
    for _ in range(draw(st.integers(0, 12))):
        ascii_only = draw(st.booleans())
        text = draw(TEXT | st.integers(250, 400).map("z".__mul__))
        outcome = "document" if text.strip() else "empty"
        kind = draw(
            st.sampled_from(["good"] * 4 + ["missing", "null", "number", "broken", "array", "bytes", "blank"])
        )
        record: object = {"meta": draw(st.integers()), "text": text}
        if kind == "missing":
            record, outcome = {"body": text}, "missing_text"
        elif kind == "null":
            record, outcome = {"text": None}, "missing_text"
        elif kind == "number":
            record, outcome = {"text": 5}, "text_not_string"
        elif kind == "array":
            record, outcome = [text], "invalid_json"
        line = json.dumps(record, ensure_ascii=ascii_only).encode()
        if kind == "broken":
            line, outcome = line[:-1], "invalid_json"
        elif kind == "bytes":
            line, outcome = b'{"text": "\xff"}', "invalid_utf8"
        elif kind == "blank":
            line, outcome = draw(st.sampled_from([b"", b" ", b"\t"])), ""
        line += draw(END)
        start = 0 if data == BOM else len(data)  # the mark belongs to the first line
        if len(data) - start + len(line) > LIMIT:
            outcome = "too_long"
        if outcome:
            expected.append((start, outcome, text if outcome == "document" else ""))
        data += line
    return data, expected


@cases(150)
@given(file=json_lines(), cuts=CUTS, read_bytes=READ_BYTES, batch_bytes=BATCH_BYTES)
def test_every_json_record_is_read_once_in_order_wherever_the_file_is_cut(
    tmp_path: Path, file: tuple[bytes, list[Found]], cuts: list[int], read_bytes: int, batch_bytes: int
) -> None:
    data, expected = file
    path = tmp_path / "file"
    path.write_bytes(data)
    pieces = cut(path, "jsonl", cuts) if data else [input_range(path, "jsonl")]
    with patch.object(lines, "_READ_BYTES", read_bytes), patch.object(read, "BATCH_BYTES", batch_bytes):
        found, total = read_all(pieces)
    assert found == expected
    assert total == len(data)


@pytest.mark.parametrize("kind", ["lines", "txt", "jsonl"])
def test_every_single_cut_of_a_file_gives_the_same_records(tmp_path: Path, kind: str) -> None:
    data = b'{"text": "one \xc3\xa9"}\r\n\r\n{"text": "two"}\n{"text": "three"}\n\n\n\n{"text": "four"}'
    path = tmp_path / "file"
    path.write_bytes(data)
    whole = read_all([input_range(path, kind)])
    assert len(whole[0]) == {"lines": 4, "jsonl": 4, "txt": 3}[kind]
    for point in range(1, len(data)):
        assert read_all(cut(path, kind, [point])) == whole, f"cut at {point}"


@pytest.mark.parametrize(
    ("kind", "point"), [(kind, point) for kind in ("lines", "jsonl") for point in (1, 2, 3)] + [("txt", 1)]
)
def test_a_cut_at_the_byte_order_mark_loses_no_record(tmp_path: Path, kind: str, point: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(BOM + b'{"text": "one"}\n\n{"text": "two"}\n')
    assert read_all(cut(path, kind, [point])) == read_all([input_range(path, kind)])


def test_a_limit_below_the_excerpt_keeps_the_offsets_and_the_accounts(tmp_path: Path) -> None:
    data = b"aaaa\n" + b"b" * 42 + b"\ndd\n"
    path = tmp_path / "file"
    path.write_bytes(data)
    with patch.object(lines, "_READ_BYTES", 16):
        found, total = read_all([input_range(path, "lines")], limit=10)
    assert found == lines_oracle(data, 10)
    assert total == len(data)


def test_a_limit_counts_the_whole_record_with_its_line_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 299 + b"\n" + b"y" * 300 + b"\n")
    found, _ = read_all([input_range(path, "lines")], limit=300)
    assert [(offset, kind) for offset, kind, _ in found] == [(0, "document"), (300, "too_long")]


def test_a_reject_says_where_how_large_and_how_it_begins(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b'{"text": "good"}\n{"other": "\xc3\xa9", "text": null}\n' + b'{"text": ' + b'"q' * 300)
    (batch,) = read.read_records(input_range(path, "jsonl"), source(), 10_000)
    missing, broken = batch.rejects
    assert (missing.offset, missing.size_bytes, missing.reason) == (17, 30, "missing_text")
    assert "'text'" in missing.detail
    assert "other" in missing.detail
    assert missing.excerpt == '{"other": "é", "text": null}'
    assert (broken.offset, broken.size_bytes, broken.reason) == (47, 609, "invalid_json")
    assert 0 < len(broken.excerpt) <= 200


def test_a_document_is_named_by_its_id_or_else_by_its_place(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"id": i, "text": "t"} for i in ("x", 7, None, "", True, 1.5, [1])]
    lines = [json.dumps(row).encode() + b"\n" for row in rows]
    path = tmp_path / "file"
    path.write_bytes(b"".join(lines))
    (batch,) = read.read_records(input_range(path, "jsonl"), source(id="id"), 1000)
    places = [f"corpus/file:{sum(map(len, lines[:i]))}" for i in range(len(lines))]
    assert batch.ids == ["x", "7", *places[2:]]


COMPRESS = {"gzip": gzip.compress, "bz2": bz2.compress, "zstd": lambda d: pa.Codec("zstd").compress(d, asbytes=True)}


@pytest.mark.parametrize("kind", ["lines", "txt", "jsonl"])
@pytest.mark.parametrize("codec", sorted(COMPRESS))
def test_a_compressed_file_gives_the_documents_of_the_plain_one(tmp_path: Path, codec: str, kind: str) -> None:
    data = b"".join(b'{"text": "record %d"}\n' % i + b"\n" * (i % 3 == 0) for i in range(2000))
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.write_bytes(data)
    half = len(data) // 2
    # Two members one after the other, as parallel compressors and `cat a.gz b.gz` write them.
    packed.write_bytes(COMPRESS[codec](data[:half]) + COMPRESS[codec](data[half:]))
    found = read_all([input_range(plain, kind)])
    assert len(found[0]) > 600
    assert found[1] == len(data)
    assert read_all([input_range(packed, kind, compression=codec)]) == found


def _hard_to_compress(count: int) -> bytes:
    return b"".join(b"%d %d\n" % (i, zlib.crc32(b"%d" % i) * 7919**3) for i in range(count))


@pytest.mark.parametrize("codec", sorted(COMPRESS))
def test_a_truncated_file_gives_one_reject_and_does_not_stop_the_run(tmp_path: Path, codec: str) -> None:
    data = _hard_to_compress(120_000)
    path = tmp_path / "packed"
    path.write_bytes(COMPRESS[codec](data)[:-1000])
    found, total = read_all([input_range(path, "lines", compression=codec)])
    whole = lines_oracle(data, LIMIT)
    assert found[-1][1] == "damaged_file"
    assert len(found) > len(whole) / 2
    assert found[:-1] == whole[: len(found) - 1]
    assert total <= len(data)


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_a_truncated_file_gives_every_document_before_the_damage(tmp_path: Path, codec: str) -> None:
    data = _hard_to_compress(60_000)
    packed = COMPRESS[codec](data)[:-1000]
    path = tmp_path / "packed"
    path.write_bytes(packed)
    if codec == "gzip":
        readable = zlib.decompressobj(31).decompress(packed)
    else:
        readable = pytest.importorskip("zstandard").ZstdDecompressor().decompressobj().decompress(packed)
    complete = readable[: readable.rindex(b"\n") + 1]
    assert len(complete) > len(data) / 2
    found, _ = read_all([input_range(path, "lines", compression=codec)])
    assert [f for f in found if f[1] != "document"] == [(found[-1][0], "damaged_file", "")]
    assert found[:-1] == lines_oracle(complete, LIMIT)


def test_a_damaged_file_ends_with_the_paragraph_it_was_in(tmp_path: Path) -> None:
    path = tmp_path / "packed"
    path.write_bytes(gzip.compress(b"one\n\ntwo\n")[:-4])
    found, _ = read_all([input_range(path, "txt", compression="gzip")])
    # The second paragraph may have lost its end, so it is no document.
    assert found == [(0, "document", "one"), (5, "damaged_file", "")]


def test_a_file_that_has_gone_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x\n")
    piece = input_range(path, "lines")
    path.unlink()
    with pytest.raises(DataError) as error:
        list(read.read_records(piece, source(), LIMIT))
    assert str(path) in error.value.paragraph()


def parquet_file(tmp_path: Path, rows_a_group: int = 3, **columns: pa.Array) -> Path:
    path = tmp_path / "file.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=rows_a_group)
    return path


def parquet_range(path: Path, begin: int = 0, end: int | None = None) -> InputRange:
    groups = pq.ParquetFile(path).metadata.num_row_groups
    return input_range(path, "parquet", begin=begin, end=groups if end is None else end)


TEXTS = ["zero", "", None, "drei", "vier 😀", " \t", None, "sieben", "x" * 400, "neun"]
TEXTS_FOUND = [
    (0, "document", "zero"),
    (1, "empty", ""),
    (2, "missing_text", ""),
    (3, "document", "drei"),
    (4, "document", "vier 😀"),
    (5, "empty", ""),
    (6, "missing_text", ""),
    (7, "document", "sieben"),
    (8, "too_long", ""),
    (9, "document", "neun"),
]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(TEXTS, pa.string()),
        pa.array(TEXTS, pa.large_string()),
        pa.array([t and t.encode() for t in TEXTS], pa.binary()),
        pa.array([t and t.encode() for t in TEXTS], pa.large_binary()),
        pa.array(TEXTS).dictionary_encode(),
    ],
    ids=lambda c: str(c.type)[:20],
)
@pytest.mark.parametrize("batch_bytes", [1, 30, 2**20])
def test_parquet_rows_are_read_once_in_order_whatever_the_column_and_the_cut(
    tmp_path: Path, column: pa.Array, batch_bytes: int
) -> None:
    path = parquet_file(tmp_path, text=column)
    with patch.object(read, "BATCH_BYTES", batch_bytes):
        for edges in ([0, 4], [0, 1, 4], [0, 1, 2, 3, 4], [0, 3, 4]):
            found, total = read_all([parquet_range(path, a, b) for a, b in pairwise(edges)])
            assert found == TEXTS_FOUND
            assert total == sum(len(t.encode()) for t in TEXTS if t is not None)


def test_invalid_utf8_in_a_binary_column_is_a_reject_of_that_row_alone(tmp_path: Path) -> None:
    path = parquet_file(tmp_path, text=pa.array([b"a", b"\xff\xfe", b"b"], pa.binary()))
    found, _ = read_all([parquet_range(path)])
    assert found == [(0, "document", "a"), (1, "invalid_utf8", ""), (2, "document", "b")]


@pytest.mark.parametrize("ids", [["p", None, "q"], [7, None, 9]], ids=["text", "number"])
def test_parquet_documents_are_named_by_their_id_or_else_by_their_row(tmp_path: Path, ids: list) -> None:
    path = parquet_file(tmp_path, text=pa.array(["a", "b", "c"]), key=pa.array(ids))
    (batch,) = read.read_records(parquet_range(path), source(id="key"), LIMIT)
    assert batch.ids == [str(ids[0]), "corpus/file:1", str(ids[2])]


def test_a_parquet_file_without_the_column_names_the_nearest_one(tmp_path: Path) -> None:
    path = parquet_file(tmp_path, texts=pa.array(["a"]), url=pa.array(["b"]))
    for of, key in ((source(), "text"), (source(text="texts", id="urls"), "id")):
        with pytest.raises(RequestError) as error:
            list(read.read_records(parquet_range(path), of, LIMIT))
        assert f"`{key}`" in error.value.paragraph()
        assert "did you mean" in error.value.paragraph().lower()


@pytest.mark.parametrize(
    "column", [pa.array([1]), pa.array([1.5]), pa.array([["a"]]), pa.array([{"x": "a"}])], ids=lambda c: str(c.type)
)
def test_a_column_that_holds_no_text_is_an_error_that_names_its_type(tmp_path: Path, column: pa.Array) -> None:
    path = parquet_file(tmp_path, text=column)
    with pytest.raises(RequestError) as error:
        list(read.read_records(parquet_range(path), source(), LIMIT))
    assert f"Got: {str(column.type).split('<')[0]}" in error.value.paragraph()


def test_a_damaged_parquet_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = parquet_file(tmp_path, text=pa.array([f"text {i}" for i in range(5000)]), rows_a_group=5000)
    piece = parquet_range(path)
    data = bytearray(path.read_bytes())
    data[40:4000] = b"\xaa" * 3960
    path.write_bytes(data)
    with pytest.raises(DataError) as error:
        list(read.read_records(piece, source(), LIMIT))
    assert str(path) in error.value.paragraph()


def test_an_id_that_is_no_utf8_does_not_stop_the_run_with_a_traceback(tmp_path: Path) -> None:
    bad = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\x01\0\0\0"), pa.py_buffer(b"\xff"))
    path = parquet_file(tmp_path, text=pa.array(["a"]), key=bad)
    try:
        (batch,) = read.read_records(parquet_range(path), source(id="key"), LIMIT)
    except DataError:
        return
    assert len(batch.ids) + len(batch.rejects) == 1
