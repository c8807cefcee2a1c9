"""Speed of the stream beside a bare loop over row groups and `datasets`, alternating in one run.

    python tests/benchmarks/stream_throughput.py [DATASET] [--objective causal|mlm] [--rounds N] [--epochs N]

Without DATASET, 40,000 rows of 512 tokens in 5 shards are written to a temporary directory. Every loop makes int64
tensors [32, 512] of all rows. The bare loop reads `input_ids` with `read_row_group`, in order; the stream and
`datasets` (map-style, `with_format("numpy")`, a batch of shuffled indices at a time) shuffle; of mlm, the stream
builds labels from its sparse columns too. One warm-up round comes first, so that files are in the page cache for all.
Opening, resuming, waiting and memory are told beside it; imports are not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from schemas.manifest import read_shards
from schemas.storage import Location
from trainer.stream import Stream
from trainer.stream.plan import plan_stream

sys.path.insert(0, str(Path(__file__).parents[1] / "trainer"))
from small_datasets import ShardSpec, write_dataset

TOKENS_PER_BATCH = 32 * 512


def bare(dataset: Location, epochs: int) -> int:
    """Read the train split's `input_ids` as int64 tensors; returns the tokens seen."""
    tokens = 0
    for shard in epochs * [s for s in read_shards(dataset).to_pylist() if s["split"] == "train"]:
        rows, length = TOKENS_PER_BATCH // shard["length"], shard["length"]
        with (dataset / shard["path"]).open_input() as source:
            file = pq.ParquetFile(source)
            for group in range(file.metadata.num_row_groups):
                column = file.read_row_group(group, columns=["input_ids"])["input_ids"].chunk(0)
                flat = torch.from_numpy(column.flatten().to_numpy().astype("int64"))
                if len(flat) == len(column) * length:
                    tokens += sum(batch.numel() for batch in flat.view(-1, length).split(rows))
                else:
                    tokens += flat.numel()
    return tokens


def ours(dataset: Location, epochs: int) -> int:
    """Stream shuffled epochs of the train split; returns the tokens seen."""
    stream = Stream(dataset, tokens_per_batch=TOKENS_PER_BATCH, epochs=epochs)
    for batch in stream:
        assert batch["labels"].dtype == torch.int64
    return epochs * int(stream.describe()["tokens"])


class Peer:
    """`datasets`, map-style: Arrow files made of the shards beforehand, mapped into memory."""

    def __init__(self, dataset: Location, cache: str) -> None:
        import datasets

        datasets.disable_progress_bars()
        paths = [s["path"] for s in read_shards(dataset).to_pylist() if s["split"] == "train"]
        files = [(dataset / p).uri for p in paths]
        with contextlib.redirect_stderr(io.StringIO()):
            table = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
        self._rows = table.select_columns(["input_ids"]).with_format("numpy")

    def __call__(self, dataset: Location, epochs: int) -> int:
        """Shuffled epochs; returns the tokens seen."""
        tokens = 0
        for epoch in range(epochs):
            order = np.random.default_rng(epoch).permutation(len(self._rows))
            for begin in range(0, len(order), 32):
                rows = self._rows[order[begin : begin + 32]]["input_ids"]
                batch = torch.from_numpy(np.stack(rows).astype(np.int64))
                tokens += batch.numel()
        return tokens


def speed(dataset: Location, rounds: int, epochs: int, cache: str) -> None:
    """Print the rates of every round and the ratios of their medians."""
    loops: dict[str, Callable[[Location, int], int]] = {
        "bare": bare,
        "stream": ours,
        "datasets": Peer(dataset, cache),
    }
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for round_ in range(rounds + 1):
        for name, loop in loops.items():
            begin = time.perf_counter()
            tokens = loop(dataset, epochs)
            rates[name].append(tokens / (time.perf_counter() - begin) / 1e6)
        print("warm-up " if round_ == 0 else f"round {round_} ", end="")
        print("  ".join(f"{n} {r[-1]:6.1f}" for n, r in rates.items()), "M tokens/s", flush=True)
    middle = {n: statistics.median(r[1:]) for n, r in rates.items()}
    best = {n: max(r[1:]) for n, r in rates.items()}
    for word, found in (("median", middle), ("best", best)):
        print(
            f"{word}: " + ", ".join(f"{n} {r:.1f}" for n, r in found.items()),
            f"M tokens/s; stream/bare {found['stream'] / found['bare']:.2f}, "
            f"stream/datasets {found['stream'] / found['datasets']:.2f}",
        )


