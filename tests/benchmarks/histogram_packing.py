"""Seconds to pack a histogram against seconds to pack its items, and the rows of both, in one run.

    python tests/benchmarks/histogram_packing.py [--sequences N] [--room N] [--rounds N]

Lengths are log-normal, a quarter of all sequences as long as a row, roughly as in BERT's corpus. The items are packed
once, since that takes a thousand times as long; histogram packing is shown by its median.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import numpy as np

from transforms.histogram_packing import pack_histogram
from transforms.packing import best_fit


def main() -> int:
    """Print the seconds, their ratio, the rows and how full they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=16_000_000)
    parser.add_argument("--room", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    items = random.lognormal(np.log(arguments.room / 4), 0.8, arguments.sequences)
    items[random.random(len(items)) < 0.25] = arguments.room
    items = np.clip(items, 1, arguments.room).astype(np.int64)
    lengths, counts = np.unique(items, return_counts=True)
    seconds = []
    for _ in range(arguments.rounds):
        begin = time.perf_counter()
        packing = pack_histogram(lengths, counts, arguments.room)
        seconds.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    rows = int(best_fit(items, arguments.room).max()) + 1
    by_item = time.perf_counter() - begin
    median = statistics.median(seconds)
    full = items.sum() / (arguments.room * packing.rows)
    print(f"{len(items):,} sequences of {len(lengths):,} lengths: {packing.rows:,} rows, {full:.4%} full")
    print(f"histogram {median * 1e3:.1f} ms, items {by_item:.2f} s, ratio {by_item / median:,.0f}")
    return 0 if rows == packing.rows else 1


if __name__ == "__main__":
    sys.exit(main())
