"""Shards: every row in its bucket, an order that does not tell how rows were built, and accounts that recount."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit_helpers import cases, corpus, lists, vocabulary

import transforms.shards as shards
from schemas.errors import DataError
from schemas.storage import Location
from schemas.tables import ROW_GROUP_TOKENS, SHARDS, read_fingerprint
from transforms.objectives.causal import Causal
from transforms.objectives.mlm import Mlm
from transforms.objectives.registry import objective_for, schema_of
from transforms.objectives.sentence_pair import SentencePair
from transforms.ragged import Ragged
from transforms.shards import ShardName, bucket_tables, row_group_rows, write_shard

FINGERPRINT = "0123456789abcdef" * 2
NAME = ShardName(split="train", stage=1, length=64, shard=7)


def examples(documents: dict[str, list[int]], *, longest: int = 64, kind: str = "mlm") -> pa.Table:
    """A table of rows of documents of these lengths, by source."""
    tables, key = [], 0
    for source, lengths in documents.items():
        keys = [(k * (2**50 + 7)) % 2**64 for k in range(key, key + len(lengths))]
        key += len(lengths)
        documents_ = corpus([[6 + n % 50] * n for n in lengths], keys=keys)
        objective = objective_for(Mlm() if kind == "mlm" else Causal(), vocabulary())
        made = objective.build(documents_, lengths=[longest], seed=0)
        tables.append(made.to_table(objective.columns, source))
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()


LENGTHS = st.lists(st.integers(1, 100), min_size=1, max_size=20)


@cases(80)
@given(LENGTHS, st.sets(st.integers(3, 63), max_size=4), st.integers(0, 3))
def test_each_row_is_once_in_the_smallest_bucket_it_fits(lengths: list[int], edges: set[int], seed: int) -> None:
    buckets = [*sorted(edges), 64]
    table = examples({"a": lengths})
    found = list(bucket_tables(table, buckets, seed))
    assert [b for b, _ in found] == sorted({min(b for b in buckets if b >= n) for n in table["length"].to_pylist()})
    rows = []
    for bucket, held in found:
        smaller = max([b for b in buckets if b < bucket], default=0)
        assert all(smaller < n <= bucket for n in held["length"].to_pylist())
        assert held.schema == table.schema
        rows += held.to_pylist()

    def name(row: dict[str, Any]) -> tuple[int, int]:
        return row["doc_keys"][0], row["doc_offsets"][0]

    assert sorted(rows, key=name) == sorted(table.to_pylist(), key=name)


@cases(60)
@given(LENGTHS, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_depend_on_how_they_came(lengths: list[int], order: random.Random) -> None:
    table = examples({"a": lengths})
    shuffled = list(range(table.num_rows))
    order.shuffle(shuffled)
    once = [(b, t.to_pylist()) for b, t in bucket_tables(table, [16, 64], 1)]
    again = [(b, t.to_pylist()) for b, t in bucket_tables(table.take(pa.array(shuffled)), [16, 64], 1)]
    assert once == again


def test_rows_are_shuffled_and_the_seed_decides() -> None:
    table = examples({"a": [20] * 200, "b": [20] * 200})

    def order(seed: int) -> list[int]:
        ((_, rows),) = bucket_tables(table, [64], seed)
        return [k[0] for k in rows["doc_keys"].to_pylist()]

    assert sorted(order(0)) == sorted(order(1)) == sorted(k[0] for k in table["doc_keys"].to_pylist())
    assert order(0) != order(1)
    half = set(order(0)[:200])
    from_a = sum(k[0] in half for k in table["doc_keys"].to_pylist()[:200])
    assert 60 < from_a < 140, "the sources are not mixed"  # 100 expected, standard deviation 5


def test_what_rows_drew_by_their_names_does_not_stand_sorted_in_the_shard() -> None:
    """Fails if short pairs, which are short by the draw that names them, would be a shard's first rows."""
    documents = corpus([[6 + n % 50] * 2000 for n in range(20)], ends=[list(range(5, 2001, 5))] * 20)
    objective = objective_for(SentencePair(task="sop", swap_prob=0, short_sequence_rate=0.5), vocabulary())
    made = objective.build(documents, lengths=[64], seed=0)
    ((_, rows),) = bucket_tables(made.to_table(objective.columns, "a"), [64], 0)
    short = rows["length"].to_numpy() < 50
    places = np.flatnonzero(short) / len(short)
    assert short.sum() > 200
    assert abs(places.mean() - 0.5) < 5 / (12 * short.sum()) ** 0.5


