"""Rows damaged in every way that a column's type allows are measured and never stop the audit."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_gates import OBJECTIVES
from tiny_dataset import describe, make_dataset, tiny_vocabulary, tokenizer_bytes

from pipelines.show.decode import _spans
from schemas.manifest import TokenizerRecord, read_manifest, read_shards
from schemas.objectives import ObjectiveParameters
from transforms.objectives.registry import known_objective
from transforms.statistics import Accumulator, AuditContext
from transforms.statistics.common import measure_common
from transforms.statistics.hashes import collect_hashes
from transforms.statistics.rows import Rows
from transforms.surfaces import Surfaces

ROUNDS = 12


@cache
def good_rows(described: str) -> tuple[AuditContext, TokenizerRecord, pa.Table]:
    """Some rows of each length of a good dataset, and what they are held against."""
    objective = next(o for o in OBJECTIVES if describe(o) == described)
    with TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder), objective, blocks=1)
        manifest = read_manifest(dataset)
        tables = [
            pq.read_table((dataset / path).uri, partitioning=None).slice(0, 6)
            for path in read_shards(dataset)["path"].to_pylist()
        ]
    context = AuditContext.of(manifest, starts_word=tiny_vocabulary().starts_word)
    return context, manifest.tokenizer, pa.concat_tables(tables).unify_dictionaries()


def damage(values: list[Any], is_unsigned: bool, rng: np.random.Generator) -> None:
    """Change one value, or one row's list, to something of the same type."""
    row = int(rng.integers(len(values)))
    extremes = [0, 1, 2**31 - 1, int(rng.integers(0, 700))] + ([] if is_unsigned else [-1, -(2**31)])
    value = int(rng.choice(extremes))
    found = values[row]
    if not isinstance(found, list):
        values[row] = value
        return
    kind = rng.integers(6)
    if kind == 0 or not found:
        values[row] = []
    elif kind == 1:
        values[row] = found[: int(rng.integers(len(found)))]
    elif kind == 2:
        values[row] = found + found
    elif kind == 3:
        values[row] = found[::-1]
    else:
        found[int(rng.integers(len(found)))] = value


@pytest.mark.parametrize("objective", OBJECTIVES, ids=describe)
def test_no_damage_stops_the_audit_or_the_showing_of_a_row(objective: ObjectiveParameters) -> None:
    context, tokenizer, table = good_rows(describe(objective))
    measured, surfaces = known_objective(objective.kind), Surfaces.of(tokenizer_bytes())
    rng = np.random.default_rng(7)
    lists = [f.name for f in table.schema if pa.types.is_list(f.type)]
    for _ in range(ROUNDS):
        columns = {name: table[name].to_pylist() for name in table.column_names}
        for name in rng.choice(lists, int(rng.integers(1, 4))):
            for _ in range(int(rng.integers(1, 30))):
                damage(columns[name], pa.types.is_unsigned_integer(table.schema.field(name).type.value_type), rng)
        arrays = [pa.array(columns[f.name], f.type) for f in table.schema]
        damaged = pa.Table.from_arrays(arrays, schema=table.schema)
        rows = Rows.of(damaged, context)
        measure_common(rows, np.array(columns["length"]), "train", 0, 64)
        measured.measure(rows, damaged)
        found = Accumulator.create()
        rows.collect(found, "train", 0, 64)
        collect_hashes(rows, found, "train", 0)
        assert found.total("rows") == len(damaged)
        assert all(
            n >= 0 for measures in found.groups.values() for name, n in measures.sums.items() if "error" in name
        )
        for row in damaged.slice(0, 20).to_pylist():
            _spans(row, measured.draw(row, tokenizer), set(tokenizer.special_token_ids), surfaces, 48)
