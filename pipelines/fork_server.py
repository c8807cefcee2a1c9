"""Local workers that begin at once: forked from a process that has imported Beam and what they need.

Importing takes a worker one and a half seconds, and every phase of a job begins with new workers. So the server is
started with the first of them, while this process imports Beam too, and kept until this process ends. Python's own
`multiprocessing.forkserver` is not used since it runs the caller's main module again in every child.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import secrets
import select
import shlex
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback

from pipelines import worker_client
from pipelines.worker_client import DONE, FORKED, WORKER, socket_address

_PRELOADED = (WORKER, "pipelines.graph", "pipelines.tokenize", "pipelines.materialize", "pipelines.audit")


def worker_command() -> str | None:
    """The shell command that starts a worker; None where processes cannot be forked like this."""
    if sys.platform != "linux":
        return None
    return shlex.join([sys.executable, "-I", "-S", worker_client.__file__, _running().name])


class ForkServer:
    """The server, as the process that starts it knows it."""

    def __init__(self) -> None:
        self.name = f"shardmill-{os.getpid()}-{secrets.token_hex(8)}"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(socket_address(self.name))
            listener.listen(128)
            # Its standard input is how it learns that this process has ended, however it ends.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pipelines.fork_server", str(listener.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()],
            )
        atexit.register(self.close)

    @property
    def is_alive(self) -> bool:
        """False once it has ended or been killed."""
        return self._process.poll() is None

    def close(self) -> None:
        """End it; its workers have their own ends."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


_servers: list[ForkServer] = []
"""Those that this process has started; all but the last have been killed."""


def _running() -> ForkServer:
    if not _servers or not _servers[-1].is_alive:
        _servers.append(ForkServer())
    return _servers[-1]


def serve(listener: socket.socket) -> None:
    """Fork a worker for each client, until the process that started this one has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the launcher, and that ends this
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the workers
    for name in _PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that the memory stays shared
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            return
        connection, _ = listener.accept()
        if _is_own(connection) and os.fork() == 0:
            listener.close()
            _work(connection)
        connection.close()


def _is_own(connection: socket.socket) -> bool:
    """Whether the client is this user's; the socket's name alone keeps nobody out."""
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return bool(user == os.getuid())


def _work(connection: socket.socket) -> None:
    """Be the worker that a client asks for; does not return."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        size, streams, *_ = socket.recv_fds(connection, 8, 3)
        with connection.makefile("rb") as file:
            request = json.loads(file.read(int.from_bytes(size, "big")))
        for stream, number in zip(streams, (0, 1, 2), strict=True):
            os.dup2(stream, number)
            os.close(stream)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["directory"])
        # A program of its own would find modules there too.
        sys.path += [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p not in sys.path]
        connection.sendall(FORKED)
        threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
        importlib.import_module(WORKER).main([])
        connection.sendall(DONE)
        status = 0
    except BaseException:  # the client has to learn of whatever it is
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(status)  # tearing two thousand modules down takes half a second


def _end_with(connection: socket.socket) -> None:
    """End this process when its client has ended."""
    with contextlib.suppress(OSError):
        connection.recv(1)
    os._exit(1)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
