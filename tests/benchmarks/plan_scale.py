"""Time and peak memory of planning at scale, from synthetic sidecars: no token is read or written.

    python tests/benchmarks/plan_scale.py [--chunks 1000000] [--sources 60] [--tokens 1e12] [--files 10000]

First a plan of a trillion tokens: a million chunks in 60 sources of very different sizes, three stages of different
mixtures. Then `shardmill plan` for a store of 10,000 parts, sidecars read from disk. Each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path

import numpy as np
import yaml


def big_plan(chunks: int, sources: int, tokens: int) -> dict[str, float]:
    """Plan from chunks in memory, and what it took."""
    from schemas.job import Job
    from schemas.plan import write_plan
    from schemas.storage import Location
    from schemas.store import PartSidecar
    from transforms.objectives.registry import objective_for
    from transforms.planner import chunks_of, make_plan
    from transforms.prediction import KnownSource, predict_stage, with_lengths
    from transforms.vocabulary import future_vocabulary

    rng = np.random.default_rng(0)
    sizes = 1 / np.arange(1, sources + 1)
    counts = np.maximum(1, np.rint(chunks * sizes / sizes.sum()).astype(int))
    names = [f"source-{i:02d}" for i in range(sources)]
    mixtures = [dict(zip(names, rng.dirichlet(np.ones(sources)).round(6).tolist(), strict=True)) for _ in range(3)]
    shares = (0.2, 0.7, 0.1)
    job = Job.model_validate(
        {
            "name": "big",
            "output": "out",
            "tokenizer": {"train": {"model": "bpe", "vocab_size": 50_000}},
            "sources": [{"name": n, "files": [n]} for n in names],
            "budget": {"tokens": tokens},
            "objective": {"kind": "causal", "pack": "best_fit"},
            "curriculum": [
                {"stage": f"s{i}", "share": share, "lengths": lengths, "mixture": mixture}
                for i, (share, mixture, lengths) in enumerate(
                    zip(shares, mixtures, ([512, 1024, 2048], "auto", [8192]), strict=True)
                )
            ],
        }
    )
    sidecars = {}
    for name, count in zip(names, counts.tolist(), strict=True):
        documents = rng.integers(50, 400, count)
        sized = 131_072 + rng.integers(0, 4000, count)
        lengths = np.unique(rng.lognormal(6.5, 1.2, 3000).astype(int) + 1)
        sidecars[name] = [
            PartSidecar.model_construct(
                part=p,
                file=f"part-{p}",
                begin=0,
                chunk_documents=array("q", documents[64 * p : 64 * p + 64]),
                chunk_tokens=array("q", sized[64 * p : 64 * p + 64]),
                length_tokens=array("q", lengths),
                length_documents=array("q", [3] * len(lengths)),
            )
            for p in range(-(-count // 64))
        ]
    began = time.perf_counter()
    train = {n: chunks_of(n, s) for n, s in sidecars.items()}
    made = make_plan(job, train, {})
    known = {n: KnownSource(tokens=c.available_tokens, lengths=c.lengths) for n, c in train.items()}
    objective = objective_for(job.objective, future_vocabulary(50_000))
    for stage in with_lengths(job, objective, made.stages, known):
        predict_stage(objective, stage, known)
    planned = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        write_plan(Location.of(Path(folder) / "plan.parquet"), made.table)
        size = (Path(folder) / "plan.parquet").stat().st_size
    return {
        "plan_seconds": planned,
        "with_writing_seconds": time.perf_counter() - began,
        "blocks": made.blocks,
        "slices": made.table.num_rows,
        "plan_parquet_bytes": size,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "index_bytes": index_bytes(made.blocks, 4, names),  # after the peak, which its rows would raise
    }


def index_bytes(blocks: int, shards_a_block: int, sources: list[str]) -> int:
    """Size of `shards.parquet` for so many blocks, every shard with digests and counts of its own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from schemas.tables import SHARDS

    rng, rows = np.random.default_rng(1), []
    for block in range(blocks):
        for length in (512, 1024, 2048, 8192)[:shards_a_block]:
            counts = rng.integers(10**5, 10**6, 6)
            rows.append(
                {
                    "path": f"data/split=train/stage=1/length={length}/{block:05d}.parquet",
                    "split": "train",
                    "stage": 1,
                    "length": length,
                    "block": block,
                    "rows": int(counts[0]),
                    "row_group_rows": 512,
                    "tokens": int(counts[1]),
                    "corpus_tokens": int(counts[2]),
                    "bytes": int(counts[3]),
                    "sha256": rng.bytes(32).hex(),
                    "source_tokens": [(name, int(rng.integers(10**4, 10**6))) for name in sources],
                }
            )
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=SHARDS), sink, compression="zstd")
    return int(sink.getvalue().size)


