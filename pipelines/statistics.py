"""The audit's statistics for notebooks: a dataset or a table in, a table out, without Beam."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from pipelines.audit import audit_dataset, context_of
from schemas.errors import RequestError, did_you_mean
from schemas.storage import Location
from transforms.objectives.registry import schema_of
from transforms.statistics import Accumulator, AuditContext
from transforms.statistics.hashes import collect_hashes
from transforms.statistics.shard import count_text, measure_table
from transforms.statistics.summary import BY, FIGURES, summarise


def dataset_statistics(dataset: str | Path, by: Sequence[str] = BY) -> pa.Table:
    """Measure every shard and give one row for each combination of `by`.

    Args:
      dataset: directory of a dataset, local, s3:// or gs://.
      by: of `split`, `stage`, `length`, `source`; none for one row of all.

    Returns:
      The fields of `by`, then the figures of `transforms.statistics.summary.FIGURES`; `.to_pandas()` and
      `polars.from_arrow` take it as it is.

    Raises:
      RequestError: there is no finished dataset at that place, or no such field.
      DataError: the manifest or the index of shards is damaged.

    ```python
    from pipelines.statistics import dataset_statistics

    dataset_statistics("out/bert-small", by=["source"]).to_pandas()
    ```
    """
    _check(by)
    place = Location.of(str(dataset))
    return _as_table(audit_dataset(place).statistics, by, context_of(place))


def table_statistics(
    table: pa.Table, dataset: str | Path, *, split: str = "train", stage: int = 0, length: int | None = None
) -> pa.Table:
    """Measure rows that are in memory, with a dataset's objective and tokenizer, and give one row a source.

    Args:
      table: with the columns of a shard.
      dataset: whose manifest and tokenizer say what the rows should be.
      split: to which the rows belong.
      stage: likewise.
      length: the rows' bucket; by default the length of the longest row.

    Raises:
      RequestError: a column is missing or of another type.
    """
    context = context_of(Location.of(str(dataset)))
    expected = schema_of(context.kind)
    known = {f.name: f.type for f in table.schema}
    if lacking := [f for f in expected if known.get(f.name) != f.type]:
        raise RequestError(
            f"The table lacks the column {lacking[0].name!r}, or it is of another type",
            where="table",
            expected=f"{lacking[0].name} of {lacking[0].type}",
            got=str(known.get(lacking[0].name, "no such column")),
            remedy="Read shards with pyarrow.parquet.ParquetFile(…).read(), which keeps their types",
        )
    longest = max(table["length"].to_pylist(), default=1) if length is None else length
    found = Accumulator.create()
    if table.num_rows:
        rows = measure_table(table.select(expected.names), context, split, stage, longest)
        rows.collect(found, split, stage, longest)
        collect_hashes(rows, found, split, stage)
        count_text(found, context)
    return _as_table(found, ("source",), context)


def _check(by: Sequence[str]) -> None:
    if unknown := [name for name in by if name not in BY]:
        raise RequestError(
            f"Statistics are not kept by {unknown[0]!r}",
            where="by",
            expected=f"some of {', '.join(BY)}",
            got=repr(unknown[0]),
            remedy=did_you_mean(unknown[0], BY).capitalize(),
        )


def _as_table(found: Accumulator, by: Sequence[str], context: AuditContext) -> pa.Table:
    rows = summarise(found, by, text_ids=context.text_ids)
    names = [*by, *FIGURES]
    return pa.table({name: [row[name] for row in rows] for name in names})
