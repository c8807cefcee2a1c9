"""Writes examples as shards, one file a (block, length), and says exactly what was written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.errors import DataError
from schemas.keys import draw
from schemas.storage import Location, atomic_output
from schemas.tables import FINGERPRINT_KEY, ROW_GROUP_TOKENS, parquet_options
from transforms.ragged import Ragged


@dataclass(frozen=True, kw_only=True)
class ShardName:
    """Which shard a file is."""

    split: str
    stage: int
    length: int
    shard: int
    """Ordinal of the block within its split and stage."""

    @property
    def path(self) -> str:
        """Relative to the dataset."""
        return f"data/split={self.split}/stage={self.stage}/length={self.length}/{self.shard:05d}.parquet"


def bucket_tables(table: pa.Table, lengths: Sequence[int], seed: int) -> Iterator[tuple[int, pa.Table]]:
    """(length, its rows in shuffled order) for every bucket that has rows, ascending.

    A row belongs to the smallest length it fits. Rows are ordered by a keyed hash of what they hold, so their
    order does not depend on how they were built.
    """
    bucket = np.searchsorted(np.array(lengths), table["length"].to_numpy(), side="left")
    first = pc.list_element(table["doc_keys"], 0).to_numpy()
    offset = pc.list_element(table["doc_offsets"], 0).to_numpy()
    # Not the draw that names rows for their objective: what that decides would stand sorted in the shard.
    order = draw(seed, "shuffle", first, offset, table["copy"].to_numpy())
    for i, length in enumerate(lengths):
        rows = np.flatnonzero(bucket == i)
        if len(rows):
            # Two rows of one key (a repeated document id) keep the order of the plan.
            yield length, take_rows(table, rows[np.argsort(order[rows], kind="stable")])


def take_rows(table: pa.Table, rows: npt.NDArray[np.integer]) -> pa.Table:
    """These rows of a table in this order; lists are copied row by row, several times faster than Arrow's `take`."""
    arrays = [
        Ragged.from_arrow(column).take(rows).to_arrow(column.type.value_type)
        if pa.types.is_list(column.type)
        else column.take(pa.array(rows))
        for column in table.combine_chunks().itercolumns()
    ]
    return pa.Table.from_arrays(arrays, schema=table.schema)


def row_group_rows(lengths: npt.NDArray[np.integer]) -> int:
    """Rows of a row group: as small as leaves every group at least `ROW_GROUP_TOKENS` tokens.

    Sizes up to twice the smallest are tried; where none does for the last group, the one that comes nearest is taken,
    and a shard with fewer tokens is one group.

    Args:
      lengths: tokens of each row, int [rows].
    """
    rows, ends = len(lengths), np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    groups = int(ends[-1]) // ROW_GROUP_TOKENS
    if groups <= 1:
        return rows
    least = -(-rows // groups)
    best, best_tokens = rows, 0
    for size in np.unique(np.linspace(least, min(rows, 2 * least), 64).astype(np.int64)).tolist():
        smallest = int(np.diff(ends[np.append(np.arange(0, rows, size), rows)]).min())
        if smallest >= ROW_GROUP_TOKENS:
            return size
        if smallest > best_tokens:
            best, best_tokens = size, smallest
    return best


def write_shard(dataset: Location, name: ShardName, table: pa.Table, fingerprint: str) -> dict[str, Any]:
    """Write one shard atomically; its footer is read again before it gets its name.

    Returns:
      Its row of `shards.parquet` without `block`.
    """
    lengths = table["length"].to_numpy()
    tokens, rows, size = int(lengths.sum(dtype=np.int64)), table.num_rows, row_group_rows(lengths)
    table = table.unify_dictionaries().replace_schema_metadata({FINGERPRINT_KEY: fingerprint.encode()})
    place = dataset / name.path

    def check(written: IO[bytes]) -> None:
        found = pq.read_metadata(written).num_rows
        if found != rows:
            raise DataError(
                "A shard was not written whole", where=str(place), expected=f"{rows} rows", got=str(found)
            )

    with atomic_output(place, check) as sink:
        pq.write_table(table, pa.PythonFile(sink, mode="w"), row_group_size=size, **parquet_options(table.schema))
    corpus = pc.list_value_length(table["doc_lengths"]).to_numpy()
    per_row = np.add.reduceat(
        np.append(pc.list_flatten(table["doc_lengths"]).to_numpy().astype(np.int64), 0),
        np.concatenate([[0], np.cumsum(corpus)[:-1]]),
    )
    sources = table["source"].combine_chunks()
    codes, names = sources.indices.to_numpy(), sources.dictionary.to_pylist()
    by_source = np.bincount(codes, weights=per_row, minlength=len(names)).astype(np.int64)
    present = np.bincount(codes, minlength=len(names)) > 0
    return {
        "path": name.path,
        "split": name.split,
        "stage": name.stage,
        "length": name.length,
        "rows": rows,
        "row_group_rows": size,
        "tokens": tokens,
        "corpus_tokens": int(per_row.sum()),
        "bytes": sink.size_bytes,
        "sha256": sink.sha256,
        "source_tokens": sorted((n, int(t)) for n, t, p in zip(names, by_source, present, strict=True) if p),
    }
