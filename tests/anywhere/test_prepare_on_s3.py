"""Whole jobs with inputs, token store and dataset on an object store: the same shards as on the local disk."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from s3_server import KEY, SECRET, Fault, Proxy, S3Server, free_port
from small_jobs import Shardmill, job_for, shard_digests, write_job

import schemas.object_store as object_store
import schemas.storage as storage
from schemas.manifest import read_shards
from schemas.storage import Location

ONE, TWO = "--direct_num_workers=1", "--direct_num_workers=2"


def remote_job(s3: S3Server, corpus: Path, bucket: str) -> str:
    """Upload a corpus and a job over it; returns the job's URI."""
    s3.upload(corpus, bucket, "corpus")
    s3.put(bucket, "job.yaml", yaml.safe_dump(job_for(corpus)).encode())
    return f"s3://{bucket}/job.yaml"


def object_digests(s3: S3Server, bucket: str) -> dict[str, str]:
    """As `shard_digests` of the local disk."""
    keys = [k.removeprefix("out/") for k in s3.keys(bucket, "out/")]
    wanted = [
        k
        for k in keys
        if (k.startswith(("data/", "tokens/")) and k.endswith(".parquet"))
        or ("/" not in k and k.endswith(".parquet"))
        or k == "tokenizer.json"
    ]
    return {k: hashlib.sha256(s3.get(bucket, f"out/{k}")).hexdigest() for k in wanted}


@pytest.fixture
def good(corpus: Path, shardmill: Shardmill) -> dict[str, str]:
    """Digests of the job's files on the local disk."""
    shardmill("prepare", write_job(corpus.parent, job_for(corpus, output="good"), "good.yaml"), ONE)
    return shard_digests(corpus.parent / "good")


def check_whole(s3: S3Server, bucket: str, good: dict[str, str]) -> None:
    assert object_digests(s3, bucket) == good
    for key in s3.keys(bucket):
        data = s3.get(bucket, key)
        assert SECRET.encode() not in data, key
        assert KEY.encode() not in data, key
        assert not key.endswith((".tmp", ".lock")), key
        assert "/.ranges-" not in key


def test_a_job_on_s3_makes_the_shards_of_the_local_disk_and_every_command_reads_them(
    proxy: Proxy, bucket: str, s3_process: S3Server, corpus: Path, shardmill: Shardmill, good: dict[str, str]
) -> None:
    job, out = remote_job(s3_process, corpus, bucket), f"s3://{bucket}/out"
    shown = shardmill("prepare", job, ONE)
    check_whole(s3_process, bucket, good)
    shown += shardmill("prepare", job, ONE)
    assert "nothing to do" in shown
    shown += shardmill("audit", out) + shardmill("show", out, "-n", "2") + shardmill("verify", out)
    shown += shardmill("plan", job)
    assert SECRET not in shown
    assert KEY not in shown


def test_an_audit_on_s3_finds_and_shows_what_it_does_on_the_local_disk(
    proxy: Proxy, bucket: str, s3_process: S3Server, corpus: Path, shardmill: Shardmill, good: dict[str, str]
) -> None:
    here, there = corpus.parent / "good", f"s3://{bucket}/out"
    s3_process.upload(here, bucket, "out")
    s3_process.put(bucket, "out/audit/audit.json", b"{}")
    expected = (here / "audit" / "audit.json").read_bytes()
    shown = " ".join(shardmill("audit", there, "--against", here).split())
    assert "Nothing differs beyond chance." in shown
    for options in ((), (ONE,)):
        shardmill("audit", there, *options)
        assert s3_process.get(bucket, "out/audit/audit.json") == expected

    path = read_shards(Location.of(str(here)))["path"][0].as_py()
    file = pq.ParquetFile(here / path)
    table, name = file.read(), "length"
    wrong = pc.add(table[name], pa.array([1] + [0] * (table.num_rows - 1), pa.int32()))
    spoiled = table.set_column(table.column_names.index(name), table.schema.field(name), wrong)
    pq.write_table(spoiled, here / path, row_group_size=file.metadata.row_group(0).num_rows)
    s3_process.upload(here, bucket, "out")
    shown = " ".join(shardmill("audit", there, expect=1).split())
    assert "FAIL lengths 1 × length mismatch expected: `length` = len(input_ids)" in shown
    assert f"worst shard: {path}" in shown
    assert f"shardmill show {there} --gate lengths" in shown
    shown = " ".join(shardmill("show", there, "--gate", "lengths").split())
    assert f"{path}, row 0" in shown
    shardmill("audit", here, expect=1)
    assert s3_process.get(bucket, "out/audit/audit.json") == (here / "audit" / "audit.json").read_bytes()


def test_the_trainers_stream_reads_the_same_batches_from_s3(
    proxy: Proxy, bucket: str, s3_process: S3Server, corpus: Path, good: dict[str, str]
) -> None:
    torch = pytest.importorskip("torch")
    from trainer.stream import Stream

    s3_process.upload(corpus.parent / "good", bucket, "out")
    here = Stream(corpus.parent / "good", tokens_per_batch=512, seed=3, epochs=1)
    there = Stream(f"s3://{bucket}/out", tokens_per_batch=512, seed=3, epochs=1)
    steps = 0
    for local, remote in zip(here, there, strict=True):
        assert local.keys() == remote.keys()
        for name, value in local.items():
            same = torch.equal(value, remote[name]) if torch.is_tensor(value) else value == remote[name]
            assert same, name
        steps += 1
    assert steps > 100


