"""Statistics of one shard, read row group by row group in bounded memory.

A file that cannot be read is counted and named, not raised: the audit's answer is a list of what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.storage import Location
from schemas.tables import read_fingerprint
from transforms.objectives.masking import MaskingParameters
from transforms.objectives.registry import known_objective, schema_of
from transforms.statistics.accumulator import Accumulator, Group
from transforms.statistics.common import measure_common
from transforms.statistics.context import AuditContext
from transforms.statistics.hashes import collect_hashes
from transforms.statistics.mask_law import (
    BUDGET_PLACES,
    REPLACEMENT_FLOOR,
    clustering,
    expected_shares,
    position_floor,
)
from transforms.statistics.mask_positions import FIXED_POINT
from transforms.statistics.places import PLACE_FLOOR
from transforms.statistics.rows import Rows
from transforms.statistics.sentinels import SHARED_SPANS
from transforms.statistics.significance import places_test, proportion_surprise

INDEX_FIGURES = ("rows", "tokens", "corpus_tokens")
"""Figures that the index of shards states for each shard."""


MOST_SURPRISE = 1e6
"""Put down for what is impossible, since JSON has no infinity."""


def shard_statistics(dataset: Location, shard: Mapping[str, Any], context: AuditContext) -> Accumulator:
    """The statistics of one shard.

    Args:
      dataset: the dataset's directory.
      shard: the shard's row of the index, as Python values by column of `schemas.tables.SHARDS`.
      context: what the rows are held against.

    Returns:
      A new accumulator. A file that is missing, damaged or of other columns adds a problem and no rows.
    """
    found = Accumulator.create()
    found.shards["listed"] += 1
    path = str(shard["path"])
    try:
        with (dataset / path).open_input() as source:
            _read(pq.ParquetFile(source, page_checksum_verification=True), shard, context, found)
    except (FileNotFoundError, IsADirectoryError):
        return _unread("missing", path, "the file is missing")
    except (OSError, pa.ArrowException) as error:
        return _unread("unreadable", path, f"the file cannot be read: {error}")
    found.shards["read"] += 1
    _compare_with_index(found, shard)
    for figure in {name for m in found.groups.values() for name in m.sums}:
        found.add_worst(figure, found.total(figure), path)
    _rank_shares(found, context, int(shard["length"]), path)
    return found


def _unread(kind: str, path: str, what: str) -> Accumulator:
    """The statistics of a file without rows; what was read of it before it broke is not counted."""
    found = Accumulator.create()
    found.shards["listed"] += 1
    found.add_problem(kind, path, " ".join(what.split()))
    found.add_worst(kind, 1, path)
    return found


def _read(file: pq.ParquetFile, shard: Mapping[str, Any], context: AuditContext, found: Accumulator) -> None:
    path, split = str(shard["path"]), str(shard["split"])
    stage, length = int(shard["stage"]), int(shard["length"])
    expected = schema_of(context.kind)
    schema = file.schema_arrow
    lacking = [f.name for f in expected if schema.get_field_index(f.name) < 0 or schema.field(f.name).type != f.type]
    if lacking:
        raise pa.ArrowInvalid(f"columns missing or of another type: {', '.join(lacking)}")
    fingerprint = read_fingerprint(file.metadata)
    if fingerprint != context.fingerprint:
        found.add_problem("other_fingerprint", path, f"the fingerprint is {fingerprint}, not {context.fingerprint}")
        found.add_worst("other_fingerprint", 1, path)
    if difference := row_group_difference(file.metadata, int(shard["row_group_rows"])):
        found.add_problem("differs_from_index", path, difference)
        found.add_worst("differs_from_index", 1, path)
    for _, rows in measured_row_groups(file, shard, context):
        rows.collect(found, split, stage, length)
        collect_hashes(rows, found, split, stage)
    count_text(found, context)


def measured_row_groups(
    file: pq.ParquetFile, shard: Mapping[str, Any], context: AuditContext
) -> Iterator[tuple[int, Rows]]:
    """(first row, rows with their figures) of each row group of a shard that is not empty.

    Raises:
      ArrowInvalid: a column has nulls.
    """
    expected = schema_of(context.kind)
    first = 0
    for index in range(file.num_row_groups):
        table = file.read_row_group(index, columns=expected.names, use_threads=False)
        if table.num_rows == 0:
            continue
        if nulls := [name for name in expected.names if table[name].null_count]:
            raise pa.ArrowInvalid(f"row group {index} has nulls in {', '.join(nulls)}")
        yield first, measure_table(table, context, str(shard["split"]), int(shard["stage"]), int(shard["length"]))
        first += table.num_rows


def measure_table(table: pa.Table, context: AuditContext, split: str, stage: int, length: int) -> Rows:
    """The rows of a table with the columns of a shard, and the figures of each."""
    rows = Rows.of(table, context)
    measure_common(rows, np.asarray(table["length"].combine_chunks()).astype(np.int64), split, stage, length)
    known_objective(context.kind).measure(rows, table)
    return rows


def count_text(found: Accumulator, context: AuditContext) -> None:
    """What follows from how often each id occurs in a shard, whose groups differ in nothing but their source."""
    special, role = context.special_roles
    for group, measures in found.select():
        counts = found.tokens[(group.split, group.source)].copy()
        histogram = np.zeros(len(context.special_ids) + 1, np.int64)
        np.add.at(histogram, role, counts[special])
        measures.histograms["special"] = histogram.tolist()
        measures.sums["special_tokens"] = int(counts[special].sum())
        counts[special] = 0
        measures.sums["text_tokens"] = int(counts.sum())
        if context.token_bytes is not None:
            measures.sums["text_bytes"] = int(counts @ context.token_bytes.astype(np.int64))
        measures.seen = int.from_bytes(np.packbits(counts > 0, bitorder="little").tobytes(), "little")


def row_group_difference(metadata: pq.FileMetaData, stated: int) -> str:
    """How a shard's row groups differ from the index, empty where they do not.

    Every row group has the rows the index states but the last, which may have fewer.
    """
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    if any(size != stated for size in sizes[:-1]) or any(size > stated for size in sizes[-1:]):
        return f"has row groups of {sorted(set(sizes))} rows, the index says {stated}"
    return ""


def _compare_with_index(found: Accumulator, shard: Mapping[str, Any]) -> None:
    path = str(shard["path"])
    differing = [
        f"{name} {found.total(name):,}, the index says {int(shard[name]):,}"
        for name in INDEX_FIGURES
        if found.total(name) != int(shard[name])
    ]
    counted = {s: n for s, n in found.totals_by(_source, "corpus_tokens").items() if n}
    stated = {s: n for s, n in dict(shard["source_tokens"]).items() if n}
    if counted != stated:
        differing.append(f"corpus tokens by source {counted}, the index says {stated}")
    if differing:
        found.add_problem("differs_from_index", path, "; ".join(differing))
        found.add_worst("differs_from_index", 1, path)


def _source(group: Group) -> str:
    return group.source


def _rank_shares(found: Accumulator, context: AuditContext, length: int, path: str) -> None:
    """Remember the shards whose padding, places or replacements stand out."""
    places = found.total("rows") * length
    if places:
        found.add_worst("padding_share", 1 - found.total("tokens") / places, path)
    parameters = context.parameters
    spread = clustering(found) if isinstance(parameters, MaskingParameters) else SHARED_SPANS
    for name in {h for m in found.groups.values() for h in m.histograms if f"{h}_expected" in m.histograms}:
        expected = [x / FIXED_POINT for x in found.histogram(f"{name}_expected")]
        floor = position_floor(parameters) if isinstance(parameters, MaskingParameters) else PLACE_FLOOR
        test = places_test(found.histogram(name), expected, spread)
        if test.distance > floor:
            found.add_worst(f"{name}_surprise", -math.log(max(test.tail, 5e-324)), path)
    if isinstance(parameters, MaskingParameters):
        law = found.total("mask_law")
        if law >= BUDGET_PLACES and not parameters.exact_count and parameters.selection != "bernoulli":
            found.add_worst("mask_budget_unused", 1 - found.total("masked") / law, path)
        _rank_replacements(found, parameters, context.text_ids, path)


def _rank_replacements(found: Accumulator, parameters: MaskingParameters, text_ids: int, path: str) -> None:
    """Put down how surprising a shard's shares of masks, random and unchanged tokens are, where that matters."""
    masked = found.total("masked")
    spread = clustering(found) if parameters.selection == "span" else 1.0
    for name, law in expected_shares(parameters, text_ids).items():
        hits = found.total(f"shown_{name}")
        if masked and (law in (0.0, 1.0) or abs(hits / masked - law) > REPLACEMENT_FLOOR):
            surprise = proportion_surprise(round(hits / spread), round(masked / spread), law)
            found.add_worst("replacement_surprise", min(surprise, MOST_SURPRISE), path)
