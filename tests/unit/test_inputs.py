"""Finding inputs: what is missing or unclear is said before any data moves, and ranges cover every file once."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit_helpers import cases, job

from schemas.errors import DataError, RequestError, ShardmillError
from schemas.job import Job
from schemas.storage import FileInfo, Location
from transforms.inputs import InputFile, cut_ranges, find_inputs


def job_of(*files: object, range_bytes: int = 2**24, **source: object) -> Job:
    return job(
        sources=[{"name": "s", "files": [str(f) for f in files], **source}], limits={"range_bytes": range_bytes}
    )


def lay(folder: Path, *names: str, data: bytes = b"x\n") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def found(*files: object, **source: object) -> list[InputFile]:
    return find_inputs(job_of(*files, **source))["s"]


def test_patterns_and_names_find_each_file_once_in_order(tmp_path: Path) -> None:
    lay(tmp_path, "b.jsonl", "a.jsonl", "sub/c.txt", "d.csv")
    files = found(tmp_path / "*.jsonl", tmp_path / "a.jsonl", tmp_path / "**" / "*.txt")
    assert [f.file for f in files] == ["a.jsonl", "b.jsonl", "sub/c.txt"]
    assert [f.format for f in files] == ["jsonl", "jsonl", "txt"]
    assert {f.size_bytes for f in files} == {2}


def test_relative_names_do_not_depend_on_where_the_folder_lies(tmp_path: Path) -> None:
    for names in (["a.txt"], ["a.txt", "b.txt"], ["p/a.txt", "q/a.txt"], ["p/a.txt", "p/q/b.txt"]):
        relative = []
        for folder in ("here", "some/where/else", "corpus"):
            root = tmp_path / str(len(names)) / names[0].replace("/", "_") / folder
            lay(root, *names)
            relative.append([f.file for f in found(*(root / n for n in names))])
        assert relative[0] == relative[1] == relative[2]


def test_relative_names_on_an_object_store_are_those_of_a_local_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = [FileInfo(f"s3://bucket/corpus/{n}.txt", 1, 1) for n in ("a", "b")]
    monkeypatch.setattr(Location, "glob", lambda self: listing)
    assert [f.file for f in found("s3://bucket/corpus/*.txt")] == ["a.txt", "b.txt"]


@pytest.mark.parametrize(
    ("name", "kind", "compression"),
    [
        ("a.jsonl", "jsonl", None),
        ("a.json", "jsonl", None),
        ("a.ndjson", "jsonl", None),
        ("a.txt", "txt", None),
        ("a.b.txt.gz", "txt", "gzip"),
        ("a.jsonl.zst", "jsonl", "zstd"),
        ("A.JSONL.BZ2", "jsonl", "bz2"),
        ("a.parquet", "parquet", None),
    ],
)
def test_the_suffix_tells_format_and_compression(
    tmp_path: Path, name: str, kind: str, compression: str | None
) -> None:
    lay(tmp_path, name)
    (file,) = found(tmp_path / name)
    assert (file.format, file.compression) == (kind, compression)


def test_a_given_format_wins_over_the_suffix(tmp_path: Path) -> None:
    lay(tmp_path, "a.txt", "noend", "b.csv.gz")
    assert [(f.format, f.compression) for f in found(tmp_path / "*", format="lines")] == [
        ("lines", None),
        ("lines", "gzip"),
        ("lines", None),
    ]


def refused(*files: object, **source: object) -> str:
    with pytest.raises(RequestError) as error:
        found(*files, **source)
    assert "'s'" in error.value.paragraph()
    assert error.value.remedy
    return error.value.paragraph()


def test_what_cannot_be_found_or_read_is_said_with_a_remedy(tmp_path: Path) -> None:
    lay(tmp_path, "a.csv", "noend", "a.gz", "b.parquet.gz", "good.txt", "folder/a.txt")
    assert "no file" in refused(tmp_path / "missing.txt")
    assert "no file" in refused(tmp_path / "good.txt", tmp_path / "missing.txt")
    assert "matches no file" in refused(tmp_path / "*.jsonl")
    assert "matches no file" in refused(tmp_path / "fold*")
    assert f"{tmp_path}/folder/*.jsonl" in refused(tmp_path / "folder")
    for name in ("a.csv", "noend", "a.gz"):
        assert ".jsonl" in refused(tmp_path / name)
    assert "compressed Parquet" in refused(tmp_path / "b.parquet.gz")


@cases(100)
@given(size=st.integers(0, 500), range_bytes=st.integers(1, 600))
def test_ranges_cover_a_file_once_and_are_about_the_size_asked(tmp_path: Path, size: int, range_bytes: int) -> None:
    (tmp_path / "a.txt").write_bytes(b"x" * size)
    made = job_of(tmp_path / "a.txt", range_bytes=range_bytes)
    ranges = cut_ranges(made, find_inputs(made))["s"]
    assert [r.part for r in ranges] == list(range(len(ranges)))
    assert ranges[0].begin == 0
    assert ranges[-1].end == size
    assert [r.begin for r in ranges[1:]] == [r.end for r in ranges[:-1]]
    for r in ranges:
        assert r.end > r.begin or size == 0
        assert r.end - r.begin <= 2 * range_bytes
        assert (r.size_bytes, r.cost_bytes) == (size, r.end - r.begin)


def test_a_compressed_file_is_one_range(tmp_path: Path) -> None:
    lay(tmp_path, "a.txt.gz", data=b"x" * 1000)
    made = job_of(tmp_path / "a.txt.gz", range_bytes=10)
    (piece,) = cut_ranges(made, find_inputs(made))["s"]
    assert (piece.begin, piece.end, piece.compression) == (0, 1000, "gzip")


@pytest.mark.parametrize("rows", [0, 1, 10])
@pytest.mark.parametrize("range_bytes", [1, 100, 10**9])
def test_row_groups_are_in_exactly_one_range(tmp_path: Path, rows: int, range_bytes: int) -> None:
    pq.write_table(
        pa.table({"text": pa.array(["some text"] * rows, pa.string())}), tmp_path / "a.parquet", row_group_size=3
    )
    made = job_of(tmp_path / "a.parquet", range_bytes=range_bytes)
    ranges = cut_ranges(made, find_inputs(made))["s"]
    groups = pq.read_metadata(tmp_path / "a.parquet").num_row_groups
    covered = [g for r in ranges for g in range(r.begin, r.end)]
    assert covered == list(range(groups))
    if range_bytes == 1:
        assert len(ranges) == max(1, groups)
    if range_bytes == 10**9:
        assert len(ranges) == 1


def test_a_parquet_file_that_is_none_is_said(tmp_path: Path) -> None:
    lay(tmp_path, "a.parquet", data=b"not parquet at all")
    made = job_of(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="cannot be opened"):
        cut_ranges(made, find_inputs(made))


def test_a_column_whose_name_has_a_dot_is_read_or_refused_readably(tmp_path: Path) -> None:
    pq.write_table(pa.table({"content.text": ["a", "b"]}), tmp_path / "a.parquet")
    made = job_of(tmp_path / "a.parquet", text="content.text")
    try:
        (piece,) = cut_ranges(made, find_inputs(made))["s"]
    except ShardmillError:
        return
    assert (piece.begin, piece.end) == (0, 1)


def test_a_source_of_a_token_count_has_no_inputs() -> None:
    assert find_inputs(job(sources=[{"name": "a", "tokens": "5B"}])) == {}
