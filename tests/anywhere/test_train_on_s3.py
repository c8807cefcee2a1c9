"""Training runs whose directory is on an object store: the run of the local disk, whatever stops it and wherever."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from s3_server import KEY, SECRET, Fault, Proxy, S3Server
from small_jobs import Shardmill, job_for, write_job

from schemas.storage import Location
from trainer.cli import main
from trainer.loop import TrainSettings, train

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ["--steps", "24", "--tokens-per-batch", "256", "--device", "cpu", "--log-every", "1"]
OPTIONS += ["--checkpoint-every", "6", "--eval-batches", "2"]


@pytest.fixture
def data(corpus: Path, shardmill: Shardmill) -> Path:
    shardmill("prepare", write_job(corpus.parent, job_for(corpus)), "--direct_num_workers=1")
    return corpus.parent / "out"


def whole_run(data: Path, out: Path) -> tuple[list[dict[str, Any]], bytes]:
    """The loss curve and the weights of an undisturbed run on the local disk."""
    settings: dict[str, Any] = {"steps": 24, "tokens_per_batch": 256, "device": "cpu", "log_every_steps": 1}
    settings |= {"checkpoint_every_steps": 6, "eval_batches": 2, "tensorboard": False}
    train(TrainSettings(dataset=data, out=out, **settings), console=Console(quiet=True))
    return curve((out / "metrics.jsonl").read_bytes()), (out / "final/model.safetensors").read_bytes()


def curve(metrics: bytes) -> list[dict[str, Any]]:
    names = ("step", "loss", "grad_norm", "tokens", "learning_rate", "validation_loss")
    lines = [json.loads(line) for line in metrics.splitlines()]
    return [{n: line[n] for n in names if n in line} for line in lines]


def start(dataset: str | Path, out: str, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "trainer", str(dataset), "--out", out, *OPTIONS, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    text = process.communicate(timeout=180)[0]
    assert process.returncode == code, text
    assert "Traceback" not in text
    assert KEY not in text
    assert SECRET not in text
    return " ".join(text.split())


def wait_for(seen: str, proxy: Proxy, process: subprocess.Popen[str]) -> None:
    """Until a request has come whose method and path hold `seen`."""
    deadline = time.monotonic() + 120
    while not any(seen in request for request in proxy.seen):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def hits(method: str, part: str) -> Callable[[int, str, str], bool]:
    return lambda number, m, path: m.startswith(method) and part in path


def steps(s3: S3Server, bucket: str) -> list[int]:
    """Whole checkpoints by their steps."""
    keys = [k for k in s3.keys(bucket, "run/checkpoints/") if k.endswith("/state.json")]
    return sorted(int(k.split("/step-")[1].split("/")[0]) for k in keys)


@pytest.mark.slow
def test_kill_9_and_again_gives_the_run_of_the_local_disk_bit_for_bit(
    proxy: Proxy, bucket: str, s3_process: S3Server, data: Path, tmp_path: Path
) -> None:
    """Dataset and run on the store; the second kill is in the middle of an upload, of which nothing may count."""
    s3_process.upload(data, bucket, "out")
    dataset, out = f"s3://{bucket}/out", f"s3://{bucket}/run"
    process = start(dataset, out)
    wait_for(f"PUT /{bucket}/run/checkpoints/step-00000006/state.json", proxy, process)
    kill(process)
    # An upload that takes for ever, of the file with the tensors.
    proxy.fault = Fault("slow", lambda n, m, path: m == "PUT" and "step-00000018/__0_0" in path, seconds=60)
    process = start(dataset, out)
    wait_for(f"PUT /{bucket}/run/checkpoints/step-00000018/__0_0", proxy, process)
    kill(process)
    proxy.fault = None
    assert steps(s3_process, bucket)[-1] == 12
    assert "run/final/_SUCCESS" not in s3_process.keys(bucket)
    text = finish(start(dataset, out))
    assert "Going on from the checkpoint of step 12" in text
    assert f"aws s3 cp --recursive s3://{bucket}/run/final final && python -c" in text
    metrics, weights = whole_run(data, tmp_path / "whole")
    assert curve(s3_process.get(bucket, "run/metrics.jsonl")) == metrics
    assert s3_process.get(bucket, "run/final/model.safetensors") == weights
    assert steps(s3_process, bucket) == [12, 18]
    keys = s3_process.keys(bucket, "run/")
    assert {k.split("/")[2] for k in keys if "/checkpoints/" in k} == {"step-00000012", "step-00000018"}
    assert {"run/final/_SUCCESS", "run/samples.txt", "run/run.json"} <= set(keys)
    assert any(k.startswith("run/tensorboard/events") for k in keys)
    assert not [k for k in keys if k.endswith(".tmp")]
    assert "There is a finished run here already" in finish(start(dataset, out), 2)
    assert [k for k in s3_process.keys(bucket, "run/") if k not in keys] == []


@pytest.mark.slow
def test_a_store_that_fails_for_ever_at_a_checkpoint_leaves_the_one_before(
    proxy: Proxy, bucket: str, s3_process: S3Server, data: Path, tmp_path: Path
) -> None:
    out = f"s3://{bucket}/run"
    for method, part, status, error, words in (
        ("PUT", "step-00000012", 403, "AccessDenied", "refuses access"),
        ("PUT", "step-00000012/state", 400, "ExpiredToken", "Log in again"),
        ("", "step-00000012/state", 404, "NoSuchBucket", "no such bucket"),
    ):
        fault = Fault("status", hits(method, part), status, error)
        proxy.fault = fault
        text = finish(start(data, out), 2)
        assert words in text
        assert f"s3://{bucket}/run/checkpoints/step-00000012" in text
        assert text.count("Where:") == 1
        proxy.fault = None
        assert steps(s3_process, bucket) == [6]
    # What fails now and then is no matter.
    proxy.fault = Fault("status", lambda n, m, path: n % 5 == 0, 503, "SlowDown")
    assert "Going on from the checkpoint of step 6" in finish(start(data, out))
    proxy.fault = None
    metrics, weights = whole_run(data, tmp_path / "whole")
    assert curve(s3_process.get(bucket, "run/metrics.jsonl")) == metrics
    assert s3_process.get(bucket, "run/final/model.safetensors") == weights


@pytest.mark.slow
def test_overwriting_and_other_settings_and_signals(
    proxy: Proxy, bucket: str, s3_process: S3Server, data: Path
) -> None:
    out = f"s3://{bucket}/run"
    process = start(data, out)
    wait_for("step-00000006/state.json", proxy, process)
    process.send_signal(signal.SIGTERM)
    assert "Stopped by a signal after step" in finish(process, 128 + signal.SIGTERM)
    last = curve(s3_process.get(bucket, "run/metrics.jsonl"))[-1]["step"]
    assert steps(s3_process, bucket)[-1] == last
    assert "unfinished run of other settings" in finish(start(data, out, "--learning-rate", "0.5"), 2)
    before = s3_process.keys(bucket, "run/tensorboard/")
    text = finish(start(data, out, "--overwrite"))
    assert "Going on" not in text
    assert not set(before) & set(s3_process.keys(bucket, "run/tensorboard/"))
    assert [line["step"] for line in curve(s3_process.get(bucket, "run/metrics.jsonl"))][:24] == [*range(1, 25)]


@pytest.mark.parametrize(
    ("out", "words"),
    [("s3://no-such-bucket/run", "no such bucket"), (f"s3://{KEY}:{SECRET}@BUCKET/run", "holds credentials")],
)
def test_a_wrong_place_is_one_paragraph(
    proxy: Proxy, bucket: str, data: Path, out: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(data), "--out", out.replace("BUCKET", bucket), *OPTIONS]) == 2
    text = "".join(capsys.readouterr())
    assert words in text
    assert KEY not in text
    assert SECRET not in text


@pytest.mark.slow
def test_what_two_processes_saved_one_goes_on_with(
    proxy: Proxy, bucket: str, s3_process: S3Server, data: Path
) -> None:
    """Each process puts its own tensors; the index and `state.json` of the leading one come last."""
    out = f"s3://{bucket}/run"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    command += ["-m", "trainer", str(data), "--out", out, *OPTIONS, "--parallel", "fsdp"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    keys = s3_process.keys(bucket, "run/checkpoints/step-00000018/")
    names = {k.rsplit("/", 1)[1] for k in keys}
    assert names == {
        *("__0_0.distcp", "__1_0.distcp", ".metadata"),
        *("random-00000.pt", "random-00001.pt", "state.json"),
    }
    shared = curve(s3_process.get(bucket, "run/metrics.jsonl"))
    for key in s3_process.keys(bucket, "run/final/"):
        Location.of(f"s3://{bucket}/{key}").remove()
    assert "Going on from the checkpoint of step 18" in finish(start(data, out))
    alone = curve(s3_process.get(bucket, "run/metrics.jsonl"))
    assert [line["step"] for line in alone] == [line["step"] for line in shared]
    assert alone[:18] == shared[:18]
    # Dropout differs from here on, so the losses are near and not the same.
    for one, two in zip(alone[18:24], shared[18:24], strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=0.1)
