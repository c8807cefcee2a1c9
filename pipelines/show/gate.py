"""Rows that show what a gate judges: those that break its law, or else rows like those it judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.show.decode import MOST_TOKENS, Example
from pipelines.show.examples import examples_at, pick_examples
from schemas.manifest import read_manifest, read_shards
from schemas.storage import Location
from transforms.gates import Gate
from transforms.statistics import Accumulator, AuditContext
from transforms.statistics.find import rows_with

REPEATS = "rows_once"
"""The gate whose rows are found by their hashes."""


@dataclass(frozen=True)
class GateExamples:
    """Rows for one gate."""

    examples: tuple[Example, ...]
    what: str
    """What these rows are, in words."""


def gate_examples(
    dataset: Location, gate: Gate, *, n: int = 3, most_tokens: int = MOST_TOKENS, found: Accumulator | None = None
) -> GateExamples:
    """Rows that show what a gate judges; shards are read from the worst on until there are enough.

    Args:
      dataset: the dataset's directory.
      gate: as the audit judged it.
      n: how many rows.
      most_tokens: of a row that are shown.
      found: the statistics, where rows that come twice are asked for.

    Raises:
      RequestError: there is no finished dataset at that place.
      DataError: no shard can be read.
    """
    shards = read_shards(dataset).to_pylist()
    shards.sort(key=_worst_first(gate))
    repeated = _repeated(found) if gate.name == REPEATS and found is not None else None
    if repeated is not None or (gate.figures and not (gate.passed and gate.effect == 0)):
        context = AuditContext.of(read_manifest(dataset))
        examples: list[Example] = []
        for shard in shards:
            try:
                rows = rows_with(dataset, shard, context, gate.figures, n - len(examples), repeated)
            except (OSError, pa.ArrowException):
                continue  # `shards_readable` names it
            examples += examples_at(dataset, shard, rows, most_tokens=most_tokens)
            if len(examples) >= n:
                break
        if examples:
            why = ", ".join(f.replace("_", " ") for f in gate.figures) or "a row that comes more than once"
            return GateExamples(tuple(examples), f"rows with: {why}")
    worst = next((s for s in shards if s["path"] == gate.worst_shard), None)
    where = {} if worst is None else {k: worst[k] for k in ("split", "stage", "length")}
    rows_shown = tuple(pick_examples(dataset, n=n, most_tokens=most_tokens, **where))
    return GateExamples(rows_shown, "no single row stands out; rows like those it judged")


def _worst_first(gate: Gate) -> Callable[[dict[str, Any]], bool]:
    def key(shard: dict[str, Any]) -> bool:
        return bool(shard["path"] != gate.worst_shard)

    return key


def _repeated(found: Accumulator) -> npt.NDArray[np.uint64]:
    samples = [s for name, s in found.samples.items() if name.startswith("occurrences/")]
    return np.concatenate([s.hashes[s.counts > 1] for s in samples]) if samples else np.zeros(0, np.uint64)
