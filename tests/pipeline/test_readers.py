"""Other houses' tools read the dataset as it is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import duckdb
import polars
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from small_jobs import Shardmill, job_for, manifest_of, shards_of, write_job

ONE = "--direct_num_workers=1"


@pytest.fixture(params=["mlm", "causal", "span_corruption"])
def dataset(request: pytest.FixtureRequest, corpus: Path, shardmill: Shardmill) -> Path:
    shardmill("prepare", write_job(corpus.parent, job_for(corpus, objective={"kind": request.param})), ONE)
    return corpus.parent / "out"


def _expected(dataset: Path) -> dict[str, tuple[int, int]]:
    """(rows, sum of input ids) by source."""
    found: dict[str, tuple[int, int]] = {}
    for row in shards_of(dataset).select(["source", "input_ids"]).to_pylist():
        rows, total = found.get(row["source"], (0, 0))
        found[row["source"]] = rows + 1, total + sum(row["input_ids"])
    return found


def test_duckdb_polars_arrow_and_datasets_read_the_same_rows(dataset: Path, tmp_path: Path) -> None:
    """Fails if an encoding or the hive layout is beyond a reader people use."""
    expected, files = _expected(dataset), f"{dataset}/data/**/*.parquet"
    query = f"select source, count(*), sum(list_sum(input_ids)) from '{files}' group by source"
    assert {s: (n, int(total)) for s, n, total in duckdb.sql(query).fetchall()} == expected

    frame = polars.scan_parquet(files, hive_partitioning=True).with_columns(polars.col("source").cast(polars.String))
    totals = frame.group_by("source").agg(
        polars.len().alias("rows"), polars.col("input_ids").list.sum().cast(polars.Int64).sum().alias("total")
    )
    assert {r["source"]: (r["rows"], r["total"]) for r in totals.collect().to_dicts()} == expected

    assert ds.dataset(dataset / "data", partitioning="hive").count_rows() == sum(n for n, _ in expected.values())

    index = polars.read_parquet(dataset / "shards.parquet")
    assert index["rows"].sum() == sum(n for n, _ in expected.values())
    planned = duckdb.sql(f"select sum(token_end - token_begin) from '{dataset}/plan.parquet' where split = 'train'")
    assert planned.fetchall() == [(60_000,)]

    assert duckdb.sql(f"select count(*) from '{dataset}/rejects/**/*.parquet'").fetchall() == [(0,)]

    import datasets

    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "hf"))
    assert Counter(rows["source"]) == {s: n for s, (n, _) in expected.items()}
    card = datasets.load_dataset(str(dataset), cache_dir=str(tmp_path / "hf2"))
    assert {split: len(part) for split, part in card.items()} == {
        split: sum(x["rows"] for x in manifest_of(dataset)["lengths"] if x["split"] == split)
        for split in ("train", "validation")
    }


def test_the_hive_length_is_the_bucket_and_the_column_is_the_rows_own(dataset: Path) -> None:
    files = f"{dataset}/data/**/*.parquet"
    own = f"select count(*) from read_parquet('{files}', hive_partitioning=false) where length != len(input_ids)"
    assert duckdb.sql(own).fetchall() == [(0,)]
    bucket = f"select count(*) from read_parquet('{files}', hive_partitioning=true) where length < len(input_ids)"
    assert duckdb.sql(bucket).fetchall() == [(0,)]


def test_the_index_agrees_with_the_footers(dataset: Path) -> None:
    """Fails if a reader that plans from shards.parquet alone would be wrong about a row group."""
    fingerprint = manifest_of(dataset)["fingerprint"].encode()
    for row in pq.read_table(dataset / "shards.parquet").to_pylist():
        metadata = pq.read_metadata(dataset / row["path"])
        sizes = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
        assert sum(sizes) == row["rows"]
        assert set(sizes[:-1]) <= {row["row_group_rows"]}
        assert fingerprint in metadata.metadata.values()
        assert metadata.row_group(0).column(0).compression == "ZSTD"
        assert (dataset / row["path"]).stat().st_size == row["bytes"]
