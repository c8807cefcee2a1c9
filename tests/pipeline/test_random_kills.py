"""kill -9 of any one process at any moment, many times; two runs at once; clocks that jump. Always the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from small_jobs import Shardmill, digests, job_for, shard_digests, write_job

RUNS = int(os.environ.get("SHARDMILL_KILLS", "12"))
"""Runs that are killed; a hundred take about ten minutes on two cores."""

COMMAND = [sys.executable, "-m", "pipelines.cli", "prepare"]
LEFT_BEHIND = (".lock",)
"""Documented files that stay: the lock's, which no process holds."""


@pytest.fixture
def good(corpus: Path, shardmill: Shardmill) -> dict[str, str]:
    job = write_job(corpus.parent, job_for(corpus, output="good"), "good.yaml")
    shardmill("prepare", job, "--direct_num_workers=1")
    return shard_digests(corpus.parent / "good")


def _is_whole(out: Path, clean: Path, good: dict[str, str]) -> None:
    """The right bytes, and no file beyond those of an undisturbed run."""
    assert shard_digests(out) == good
    names = {n for n in digests(out) if not n.startswith("_commits")}
    assert names - set(digests(clean)) <= set(LEFT_BEHIND)


def _family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """A run and all that it started, as long as it lives."""
    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _kill_one(draw: random.Random, process: subprocess.Popen[bytes], family: list[psutil.Process]) -> str:
    """Kill a random process of a run, the run itself included; returns what it was."""
    victim = draw.choice(family)
    try:
        os.kill(victim.pid, signal.SIGKILL)
    except ProcessLookupError:
        return "had ended"
    return "launcher" if victim.pid == process.pid else "child"


def _end(process: subprocess.Popen[bytes], family: list[psutil.Process]) -> str:
    """Wait for a run; fails if a process of it outlives it."""
    _, errors = process.communicate(timeout=120)
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    text = errors.decode()
    assert "Traceback" not in text
    assert "failed unexpectedly" not in text
    return {0: "went on", 1: "said so", -9: "died"}.get(process.returncode, str(process.returncode))


@pytest.mark.slow
def test_kill_9_of_a_random_process_at_a_random_moment_never_changes_a_byte(
    corpus: Path, shardmill: Shardmill, good: dict[str, str], system_tmp: Path, figures: Callable[[str], None]
) -> None:
    seed = time.time_ns()
    draw, outcomes = random.Random(seed), Counter[str]()
    out = corpus.parent / "killed"
    job = write_job(corpus.parent, job_for(corpus, output="killed"), "killed.yaml")
    began = time.monotonic()
    try:
        for run in range(RUNS):
            if (out / "manifest.json").exists() and draw.random() < 0.8:
                subprocess.run(["rm", "-r", out], check=True)
            process = subprocess.Popen(
                [*COMMAND, str(job), "--direct_num_workers=2"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            deadline = time.monotonic() + draw.random() * 7
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            family = _family(process) if process.poll() is None else []
            killed = _kill_one(draw, process, family) if family else "had ended"
            outcomes[f"{killed}: {_end(process, family)}"] += 1
            if run % 5 == 4 or run == RUNS - 1:
                shardmill("prepare", job, "--direct_num_workers=2")
                _is_whole(out, corpus.parent / "good", good)
                assert not list(system_tmp.iterdir())
    finally:
        figures(f"{sum(outcomes.values())} runs, seed {seed}, {time.monotonic() - began:.0f} s: {dict(outcomes)}")
    assert sum(n for kind, n in outcomes.items() if not kind.startswith("had ended")) >= RUNS // 2
    shardmill("verify", out)


@pytest.mark.slow
def test_of_two_runs_of_a_job_at_once_one_is_refused_and_the_other_is_right(
    corpus: Path, good: dict[str, str], figures: Callable[[str], None]
) -> None:
    job = write_job(corpus.parent, job_for(corpus))
    refused = 0
    for _ in range(3):
        subprocess.run(["rm", "-rf", corpus.parent / "out"], check=True)
        runs = [
            subprocess.Popen(
                [*COMMAND, str(job), "--direct_num_workers=1"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            for _ in range(2)
        ]
        errors = [run.communicate(timeout=120)[1].decode() for run in runs]
        codes = sorted(run.returncode for run in runs)
        # Where the second came when the first had ended, it found all done.
        assert codes in ([0, 2], [0, 0]), errors
        assert not any("Traceback" in text for text in errors)
        refused += any("Another run is writing" in text for text in errors)
        _is_whole(corpus.parent / "out", corpus.parent / "good", good)
    figures(f"refused {refused} of 3")
    assert refused


CLOCK = """
import os, random, sys, time
draw, real, real_ns = random.Random(int(sys.argv.pop(1))), time.time, time.time_ns
def jump():
    return draw.choice([0, -86400 * 400, 86400 * 4000, -3600, 0.5]) if draw.random() < 0.5 else 0
time.time = lambda: max(1.0, real() + jump())
time.time_ns = lambda: int(time.time() * 1e9)
from pipelines.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_clock_that_jumps_changes_no_byte(corpus: Path, shardmill: Shardmill, good: dict[str, str]) -> None:
    """By years in both directions, between any two looks at it, and with files of the future in the output."""
    job = write_job(corpus.parent, job_for(corpus))
    out = corpus.parent / "out"
    for seed in range(3):
        command = [sys.executable, "-c", CLOCK, str(seed), "prepare", str(job), "--direct_num_workers=1"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        _is_whole(out, corpus.parent / "good", good)
        for path in list(out.rglob("*"))[:: seed + 2]:
            os.utime(path, (4e9, 4e9) if seed % 2 else (1e6, 1e6))
        (out / "manifest.json").unlink()
    shardmill("prepare", job, "--direct_num_workers=1")
    _is_whole(out, corpus.parent / "good", good)
    # The inputs' own times, which a copy changes, do not count as changed inputs either.
    for path in corpus.iterdir():
        os.utime(path, (4e9, 4e9))
    text = shardmill("prepare", job, "--direct_num_workers=1")
    assert "nothing to do" in text
    _is_whole(out, corpus.parent / "good", good)
