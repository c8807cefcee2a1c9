"""Names of files that are being written, `.NAME.HOST-PID-START.tmp`, and whether their writer is gone.

A number alone does not tell a process: numbers come round again within minutes on a busy machine, threads take theirs
from the same row, and in a restarted container the writer that was killed and the one that asks may both be 7. So a
name holds the moment its process started too, in clock ticks since the machine did.
"""

from __future__ import annotations

import functools
import os
import re
import socket
import time

_TEMPORARY = re.compile(r"^\..+\.([0-9a-zA-Z]+)-(\d+)-(\d+)\.tmp$")

UNTOUCHED_SECONDS = 3600.0
"""A file of another machine, whose processes cannot be asked for, is left over when untouched for so long."""


def temporary_path(path: str) -> str:
    """Where this process writes the local file `path` until it is whole: in the same directory."""
    folder, name = os.path.split(path)
    pid = os.getpid()
    return os.path.join(folder, f".{name}.{_host()}-{pid}-{_started(pid) or 0}.tmp")


def is_left_over(path: str) -> bool:
    """True for a temporary file whose writer has ended."""
    match = _TEMPORARY.match(os.path.basename(path))
    if match is None:
        return False
    host, pid, started = match.group(1), int(match.group(2)), int(match.group(3))
    if host != _host():
        return time.time() - os.stat(path).st_mtime > UNTOUCHED_SECONDS
    if not started:  # written on a system without /proc
        return not _answers(pid)
    return _started(pid) != started


@functools.cache
def _host() -> str:
    return re.sub(r"[^0-9a-zA-Z]", "", socket.gethostname()) or "host"


def _started(pid: int) -> int | None:
    """When a process started, or None if it has ended: one that nobody has waited for (a zombie) has."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, *numbers = file.read().rpartition(b")")[2].split()  # its name may hold blanks and brackets
    except OSError:
        return None
    return None if state in (b"Z", b"X") else int(numbers[18])


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
