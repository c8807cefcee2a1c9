"""A good dataset trips no gate, over many seeds; each kind of damage trips the gate that is there for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sabotage import change_shard, fewer_masks, first_train
from tiny_dataset import describe, make_dataset, write_index

from pipelines.audit import audit_dataset
from pipelines.cli import main
from schemas.manifest import read_shards
from schemas.objectives import ObjectiveParameters
from schemas.storage import Location
from transforms.objectives.causal import Causal
from transforms.objectives.fim import Fim
from transforms.objectives.infilling import Infilling
from transforms.objectives.mlm import Mlm
from transforms.objectives.prefix_lm import PrefixLm
from transforms.objectives.replaced_token import ReplacedToken
from transforms.objectives.sentence_pair import SentencePair
from transforms.objectives.seq2seq import Seq2Seq
from transforms.objectives.span_corruption import SpanCorruption
from transforms.objectives.ul2 import Ul2

OBJECTIVES = [
    Mlm(),
    Mlm(whole_word=True),
    Mlm(mask_replace_prob=0.7, random_replace_prob=0.3),
    Mlm(mask_rate=0.4, max_predictions=20),
    Mlm(selection="bernoulli"),
    Mlm(selection="bernoulli", whole_word=True, mask_rate=0.3),
    Mlm(selection="ngram"),
    Mlm(selection="ngram", whole_word=True),
    Mlm(selection="span", max_predictions=10),
    Mlm(pack="full"),
    Mlm(pack="full", short_sequence_rate=0.1),
    Mlm(pack="sentences"),
    Mlm(pack="sentences", short_sequence_rate=0.1, selection="span"),
    Mlm(short_sequence_rate=0.1),
    ReplacedToken(),
    ReplacedToken(pack="full", whole_word=True),
    Causal(),
    Causal(pack="best_fit"),
    Causal(pack="decompose"),
    SpanCorruption(),
    SpanCorruption(noise_density=0.4, mean_noise_span_length=5),
    SpanCorruption(pack="full"),
    SentencePair(),
    SentencePair(task="sop", selection="ngram", whole_word=True),
    PrefixLm(),
    PrefixLm(pack="concat"),
    Fim(),
    Ul2(),
    Ul2(pack="full", mode_tokens="never"),
    Infilling(),
    Infilling(pack="full", permute_sentences=0),
    Seq2Seq(),
    Seq2Seq(on_long="truncate"),
]


def failing(dataset: Location) -> set[str]:
    return {gate.name for gate in audit_dataset(dataset).failed}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("objective", OBJECTIVES, ids=describe)
def test_a_good_dataset_passes_every_gate(objective: ObjectiveParameters, seed: int, tmp_path: Path) -> None:
    result = audit_dataset(make_dataset(tmp_path, objective, seed, blocks=2 if seed == 0 else 1))
    assert [f"{g.name}: {g.observed}" for g in result.failed] == []
    assert result.passed
    assert len(result.gates) >= 15


def test_an_empty_dataset_fails(tmp_path: Path) -> None:
    result = audit_dataset(make_dataset(tmp_path, spoil=lambda s: s.tables.clear()))
    assert not result.passed
    assert "not_empty" in {g.name for g in result.failed}


def test_the_gate_names_the_shard_and_the_command(tmp_path: Path) -> None:
    result = audit_dataset(make_dataset(tmp_path, spoil=change_shard(first_train, fewer_masks)))
    gate = result.failed[0]
    assert gate.worst_shard == "data/split=train/stage=0/length=16/00000.parquet"
    assert gate.command == "shardmill show DATASET --gate mask_counts"
    assert gate.effect == 1


# Damage to files and bookkeeping.


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    path = read_shards(dataset)["path"][2].as_py()
    (dataset / path).remove()
    gates = {g.name: g for g in audit_dataset(dataset).failed}
    assert gates["shards_readable"].worst_shard == path
    assert "1 missing" in gates["shards_readable"].observed
    assert set(gates) == {"shards_readable"}, "what follows from a missing shard is not said again by other gates"


def test_a_shard_dropped_from_disk_and_index_does_not_add_up(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    rows = read_shards(dataset).to_pylist()
    (dataset / rows[2]["path"]).remove()
    write_index(dataset, rows[:2] + rows[3:])
    assert {"totals", "ledger"} <= failing(dataset)


def test_a_truncated_shard_is_unreadable_and_named(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    place = dataset / read_shards(dataset)["path"][4].as_py()
    place.write_bytes(place.read_bytes()[:-200])
    gate = {g.name: g for g in audit_dataset(dataset).failed}["shards_readable"]
    assert gate.worst_shard == read_shards(dataset)["path"][4].as_py()
    assert "cannot be read" in gate.observed


def test_a_shard_that_holds_more_than_its_index_says_is_named(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    rows = read_shards(dataset).to_pylist()
    rows[1]["rows"] -= 1
    write_index(dataset, rows)
    gates = {g.name: g for g in audit_dataset(dataset).failed}
    assert set(gates) == {"shards_match_index"}
    assert gates["shards_match_index"].worst_shard == rows[1]["path"]


def test_a_shard_of_another_run_is_found_by_its_fingerprint(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    edit_manifest(dataset, lambda m: m.update(fingerprint="e" * 32))
    assert failing(dataset) == {"shards_readable"}


def test_another_tokenizer_is_found(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    place = dataset / "tokenizer.json"
    place.write_bytes(place.read_bytes() + b"\n")
    assert failing(dataset) == {"tokenizer"}
    place.remove()
    assert failing(dataset) == {"tokenizer"}


def test_a_ledger_that_does_not_close_is_found(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    edit_manifest(dataset, lambda m: m["ledger"]["entries"][0].update(out=259))
    gate = audit_dataset(dataset).failed
    assert [g.name for g in gate] == ["ledger"]
    assert "read records of books: 263 stated, 262 counted" in gate[0].observed


@pytest.mark.parametrize(
    ("objective", "off", "found"), [(Mlm(), 1, True), (Seq2Seq(), 60, False), (Seq2Seq(), 901, True)]
)
def test_a_mixture_a_token_off_the_plan_is_found_or_a_pair_where_pairs_cannot_be_cut(
    tmp_path: Path, objective: ObjectiveParameters, off: int, found: bool
) -> None:
    dataset = make_dataset(tmp_path, objective)

    def plan_otherwise(m: dict[str, Any]) -> None:
        m["stages"][0]["sources"]["books"]["planned_tokens"] += off

    edit_manifest(dataset, plan_otherwise)
    assert failing(dataset) == ({"mixture"} if found else set())


def test_a_cut_that_the_manifest_does_not_name_is_a_document_that_is_not_whole(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, Causal(pack="best_fit"))

    def forget(m: dict[str, Any]) -> None:
        assert len(m["cuts"]) == 2
        m["cuts"] = m["cuts"][:1]

    edit_manifest(dataset, forget)
    assert failing(dataset) == {"document_boundaries"}


def edit_manifest(dataset: Location, change: Callable[[dict[str, Any]], object]) -> None:
    place = dataset / "manifest.json"
    raw = json.loads(place.read_bytes())
    change(raw)
    place.write_bytes(json.dumps(raw).encode())


# The job's own bounds.


@pytest.mark.parametrize(
    ("gates", "fails"),
    [
        ({"padding": {"max": 0.9}, "rows": {"min": 10}}, set()),
        ({"padding": {"max": 0.01}}, {"job.padding"}),
        ({"tokens": {"min": 10**9}}, {"job.tokens"}),
        ({"rejected": {"max": 0.001}}, {"job.rejected"}),
        ({"unknown": {"max": 0.0001}}, {"job.unknown"}),
        ({"repetition": {"max": 1.2}}, {"job.repetition"}),
        ({"duplicates": {"max": 0.5}}, set()),
    ],
)
def test_the_jobs_bounds_are_gates(gates: dict[str, Any], fails: set[str], tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, gates=gates)
    result = audit_dataset(dataset)
    assert {g.name for g in result.failed} == fails
    assert {f"job.{name}" for name in gates} <= {g.name for g in result.gates}


def test_a_bound_on_no_figure_fails_instead_of_passing(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    edit_manifest(dataset, lambda m: m["job"].update(gates={"pading": {"max": 0.5}}))
    gate = audit_dataset(dataset).failed
    assert [g.name for g in gate] == ["job.pading"]
    assert "did you mean 'padding'?" in gate[0].expected


@pytest.mark.parametrize("kind", ["another type", "foreign columns", "no Parquet"])
def test_a_file_that_is_no_shard_is_named_with_what_it_lacks(tmp_path: Path, kind: str) -> None:
    dataset = make_dataset(tmp_path)
    path = read_shards(dataset)["path"][3].as_py()
    place = (dataset / path).uri
    table = pq.ParquetFile(place).read()
    if kind == "another type":
        ids = table["input_ids"].cast(pa.list_(pa.int64()))
        pq.write_table(table.set_column(0, "input_ids", ids), place)
    elif kind == "foreign columns":
        pq.write_table(pa.table({"text": ["of somebody else"]}), place)
    else:
        Path(place).write_bytes(b"not a table at all")
    gates = audit_dataset(dataset).failed
    assert [g.name for g in gates] == ["shards_readable"]
    assert gates[0].worst_shard == path
    words = {"another type": "of another type: input_ids", "foreign columns": "columns missing"}
    assert words.get(kind, "cannot be read") in gates[0].observed
    assert main(["audit", str(dataset)]) == 1
