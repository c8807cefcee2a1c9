"""The trainer's stream over an object store that fails: the batches of the local disk, or the shard by its name."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import torch
from s3_server import KEY, SECRET, Fault, Proxy, S3Server
from small_jobs import Shardmill, job_for, write_job

from schemas.errors import DataError, RequestError
from schemas.manifest import read_shards
from schemas.storage import Location
from trainer.stream import Batch, Stream

torch.set_num_threads(1)

Picks = Callable[[int, str, str], bool]


@pytest.fixture
def data(corpus: Path, shardmill: Shardmill, s3_process: S3Server, bucket: str) -> tuple[Path, str]:
    """A dataset on the local disk, and the same on the object store."""
    shardmill("prepare", write_job(corpus.parent, job_for(corpus)), "--direct_num_workers=1")
    s3_process.upload(corpus.parent / "out", bucket, "out")
    return corpus.parent / "out", f"s3://{bucket}/out"


def stream(dataset: Path | str, **options: Any) -> Stream:
    return Stream(dataset, **({"tokens_per_batch": 512, "seed": 3, "epochs": 1, "backoff_seconds": 0.01} | options))


def check_same(here: list[Batch], there: list[Batch]) -> None:
    assert len(here) == len(there) > 100
    for local, remote in zip(here, there, strict=True):
        assert local.keys() == remote.keys()
        for name, value in local.items():
            assert torch.equal(value, remote[name]) if torch.is_tensor(value) else value == remote[name], name


def some_of_the_shards_requests(share: float) -> Picks:
    draw = random.Random(5)
    return lambda number, method, path: "/data/" in path and draw.random() < share


PASSING = {
    "error 500": Fault("status", some_of_the_shards_requests(0.2)),
    "throttling": Fault("status", some_of_the_shards_requests(0.2), 503, "SlowDown"),
    "connection reset": Fault("reset", some_of_the_shards_requests(0.2)),
    "answer cut off": Fault("cut", lambda n, m, p: m == "GET" and "/data/" in p and n % 4 == 0),
    "slow answers": Fault("slow", some_of_the_shards_requests(0.5), seconds=0.05),
}


QUICK = ("connection reset", "answer cut off")
"""For the default tests; each waits for its back-off."""


@pytest.mark.parametrize(
    ("names", "on_error"),
    [(QUICK, "fail"), *(pytest.param(tuple(PASSING), kind, marks=pytest.mark.slow) for kind in ("fail", "skip"))],
    ids=["two kinds", "fail", "skip"],
)
def test_what_passes_changes_no_batch(
    proxy: Proxy, data: tuple[Path, str], names: tuple[str, ...], on_error: str
) -> None:
    """Fails if a short outage ends a training run, loses its rows or changes their order."""
    wanted = list(stream(data[0]))
    for name in names:
        proxy.fault = fault = PASSING[name]
        fault.hits = 0
        found = stream(data[1], on_error=on_error)
        check_same(wanted, list(found))
        assert fault.hits > 2, name
        assert found.faults == []
        proxy.fault = None


def only(shard: str) -> Picks:
    return lambda number, method, path: shard in unquote(path)


LASTING = {
    "error 500": ("status", "storage failed"),
    "connection reset": ("reset", "cannot be reached"),
    "answer cut off": ("cut", "storage (failed|cannot be reached)"),
    "silence": ("slow", "does not answer"),
    "truncated object": ("truncated", "cannot be read"),
    "no object": ("missing", "is missing"),
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", LASTING)
def test_a_shard_that_stays_unreadable_is_named_or_left_out(
    proxy: Proxy, data: tuple[Path, str], bucket: str, s3_process: S3Server, name: str
) -> None:
    kind, words = LASTING[name]
    local, remote = data
    wanted = list(stream(local))
    shards = [s for s in read_shards(Location.of(local)).to_pylist() if s["split"] == "train"]
    shard = max(shards, key=lambda s: int(s["rows"]))
    options: dict[str, Any] = {"retries": 1}
    if kind == "truncated":
        s3_process.put(bucket, f"out/{shard['path']}", (local / shard["path"]).read_bytes()[:-100])
    elif kind == "missing":
        (Location.of(remote) / shard["path"]).remove()
    else:
        proxy.fault = Fault(kind, only(shard["path"]), seconds=3)
        options["read_timeout_seconds"] = 1.0 if kind == "slow" else 60
    with pytest.raises(DataError, match=words) as error:
        list(stream(remote, **options))
    text = error.value.paragraph()
    assert shard["path"] in text
    assert error.value.remedy
    assert KEY not in text
    assert SECRET not in text
    skipping = stream(remote, on_error="skip", **options)
    found = list(skipping)
    assert skipping.skipped_rows == shard["rows"]
    assert all(shard["path"] in fault.where for fault in skipping.faults)
    assert len(found) == len(wanted)
    for local_batch, batch in zip(wanted, found, strict=True):
        kept = batch["row_weight"] > 0
        assert torch.equal(batch["input_ids"][kept], local_batch["input_ids"][kept])
    assert sum(int((b["row_weight"] > 0).sum()) for b in found) == sum(s["rows"] for s in shards) - shard["rows"]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_credentials_that_expire_on_the_way_end_the_run(proxy: Proxy, data: tuple[Path, str], on_error: str) -> None:
    """Fails if a refusal, which is no damage, is skipped shard by shard until nothing is left."""
    batches = iter(stream(data[1], on_error=on_error, threads=1))
    next(batches)
    proxy.fault = Fault("status", lambda *_: True, 400, "ExpiredToken")
    with pytest.raises(RequestError, match="does not accept the credentials"):
        list(batches)
