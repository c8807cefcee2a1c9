"""Which rows are shown, read from the shards: a few row groups, and the same rows every time. Prints nothing."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.show.decode import MOST_TOKENS, Decoder, Example
from schemas.errors import DataError, RequestError, did_you_mean
from schemas.manifest import Manifest, read_shards
from schemas.storage import Location
from transforms.objectives.registry import schema_of


def pick_examples(
    dataset: Location,
    *,
    n: int = 3,
    split: str = "train",
    stage: int | str | None = None,
    length: int | None = None,
    most_tokens: int = MOST_TOKENS,
) -> list[Example]:
    """Examples from the shortest to the longest, spread over shards and sources; the same ones every time.

    Raises:
      RequestError: there is no such split, stage or length, or no dataset.
      DataError: a shard cannot be read.
    """
    if n < 1:
        raise RequestError("The number of examples is wrong", where="-n", expected="at least 1", got=str(n))
    decoder = Decoder.of(dataset, most_tokens)
    shards = _select(decoder.manifest, read_shards(dataset).to_pylist(), split, stage, length)
    shown: Counter[str] = Counter()
    taken: set[tuple[str, int]] = set()
    examples: list[Example] = []
    for i in range(n):
        # Shards ascend by length, so the i-th of n comes from the i-th of n equal parts.
        shard = shards[(2 * i + 1) * len(shards) // (2 * n)]
        picked = _pick_row(dataset, shard, i / (n - 1) if n > 1 else 0.5, decoder.kind, shown, taken)
        if picked is None:
            continue
        row, values = picked
        shown[values["source"]] += 1
        taken.add((shard["path"], row))
        examples.append(decoder.example(shard, row, values))
    return examples


def examples_at(
    dataset: Location, shard: Mapping[str, Any], rows: Sequence[int], *, most_tokens: int = MOST_TOKENS
) -> list[Example]:
    """The examples at these places of a shard, in this order.

    Args:
      dataset: the dataset's directory.
      shard: the shard's row of the index.
      rows: places within the shard.
      most_tokens: of a row that are shown.
    """
    decoder = Decoder.of(dataset, most_tokens)
    wanted: dict[int, dict[str, Any]] = {}
    with _opened(dataset, str(shard["path"])) as file:
        first = 0
        for group in range(file.num_row_groups):
            stop = first + file.metadata.row_group(group).num_rows
            if here := [row for row in rows if first <= row < stop]:
                table = file.read_row_group(group, columns=schema_of(decoder.kind).names, use_threads=False)
                wanted |= {row: table.slice(row - first, 1).to_pylist()[0] for row in here}
            first = stop
    return [decoder.example(shard, row, wanted[row]) for row in rows]


def _select(
    manifest: Manifest, shards: list[dict[str, Any]], split: str, stage: int | str | None, length: int | None
) -> list[dict[str, Any]]:
    """The shards asked for, ascending by length."""
    names = {s.name: s.stage for s in manifest.stages}
    number = names.get(stage, stage) if isinstance(stage, str) else stage
    if isinstance(number, str) and number.isdigit():
        number = int(number)
    wanted = (("split", split), ("stage", number), ("length", length))
    found = shards
    for field, value in wanted:
        if value is None:
            continue
        known = sorted({str(s[field]) for s in found})
        found = [s for s in found if s[field] == value]
        if not found:
            described = [f"{f} {v}" for f, v in wanted if v is not None and f != field]
            raise RequestError(
                f"The dataset has no {field} {value!r}" + (f" with {', '.join(described)}" if described else ""),
                where=f"--{field}",
                expected=f"one of {', '.join(sorted(known, key=lambda k: (len(k), k)))}" if known else "shards",
                got=repr(value),
                remedy=did_you_mean(str(value), known).capitalize() if field == "split" and known else "",
            )
    if not found:
        raise DataError("The dataset has no shards", where="shards.parquet", expected="at least one")
    return sorted(found, key=lambda s: (s["length"], s["stage"], s["path"]))


@contextlib.contextmanager
def _opened(dataset: Location, path: str) -> Iterator[pq.ParquetFile]:
    """A shard's file; what goes wrong while it is open is a shard that cannot be read."""
    try:
        with (dataset / path).open_input() as source:
            yield pq.ParquetFile(source, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            "A shard cannot be read",
            where=str(dataset / path),
            got=str(error),
            remedy="Run `shardmill verify` to see what else is damaged, then `shardmill prepare` to write it again",
        ) from error


def _pick_row(
    dataset: Location,
    shard: Mapping[str, Any],
    quantile: float,
    kind: str,
    shown: Counter[str],
    taken: set[tuple[str, int]],
) -> tuple[int, dict[str, Any]] | None:
    """Number and values of the row at this quantile of length, of the source shown least.

    Only one row group is read. None where all of its rows are taken.
    """
    path = str(shard["path"])
    with _opened(dataset, path) as file:
        group = int(quantile * (file.num_row_groups - 1))
        first = sum(file.metadata.row_group(i).num_rows for i in range(group))
        table = file.read_row_group(group, columns=schema_of(kind).names, use_threads=False)
    names = np.array(table["source"].to_pylist(), dtype=object)
    free = np.ones(len(names), dtype=bool)
    free[[row - first for p, row in taken if p == path and first <= row < first + len(names)]] = False
    if not free.any():
        return None
    least = min(sorted(set(names[free])), key=lambda name: shown[name])
    rows = np.flatnonzero(free & (names == least))
    by_length = rows[np.argsort(table["length"].to_numpy()[rows], kind="stable")]
    row = int(by_length[round(quantile * (len(rows) - 1))])
    return first + row, table.slice(row, 1).to_pylist()[0]
