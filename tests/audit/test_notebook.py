"""The statistics as a plain function: the same numbers from a dataset, from its shards in memory, by any fields."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from pipelines.statistics import dataset_statistics, table_statistics
from schemas.errors import RequestError
from schemas.manifest import read_manifest, read_shards
from schemas.storage import Location
from transforms.surfaces import Surfaces


def test_groups_add_to_the_whole(mlm_dataset: Location) -> None:
    whole, parts = dataset_statistics(mlm_dataset.uri, by=[]), dataset_statistics(mlm_dataset.uri)
    assert whole.num_rows == 1
    assert parts.column_names[:4] == ["split", "stage", "length", "source"]
    for figure in ("rows", "tokens", "corpus_tokens"):
        assert sum(parts[figure].to_pylist()) == whole[figure][0].as_py()
    assert whole["rows"][0].as_py() == read_manifest(mlm_dataset).totals.rows


def test_shares_are_those_a_plain_loop_finds(causal_dataset: Location) -> None:
    surfaces = Surfaces.of((causal_dataset / "tokenizer.json").read_bytes())
    special = set(read_manifest(causal_dataset).tokenizer.special_token_ids)
    rows = []
    for path in read_shards(causal_dataset)["path"].to_pylist():
        rows += pq.read_table((causal_dataset / path).uri, partitioning=None).to_pylist()
    for found in dataset_statistics(causal_dataset.uri, by=["source"]).to_pylist():
        mine = [r for r in rows if r["source"] == found["source"]]
        text = [i for r in mine for i in r["input_ids"] if i not in special]
        offsets = [o for r in mine for o in r["doc_offsets"]]
        assert found["bytes_per_token"] == pytest.approx(
            sum(len(surfaces._bytes(surfaces.name(i))) for i in text) / len(text)
        )
        assert found["documents_cut"] == pytest.approx(sum(o > 0 for o in offsets) / len(offsets))
        assert found["rows_concatenated"] == pytest.approx(sum(len(set(r["doc_keys"])) > 1 for r in mine) / len(mine))
        assert found["vocabulary"] == pytest.approx(len(set(text)) / (len(surfaces.names) - len(special)))
        assert found["copies"] == 1 + max(r["copy"] for r in mine)


def test_a_shard_in_memory_gives_what_the_dataset_gives(mlm_dataset: Location) -> None:
    shard = read_shards(mlm_dataset).to_pylist()[3]
    table = pq.ParquetFile((mlm_dataset / shard["path"]).uri).read()
    here = table_statistics(table, mlm_dataset.uri, length=shard["length"])
    assert sum(here["rows"].to_pylist()) == shard["rows"]
    assert sum(here["tokens"].to_pylist()) == shard["tokens"]


def test_an_unknown_field_and_a_foreign_table_are_readable_errors(mlm_dataset: Location) -> None:
    with pytest.raises(RequestError, match="not kept by 'sources'"):
        dataset_statistics(mlm_dataset.uri, by=["sources"])
    shard = read_shards(mlm_dataset).to_pylist()[0]
    table = pq.ParquetFile((mlm_dataset / shard["path"]).uri).read().drop_columns(["mask_labels"])
    with pytest.raises(RequestError, match="mask_labels"):
        table_statistics(table, mlm_dataset.uri)
