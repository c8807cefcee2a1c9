"""Places: a file appears whole or not at all, and what killed writers left is removed without touching the living."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit_helpers import cases

import schemas.storage as storage
from schemas.errors import RequestError
from schemas.object_store import whole_answer
from schemas.storage import HashingSink, Location, atomic_output


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_file_gets_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    place = Location.of(tmp_path / "deep" / "file")
    with atomic_output(place) as sink:
        sink.write(b"one")
        assert not place.exists()
    assert names(tmp_path / "deep") == ["file"]
    assert place.read_bytes() == b"one"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
def test_an_error_leaves_the_old_file_and_no_temporary(tmp_path: Path, error: type[BaseException]) -> None:
    place = Location.of(tmp_path / "file")
    place.write_bytes(b"old")

    def chunks() -> Iterator[bytes]:
        yield b"half of the new"
        raise error

    with pytest.raises(error), atomic_output(place) as sink:
        sink.writelines(chunks())
    assert names(tmp_path) == ["file"]
    assert place.read_bytes() == b"old"


def test_a_refused_file_does_not_get_its_name(tmp_path: Path) -> None:
    place = Location.of(tmp_path / "file")
    seen = []

    def refuse(written: IO[bytes]) -> None:
        seen.append(written.read())
        assert not place.exists()
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"), atomic_output(place, refuse) as sink:
        sink.write(b"data")
    assert seen == [b"data"]
    assert names(tmp_path) == []


def test_a_reader_of_the_old_file_keeps_it_while_it_is_replaced(tmp_path: Path) -> None:
    place = Location.of(tmp_path / "file")
    place.write_bytes(b"old")
    with open(place.uri, "rb") as reader:
        place.write_bytes(b"new")
        assert reader.read() == b"old"
    assert place.read_bytes() == b"new"


KILLED = """
import os, sys
from schemas.storage import Location, atomic_output
with atomic_output(Location.of(sys.argv[1])) as sink:
    sink.write(b"half")
    print(os.getpid(), flush=True)
    if sys.argv[2] == "die":
        os._exit(9)
    sys.stdin.read()