PLACES = {
    "bucket of an input": ("sources.0.files", "s3://no-such-bucket/web-*.jsonl", "no bucket s3://no-such-bucket"),
    "object of an input": ("sources.0.files", "s3://BUCKET/none.jsonl", "no file s3://"),
    "bucket of the output": ("output", "s3://no-such-bucket/out", "no such bucket"),
    "bucket of the tokens": ("tokens", "s3://no-such-bucket/tokens", "no such bucket"),
    "credentials in a path": ("output", f"s3://{KEY}:{SECRET}@BUCKET/out", "holds credentials"),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_wrong_place_is_one_paragraph(
    proxy: Proxy, bucket: str, corpus: Path, shardmill: Shardmill, name: str
) -> None:
    key, value, words = PLACES[name]
    job = job_for(corpus, output=f"s3://{bucket}/out")
    value = value.replace("BUCKET", bucket)
    if key.startswith("sources"):
        job["sources"][0]["files"] = value
    else:
        job[key] = value
    text = shardmill("prepare", write_job(corpus.parent, job), ONE, expect=2)
    assert words in text
    assert text.count("error:") == 1
    assert SECRET not in text
    assert KEY not in text


def test_a_dataset_in_a_bucket_that_is_absent_is_one_paragraph(
    proxy: Proxy, bucket: str, shardmill: Shardmill
) -> None:
    assert "Got: no bucket s3://no-such-bucket." in shardmill("verify", "s3://no-such-bucket/out", expect=2)
    assert "Got: no manifest.json." in shardmill("show", f"s3://{bucket}/out", expect=2)


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (Fault("status", lambda *_: True, 403, "InvalidAccessKeyId"), 2, "refuses access"),
        (Fault("status", lambda *_: True, 403, "AccessDenied"), 2, "refuses access"),
        (Fault("status", lambda n, m, p: m == "PUT", 403, "AccessDenied"), 2, "refuses access"),
        (Fault("status", lambda *_: True, 503, "SlowDown"), 1, "what is finished is kept"),
        (Fault("reset", lambda *_: True), 1, "cannot be reached"),
    ],
    ids=["unknown key", "no rights", "no right to write", "throttled for ever", "resets for ever"],
)
def test_a_storage_that_refuses_is_one_paragraph(
    proxy: Proxy,
    bucket: str,
    s3_process: S3Server,
    corpus: Path,
    shardmill: Shardmill,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    code: int,
    words: str,
) -> None:
    monkeypatch.setattr(object_store, "ATTEMPTS", 2)
    storage._filesystem.cache_clear()
    job = remote_job(s3_process, corpus, bucket)
    proxy.fault = fault
    text = shardmill("prepare", job, ONE, expect=code)
    assert words in text
    assert text.count("error:") == 1
    assert SECRET not in text
    assert KEY not in text


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["credentials", "server"])
def test_without_credentials_or_server_a_run_ends_with_one_paragraph(
    proxy: Proxy, bucket: str, corpus: Path, missing: str, s3_process: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = remote_job(s3_process, corpus, bucket)
    if missing == "server":
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    else:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    command = [sys.executable, "-m", "pipelines.cli", "prepare", job, ONE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == {"credentials": 2, "server": 1}[missing]
    assert {"credentials": "refuses access", "server": "cannot be reached"}[missing] in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_tenth_of_all_requests_failing_changes_no_byte(
    proxy: Proxy,
    bucket: str,
    s3_process: S3Server,
    corpus: Path,
    shardmill: Shardmill,
    good: dict[str, str],
    figures: Callable[[str], None],
) -> None:
    """Fails if a failure of the network passes for the end of a file, a damaged archive or an absent object."""
    job = remote_job(s3_process, corpus, bucket)
    draw = random.Random(7)
    kinds = [
        Fault("status", lambda *_: True),
        Fault("status", lambda *_: True, 503, "SlowDown"),
        Fault("status", lambda *_: True, 502, ""),
        Fault("reset", lambda *_: True),
        Fault("cut", lambda n, method, path: method == "GET"),
        Fault("slow", lambda *_: True, seconds=0.3),
    ]

    hits: dict[str, int] = {}
    handle = proxy.handle

    def sometimes(request: object) -> None:
        fault = draw.choice(kinds) if draw.random() < 0.1 else None
        proxy.fault = fault
        if fault is not None:
            hits[f"{fault.kind} {fault.status}"] = hits.get(f"{fault.kind} {fault.status}", 0) + 1
        handle(request)  # type: ignore[arg-type]

    proxy.handle = sometimes  # type: ignore[method-assign]
    shardmill("prepare", job, TWO)
    proxy.handle, proxy.fault = handle, None  # type: ignore[method-assign]
    figures(f"{proxy.requests} requests, hit {hits}")
    assert sum(hits.values()) > 50
    check_whole(s3_process, bucket, good)
    shardmill("verify", f"s3://{bucket}/out")


@pytest.mark.slow
def test_kill_9_of_a_run_on_s3_then_a_rerun_gives_the_same_bytes(
    proxy: Proxy,
    bucket: str,
    s3_process: S3Server,
    corpus: Path,
    shardmill: Shardmill,
    good: dict[str, str],
    figures: Callable[[str], None],
) -> None:
    job = remote_job(s3_process, corpus, bucket)
    draw, killed = random.Random(time.time_ns()), 0
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", "prepare", job, TWO],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # From the lock on, so that most kills hit a run at work and few its start-up.
        while process.poll() is None and "out/.lock" not in s3_process.keys(bucket, "out/.lock"):
            time.sleep(0.02)
        time.sleep(draw.random() * 6)
        if process.poll() is None:
            parent = psutil.Process(process.pid)
            for victim in [*parent.children(recursive=True), parent]:
                os.kill(victim.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    figures(f"killed {killed} of 6")
    assert killed >= 3
    shardmill("prepare", job, TWO)
    check_whole(s3_process, bucket, good)