def many_files(folder: Path, files: int) -> Path:
    """A job over so many input files, and a token store with a finished part for each; returns the job file."""
    from rich.console import Console

    from pipelines.engine import Engine
    from pipelines.run import Run
    from pipelines.tokenize import finished_sidecars, options_for
    from pipelines.tokenizer import ensure_tokenizer
    from schemas.store import SPLITS, PartSidecar, sidecar_location
    from transforms.tokenize import range_fingerprint

    (folder / "corpus").mkdir()
    for i in range(files):
        (folder / "corpus" / f"{i:05d}.jsonl").write_text(json.dumps({"text": f"document {i} of many"}) + "\n")
    job = folder / "job.yaml"
    job.write_text(
        yaml.safe_dump(
            {
                "name": "many",
                "output": "out",
                "tokenizer": {"train": {"model": "wordpiece", "vocab_size": 400}},
                "sources": [{"name": "all", "files": "corpus/*.jsonl"}],
                "curriculum": [{"stage": "main", "lengths": "auto"}],
            }
        )
    )
    run = Run.load(str(job), Engine(()), Console(quiet=True))
    vocabulary = ensure_tokenizer(run)
    rng = np.random.default_rng(0)
    options = options_for(run.job, run.store.uri, vocabulary.sha256, "all")
    for piece in run.ranges["all"]:
        for split in SPLITS:
            lengths = np.unique(rng.lognormal(6.5, 1.2, 200).astype(int) + 1, return_counts=True)
            documents = rng.integers(150, 250, 10 if split == "train" else 0)
            place = sidecar_location(run.store, "all", split, piece.part)
            Path(place.uri).parent.mkdir(parents=True, exist_ok=True)
            sidecar = PartSidecar(
                fingerprint=range_fingerprint(piece, options),
                source="all",
                split=split,
                part=piece.part,
                file=piece.file,
                begin=piece.begin,
                documents=int(documents.sum()),
                tokens=int(documents.sum()) * 700,
                text_bytes=0,
                size_bytes=0,
                sha256="",
                chunk_documents=documents.tolist(),
                chunk_tokens=(documents * 700).tolist(),
                length_tokens=lengths[0].tolist(),
                length_documents=lengths[1].tolist(),
            )
            Path(place.uri).write_text(sidecar.model_dump_json())
    assert not finished_sidecars(run, vocabulary.sha256)[1], "a sidecar does not count as finished"
    return job


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=1_000_000)
    parser.add_argument("--sources", type=int, default=60)
    parser.add_argument("--tokens", type=lambda text: int(float(text)), default=10**12)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(big_plan(options.chunks, options.sources, options.tokens)))
        return
    done = subprocess.run([sys.executable, __file__, "--here", *sys.argv[1:]], check=True, stdout=subprocess.PIPE)
    found = json.loads(done.stdout)
    print(
        f"{options.tokens:.3g} tokens, {options.chunks:,} chunks, {options.sources} sources, 3 stages: "
        f"{found['plan_seconds']:.1f} s ({found['with_writing_seconds']:.1f} s with writing), "
        f"{found['blocks']:,} blocks, {found['slices']:,} slices, plan.parquet of "
        f"{found['plan_parquet_bytes'] / 2**20:.0f} MiB, shards.parquet of "
        f"{found['index_bytes'] / 2**20:.0f} MiB for four shards a block, peak {found['peak_bytes'] / 2**20:.0f} MiB"
    )
    with tempfile.TemporaryDirectory() as folder:
        job = many_files(Path(folder), options.files)
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-m", "pipelines.cli", "plan", str(job), "--json"], check=True, stdout=-3)
            seconds.append(time.perf_counter() - began)
    print(
        f"shardmill plan over {options.files:,} part files: {sorted(seconds)[1]:.2f} s, start-up of Python included"
    )


if __name__ == "__main__":
    main()
