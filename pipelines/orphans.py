"""No worker process outlives its run. Knows processes; knows nothing of what they do.

Beam's local workers are children of a shell that is a child of the run. One whose run was killed with -9 before it
had connected waits for it for ever. So a watcher in a session of its own holds the other end of a pipe, and when the
run is gone, however it went, it ends what the run had started: processes with the run's mark in their environment.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator

_MARK = "SHARDMILL_RUN"

_WATCHER = """
import os, sys, time
sys.stdin.buffer.read()
mark = sys.argv[1].encode()
for _ in range(100):
    found = 0
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    if mark in file.read().split(b"\\0"):
                        os.kill(int(name), 9)
                        found += 1
            except OSError:
                pass  # it has ended, or is somebody else's
    if not found:
        break
    time.sleep(0.05)
"""


@contextlib.contextmanager
def no_orphans() -> Iterator[None]:
    """End processes started within the block when it, or this process, ends; where there is no /proc, do nothing."""
    if not os.path.isdir("/proc/self"):
        yield
        return
    mark = secrets.token_hex(8)
    watcher = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WATCHER, f"{_MARK}={mark}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.environ[_MARK] = mark
    try:
        yield
    finally:
        os.environ.pop(_MARK, None)
        assert watcher.stdin is not None
        watcher.stdin.close()
        watcher.wait()