"""


def test_a_killed_writer_leaves_no_file_under_the_name_and_its_temporary_goes_later(tmp_path: Path) -> None:
    place = tmp_path / "folder" / "file"
    subprocess.run([sys.executable, "-c", KILLED, place, "die"], capture_output=True, check=False, timeout=60)
    (left,) = names(place.parent)
    assert left.startswith(".file.")
    assert left.endswith(".tmp")
    assert Location.of(tmp_path).remove_temporaries() == 1
    assert names(place.parent) == []


def test_a_living_writers_temporary_is_never_removed(tmp_path: Path) -> None:
    place = tmp_path / "file"
    command = [sys.executable, "-c", KILLED, str(place), "live"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdout.readline()
        assert Location.of(tmp_path).remove_temporaries() == 0
        with atomic_output(Location.of(tmp_path / "mine")) as sink:
            sink.write(b"x")
            assert Location.of(tmp_path).remove_temporaries() == 0
        writer.stdin.close()
        writer.wait(timeout=60)
    assert names(tmp_path) == ["file", "mine"]


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "full"),
        (errno.EDQUOT, "full"),
        (errno.EROFS, "cannot be written"),
        (errno.EACCES, "cannot be written"),
    ],
    ids=errno.errorcode.get,
)
def test_a_full_or_read_only_disk_is_one_paragraph_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    place = Location.of(tmp_path / "file")
    monkeypatch.setattr(storage.os, "fsync", fail)
    with pytest.raises(RequestError) as error:
        place.write_bytes(b"data")
    assert says in error.value.what
    assert place.uri in error.value.paragraph()
    assert os.strerror(number) in error.value.paragraph()
    assert error.value.remedy
    assert names(tmp_path) == []


def test_a_disk_that_fills_while_a_table_is_written_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0

    def full(self: HashingSink, data: object) -> int:
        nonlocal written
        written += 1
        if written > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, data)

    real = HashingSink.write
    monkeypatch.setattr(HashingSink, "write", full)
    place = Location.of(tmp_path / "file")
    table = pa.table({"x": list(range(1000))})
    with pytest.raises(RequestError, match="full"), atomic_output(place) as sink:
        pq.write_table(table, pa.PythonFile(sink, mode="w"), row_group_size=10)
    assert names(tmp_path) == []


def test_a_file_in_the_place_of_a_directory_is_said(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"a file")
    for attempt in (
        lambda: (Location.of(tmp_path / "out") / "manifest.json").write_bytes(b"x"),
        lambda: Location.of(tmp_path / "out").make_directory(),
        lambda: Location.of(tmp_path / "out" / "deeper").make_directory(),
    ):
        with pytest.raises(RequestError, match="directory is needed"):
            attempt()


def test_other_errors_of_the_system_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_output(Location.of(tmp_path / "file")):
        open(tmp_path / "missing", "rb").close()
    assert names(tmp_path) == []


@cases(100)
@given(st.lists(st.binary(max_size=50)))
def test_the_digest_is_that_of_the_bytes_that_passed(chunks: list[bytes]) -> None:
    inner = io.BytesIO()
    sink = HashingSink(inner)
    for i, chunk in enumerate(chunks):
        as_given = (chunk, bytearray(chunk), memoryview(chunk), pa.py_buffer(chunk))[i % 4]
        assert sink.write(as_given) == len(chunk)
    data = b"".join(chunks)
    assert inner.getvalue() == data
    assert sink.sha256 == hashlib.sha256(data).hexdigest()
    assert sink.size_bytes == sink.tell() == len(data)


def test_the_digest_of_a_table_is_that_of_the_file(tmp_path: Path) -> None:
    place = Location.of(tmp_path / "file")
    with atomic_output(place) as sink:
        pq.write_table(pa.table({"x": list(range(5000))}), pa.PythonFile(sink, mode="w"), row_group_size=700)
    data = (tmp_path / "file").read_bytes()
    assert (sink.sha256, sink.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))


@pytest.mark.parametrize(
    ("base", "path", "joined"),
    [
        ("/data/jobs", "corpus/a.txt", "/data/jobs/corpus/a.txt"),
        ("/data/jobs", "../corpus/*.txt", "/data/corpus/*.txt"),
        ("/data/jobs", "/other/a", "/other/a"),
        ("/data/jobs", "s3://bucket/a", "s3://bucket/a"),
        ("/data/jobs", "file:///x/y", "/x/y"),
        ("/data/jobs", ".", "/data/jobs"),
        ("s3://bucket/jobs", "corpus/a.txt", "s3://bucket/jobs/corpus/a.txt"),
        ("s3://bucket/jobs", "../a.txt", "s3://bucket/a.txt"),
        ("s3://bucket/jobs", "gs://other/a", "gs://other/a"),
        ("gs://bucket/jobs", "/local/a", "/local/a"),
    ],
)
def test_a_path_is_relative_to_its_folder_unless_it_stands_alone(base: str, path: str, joined: str) -> None:
    assert Location(base).join(path) == Location(joined)


def test_a_location_knows_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Location.of("/data/run/file.txt")
    assert (place.name, place.parent, place.parent.parent.parent) == (
        "file.txt",
        Location("/data/run"),
        Location("/"),
    )
    assert Location("/") / "x" == Location("/x")
    assert Location("s3://b/k").path == "b/k"
    assert not Location("s3://b/k").is_local
    assert Location.of("gcs://b/k/") == Location("gs://b/k")
    monkeypatch.chdir(tmp_path)
    assert Location.of("x") == Location(str(tmp_path / "x"))
    with pytest.raises(RequestError, match="ftp"):
        Location.of("ftp://host/file")


def test_listings_are_sorted_and_hold_files_only(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "sub/c.txt", "sub/deep/a.txt", "d.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    root = Location.of(tmp_path)

    def found(infos: list[storage.FileInfo]) -> list[str]:
        for info in infos:
            assert info.size_bytes == os.stat(info.uri).st_size
            assert info.mtime_ns == os.stat(info.uri).st_mtime_ns
        return [os.path.relpath(i.uri, tmp_path) for i in infos]

    assert found(root.files()) == ["a.txt", "b.txt", "d.json"]
    assert found(root.files(recursive=True)) == ["a.txt", "b.txt", "d.json", "sub/c.txt", "sub/deep/a.txt"]
    assert found((root / "*.txt").glob()) == ["a.txt", "b.txt"]
    assert found((root / "[bd].*").glob()) == ["b.txt", "d.json"]
    assert found((root / "?.json").glob()) == ["d.json"]
    assert found((root / "**/a.txt").glob()) == ["a.txt", "sub/deep/a.txt"]
    assert found((root / "*").glob()) == ["a.txt", "b.txt", "d.json"]
    assert found((root / "b.txt").glob()) == ["b.txt"]
    assert (root / "nothing*").glob() == (root / "sub").glob() == (root / "none/").files() == []
    assert (root / "sub").exists()
    assert (root / "sub").info() is None


def test_a_pattern_on_an_object_store_means_what_it_means_locally(tmp_path: Path) -> None:
    files = ["a.txt", "b.txt", "sub/a.txt", "sub/deep/a.txt", "x+y.txt", "ab.txt"]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    for pattern in ("*.txt", "**/a.txt", "sub/*", "sub/**/*.txt", "[ab].txt", "?.txt", "x+y.*", "**/*.txt"):
        local = [os.path.relpath(i.uri, tmp_path) for i in (Location.of(tmp_path) / pattern).glob()]
        regex = storage.re.compile(storage._glob_regex(pattern))
        assert sorted(f for f in files if regex.fullmatch(f)) == local, pattern


def test_removing_a_file_twice_is_no_error(tmp_path: Path) -> None:
    place = Location.of(tmp_path / "file")
    place.write_bytes(b"x")
    place.remove()
    place.remove()
    assert not place.exists()


def test_a_directory_is_not_read_as_a_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        Location.of(tmp_path).read_bytes()


def test_an_answer_that_is_cut_off_is_asked_for_again_and_another_failure_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("schemas.object_store.time.sleep", lambda _: None)
    cut = OSError("AWS Error INTERNAL_FAILURE during GetObject operation: Failed to flush response stream (eof: 0)")
    answers: list[OSError | bytes] = [cut, cut, b"whole"]

    def read() -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert whole_answer(read) == b"whole"
    answers = [OSError("AWS Error ACCESS_DENIED"), b"never"]
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        whole_answer(read)
    answers = [cut] * 9
    with pytest.raises(OSError, match="Failed to flush"):
        whole_answer(read)
    assert len(answers) == 5
