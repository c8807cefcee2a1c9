"""Tokens a second that the audit measures on one core, against only reading the same columns, with peak memory.

    python tests/benchmarks/audit_throughput.py DATASET… [--repeat 3]

Tokens are those of `input_ids`, special ones included, and of `target_ids` where rows have them. Each dataset is
measured in a process of its own that is pinned to one core: every shard is read, measured and merged, without the
gates and the report. Seconds are of processor time, which other work on the machine disturbs least. Prints the median
of the runs and the ratio to a bare `read_row_group` loop in the same run. A worker reads manifest, index and
tokenizer once, however many shards it measures; the seconds of that are in a column of their own.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from statistics import median

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.audit import ShardMapper, context_of
from schemas.manifest import read_manifest, read_shards
from schemas.storage import Location
from transforms.objectives.registry import schema_of
from transforms.statistics import Accumulator


def read_only(dataset: Location) -> float:
    """Seconds of processor time to read all columns of all shards, page checksums verified."""
    names = schema_of(str(read_manifest(dataset).objective["kind"])).names
    began = time.process_time()
    for path in read_shards(dataset)["path"].to_pylist():
        with (dataset / path).open_input() as source:
            file = pq.ParquetFile(source, page_checksum_verification=True)
            for group in range(file.num_row_groups):
                file.read_row_group(group, columns=names, use_threads=False)
    return time.process_time() - began


def measured(mapper: ShardMapper, shards: int) -> tuple[float, int]:
    """Seconds of processor time to measure and merge all shards, and the tokens in them."""
    began = time.process_time()
    found = Accumulator.create()
    for index in range(shards):
        found = found.merge(mapper.measure(index))
    return time.process_time() - began, found.total("tokens") + found.total("target_tokens")


def one(place: str, repeat: int) -> None:
    """Measure one dataset and print a line."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pa.set_cpu_count(1)
    dataset = Location.of(place)
    began = time.process_time()
    context_of(dataset)
    opening = time.process_time() - began
    mapper, shards = ShardMapper(dataset.uri), read_shards(dataset).num_rows
    measured(mapper, shards)  # fills the tables that later shards share, and the page cache
    pairs = [(measured(mapper, shards), read_only(dataset)) for _ in range(repeat)]
    tokens = pairs[0][0][1]
    seconds, reading = median(m[0] for m, _ in pairs), median(r for _, r in pairs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    kind = read_manifest(dataset).objective["kind"]
    print(
        f"{kind:<16} {tokens / 1e6:6.1f} M tokens  {tokens / seconds / 1e6:6.1f} M tokens/s  "
        f"{seconds / reading:4.1f}× reading alone  opens in {opening:.2f} s  peak {peak:,.0f} MB",
        flush=True,
    )


def main() -> None:
    """Each dataset in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", metavar="DATASET", nargs="+")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for place in options.datasets:
        if options.here:
            one(place, options.repeat)
        else:
            command = [sys.executable, __file__, place, "--here", "--repeat", str(options.repeat)]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