def latency(dataset: Location) -> None:
    """Print how long the first batch takes, from nothing and from a late step."""
    for name, late in (("first batch", False), ("resume", True)):
        seconds = []
        for _ in range(5):
            stream = Stream(dataset, tokens_per_batch=TOKENS_PER_BATCH)
            state = stream.state_at(int(stream.plan.steps_per_epoch * 1.7))
            begin = time.perf_counter()
            stream = Stream(dataset, tokens_per_batch=TOKENS_PER_BATCH)
            if late:
                stream.load_state_dict(state)
            batches = iter(stream)
            next(batches)
            seconds.append(time.perf_counter() - begin)
            batches.close()
        print(
            f"{name:12} {1000 * statistics.median(seconds):6.0f} ms (median of 5, at most {1000 * max(seconds):.0f})"
        )


def scale(dataset: Location) -> None:
    """Print how long a plan and a late step take for an index of many shards."""
    one = read_shards(dataset).slice(0, 1)
    for count in (1_000, 100_000):
        table = pa.concat_tables([one] * count).combine_chunks()
        begin = time.perf_counter()
        plan = plan_stream(table, split="train", tokens_per_batch=TOKENS_PER_BATCH, seed=0)
        step = int(plan.steps_per_epoch * 5.5)
        batch = plan.batch(step)
        plan.lanes(batch.bucket, batch.epoch).locate(batch.positions(0, 1))
        plan.examples_digest(step)
        rows = sum(b.rows for b in plan.buckets)
        print(
            f"{count:,} shards, {rows:,} rows: a late step is found in {1000 * (time.perf_counter() - begin):.0f} ms"
        )


def waiting(dataset: Location, steps: int, step_seconds: float) -> None:
    """Print what share of its time a loop of fixed steps waits for data."""
    waited, began = [], time.perf_counter()
    with contextlib.closing(iter(Stream(dataset, tokens_per_batch=TOKENS_PER_BATCH))) as batches:
        for _ in range(steps):
            begin = time.perf_counter()
            next(batches)
            waited.append(time.perf_counter() - begin)
            time.sleep(step_seconds)
    share = sum(waited[1:]) / (time.perf_counter() - began - waited[0])
    print(
        f"data wait    {share:6.2%} of steps of {1000 * step_seconds:.0f} ms, the first one left out; median "
        f"{1e6 * statistics.median(waited):.0f} µs a batch"
    )


def memory(dataset: Location) -> None:
    """Print the process's memory after each of six epochs, and what was read."""
    process, found = psutil.Process(), []
    stream = Stream(dataset, tokens_per_batch=TOKENS_PER_BATCH, epochs=6)
    before = process.memory_info().rss
    for step, _ in enumerate(stream, start=1):
        if step % stream.plan.steps_per_epoch == 0:
            found.append((process.memory_info().rss - before) / 2**20)
    print("memory       " + ", ".join(f"{m:.0f}" for m in found), "MiB above the start, after each epoch")


def main() -> int:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="?")
    parser.add_argument("--objective", choices=("causal", "mlm"), default="causal")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3, help="of each loop in a round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        place = options.dataset
        if place is None:
            specs = (ShardSpec(stage=0, length=512, rows=8000, row_group_rows=512),) * 5
            place = write_dataset(
                Path(folder) / "data", objective=options.objective, specs=specs, vocab_size=30000, full_rows=True
            )
        dataset = Location.of(place)
        print(f"{Stream(dataset, tokens_per_batch=TOKENS_PER_BATCH).objective}, batches of 32 rows of 512")
        memory(dataset)
        latency(dataset)
        scale(dataset)
        waiting(dataset, 300, 0.02)
        speed(dataset, options.rounds, options.epochs, f"{folder}/cache")
    return 0


if __name__ == "__main__":
    sys.exit(main())
