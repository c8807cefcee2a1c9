"""The plan as it is shown, made, explained and changed: what is counted back from the shards is what it says."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import pytest
from small_jobs import Shardmill, digests, job_for, manifest_of, shard_digests, shards_of, write_job

ONE = "--direct_num_workers=1"
EPOCHS = {"web": 3.4, "books": 0.4, "wiki": 1.0}


def epochs_job(corpus: Path, **changes: Any) -> dict[str, Any]:
    """Two stages that continue through each source, one seen 3.4 times and one 0.4 times in all."""
    job = job_for(corpus, mixture={"policy": "epochs"}, **changes)
    del job["budget"]
    for source in job["sources"]:
        del source["weight"]
        source["epochs"] = EPOCHS[source["name"]]
    return job


@pytest.mark.parametrize(
    "objective", [{"kind": "mlm"}, {"kind": "causal", "pack": "best_fit"}], ids=lambda o: o["kind"]
)
def test_passes_counted_back_from_the_shards_are_those_of_the_plan(
    corpus: Path, tmp_path: Path, shardmill: Shardmill, objective: dict[str, Any]
) -> None:
    """Fails if a document is repeated before its source is used up, or a stage holds a token more or less."""
    path = write_job(tmp_path, epochs_job(corpus, objective=objective))
    shardmill("prepare", path, ONE)
    plan = json.loads(shardmill("plan", path, "--json"))
    tokens: Counter[tuple[int, str]] = Counter()
    by_copy: dict[str, Counter[tuple[int, int]]] = defaultdict(Counter)
    for row in shards_of(tmp_path / "out").to_pylist():
        if row["split"] == "train":
            tokens[(row["stage"], row["source"])] += sum(row["doc_lengths"])
            for key, length in zip(row["doc_keys"], row["doc_lengths"], strict=True):
                by_copy[row["source"]][(key, row["copy"])] += length
    for number, stage in enumerate(plan["stages"]):
        assert stage["sources"] == {n: tokens[(number, n)] for n in EPOCHS}
    for source in plan["sources"]:
        name, size = source["name"], source["available_tokens"]
        assert source["tokens"] == Fraction(str(EPOCHS[name])) * size // 1
        copies = by_copy[name]
        passes = {c: {k for k, copy in copies if copy == c} for c in {copy for _, copy in copies}}
        assert set(passes) == set(range(-(-source["tokens"] // size)))
        documents = set().union(*passes.values()) if EPOCHS[name] >= 1 else None
        for c, seen in sorted(passes.items()):
            held = sum(n for (_, copy), n in copies.items() if copy == c)
            if (c + 1) * size <= source["tokens"]:  # a whole pass has every document whole
                assert (seen, held) == (documents, size)
            else:
                assert held == source["tokens"] - c * size
                assert documents is None or seen < documents
    rows = duckdb.sql(
        f"""select stage, source, sum(token_end - token_begin)::bigint from '{tmp_path}/out/plan.parquet'
            where split = 'train' group by all"""
    ).fetchall()
    assert {(stage, source): n for stage, source, n in rows} == dict(tokens)


@pytest.fixture
def finished(corpus: Path, shardmill: Shardmill) -> Path:
    """A finished dataset, and the time its shards were written set back so that a rewrite shows."""
    shardmill("prepare", write_job(corpus.parent, job_for(corpus)), ONE)
    out = corpus.parent / "out"
    for shard in out.glob("data/**/*.parquet"):
        os.utime(shard, (1, 1))
    return out


def untouched(out: Path) -> set[str]:
    return {str(p.relative_to(out)) for p in out.glob("data/**/*.parquet") if p.stat().st_mtime == 1}


LATER: dict[str, dict[str, Any]] = {
    "a stage more": {
        "budget": {"tokens": 90_000},
        "curriculum": [
            {"stage": "short", "share": "4/15", "lengths": [16, 32]},
            {"stage": "long", "share": 0.4, "lengths": [32, 64]},
            {"stage": "last", "share": "1/3", "lengths": [64], "mixture": {"books": 1}},
        ],
    },
    "another later stage": {
        "curriculum": [
            {"stage": "short", "share": 0.4, "lengths": [16, 32]},
            {"stage": "long", "share": 0.6, "lengths": [32, 48, 64], "mixture": {"wiki": 1, "web": 2}},
        ],
    },
    "a larger budget": {"budget": {"tokens": 75_000}},
    "a smaller budget": {"budget": {"tokens": 45_000}},
}


@pytest.mark.parametrize("change", LATER)
def test_a_later_change_keeps_the_blocks_before_it_and_gives_the_bytes_of_a_fresh_run(
    corpus: Path, finished: Path, shardmill: Shardmill, change: str
) -> None:
    before, shards = shard_digests(finished), untouched(finished)
    changes = json.loads(json.dumps(LATER[change]).replace('"4/15"', str(4 / 15)).replace('"1/3"', str(1 / 3)))
    text = shardmill("prepare", write_job(corpus.parent, job_for(corpus, **changes), "later.yaml"), ONE)
    assert "blocks are there already" in text
    kept = untouched(finished)
    fresh = write_job(corpus.parent, job_for(corpus, **changes, output="fresh"), "fresh.yaml")
    shardmill("prepare", fresh, ONE)
    assert shard_digests(finished) == shard_digests(corpus.parent / "fresh")
    first_stage = {name for name in shards if "split=train/stage=0" in name}
    if "budget" in change:
        # Both stages grow or shrink with it; of the first, blocks are kept but for the last two.
        assert {n for n in first_stage if n.endswith("00000.parquet")} <= kept
    else:
        assert first_stage <= kept
        assert all(before[n] == digests(finished, n)[n] for n in first_stage)
    assert "nothing to do" in shardmill("prepare", corpus.parent / "later.yaml", ONE)


def test_another_mixture_from_the_start_is_refused_and_nothing_is_touched(
    corpus: Path, finished: Path, shardmill: Shardmill
) -> None:
    before = digests(finished)
    stages = [{"stage": "only", "lengths": [16, 32], "mixture": {"web": 1}}]
    for changes in ({"curriculum": stages}, {"limits": {"range_bytes": 20_000, "block_tokens": 9_000}}):
        job = write_job(corpus.parent, job_for(corpus, **changes), "other.yaml")
        assert "another mixture or lengths" in shardmill("prepare", job, ONE, expect=2)
    assert digests(finished) == before


def test_a_change_that_cannot_be_planned_leaves_the_dataset_as_it_is(
    corpus: Path, finished: Path, shardmill: Shardmill
) -> None:
    before = digests(finished)
    job = job_for(corpus, budget={"tokens": 10_000_000})
    job["sources"][0]["max_epochs"] = 2
    assert "more of source 'web'" in shardmill("prepare", write_job(corpus.parent, job, "other.yaml"), ONE, expect=2)
    assert digests(finished) == before


def test_automatic_lengths_are_those_the_plan_says_and_pad_least(
    corpus: Path, tmp_path: Path, shardmill: Shardmill
) -> None:
    stages = [
        {"stage": "first", "share": 0.5, "lengths": "auto", "max_length": 96},
        {"stage": "second", "share": 0.5, "lengths": "auto", "mixture": {"wiki": 1}},
    ]
    path = write_job(tmp_path, job_for(corpus, curriculum=stages))
    shardmill("prepare", path, ONE)
    plan, manifest = json.loads(shardmill("plan", path, "--json")), manifest_of(tmp_path / "out")
    for shown, made in zip(plan["stages"], manifest["stages"], strict=True):
        lengths = [x["length"] for x in shown["lengths"]]
        assert lengths == made["lengths"] == sorted(set(lengths))
        assert 1 < len(lengths) <= 8
        assert all(n % 8 == 0 for n in lengths)
        held = [x for x in manifest["lengths"] if (x["split"], x["stage"]) == ("train", made["stage"])]
        positions, tokens = sum(x["rows"] * x["length"] for x in held), sum(x["tokens"] for x in held)
        assert 1 - tokens / positions == pytest.approx(shown["padding"], abs=0.02)
    assert plan["stages"][0]["lengths"][-1]["length"] == 96
    rows = shards_of(tmp_path / "out").to_pylist()
    longest = max(r["length"] for r in rows if (r["split"], r["stage"]) == ("train", 1))
    assert plan["stages"][1]["lengths"][-1]["length"] <= -(-longest // 8) * 8 < 512
    assert {x["length"] for x in plan["objective"]["resolved"]} == {
        x["length"] for stage in plan["stages"] for x in stage["lengths"]
    }


def test_a_block_is_explained_by_its_documents(corpus: Path, finished: Path, shardmill: Shardmill) -> None:
    job = corpus.parent / "job.yaml"
    counted: Counter[str] = Counter()
    planned = duckdb.sql(f"select max(block) from '{finished}/plan.parquet' where split = 'train'").fetchall()
    for block in range(planned[0][0] + 1):
        report = json.loads(shardmill("plan", job, "--explain", str(block), "--json"))
        assert (report["block"], report["split"]) == (block, "train")
        for source in report["sources"]:
            assert source["tokens"] == sum(d["tokens"] for d in source["documents"])
            assert source["planned_share"] == {"web": 0.5, "books": 0.3, "wiki": 0.2}[source["source"]]
            counted[source["source"]] += source["tokens"]
    assert counted == {"web": 30_000, "books": 18_000, "wiki": 12_000}
    text = shardmill("plan", job, "--explain", "0")
    assert "books.parquet" in text
    assert "web-0.jsonl" in text
    assert "stage short" in text


def test_a_block_that_is_not_there_or_not_tokenized_is_an_error(corpus: Path, shardmill: Shardmill) -> None:
    job = write_job(corpus.parent, job_for(corpus))
    assert "no tokenizer yet" in shardmill("plan", job, "--explain", "0", expect=2)
    shardmill("tokenizer", job)
    assert "input ranges that are not tokenized" in shardmill("plan", job, "--explain", "0", expect=2)
    shardmill("tokenize", job, ONE)
    assert "has no block 99" in shardmill("plan", job, "--explain", "99", expect=2)
    assert "block 0" in shardmill("plan", job, "--explain", "0")


def test_a_published_table_that_does_not_add_up_is_named(tmp_path: Path, shardmill: Shardmill) -> None:
    """GPT-3, arXiv 2005.14165, table 2.2: tokens, weight in the mix, epochs at 300B tokens."""
    table = {
        "common-crawl": ("410e9", 0.60, 0.44),
        "webtext2": ("19e9", 0.22, 2.9),
        "books1": ("12e9", 0.08, 1.9),
        "books2": ("55e9", 0.08, 0.43),
        "wikipedia": ("3e9", 0.03, 3.4),
    }
    job = {
        "name": "gpt3",
        "output": "out",
        "tokenizer": {"train": {"model": "bpe", "vocab_size": 50257}},
        "sources": [{"name": n, "tokens": t, "weight": w, "epochs": e} for n, (t, w, e) in table.items()],
        "budget": {"tokens": "300B"},
        "objective": {"kind": "causal"},
        "curriculum": [{"stage": "main", "lengths": [2048]}],
    }
    report = json.loads(shardmill("plan", write_job(tmp_path, job), "--json"))
    assert [p["sources"] for p in report["declared"]] == [["webtext2"]]
    assert report["total_tokens"] == 300 * 10**9 == sum(s["tokens"] for s in report["sources"])
    text = shardmill("plan", tmp_path / "job.yaml")
    assert "does not add up" in text
    assert "webtext2" in text


def test_a_stage_that_mixes_in_a_source_without_data_is_refused(
    corpus: Path, tmp_path: Path, shardmill: Shardmill
) -> None:
    (corpus / "nothing.jsonl").write_text("")
    job = job_for(corpus)
    job["sources"].append({"name": "nothing", "files": "corpus/nothing.jsonl", "weight": 0})
    job["curriculum"][1]["mixture"] = {"web": 1, "nothing": 1}
    text = shardmill("prepare", write_job(tmp_path, job), ONE, expect=2)
    assert "stage 'long' names source 'nothing', which has no training tokens" in text
    assert "Take it out of the mixture" in text
