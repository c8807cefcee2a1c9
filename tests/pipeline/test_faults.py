"""kill -9 at any moment, then the same command: the same bytes, and nothing left over."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from small_jobs import Shardmill, digests, job_for, shard_digests, write_job

COMMAND = [sys.executable, "-m", "pipelines.cli", "prepare"]


def _start(job: Path) -> subprocess.Popen[bytes]:
    nowhere = subprocess.DEVNULL
    return subprocess.Popen(
        [*COMMAND, str(job), "--direct_num_workers=2"], stdout=nowhere, stderr=nowhere, start_new_session=True
    )


def _kill_tree(process: subprocess.Popen[bytes]) -> None:
    """The launcher and its workers at once, those too that are only just being started."""
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    for child in children:  # in a group of their own
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()


def _wait_for_files(folder: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Until the run has left this many files, so that the kill hits a chosen phase on a machine of any speed."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if sum(1 for p in folder.rglob("*") if p.is_file()) >= count:
            return
        time.sleep(0.002)


@pytest.mark.slow
def test_kill_9_of_the_whole_tree_at_five_moments_then_a_rerun_gives_the_same_bytes(
    corpus: Path, shardmill: Shardmill, system_tmp: Path
) -> None:
    good = write_job(corpus.parent, job_for(corpus, output="good"), "good.yaml")
    shardmill("prepare", good, "--direct_num_workers=1")
    files = len(digests(corpus.parent / "good"))
    job = write_job(corpus.parent, job_for(corpus, output="killed"), "killed.yaml")
    out = corpus.parent / "killed"
    draw = random.Random(time.time_ns())
    moments = sorted(draw.randrange(1, files) for _ in range(5))
    killed = 0
    for moment in moments:
        process = _start(job)
        _wait_for_files(out, moment, process)
        if process.poll() is None:
            time.sleep(draw.random() * 0.05)
            _kill_tree(process)
            killed += 1
    assert killed >= 3, f"too fast to kill at {moments} files"
    shardmill("prepare", job, "--direct_num_workers=2")
    assert shard_digests(out) == shard_digests(corpus.parent / "good"), moments
    assert not list(out.rglob("*.tmp"))
    assert not list(system_tmp.iterdir())
    shardmill("verify", out)


def forked_workers(launcher: int) -> list[psutil.Process]:
    """The local workers of a run: children of its fork server."""
    try:
        children = psutil.Process(launcher).children()
        return [w for c in children if "pipelines.fork_server" in c.cmdline() for w in c.children()]
    except psutil.NoSuchProcess:
        return []


IGNORING = "import runpy, signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
IGNORING += "runpy.run_module('pipelines.cli', run_name='__main__')"


@pytest.mark.slow
@pytest.mark.parametrize("begun", ["at a terminal", "in the background"])
@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_a_worker_that_dies_is_said_so_and_the_run_goes_on(
    corpus: Path, shardmill: Shardmill, begun: str, seconds: float
) -> None:
    """Fails if a killed worker hangs the run, also where it ignores SIGINT, or if the message is Beam's own."""
    job = write_job(corpus.parent, job_for(corpus))
    command = COMMAND if begun == "at a terminal" else [sys.executable, "-c", IGNORING, "prepare"]
    process = subprocess.Popen(
        [*command, str(job), "--direct_num_workers=2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    workers: list[psutil.Process] = []
    while not workers and time.monotonic() < deadline and process.poll() is None:
        workers = forked_workers(process.pid)
        time.sleep(0.01)
    assert workers
    time.sleep(seconds)
    with contextlib.suppress(psutil.NoSuchProcess):
        workers[-1].kill()
    _, errors = process.communicate(timeout=120)
    if process.returncode:  # a worker killed before it had work may be no loss at all
        assert process.returncode == 1
        assert "A worker process died" in errors
        assert "Traceback" not in errors
    shardmill("prepare", job, "--direct_num_workers=1")
