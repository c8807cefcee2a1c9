"""Tokens per second of the stream against a bare loop over row groups, alternating in one run.

    python tests/benchmarks/stream_throughput.py DATASET [--tokens-per-batch N] [--rounds N]

The bare loop reads `input_ids` of the same shards with `read_row_group`, and makes int64 tensors [B, L] of them,
unshuffled, where every row has the bucket's length; of ragged buckets it makes flat int64 tensors, which is less
work than the stream does. One warm-up round of each comes first, so files are in the page cache for both.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import pyarrow.parquet as pq
import torch

from schemas.manifest import read_shards
from schemas.storage import Location
from trainer.stream import Stream


def bare_tokens(dataset: Location, tokens_per_batch: int) -> int:
    """Read the train split's `input_ids` as int64 tensors; returns the tokens seen."""
    tokens = 0
    for shard in read_shards(dataset).to_pylist():
        if shard["split"] != "train":
            continue
        rows, length = tokens_per_batch // shard["length"], shard["length"]
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


def stream_tokens(dataset: Location, tokens_per_batch: int) -> int:
    """Stream one shuffled epoch of the train split; returns the tokens seen."""
    stream = Stream(dataset, tokens_per_batch=tokens_per_batch, epochs=1)
    for batch in stream:
        assert batch["input_ids"].dtype == torch.int64
    return int(stream.describe()["tokens"])


def main() -> int:
    """Print the rates of every round and the ratio of their medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--tokens-per-batch", type=int, default=65536)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    dataset = Location.of(arguments.dataset)

    begin = time.perf_counter()
    next(iter(Stream(dataset, tokens_per_batch=arguments.tokens_per_batch)))
    print(f"first batch   {1000 * (time.perf_counter() - begin):8.0f} ms")
    stream = Stream(dataset, tokens_per_batch=arguments.tokens_per_batch)
    state = {**stream.state_dict(), "step": int(stream.plan.steps_per_epoch * 1.7)}
    begin = time.perf_counter()
    resumed = Stream(dataset, tokens_per_batch=arguments.tokens_per_batch)
    resumed.load_state_dict(state)
    next(iter(resumed))
    print(f"resume        {1000 * (time.perf_counter() - begin):8.0f} ms at step {state['step']}")

    loops: dict[str, Callable[[Location, int], int]] = {"bare": bare_tokens, "stream": stream_tokens}
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for round_ in range(arguments.rounds + 1):
        for name, loop in loops.items():
            begin = time.perf_counter()
            tokens = loop(dataset, arguments.tokens_per_batch)
            rate = tokens / (time.perf_counter() - begin) / 1e6
            if round_:
                rates[name].append(rate)
        if round_:
            print("  ".join(f"{n} {r[-1]:6.1f} M tokens/s" for n, r in rates.items()))
    bare, stream_rate = (statistics.median(rates[n]) for n in ("bare", "stream"))
    print(f"median: bare {bare:.1f}, stream {stream_rate:.1f} M tokens/s, stream/bare {stream_rate / bare:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
