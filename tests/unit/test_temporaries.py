"""Which temporary files are left over: those whose writer has ended, whoever has its number now."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from schemas.errors import RequestError
from schemas.storage import Location
from schemas.temporaries import UNTOUCHED_SECONDS, is_left_over, own_temporary_directory, temporary_path

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="without /proc a number is all there is")


def _mine(folder: Path) -> tuple[str, str, str]:
    """Host, process and start as this process writes them."""
    host, pid, started = (
        Path(temporary_path(str(folder / "x"))).name.removeprefix(".x.").removesuffix(".tmp").split("-")
    )
    return host, pid, started


def _left_by_a_child(folder: Path, **wait: bool) -> tuple[Path, subprocess.Popen[bytes]]:
    """A file of a child that has ended; not waited for, unless told to, so that it is a zombie."""
    code = "import sys; from schemas.temporaries import temporary_path as t; print(t(sys.argv[1]))"
    child = subprocess.Popen([sys.executable, "-c", code, str(folder / "part-0")], stdout=subprocess.PIPE)
    assert child.stdout is not None
    path = Path(child.stdout.read().decode().strip())
    path.write_bytes(b"half")
    if wait.get("wait"):
        child.wait(timeout=60)
    else:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    return path, child


def test_of_names_only_those_of_ended_writers_are_removed(tmp_path: Path) -> None:
    host, pid, started = _mine(tmp_path)
    keep = ["file.tmp", f"x.{host}-{pid}-1.tmp", f".x.otherhost-{pid}-1.tmp", f".x.{host}-{pid}-1", ".x.tmp"]
    for name in [*keep, f".x.{host}-{pid}-{started}.tmp"]:
        (tmp_path / name).write_bytes(b"x")
    _left_by_a_child(tmp_path, wait=True)
    assert Location.of(tmp_path).remove_temporaries() == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*keep, f".x.{host}-{pid}-{started}.tmp"])
    assert Location.of(tmp_path / "no such folder").remove_temporaries() == 0


@needs_proc
def test_a_zombie_has_ended(tmp_path: Path) -> None:
    path, child = _left_by_a_child(tmp_path)
    os.kill(child.pid, 0)  # its number still answers
    assert is_left_over(str(path))
    child.wait(timeout=60)


@needs_proc
def test_a_number_that_came_round_again_is_another_writer(tmp_path: Path) -> None:
    """Fails where a process of the same number, or a thread that has it, keeps the dead one's file for ever."""
    host, pid, started = _mine(tmp_path)
    path = tmp_path / f".x.{host}-{pid}-{int(started) + 1}.tmp"
    path.write_bytes(b"half")
    assert is_left_over(str(path))
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    os.kill(thread.native_id or 0, 0)  # threads answer too
    path = tmp_path / f".x.{host}-{thread.native_id}-1.tmp"
    path.write_bytes(b"half")
    assert is_left_over(str(path))
    done.set()
    thread.join()


def test_a_file_of_another_machine_is_left_over_when_nobody_has_touched_it_for_long(tmp_path: Path) -> None:
    path = tmp_path / ".x.otherhost-7-1.tmp"
    path.write_bytes(b"half")
    assert not is_left_over(str(path))
    then = path.stat().st_mtime - UNTOUCHED_SECONDS - 1
    os.utime(path, (then, then))
    assert is_left_over(str(path))


def test_where_there_is_no_proc_a_number_must_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("schemas.temporaries.started_at", lambda _: None)
    path = Path(temporary_path(str(tmp_path / "x")))
    path.write_bytes(b"half")
    assert not is_left_over(str(path))
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    assert is_left_over(str(path).replace(f"-{os.getpid()}-", f"-{ended.pid}-"))


KILLED = """
import os, tempfile
from schemas.temporaries import own_temporary_directory as own
with own() as folder:
    assert tempfile.mkdtemp(prefix="library-").startswith(folder)
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary directory of this test."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_what_a_process_puts_in_the_temporary_directory_goes_with_it_or_with_the_next_one(system: Path) -> None:
    """Fails if what a library of a killed process left there, under a name that tells nothing, stays for ever."""
    keep = [system / ".shardmill.otherhost-1-1.tmp", system / "library-of-others", system / ".shardmill.x"]
    for folder in keep:
        folder.mkdir()
    done = subprocess.run([sys.executable, "-c", KILLED], check=False)
    assert done.returncode == -9
    (left,) = [p for p in system.iterdir() if p not in keep]
    assert list(left.iterdir())
    with own_temporary_directory() as own:
        assert not left.exists()
        assert os.environ["TMPDIR"] == own == tempfile.gettempdir()
        child = "import tempfile; print(tempfile.gettempdir())"
        assert subprocess.check_output([sys.executable, "-c", child], text=True).strip() == own
        with own_temporary_directory() as same:
            assert same == own
        (Path(own) / "library").mkdir()
        subprocess.run([sys.executable, "-c", KILLED], check=False)  # a child of the run uses its folder
    assert sorted(system.iterdir()) == sorted(keep)
    assert os.environ["TMPDIR"] == tempfile.gettempdir() == str(system)


def test_an_error_within_stays_itself_and_no_place_for_temporary_files_is_one_paragraph(
    system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PermissionError, match="mine"), own_temporary_directory():
        raise PermissionError("mine")
    assert not list(system.iterdir())
    monkeypatch.setattr(tempfile, "tempdir", str(system / "none"))
    with pytest.raises(RequestError, match="no directory for temporary files"), own_temporary_directory():
        pytest.fail("there is none")
