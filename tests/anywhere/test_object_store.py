"""One object store behind a proxy that fails: what helps is tried again, what does not is one paragraph."""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from s3_server import KEY, SECRET, Fault, Proxy, S3Server

import pipelines.lock as lock_module
import schemas.storage as storage
from pipelines.lock import lock
from schemas.errors import DataError, RequestError, ShardmillError
from schemas.object_store import redact
from schemas.storage import Location, atomic_output


def first(count: int) -> Callable[[int, str, str], bool]:
    """Picks the first so many requests from now on."""
    left = iter(range(count))
    return lambda *_: next(left, None) is not None


TRANSIENT = {
    "error 500": Fault("status", first(2)),
    "throttling": Fault("status", first(2), 503, "SlowDown"),
    "error 502": Fault("status", first(2), 502, ""),
    "connection reset": Fault("reset", first(2)),
    "answer cut off": Fault("cut", first(2)),
    "slow answers": Fault("slow", first(2), seconds=0.5),
}


QUICK = ("connection reset", "answer cut off")
"""One of each, for the default tests; each waits for its back-off."""


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in TRANSIENT])
def test_a_passing_failure_is_tried_again(proxy: Proxy, bucket: str, name: str) -> None:
    """Fails if a short outage of the store ends a run, or gives other bytes."""
    data = random.Random(1).randbytes(200_000)
    place = Location.of(f"s3://{bucket}/deep/file")
    fault = TRANSIENT[name]
    proxy.fault = fault
    place.write_bytes(data)
    proxy.fault, hits = None, fault.hits
    assert place.read_bytes() == data
    fault.picks = first(2)
    proxy.fault = fault
    assert place.read_bytes() == data
    assert hits >= 1
    assert fault.hits >= hits + 2


def always(*_: object) -> bool:
    return True


LASTING = {
    "error 500": (Fault("status", always), DataError, ["storage failed", "what is finished is kept"]),
    "throttling": (Fault("status", always, 503, "SlowDown"), DataError, ["fewer requests", "fewer workers"]),
    "reset": (Fault("reset", always), DataError, ["cannot be reached", "AWS_ENDPOINT_URL"]),
    "unknown key": (Fault("status", always, 403, "InvalidAccessKeyId"), RequestError, ["does not accept"]),
    "bad signature": (Fault("status", always, 403, "SignatureDoesNotMatch"), RequestError, ["does not accept"]),
    "expired": (Fault("status", always, 400, "ExpiredToken"), RequestError, ["does not accept", "Log in again"]),
    "refused": (Fault("status", always, 403, "AccessDenied"), RequestError, ["refuses access", "PutObject"]),
    "no bucket": (Fault("status", always, 404, "NoSuchBucket"), RequestError, ["no such bucket"]),
}


@pytest.mark.parametrize("name", LASTING)
@pytest.mark.usefixtures("impatient")
def test_a_lasting_failure_is_one_paragraph(proxy: Proxy, bucket: str, name: str) -> None:
    fault, kind, words = LASTING[name]
    place = Location.of(f"s3://{bucket}/file")
    proxy.fault = fault
    for attempt in (lambda: place.write_bytes(b"x"), lambda: Location.of(f"s3://{bucket}/folder").files()):
        if name == "no bucket" and attempt.__code__.co_names[0] == "Location":
            continue  # a listing of what is not there is empty
        with pytest.raises(kind) as error:
            attempt()
        text = error.value.paragraph()
        for word in words:
            assert word in text
        assert f"s3://{bucket}" in text
        assert error.value.remedy
        assert KEY not in text
        assert SECRET not in text


@pytest.mark.usefixtures("impatient")
def test_a_missing_object_stays_missing_and_is_no_failure_of_the_storage(proxy: Proxy, bucket: str) -> None:
    place = Location.of(f"s3://{bucket}/none")
    with pytest.raises(FileNotFoundError):
        place.read_bytes()
    assert place.info() is None
    place.remove()
    assert Location.of("s3://no-such-bucket-here/x").info() is None
    with pytest.raises(RequestError, match="no such bucket"):
        Location.of("s3://no-such-bucket-here/x").write_bytes(b"x")


def half_then(error: type[BaseException]) -> Iterator[bytes]:
    yield b"half" * 5_000_000
    raise error


def test_an_error_while_writing_puts_no_object_and_keeps_the_old_one(
    proxy: Proxy, bucket: str, s3_process: S3Server
) -> None:
    """Fails if a stream that an error closes is put as if it were whole, as pyarrow does."""
    place = Location.of(f"s3://{bucket}/file")
    for before in ([], ["file"]):
        for error in (ValueError, KeyboardInterrupt):
            with pytest.raises(error), atomic_output(place) as sink:
                sink.writelines(half_then(error))
        assert s3_process.keys(bucket) == before
        place.write_bytes(b"old")
    assert place.read_bytes() == b"old"


def test_an_object_is_checked_before_it_is_put(proxy: Proxy, bucket: str) -> None:
    place, seen = Location.of(f"s3://{bucket}/file"), []

    def refuse(written: object) -> None:
        seen.append(written.read())  # type: ignore[attr-defined]
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"), atomic_output(place, refuse) as sink:
        sink.write(b"data")
    assert seen == [b"data"]
    assert place.info() is None


