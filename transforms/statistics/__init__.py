"""Statistics of finished shards: measured from the rows alone, mergeable in any order."""

from transforms.statistics.accumulator import LENGTH_BINS, Accumulator, Group, Measures
from transforms.statistics.context import AuditContext
from transforms.statistics.objectives import FIXED_POINT, POSITION_BINS
from transforms.statistics.samples import SAMPLE_HASHES, HashSample
from transforms.statistics.shard import row_group_difference, shard_statistics

__all__ = [
    "FIXED_POINT",
    "LENGTH_BINS",
    "POSITION_BINS",
    "SAMPLE_HASHES",
    "Accumulator",
    "AuditContext",
    "Group",
    "HashSample",
    "Measures",
    "row_group_difference",
    "shard_statistics",
]
