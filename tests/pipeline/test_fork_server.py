"""Local workers are forked by a server; whichever process dies, a run ends or goes on, and nothing is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipelines import fork_server, worker_client
from pipelines.engine import Engine
from schemas.errors import DataError
from schemas.storage import Location

TWO = Engine(("--direct_num_workers=2",))


class Noting:
    """Work that leaves a file which tells who did it."""

    def __init__(self, folder: Path, seconds: float = 0.0) -> None:
        self._folder, self._seconds = folder, seconds

    def __call__(self, item: int) -> bytes:
        (self._folder / f"{item}-begun").write_text(str(os.getpid()))
        time.sleep(self._seconds)
        Location.of(self._folder / str(item)).write_bytes(str(os.getppid()).encode())
        return b""


@pytest.fixture
def server(tmp_path: Path) -> psutil.Process:
    """This process's server, running."""
    fork_server.worker_command()
    return psutil.Process(fork_server._running()._process.pid)


def parents(folder: Path, items: int) -> set[int]:
    return {int((folder / str(i)).read_text()) for i in range(items)}


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that the server did not fork have to find this module."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def test_workers_are_forked(server: psutil.Process, tmp_path: Path) -> None:
    TWO.run_each("Note", range(8), [1] * 8, Noting(tmp_path))
    assert parents(tmp_path, 8) == {server.pid}
    assert psutil.wait_procs(server.children(), timeout=10)[1] == []


def test_a_server_that_was_killed_is_replaced(server: psutil.Process, tmp_path: Path) -> None:
    server.kill()
    server.wait()
    TWO.run_each("Note", range(8), [1] * 8, Noting(tmp_path))
    assert parents(tmp_path, 8) == {fork_server._running()._process.pid} != {server.pid}


def test_a_client_without_a_server_is_a_worker_itself(
    server: psutil.Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = fork_server.worker_command()
    assert command is not None
    monkeypatch.setattr(fork_server, "worker_command", lambda: command)
    server.kill()
    server.wait()
    TWO.run_each("Note", range(4), [1] * 4, Noting(tmp_path))
    assert server.pid not in parents(tmp_path, 4)


def _kill_when_begun(folder: Path, what: str) -> subprocess.Popen[bytes]:
    """A process that kills the first worker, its client or the server, once the work has begun."""
    code = f"""
import glob, os, psutil, signal, time
while not (begun := [p for p in glob.glob({str(folder)!r} + "/*-begun") if os.path.getsize(p)]):
    time.sleep(0.01)
worker = psutil.Process(int(open(begun[0]).read()))
mine = psutil.Process({os.getpid()}).children(recursive=True)
mine = [p for p in mine if p.pid != os.getpid() and p.status() != psutil.STATUS_ZOMBIE]
clients = [p for p in mine if "worker_client" in " ".join(p.cmdline())]
for victim in dict(worker=[worker], server=[worker.parent()], client=clients)[{what!r}]:
    victim.send_signal(signal.SIGKILL)
"""
    return subprocess.Popen([sys.executable, "-c", code])


def test_the_server_killed_in_the_midst_of_work_is_not_missed(server: psutil.Process, tmp_path: Path) -> None:
    killer = _kill_when_begun(tmp_path, "server")
    TWO.run_each("Note", range(6), [1] * 6, Noting(tmp_path, 0.3))
    assert killer.wait() == 0
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
    assert all((tmp_path / str(i)).exists() for i in range(6))


@pytest.mark.parametrize("what", ["worker", "client"])
def test_a_worker_or_its_client_that_is_killed_ends_the_run_and_the_other(
    what: str, server: psutil.Process, tmp_path: Path
) -> None:
    killer = _kill_when_begun(tmp_path, what)
    with pytest.raises(DataError, match="A worker process died"):
        TWO.run_each("Note", range(6), [1] * 6, Noting(tmp_path, 2.0))
    assert killer.wait() == 0
    assert psutil.wait_procs(server.children(), timeout=10)[1] == []


LAUNCHER = """
import sys
from pathlib import Path
from test_fork_server import TWO, Noting
TWO.run_each("Note", range(6), [1] * 6, Noting(Path(sys.argv[1]), 30.0))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_the_launcher(number: signal.Signals, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(tmp_path)], stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*-begun")) and time.monotonic() < deadline:
        time.sleep(0.02)
    family = psutil.Process(process.pid).children(recursive=True)
    assert sum("pipelines.fork_server" in p.cmdline() for p in family) == 3
    process.send_signal(number)
    process.wait(timeout=60)
    alive = psutil.wait_procs(family, timeout=20)[1]
    assert not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_the_client_imports_nothing_but_the_standard_library() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", worker_client.__file__, "no such server"], capture_output=True, check=False
    )
    assert (
        b"CONTROL_API_SERVICE_DESCRIPTOR" in done.stderr
    )  # it has become Beam's own worker, which lacks its address