def test_a_full_disk_under_the_spool_is_said_with_its_place(
    proxy: Proxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes to an object store is collected locally first; that disk may be the one that is full."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        place = Location.of(f"s3://{bucket}/file")
        with pytest.raises(RequestError, match="disk is full") as error:
            place.write_bytes(b"x" * 2**21)
        assert str(disk) in error.value.paragraph()
        assert place.info() is None
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("size", [0, 1, 6 * 2**20, 21 * 2**20])
def test_objects_of_every_size_come_back(proxy: Proxy, bucket: str, size: int) -> None:
    """Fails too if the suffix makes pyarrow compress once more what is put."""
    place, data = Location.of(f"s3://{bucket}/a b/ü.jsonl.gz"), random.Random(size).randbytes(size)
    place.write_bytes(data)
    assert place.read_bytes() == data
    assert place.info().size_bytes == size  # type: ignore[union-attr]


def test_listings_and_patterns_mean_what_they_mean_locally(proxy: Proxy, bucket: str, s3_process: S3Server) -> None:
    for name in ("b.txt", "a.txt", "sub/c.txt", "sub/deep/a.txt", "d.json"):
        s3_process.put(bucket, f"root/{name}", name.encode())
    root = Location.of(f"s3://{bucket}/root")

    def found(infos: list[storage.FileInfo]) -> list[str]:
        return [i.uri.removeprefix(f"{root.uri}/") for i in infos]

    assert found(root.files()) == ["a.txt", "b.txt", "d.json"]
    assert found(root.files(recursive=True)) == ["a.txt", "b.txt", "d.json", "sub/c.txt", "sub/deep/a.txt"]
    assert found((root / "*.txt").glob()) == ["a.txt", "b.txt"]
    assert found((root / "**/a.txt").glob()) == ["a.txt", "sub/deep/a.txt"]
    assert found((root / "*/c.txt").glob()) == ["sub/c.txt"]
    assert (root / "nothing*").glob() == (root / "none").files() == []
    assert root.exists()
    assert root.info() is None


@pytest.mark.parametrize("uri", [f"s3://{KEY}:{SECRET}@bucket/x", f"gs://{SECRET}@bucket/x", f"s3://u:{SECRET}/x"])
def test_a_path_with_credentials_is_refused_without_repeating_them(uri: str) -> None:
    with pytest.raises(RequestError, match="holds credentials") as error:
        Location.of(uri)
    assert SECRET not in error.value.paragraph()
    assert KEY not in error.value.paragraph()


@pytest.mark.parametrize(
    "text",
    [
        f"https://user:{SECRET}@host/path",
        f"AWS_SECRET_ACCESS_KEY={SECRET}",
        f"X-Amz-Signature={SECRET}&x=1",
        f"token: '{SECRET}'",
        f"X-Amz-Security-Token={SECRET}",
        f"the key {KEY} is unknown",
    ],
)
def test_what_looks_like_a_secret_is_left_out_of_messages(text: str) -> None:
    shown = redact(text)
    assert SECRET not in shown
    assert KEY not in shown


@pytest.fixture
def quick_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lock_module, "LEASE_SECONDS", 1.5)


@pytest.mark.usefixtures("quick_lease")
def test_a_second_run_on_an_object_store_is_refused_while_the_first_lives(proxy: Proxy, bucket: str) -> None:
    place = Location.of(f"s3://{bucket}/out")
    with lock(place), pytest.raises(RequestError, match="Another run"), lock(place):
        pytest.fail("two runs hold the directory")
    with lock(place):
        pass
    assert not (place / ".lock").info()


@pytest.mark.slow
@pytest.mark.usefixtures("quick_lease")
def test_of_runs_that_begin_at_once_one_goes_on(proxy: Proxy, bucket: str) -> None:
    place, outcomes = Location.of(f"s3://{bucket}/out"), []
    barrier = threading.Barrier(3)

    def run() -> None:
        barrier.wait()
        try:
            with lock(place):
                time.sleep(3)
            outcomes.append("held")
        except ShardmillError:
            outcomes.append("refused")

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "held" in outcomes
    assert len(outcomes) == 3


@pytest.mark.usefixtures("quick_lease")
@pytest.mark.parametrize(
    ("left", "waits"),
    [
        (b'{"run": "x", "host": "elsewhere", "process": 1, "beat": 3}', True),
        (b"not json \xff", True),
        (b"[]", True),
        (b'{"run": "x", "host": "HERE", "process": 4000000, "beat": 3}', True),
        (b'{"run": "x", "host": "HERE", "process": 4000000, "started": 7, "beat": 3}', False),
        (b'{"run": "x", "host": "HERE", "process": MINE, "started": 7, "beat": 3}', False),
    ],
    ids=["elsewhere", "no JSON", "no object", "of no known start", "here", "here, with a number that came round"],
)
def test_the_lease_of_a_dead_run_is_taken_over(proxy: Proxy, bucket: str, left: bytes, waits: bool) -> None:
    """Fails if a run that was killed keeps all later ones out; of this machine's dead nobody waits."""
    import socket

    place = Location.of(f"s3://{bucket}/out")
    here = {b"HERE": socket.gethostname().encode(), b"MINE": str(os.getpid()).encode()}
    for word, value in here.items():
        left = left.replace(word, value)
    (place / ".lock").write_bytes(left)
    began = time.monotonic()
    with lock(place):
        assert (time.monotonic() - began >= 1.5) == waits


def test_a_local_lock_still_excludes(tmp_path: Path) -> None:
    place = Location.of(tmp_path / "out")
    with lock(place), pytest.raises(RequestError, match="Another run"), lock(place):
        pytest.fail("two runs hold the directory")
    with lock(place):
        pass
