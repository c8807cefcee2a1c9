"""The plan: which slices of the token store go into which block. Built by `transforms.planner`."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.storage import Location, atomic_output
from schemas.tables import PLAN

PLAN_ROW_GROUP_ROWS = 2**16
"""Rows of a row group of plan.parquet; a worker reads the few that hold its block."""


@dataclass(frozen=True, kw_only=True)
class SourceChunks:
    """The chunks of one source and split, as the sidecars tell them. Arrays have one entry a chunk."""

    name: str
    part: npt.NDArray[np.int32]
    row_group: npt.NDArray[np.int32]
    order_key: npt.NDArray[np.uint64]
    """Hash of (file, range, row group): order does not depend on how the listing numbered the parts."""
    tokens: npt.NDArray[np.int64]
    documents: npt.NDArray[np.int64]
    lengths: dict[int, int] = field(default_factory=dict)
    """Histogram of document lengths in tokens."""

    @property
    def available_tokens(self) -> int:
        """Tokens of one pass."""
        return int(self.tokens.sum())

    @property
    def longest_document_tokens(self) -> int:
        """No document has more tokens; a little over the longest, whose length is known to three digits."""
        if not self.lengths:
            return int(self.tokens.max(initial=0))
        longest = max(self.lengths)
        return longest + int(10 ** max(0, len(str(longest)) - 3))


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """What one stage takes from each source, exact."""

    name: str
    lengths: tuple[int, ...]
    shares: dict[str, Fraction]
    """Exact shares of the stage's tokens, adding to one; only sources with a share."""
    tokens: dict[str, int]
    """Planned train tokens by source."""

    @property
    def total_tokens(self) -> int:
        """Planned train tokens."""
        return sum(self.tokens.values())


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The stages' token counts and the table of slices."""

    stages: tuple[StagePlan, ...]
    table: pa.Table
    """Schema `schemas.tables.PLAN`, sorted by block."""
    blocks: int
    block_tokens: int
    available_tokens: dict[str, int]
    warnings: tuple[str, ...] = ()

    def epochs(self, source: str) -> float:
        """Planned passes over a source's train split."""
        available = self.available_tokens.get(source, 0)
        return sum(s.tokens.get(source, 0) for s in self.stages) / available if available else 0.0


def write_plan(place: Location, table: pa.Table) -> None:
    """Write plan.parquet atomically."""
    with atomic_output(place) as sink:
        pq.write_table(table, pa.PythonFile(sink, mode="w"), row_group_size=PLAN_ROW_GROUP_ROWS, compression="zstd")


def read_block(place: Location, block: int) -> dict[str, Any]:
    """The rows of one block, as columns of Python values and arrays.

    Returns:
      `split`, `stage`, `shard` of the block and `slices`, a table with its rows in order.
    """
    with place.open_input() as source:
        rows = pq.read_table(source, filters=[("block", "=", block)], schema=PLAN)
    if rows.num_rows == 0:
        raise IndexError(f"plan {place} has no block {block}")
    first = rows.slice(0, 1).to_pylist()[0]
    return {"split": first["split"], "stage": first["stage"], "shard": first["shard"], "slices": rows}
