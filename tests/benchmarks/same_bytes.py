"""Proves on a whole corpus that bytes do not depend on workers, retries, kills or the time of day.

    python tests/benchmarks/same_bytes.py JOB [--kills 5]

Prepares JOB from nothing with 1, 2 and 4 workers, a second time, with every bundle run twice, and with `kill -9` of
the whole process tree at random moments, each in a directory of its own. Prints, for each, the seconds, the digest
of all shards' sha256 and the largest resident set of any process; exits 1 on any difference.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import yaml


class PeakMemory:
    """Watches a process tree; `peaks` holds the largest resident bytes by kind of process."""

    def __init__(self, pid: int) -> None:
        self.peaks: dict[str, int] = {}
        self._pid, self._stop = pid, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, int]:
        """Stop watching and return the peaks."""
        self._stop.set()
        self._thread.join()
        return self.peaks

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            try:
                launcher = psutil.Process(self._pid)
                for process in [launcher, *launcher.children(recursive=True)]:
                    # VmHWM is the kernel's own high-water mark, so no short peak between two looks is missed.
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    peak = next(int(s.split()[1]) for s in status.splitlines() if s.startswith("VmHWM")) * 1024
                    kind = "launcher" if process.pid == self._pid else "worker"
                    self.peaks[kind] = max(peak, self.peaks.get(kind, 0))
            except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError, StopIteration):
                continue  # a process ended between the listing and the look


def start(job: Path, *options: str) -> subprocess.Popen[str]:
    """`shardmill prepare` in a process group of its own."""
    command = [sys.executable, "-m", "pipelines.cli", "prepare", str(job), *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a run; stop with its output if it failed."""
    text, _ = process.communicate()
    if process.returncode:
        raise SystemExit(text)
    return text


def kill_tree(process: subprocess.Popen[str]) -> None:
    """SIGKILL for the launcher and everything it started."""
    launcher = psutil.Process(process.pid)
    for victim in [*launcher.children(recursive=True), launcher]:
        try:
            os.kill(victim.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it ended by itself
    process.communicate()


def digest(dataset: Path) -> str:
    """Of the shards, the plan, the index and the tokenizer."""
    files = sorted([*dataset.glob("data/**/*.parquet"), *dataset.glob("*.parquet"), dataset / "tokenizer.json"])
    sums = [f"{p.relative_to(dataset)} {hashlib.sha256(p.read_bytes()).hexdigest()}" for p in files]
    return f"{hashlib.sha256(chr(10).join(sums).encode()).hexdigest()[:16]} of {len(files)} files"


def main() -> None:
    """Run everything and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=None, help="of the moments of the kills")
    options = parser.parse_args()
    spec = yaml.safe_load(options.job.read_text())
    folder = Path(tempfile.mkdtemp(prefix="same-bytes-", dir=options.job.parent))
    found: dict[str, str] = {}
    usual = 0.0
    for name, extra in (
        ("2 workers", ["--direct_num_workers=2"]),
        ("1 worker", ["--direct_num_workers=1"]),
        ("4 workers", ["--direct_num_workers=4"]),
        ("2 workers again", ["--direct_num_workers=2"]),
        ("bundles twice", ["--direct_num_workers=2", "--direct_runner_bundle_repeat=2"]),
    ):
        output = folder / name.replace(" ", "-")
        job = folder.parent / f".{folder.name}.yaml"
        job.write_text(yaml.safe_dump({**spec, "output": str(output), "tokens": None}))
        began = time.monotonic()
        process = start(job, *extra)
        memory = PeakMemory(process.pid)
        finish(process)
        seconds, peaks = time.monotonic() - began, memory.stop()
        usual = usual or seconds
        found[name] = digest(output)
        shown = ", ".join(f"{kind} {peak / 2**20:.0f} MiB" for kind, peak in sorted(peaks.items()))
        print(f"{name:16} {seconds:6.1f} s  {found[name]}  peak: {shown}", flush=True)
        if name != "2 workers":
            shutil.rmtree(output)
    output = folder / "killed"
    job.write_text(yaml.safe_dump({**spec, "output": str(output), "tokens": None}))
    seed = options.seed if options.seed is not None else time.time_ns() % 2**32
    draw = random.Random(seed)
    for _ in range(options.kills):
        moment = draw.uniform(0.5, 0.6 * usual)  # later ones find work done already and get further
        process = start(job)
        time.sleep(moment)
        state = "had ended" if process.poll() is not None else "killed"
        if state == "killed":
            kill_tree(process)
        done = sum(1 for p in output.rglob("*") if p.is_file())
        print(f"  kill -9 after {moment:5.1f} s: {state}, {done} files there", flush=True)
    began = time.monotonic()
    finish(start(job))
    found["killed"] = digest(output)
    left = list(output.rglob("*.tmp"))
    seconds = time.monotonic() - began
    print(f"{'killed, rerun':16} {seconds:6.1f} s  {found['killed']}  temporary files left: {len(left)}")
    began = time.monotonic()
    finish(start(job))
    print(f"{'rerun, finished':16} {time.monotonic() - began:6.1f} s  {digest(output)}")
    same = len(set(found.values())) == 1 and not left
    shutil.rmtree(folder)
    job.unlink()
    print("the same bytes in every run" if same else "DIFFERENT")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
