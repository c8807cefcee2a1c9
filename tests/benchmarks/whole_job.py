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
import time
from pathlib import Path

import yaml
from same_bytes import PeakMemory, finish, start

TEXT_FIELDS = {"code.jsonl.gz": "content"}


def sources(corpus: Path) -> list[dict[str, object]]:
    """One source a file, in proportion to its tokens."""
    files = [p for p in sorted(corpus.iterdir()) if any(s in p.name for s in (".jsonl", ".parquet", ".txt"))]
    return [{"name": p.name.split(".")[0], "files": str(p), "text": TEXT_FIELDS.get(p.name, "text")} for p in files]


def read_texts(job: Path) -> list[str]:
    """Every document of the job, as the pipeline reads it."""
    import transforms.objectives.registry  # noqa: F401  a job file names an objective
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
    began = time.perf_counter()
    process = start(job, f"--direct_num_workers={workers}")
    memory = PeakMemory(process.pid)
    text = finish(process)
    return time.perf_counter() - began, text, memory.stop()


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
