"""Statistics of finished shards: measured from the rows alone, mergeable in any order.

`shard` reads a file and measures its rows, `common` what every objective has, and `masks`, `packed` and `sentinels`
what objectives of a kind share.
"""

from transforms.statistics.accumulator import LENGTH_BINS, Accumulator, Group, Measures
from transforms.statistics.context import AuditContext
from transforms.statistics.samples import SAMPLE_HASHES, HashSample

__all__ = ["LENGTH_BINS", "SAMPLE_HASHES", "Accumulator", "AuditContext", "Group", "HashSample", "Measures"]
