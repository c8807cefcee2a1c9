"""Names of what a process writes and will not keep, `.NAME.HOST-PID-START.tmp`, and whether that process is gone.

Such are files that are not whole yet, in the directory of the whole one, and a folder `.shardmill.HOST-PID-START.tmp`
in the system's temporary directory for all that a run and the libraries it uses put there.

A number alone does not tell a process: numbers come round again within minutes on a busy machine, threads take theirs
from the same row, and in a restarted container the writer that was killed and the one that asks may both be 7. So a
name holds the moment its process started too, in clock ticks since the machine did.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator

from schemas.errors import RequestError

_TEMPORARY = re.compile(r"^\..+\.([0-9a-zA-Z]+)-(\d+)-(\d+)\.tmp$")

_FOLDER = ".shardmill."

UNTOUCHED_SECONDS = 3600.0
"""A file of another machine, whose processes cannot be asked for, is left over when untouched for so long."""
UNTOUCHED_FOLDER_SECONDS = 30 * 86400.0
"""A folder, whose time does not change with what is written deep in it."""


def temporary_path(path: str) -> str:
    """Where this process writes the local file `path` until it is whole: in the same directory."""
    folder, name = os.path.split(path)
    pid = os.getpid()
    return os.path.join(folder, f".{name}.{host_name()}-{pid}-{started_at(pid) or 0}.tmp")


@contextlib.contextmanager
def own_temporary_directory() -> Iterator[str]:
    """A folder that takes the place of the system's temporary directory, for this process and those it starts.

    It is removed at the end. A process that was killed leaves its own, which the next one here removes: libraries
    give theirs names that tell nothing. Within such a block, another gets the same folder.
    """
    try:
        system = tempfile.gettempdir()
        is_own = bool(_TEMPORARY.match(os.path.basename(system)))
        own = system if is_own else temporary_path(os.path.join(system, "shardmill"))
        if not is_own:
            _remove_left_folders(system)
            os.makedirs(own, mode=0o700, exist_ok=True)
    except OSError as error:
        raise RequestError(
            "There is no directory for temporary files",
            got=str(error),
            remedy="Set TMPDIR to one that can be written and has space",
        ) from error
    if is_own:
        yield own
        return
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = tempfile.tempdir = own
    try:
        yield own
    finally:
        tempfile.tempdir = system
        del os.environ["TMPDIR"]
        if before is not None:
            os.environ["TMPDIR"] = before
        shutil.rmtree(own, ignore_errors=True)  # a library's process may end later, and add to it still


def _remove_left_folders(system: str) -> None:
    with os.scandir(system) as found:
        left = [e.path for e in found if e.name.startswith(_FOLDER) and e.is_dir(follow_symlinks=False)]
    for path in left:
        with contextlib.suppress(FileNotFoundError):  # another run that begins has just removed it
            if os.stat(path).st_uid == os.getuid() and is_left_over(path):
                shutil.rmtree(path, ignore_errors=True)


def is_left_over(path: str) -> bool:
    """True for a temporary file or folder whose writer has ended."""
    match = _TEMPORARY.match(os.path.basename(path))
    if match is None:
        return False
    host, pid, started = match.group(1), int(match.group(2)), int(match.group(3))
    if host != host_name():
        untouched_seconds = time.time() - os.stat(path).st_mtime
        return untouched_seconds > (UNTOUCHED_FOLDER_SECONDS if os.path.isdir(path) else UNTOUCHED_SECONDS)
    return has_ended(pid, started)


def has_ended(pid: int, started: int) -> bool:
    """True if a process of this machine is no more.

    Args:
      pid: its number.
      started: what `started_at` said of it, 0 where that was None.
    """
    if not started:  # it ran on a system without /proc
        return not _answers(pid)
    return started_at(pid) != started


@functools.cache
def host_name() -> str:
    """This machine's, letters and digits only."""
    return re.sub(r"[^0-9a-zA-Z]", "", socket.gethostname()) or "host"


def started_at(pid: int) -> int | None:
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
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
