"""Tokens a second from the token store to written shards, on one core, for every objective, with peak memory.

    python tests/benchmarks/materialize_throughput.py CORPUS [--only mlm,causal] [--repeat 3] [--length 512]

CORPUS is a folder of .jsonl, .parquet and .txt files, one source a file. Its token store is made once, with
sentences; `seq2seq` has its own, of pairs made from lines that follow each other. Then each objective materializes
all of it in a process of its own that is pinned to one core, and every shard is written, hashed and synced as in a
job. Tokens are corpus tokens, without special tokens. Prints the median of the runs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import yaml
from whole_job import read_texts, sources

OBJECTIVES: dict[str, dict[str, object]] = {
    "causal": {"kind": "causal"},
    "causal best_fit": {"kind": "causal", "pack": "best_fit"},
    "causal decompose": {"kind": "causal", "pack": "decompose"},
    "fim": {"kind": "fim"},
    "prefix_lm": {"kind": "prefix_lm"},
    "mlm": {"kind": "mlm"},
    "mlm full": {"kind": "mlm", "pack": "full"},
    "mlm sentences": {"kind": "mlm", "pack": "sentences"},
    "mlm bernoulli": {"kind": "mlm", "selection": "bernoulli"},
    "mlm whole_word": {"kind": "mlm", "whole_word": True},
    "mlm ngram": {"kind": "mlm", "selection": "ngram", "whole_word": True},
    "mlm span": {"kind": "mlm", "selection": "span"},
    "replaced_token": {"kind": "replaced_token"},
    "sentence_pair nsp": {"kind": "sentence_pair", "task": "nsp"},
    "sentence_pair sop": {"kind": "sentence_pair", "task": "sop"},
    "span_corruption": {"kind": "span_corruption"},
    "ul2": {"kind": "ul2"},
    "infilling": {"kind": "infilling"},
    "seq2seq": {"kind": "seq2seq", "on_long": "truncate"},
}


def job_for(
    folder: Path, found: list[dict[str, object]], objective: dict[str, object], length: int
) -> dict[str, object]:
    """The job of one objective; blocks are of the size that a corpus of a billion tokens has by default."""
    return {
        "name": "benchmark",
        "seed": 1,
        "output": str(folder / "out"),
        "tokens": str(folder / ("pairs" if objective["kind"] == "seq2seq" else "tokens")),
        "tokenizer": {"file": str(folder / "tokenizer.json")},
        "sources": found,
        "objective": objective,
        "curriculum": [{"stage": "main", "lengths": [length // 4, length // 2, length]}],
        "limits": {"block_tokens": 4_000_000},
    }


def write_job(place: Path, job: dict[str, object]) -> Path:
    """The job as a file."""
    place.write_text(yaml.safe_dump(job))
    return place


def make_pairs(folder: Path, texts: list[str]) -> list[dict[str, object]]:
    """A source of pairs: each line of a text with the line that follows it."""
    place = folder / "pairs.jsonl"
    with place.open("w") as file:
        for text in texts:
            lines = [line for line in text.splitlines() if line.strip()]
            for a, b in zip(lines[::2], lines[1::2], strict=False):
                file.write(json.dumps({"a": a, "b": b}) + "\n")
    return [{"name": "pairs", "files": str(place), "input": "a", "target": "b"}]


def materialize_here(job: Path) -> None:
    """Materialize all blocks in this process on one core and print what it took; run in a process of its own."""
    import pyarrow as pa
    from rich.console import Console

    from pipelines import plan
    from pipelines.engine import Engine
    from pipelines.run import Run
    from pipelines.tokenize import finished_sidecars
    from pipelines.tokenizer import ensure_tokenizer
    from schemas.plan import write_plan
    from transforms.materialize import MaterializeOptions, materialize_block

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pa.set_cpu_count(1)
    run = Run.load(str(job), Engine(()), Console(quiet=True))
    vocabulary = ensure_tokenizer(run)
    _, todo, sidecars = finished_sidecars(run, vocabulary.sha256)
    assert not todo, f"the token store lacks {len(todo)} ranges"
    made = plan.make(run, sidecars, vocabulary)
    write_plan(run.output / "plan.parquet", made.table)
    options = MaterializeOptions(
        job=run.job,
        store=run.store.uri,
        dataset=run.output.uri,
        fingerprint=run.fingerprint,
        tokenizer_sha256=vocabulary.sha256,
        lengths=tuple(stage.lengths for stage in made.stages),
    )
    began = time.perf_counter()
    for block in range(made.blocks):
        materialize_block(block, options)
    seconds = time.perf_counter() - began
    commits = [json.loads(Path(f.uri).read_bytes()) for f in (run.output / "_commits").files()]
    assert len(commits) == made.blocks, "a block has no commit"
    lines = [line for commit in commits for line in commit["tokens"]]
    print(
        json.dumps(
            {
                "seconds": seconds,
                "tokens": sum(line["read"] for line in lines),
                "lost": sum(sum(line["losses"].values()) for line in lines),
                "bytes": sum(s["bytes"] for commit in commits for s in commit["shards"]),
                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
        )
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--only", help="names of the table's lines, separated by commas")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--length", type=int, default=512)
    options = parser.parse_args()
    if options.corpus.suffix == ".yaml":
        materialize_here(options.corpus)
        return
    wanted = options.only.split(",") if options.only else list(OBJECTIVES)
    folder = Path(tempfile.mkdtemp(prefix="materialize-"))
    shardmill = [sys.executable, "-m", "pipelines.cli"]
    found = sources(options.corpus)
    first = job_for(folder, found, {"kind": "mlm", "pack": "sentences"}, options.length)
    first["tokenizer"] = {"train": {"model": "wordpiece", "vocab_size": 30000, "lowercase": True}}
    path = write_job(folder / "tokenizer.yaml", first)
    subprocess.run([*shardmill, "tokenizer", str(path)], check=True)
    shutil.move(folder / "tokens" / "tokenizer.json", folder / "tokenizer.json")
    jobs = {}
    for name in wanted:
        pairs = make_pairs(folder, read_texts(path)) if OBJECTIVES[name]["kind"] == "seq2seq" else found
        jobs[name] = write_job(folder / f"{name}.yaml", job_for(folder, pairs, OBJECTIVES[name], options.length))
    first["tokenizer"] = {"file": str(folder / "tokenizer.json")}
    stores = [write_job(path, first)] + ([jobs["seq2seq"]] if "seq2seq" in jobs else [])
    for job in stores:
        subprocess.run([*shardmill, "tokenize", str(job)], check=True)
    print(f"{'objective':<20} {'M tokens/s':>10} {'MiB':>6} {'bits/token':>10} {'lost':>7}")
    for name, job in jobs.items():
        runs = []
        for _ in range(options.repeat):
            shutil.rmtree(folder / "out", ignore_errors=True)
            done = subprocess.run([sys.executable, __file__, str(job)], check=True, stdout=subprocess.PIPE)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
        speed = median(r["tokens"] / r["seconds"] for r in runs) / 1e6
        last = runs[-1]
        memory, bits = max(r["peak_bytes"] for r in runs) / 2**20, last["bytes"] * 8 / last["tokens"]
        lost = last["lost"] / last["tokens"]
        print(
            f"{name:<20} {speed:>10.1f} {memory:>6.0f} {bits:>10.2f} {lost:>7.2%}",
            flush=True,
        )
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
