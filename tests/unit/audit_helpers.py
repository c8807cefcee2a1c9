"""Examples as the audit sees them: their figures and gates, without files, and a way to spoil them first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.objectives import ObjectiveParameters
from transforms.gates.gate import Evidence, Gate
from transforms.objectives.base import Examples
from transforms.objectives.registry import known_objective
from transforms.statistics import Accumulator, AuditContext
from transforms.statistics.common import measure_common
from transforms.statistics.rows import Rows
from transforms.vocabulary import Vocabulary

Columns = dict[str, list[Any]]


def context_of(
    parameters: ObjectiveParameters, vocabulary: Vocabulary, lengths: Sequence[int], sources: Sequence[str] = ("a",)
) -> AuditContext:
    """What an audit of rows of one stage would be told."""
    return AuditContext(
        parameters=parameters,
        vocab_size=vocabulary.size,
        special_ids=vocabulary.special_ids,
        sentinel_ids=tuple(vocabulary.sentinel_ids.tolist()),
        is_special=vocabulary.is_special,
        sources=tuple(sources),
        lengths={0: tuple(lengths)},
        validation_share=0.0,
        fingerprint="",
    )


class Audited:
    """Rows as they were measured."""

    def __init__(self, tables: Sequence[pa.Table], context: AuditContext) -> None:
        self.objective = known_objective(context.kind)
        self.found = Accumulator.create()
        self.per_row: list[dict[str, np.ndarray]] = []
        for table in tables:
            rows = Rows.of(table, context)
            longest = max(context.lengths[0])
            measure_common(rows, np.asarray(table["length"].combine_chunks()).astype(np.int64), "train", 0, longest)
            self.objective.measure(rows, table)
            rows.collect(self.found, "train", 0, longest)
            self.per_row.append(rows.per_row)
        self.context = context

    def errors(self) -> dict[str, int]:
        """How often each law without exception is broken, for those that are."""
        laws = {
            **{name: figures for name, (figures, _) in self.objective.laws.items()},
            "provenance": ("provenance_mismatch", "provenance_ragged"),
            "id_range": ("id_out_of_range",),
        }
        counts = {name: sum(self.found.total(f) for f in figures) for name, figures in laws.items()}
        return {name: n for name, n in counts.items() if n}

    def gates(self) -> dict[str, Gate]:
        """The objective's own gates beyond its laws."""
        evidence = Evidence(
            found=self.found,
            manifest=None,  # type: ignore[arg-type]
            context=self.context,
            tokenizer=None,
            index_shards=0,
        )
        return {gate.name: gate for gate in self.objective.gates(evidence)}

    def failed(self) -> set[str]:
        """Names of all broken laws and gates."""
        return set(self.errors()) | {name for name, gate in self.gates().items() if not gate.passed}


def audited(
    examples: Examples,
    parameters: ObjectiveParameters,
    vocabulary: Vocabulary,
    lengths: Sequence[int],
    *,
    source: str = "a",
) -> Audited:
    """Examples measured as they are."""
    table = examples.to_table(known_objective(parameters.kind).columns, source)
    return Audited([table], context_of(parameters, vocabulary, lengths, [source]))


def columns_of(examples: Examples, parameters: ObjectiveParameters, source: str = "a") -> Columns:
    """Examples as Python lists by column, to be spoiled."""
    table = examples.to_table(known_objective(parameters.kind).columns, source)
    return {name: table[name].to_pylist() for name in table.column_names}


def audited_columns(
    columns: Columns,
    parameters: ObjectiveParameters,
    vocabulary: Vocabulary,
    lengths: Sequence[int],
    *,
    fix_length: bool = True,
) -> Audited:
    """Columns measured; `length` is set anew, so that only the objective's laws can see what was changed."""
    from transforms.objectives.registry import schema_of

    if fix_length:
        columns = {**columns, "length": [len(ids) for ids in columns["input_ids"]]}
    schema = schema_of(parameters.kind)
    table = pa.Table.from_arrays([pa.array(columns[f.name], f.type) for f in schema], schema=schema)
    return Audited([table], context_of(parameters, vocabulary, lengths, sorted(set(columns["source"])) or ["a"]))