@cases(400)
@given(rows=st.integers(1, 30_000), longest=st.integers(2, 8192), ragged_rows=st.booleans(), seed=st.integers(0, 9))
def test_no_row_group_is_starved_and_none_swells(rows: int, longest: int, ragged_rows: bool, seed: int) -> None:
    """Fails if a reader would get a crumb, or would have to hold many times the tokens asked for at once."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(max(1, longest // 2), longest + 1, rows) if ragged_rows else np.full(rows, longest)
    size = row_group_rows(lengths)
    groups = [int(lengths[at : at + size].sum()) for at in range(0, rows, size)]
    assert sum(groups) == lengths.sum()
    if sum(groups) < 2 * ROW_GROUP_TOKENS:
        assert len(groups) == 1
    else:
        assert max(groups) <= 4 * max(ROW_GROUP_TOKENS, longest)
        # Where even groups exist at all, they are found; a row longer than a tenth of a group leaves no choice.
        if longest * 20 < ROW_GROUP_TOKENS:
            assert min(groups) >= ROW_GROUP_TOKENS


@pytest.mark.parametrize("kind", ["mlm", "causal"])
def test_what_a_shard_is_said_to_hold_is_what_it_holds(tmp_path: Path, kind: str) -> None:
    # 'z' is in the dictionary but not in the rows.
    table = examples({"a": [30, 62, 100, 1], "b": [5, 7], "z": [9]}, kind=kind)
    table = table.filter(pa.array([s != "z" for s in table["source"].to_pylist()]))
    row = write_shard(Location.of(tmp_path), NAME, table, FINGERPRINT)
    path = tmp_path / "data/split=train/stage=1/length=64/00007.parquet"
    assert row["path"] == str(path.relative_to(tmp_path))
    data = path.read_bytes()
    assert (row["bytes"], row["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    read = pq.ParquetFile(path).read()
    assert read.select(table.schema.names).to_pylist() == table.to_pylist()
    assert read.schema.names == schema_of(kind).names
    assert row["rows"] == len(table)
    assert row["tokens"] == sum(len(i) for i in read["input_ids"].to_pylist()) == sum(read["length"].to_pylist())
    by_source = {"a": 30 + 62 + 100 + 1, "b": 12}
    assert dict(row["source_tokens"]) == by_source
    assert row["corpus_tokens"] == sum(by_source.values())
    # It fits the index of shards as it is.
    pa.Table.from_pylist([{**row, "block": 0}], schema=SHARDS)


def test_the_footer_has_fingerprint_row_groups_encodings_and_no_clock(tmp_path: Path) -> None:
    table = examples({"a": [60] * 40}).take(pa.array(np.arange(40).repeat(250)))
    first = write_shard(Location.of(tmp_path), NAME, table, FINGERPRINT)
    metadata = pq.read_metadata(tmp_path / first["path"])
    assert read_fingerprint(metadata) == FINGERPRINT
    groups = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
    assert groups[:-1] == [first["row_group_rows"]] * (len(groups) - 1)
    assert len(groups) == 2
    columns = {metadata.row_group(0).column(c).path_in_schema: metadata.row_group(0).column(c) for c in range(9)}
    assert {c.compression for c in columns.values()} == {"ZSTD"}
    assert "BYTE_STREAM_SPLIT" in columns["input_ids.list.element"].encodings
    assert columns["length"].statistics.max == 62
    again = write_shard(Location.of(tmp_path / "again"), NAME, table, FINGERPRINT)
    assert again == first


def test_a_flipped_bit_is_caught_by_the_page_checksums(tmp_path: Path) -> None:
    row = write_shard(Location.of(tmp_path), NAME, examples({"a": [60] * 500}), FINGERPRINT)
    path = tmp_path / row["path"]
    column = pq.read_metadata(path).row_group(0).column(0)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(OSError, match=r"(?i)crc|checksum|corrupt"):
        pq.ParquetFile(path, page_checksum_verification=True).read(columns=["input_ids"])


def test_a_shard_that_was_not_written_whole_does_not_get_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = examples({"a": [9] * 4})
    real = pq.write_table
    monkeypatch.setattr(shards.pq, "write_table", lambda t, *a, **k: real(t.slice(1), *a, **k))
    with pytest.raises(DataError, match="not written whole") as error:
        write_shard(Location.of(tmp_path), NAME, table, FINGERPRINT)
    assert NAME.path in error.value.where
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_the_columns_come_back_as_the_ragged_arrays_they_were(tmp_path: Path) -> None:
    table = examples({"a": [3, 90, 4]})
    row = write_shard(Location.of(tmp_path), NAME, table, FINGERPRINT)
    read = pq.ParquetFile(tmp_path / row["path"]).read()
    for column in ("input_ids", "mask_positions", "mask_labels", "doc_keys"):
        assert lists(Ragged.from_arrow(read[column])) == table[column].to_pylist()
