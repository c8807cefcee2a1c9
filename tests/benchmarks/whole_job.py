"""The whole job (raw text → audited shards) against `encode_batch_fast` alone, on the same text and cores in one run.

    python tests/benchmarks/whole_job.py CORPUS [--objective mlm|causal] [--repeat 3] [--workers N]

CORPUS is a folder of .jsonl, .parquet and .txt files (each text format also compressed), one source a file. The
tokenizer is trained once, beforehand, and both sides use it. Prints each pair's ratio, the phases, and the largest
resident set of any process of the job.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import yaml

TEXT_FIELDS = {"code.jsonl.gz": "content"}


def sources(corpus: Path) -> list[dict[str, object]]:
    """One source a file, in proportion to its tokens."""
    files = [p for p in sorted(corpus.iterdir()) if any(s in p.name for s in (".jsonl", ".parquet", ".txt"))]
    return [{"name": p.name.split(".")[0], "files": str(p), "text": TEXT_FIELDS.get(p.name, "text")} for p in files]


def read_texts(job: Path) -> list[str]:
    """Every document of the job, as the pipeline reads it."""
    from schemas.jobfile import load_job
    from transforms.inputs import cut_ranges, find_inputs
    from transforms.read import read_records

    loaded = load_job(str(job))
    texts: list[str] = []
    for name, ranges in cut_ranges(loaded, find_inputs(loaded)).items():
        for piece in ranges:
            for records in read_records(piece, loaded.source(name), loaded.limits.max_record_bytes):
                texts += records.texts
    return texts


def encode_alone(tokenizer_file: Path, texts: list[str]) -> float:
    """Seconds of `encode_batch_fast` over all texts, on all cores, in batches as a loader would."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    began = time.perf_counter()
    for i in range(0, len(texts), 500):
        tokenizer.encode_batch_fast(texts[i : i + 500], add_special_tokens=False)
    return time.perf_counter() - began


def run_job(job: Path, workers: int) -> tuple[float, str, dict[str, int]]:
    """(seconds, what it printed, largest resident bytes by kind of process) of `shardmill prepare`."""
    command = [sys.executable, "-m", "pipelines.cli", "prepare", str(job), f"--direct_num_workers={workers}"]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peaks: dict[str, int] = {}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            try:
                main = psutil.Process(process.pid)
                for p in [main, *main.children(recursive=True)]:
                    # VmHWM is the kernel's own high-water mark, so a short peak between two looks is not missed.
                    status = Path(f"/proc/{p.pid}/status").read_text()
                    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
                    kind = "launcher" if p.pid == process.pid else "worker"
                    peaks[kind] = max(peaks.get(kind, 0), peak * 1024)
            except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError, StopIteration):
                continue  # a process ended between the listing and the look

    watcher = threading.Thread(target=watch)
    watcher.start()
    text, _ = process.communicate()
    seconds = time.perf_counter() - began
    stop.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(text)
    return seconds, text, peaks


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--objective", default="mlm", choices=["mlm", "causal"])
    parser.add_argument("--model", default="wordpiece", choices=["wordpiece", "bpe"])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    os.environ["RAYON_NUM_THREADS"] = str(options.workers)
    folder = Path(tempfile.mkdtemp(prefix="whole-job-"))
    job = {
        "name": "benchmark",
        "seed": 1,
        "output": "train-only",
        "tokenizer": {
            "train": {"model": options.model, "vocab_size": 30000, "lowercase": options.model == "wordpiece"}
        },
        "sources": sources(options.corpus),
        "budget": {"epochs": 1},
        "objective": {"kind": options.objective},
        "curriculum": [{"stage": "main", "lengths": [128, 256, 512]}],
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    subprocess.run([sys.executable, "-m", "pipelines.cli", "tokenizer", str(path)], check=True)
    shutil.move(folder / "train-only" / "tokens" / "tokenizer.json", folder / "tokenizer.json")
    job["tokenizer"] = {"file": "tokenizer.json"}
    texts = read_texts(path)
    size = sum(len(t.encode()) for t in texts) / 1e6
    print(
        f"{len(texts)} documents, {size:.1f} MB of text, {options.workers} cores, {options.model}, {job['objective']}"
    )
    ratios, peaks, text = [], {}, ""
    for i in range(options.repeat):
        alone = encode_alone(folder / "tokenizer.json", texts)
        job["output"] = f"out-{i}"
        path.write_text(yaml.safe_dump(job))
        whole, text, found = run_job(path, options.workers)
        peaks = {k: max(v, peaks.get(k, 0)) for k, v in found.items()}
        ratios.append(alone / whole)
        print(
            f"encode_batch_fast alone {alone:.1f} s ({size / alone:.2f} MB/s), whole job {whole:.1f} s "
            f"({size / whole:.2f} MB/s), whole job at {alone / whole:.2f} of its speed"
        )
        shutil.rmtree(folder / f"out-{i}")
    print(f"median ratio {sorted(ratios)[len(ratios) // 2]:.2f} (above 1: faster than the tokenizer alone)")
    print("peak memory: " + ", ".join(f"{kind} {peak / 2**20:.0f} MiB" for kind, peak in sorted(peaks.items())))
    print("last run:\n" + text)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
