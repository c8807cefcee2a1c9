"""One run at a time in a directory: the system's lock on a local disk, a lease on an object store.

An object store has no lock that a dead process lets go of, so there a run writes `.lock` and rewrites it every few
seconds. Another run that finds it watches whether it still changes, which needs no clock that agrees. The lease
spares work and is not what makes the data right: shards are the same bytes whoever writes them, each put whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator

from schemas.errors import RequestError, ShardmillError
from schemas.place_errors import place_errors
from schemas.storage import Location
from schemas.temporaries import has_ended, started_at

BEAT_SECONDS = 5.0
"""A lease is rewritten so often."""
LEASE_SECONDS = 30.0
"""A lease that has not changed for so long is of a dead run: six beats, of which some may be slow."""


@contextlib.contextmanager
def lock(directory: Location) -> Iterator[None]:
    """Hold a directory for this process.

    Raises:
      RequestError: another run holds it.
    """
    with _system_lock(directory) if directory.is_local else _lease(directory / ".lock"):
        yield


@contextlib.contextmanager
def _system_lock(directory: Location) -> Iterator[None]:
    directory.make_directory()
    with place_errors(directory / ".lock"), open((directory / ".lock").uri, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise _refusal(directory, f"process {file.read().strip() or 'unknown'}") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextlib.contextmanager
def _lease(place: Location) -> Iterator[None]:
    held = _read(place)
    began = time.monotonic()
    while held and not _is_dead(held) and time.monotonic() - began < LEASE_SECONDS:
        time.sleep(min(1.0, LEASE_SECONDS / 10))
        now = _read(place)
        if now and now != held:
            raise _refusal(place.parent, _holder(now))
        held = now
    mine = secrets.token_hex(8)
    _write(place, mine, 0)
    if (_read(place) or {}).get("run") != mine:  # another began in the same moment and wrote last
        raise _refusal(place.parent, _holder(_read(place) or {}))
    stop = threading.Event()
    keeper = threading.Thread(target=_beat, args=(place, mine, stop), daemon=True)
    keeper.start()
    try:
        yield
    finally:
        stop.set()
        keeper.join()
        if (_read(place) or {}).get("run") == mine:
            place.remove()


def _beat(place: Location, mine: str, stop: threading.Event) -> None:
    count = 0
    while not stop.wait(BEAT_SECONDS):
        count += 1
        # A storage that fails now may answer at the next beat, and if not the run itself will say so.
        with contextlib.suppress(ShardmillError, OSError):
            _write(place, mine, count)


def _write(place: Location, mine: str, count: int) -> None:
    place.write_bytes(
        json.dumps(
            {
                "run": mine,
                "host": socket.gethostname(),
                "process": os.getpid(),
                "started": started_at(os.getpid()) or 0,
                "beat": count,
            }
        ).encode()
    )


def _read(place: Location) -> dict[str, object] | None:
    try:
        found = json.loads(place.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"run": "unknown"}


def _is_dead(held: dict[str, object]) -> bool:
    """True if the holder ran on this machine and does so no more."""
    process, started = held.get("process"), held.get("started")
    if held.get("host") != socket.gethostname() or not isinstance(process, int) or not isinstance(started, int):
        return False
    return has_ended(process, started)


def _holder(held: dict[str, object]) -> str:
    return f"process {held.get('process', 'unknown')} of {held.get('host', 'an unknown machine')}"


def _refusal(directory: Location, holder: str) -> RequestError:
    return RequestError(
        "Another run is writing to this directory",
        where=str(directory),
        got=f"held by {holder}",
        remedy="Wait for it to end, or stop it and run again",
    )
