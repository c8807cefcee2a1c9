"""Which rows of a shard show what a gate judges: those with the most of its figures, or those that come twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from schemas.storage import Location
from transforms.statistics.context import AuditContext
from transforms.statistics.hashes import hash_rows, occurrence_hashes
from transforms.statistics.rows import Rows
from transforms.statistics.shard import measured_row_groups


def rows_with(
    dataset: Location,
    shard: Mapping[str, Any],
    context: AuditContext,
    figures: Sequence[str],
    most: int,
    repeated: npt.NDArray[np.uint64] | None = None,
) -> list[int]:
    """Places of rows in a shard, those with the most first, in order where equal.

    Args:
      dataset: the dataset's directory.
      shard: the shard's row of the index.
      context: what the rows are held against.
      figures: of a row, which are added.
      most: how many rows.
      repeated: first words of the hashes of rows with their provenance (`occurrence_hashes`) that are found too.
    """
    found: list[tuple[int, int]] = []
    with (dataset / str(shard["path"])).open_input() as source:
        file = pq.ParquetFile(source, page_checksum_verification=True)
        for first, rows in measured_row_groups(file, shard, context):
            count = sum((rows.per_row[f] for f in figures if f in rows.per_row), np.zeros(len(rows), np.int64))
            if repeated is not None:
                count = count + _repeats(rows, shard, repeated)
            best = np.argsort(-count, kind="stable")[:most]
            found += [(-int(count[row]), first + row) for row in best.tolist() if count[row] > 0]
    return [row for _, row in sorted(found)[:most]]


def _repeats(rows: Rows, shard: Mapping[str, Any], repeated: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """[rows], 1 for those that occur elsewhere too."""
    which, hashes = occurrence_hashes(rows, hash_rows(rows), str(shard["split"]), int(shard["stage"]))
    count = np.zeros(len(rows), np.int64)
    count[which[np.isin(hashes[0], repeated)]] = 1
    return count
