"""The main job, end to end, on small corpora in every format."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_jobs import (
    Shardmill,
    digests,
    documents,
    job_for,
    manifest_of,
    shard_digests,
    shards_of,
    write_job,
    write_jsonl,
)

from schemas.keys import validation_mask

ONE = "--direct_num_workers=1"


def test_same_bytes_for_any_number_of_workers_and_for_repeated_bundles(corpus: Path, shardmill: Shardmill) -> None:
    """Fails if order, masks or shard content depend on how work was dealt out or retried."""
    found = {}
    for name, options in {
        "one": [ONE],
        "two": ["--direct_num_workers=2"],
        "four": ["--direct_num_workers=4"],
        "repeat": [ONE, "--direct_runner_bundle_repeat=2"],
        "direct": [ONE, "--runner=DirectRunner"],
    }.items():
        path = write_job(corpus.parent, job_for(corpus, output=name), f"{name}.yaml")
        shardmill("prepare", path, *options)
        found[name] = shard_digests(corpus.parent / name)
    assert len(found["one"]) > 20
    for name, digest in found.items():
        assert digest == found["one"], name


def test_a_moved_and_touched_corpus_gives_the_same_bytes(corpus: Path, tmp_path: Path, shardmill: Shardmill) -> None:
    """Fails if a path or a modification time leaks into the shards."""
    shardmill("prepare", write_job(tmp_path, job_for(corpus)), ONE)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    corpus.rename(moved / "corpus")
    for path in (moved / "corpus").iterdir():
        os.utime(path, (1, 1))
    shardmill("prepare", write_job(moved, job_for(corpus)), ONE)
    assert shard_digests(tmp_path / "out") == shard_digests(moved / "out")


def test_a_rerun_of_a_finished_job_rewrites_nothing(job: Path, shardmill: Shardmill) -> None:
    shardmill("prepare", job, ONE)
    out = job.parent / "out"
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    assert "nothing to do" in shardmill("prepare", job, ONE)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


def test_a_rerun_of_a_finished_job_does_not_import_beam(job: Path, shardmill: Shardmill) -> None:
    """Fails if a rerun pays for Beam's start."""
    shardmill("prepare", job, ONE)
    code = (
        "import sys; from pipelines.cli import main; code = main(['prepare', sys.argv[1]]); "
        "sys.exit(code or (3 if 'apache_beam' in sys.modules else 0))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(job)], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("objective", ["mlm", "causal", "span_corruption"])
def test_realised_tokens_are_the_plans_to_the_last_one(
    corpus: Path, tmp_path: Path, shardmill: Shardmill, objective: str
) -> None:
    shardmill("prepare", write_job(tmp_path, job_for(corpus, objective={"kind": objective})), ONE)
    manifest, rows = manifest_of(tmp_path / "out"), shards_of(tmp_path / "out")
    realised: Counter[tuple[int, str]] = Counter()
    for row in rows.select(["split", "stage", "source", "doc_lengths"]).to_pylist():
        if row["split"] == "train":
            realised[(row["stage"], row["source"])] += sum(row["doc_lengths"])
    lost = {
        (e["stage"], e["source"]): sum(e["losses"].values())
        for e in manifest["ledger"]["entries"]
        if (e["step"], e["split"]) == ("materialize", "train")
    }
    assert not any(lost.values()) or objective == "span_corruption"  # which takes no row of one token
    planned = {"web": 0.5, "books": 0.3, "wiki": 0.2}
    for number, (stage, total) in enumerate(zip(manifest["stages"], (24_000, 36_000), strict=True)):
        assert stage["planned_tokens"] == total
        for source, share in planned.items():
            assert stage["sources"][source]["planned_tokens"] == round(total * share)
            assert stage["sources"][source]["realised_tokens"] == realised[(number, source)]
            assert realised[(number, source)] + lost[(number, source)] == round(total * share)


def test_copies_are_even_and_a_new_copy_has_new_masks(corpus: Path, tmp_path: Path, shardmill: Shardmill) -> None:
    """Fails if a source is repeated before it is used up, or if repeats carry the same masks (RoBERTa's point)."""
    sources = [{"name": "wiki", "files": "corpus/wiki.txt", "weight": 1}]
    curriculum = [{"stage": "only", "lengths": [64]}]
    job = job_for(corpus, sources=sources, budget={"epochs": 2.5}, curriculum=curriculum)
    shardmill("prepare", write_job(tmp_path, job), ONE)
    rows = [r for r in shards_of(tmp_path / "out").to_pylist() if r["split"] == "train"]
    tokens: dict[int, Counter[int]] = defaultdict(Counter)
    masks: dict[tuple[int, int], dict[int, list[int]]] = defaultdict(dict)
    for row in rows:
        tokens[row["doc_keys"][0]][row["copy"]] += row["doc_lengths"][0]
        masks[(row["doc_keys"][0], row["doc_offsets"][0])][row["copy"]] = row["mask_positions"]
    for by_copy in tokens.values():
        assert set(by_copy) in ({0, 1}, {0, 1, 2})
    # Every pass holds the whole document, but for the one that the budget's end runs through.
    cut = [by_copy for by_copy in tokens.values() if len(set(by_copy.values())) > 1]
    assert len(cut) == 1
    assert cut[0][2] < cut[0][1] == cut[0][0]
    assert (
        sum(sum(by_copy.values()) for by_copy in tokens.values())
        == manifest_of(tmp_path / "out")["sources"][0]["planned_tokens"]
    )
    long = [m for (_, _), m in masks.items() if len(m[0]) >= 5]
    assert long
    assert sum(m[0] == m[1] for m in long) == 0


def test_train_and_validation_share_no_document(corpus: Path, job: Path, shardmill: Shardmill) -> None:
    shardmill("prepare", job, ONE)
    rows = shards_of(job.parent / "out")
    keys = {
        split: set(np.concatenate(rows.filter(pa.compute.field("split") == split)["doc_keys"].to_numpy()).tolist())
        for split in ("train", "validation")
    }
    assert keys["validation"]
    assert not keys["train"] & keys["validation"]
    assert validation_mask(np.array(sorted(keys["validation"]), np.uint64), 0.1).all()


def test_the_ledger_closes_with_bad_records_in_it(corpus: Path, tmp_path: Path, shardmill: Shardmill) -> None:
    """Fails if a record, a byte or a token goes missing without a name."""
    bad = [b"{broken\n", b'{"id": "x"}\n', b'{"text": 3}\n', b'{"text": ""}\n', b'{"text": "\xff\xfe"}\n', b"[]\n"]
    with open(corpus / "web-0.jsonl", "ab") as file:
        file.writelines(bad)
    job = job_for(corpus)
    job["limits"]["max_reject_share"] = 0.2
    text = shardmill("prepare", write_job(tmp_path, job), ONE)
    assert "rejected 6 of 156 records of web" in text
    manifest = manifest_of(tmp_path / "out")
    entries = manifest["ledger"]["entries"]
    assert all(e["read"] == e["out"] + sum(e["losses"].values()) for e in entries)
    read = next(e for e in entries if (e["unit"], e["source"]) == ("records", "web"))
    reasons = {"invalid_json": 2, "missing_text": 1, "text_not_string": 1, "empty": 1, "invalid_utf8": 1}
    assert read["read"] == 156
    assert read["losses"] == dict(sorted(reasons.items()))
    size = next(e for e in entries if (e["unit"], e["source"]) == ("bytes", "wiki"))
    assert size["read"] == (corpus / "wiki.txt").stat().st_size
    rejects = pq.read_table(tmp_path / "out" / "rejects").to_pylist()
    assert Counter(r["reason"] for r in rejects) == reasons
    raw = (corpus / "web-0.jsonl").read_bytes()
    for reject, line in zip(rejects, bad, strict=True):
        assert raw[reject["offset"] :].startswith(line)
        assert reject["file"] == "web-0.jsonl"
    rows, out = shards_of(tmp_path / "out"), Counter[tuple[str, int, str]]()
    for row in rows.to_pylist():
        out[(row["split"], row["stage"], row["source"])] += sum(row["doc_lengths"])
    written = {(e["split"], e["stage"], e["source"]): e["out"] for e in entries if e["step"] == "materialize"}
    assert written == dict(out)


def test_too_many_bad_records_fail_with_the_counts_and_lose_nothing(
    corpus: Path, job: Path, shardmill: Shardmill
) -> None:
    with open(corpus / "web-0.jsonl", "ab") as file:
        file.write(b"{broken\n" * 5)
    text = shardmill("prepare", job, ONE, expect=1)
    assert "5 of 155 records rejected (3.23%): invalid_json 5" in text
    assert "web-0.jsonl" in text
    assert not (job.parent / "out" / "manifest.json").exists()
    store = digests(job.parent / "out" / "tokens", "*/*/*.parquet")
    changed = job_for(corpus)
    changed["limits"]["max_reject_share"] = 0.05
    shardmill("prepare", write_job(corpus.parent, changed), ONE)
    assert digests(job.parent / "out" / "tokens", "*/*/*.parquet") == store


def test_every_format_and_compression_gives_the_same_documents(tmp_path: Path, shardmill: Shardmill) -> None:
    rows = documents("same", 40, 60)
    texts = [r["text"] for r in rows]
    write_jsonl(tmp_path / "a.jsonl", rows)
    write_jsonl(tmp_path / "b.jsonl.gz", rows)
    write_jsonl(tmp_path / "c.jsonl.zst", rows)
    write_jsonl(tmp_path / "d.jsonl.bz2", rows)
    pq.write_table(pa.table({"text": texts}), tmp_path / "e.parquet")
    (tmp_path / "f.txt").write_text("\n\n".join(texts))
    (tmp_path / "g.log").write_text("\n".join(texts))
    sources = [{"name": p.name[0], "files": str(p)} for p in sorted(tmp_path.iterdir()) if p.is_file()]
    sources[-1]["format"] = "lines"
    job = job_for(
        tmp_path, sources=sources, budget={"epochs": 1}, splits={"validation": 0}, objective={"kind": "causal"}
    )
    shardmill("prepare", write_job(tmp_path, job), ONE)
    store = tmp_path / "out" / "tokens"
    found = {}
    for source in sources:
        parts = sorted((store / source["name"] / "split=train").glob("*.parquet"))
        found[source["name"]] = [ids for part in parts for ids in pq.ParquetFile(part).read()["ids"].to_pylist()]
    for ids in found.values():
        assert sorted(ids) == sorted(found["a"])
    assert len(found["a"]) == 40


def test_another_jobs_dataset_is_refused_and_not_touched(corpus: Path, job: Path, shardmill: Shardmill) -> None:
    shardmill("prepare", job, ONE)
    out = job.parent / "out"
    before = digests(out)
    first = manifest_of(out)
    for change in (
        {"seed": 6},
        {"objective": {"kind": "causal"}},
        {"curriculum": [{"stage": "only", "lengths": [64]}]},
    ):
        text = shardmill("prepare", write_job(corpus.parent, job_for(corpus, **change), "other.yaml"), ONE, expect=2)
        assert first["fingerprint"] in text
        assert first["plan_fingerprint"] in text
        named = {w.strip(".,'") for w in text.split() if len(w.strip(".,'")) == 32}
        assert len(named) >= 3  # ours and theirs, dataset and plan
        for command in ("tokenizer", "tokenize", "materialize"):
            shardmill(command, corpus.parent / "other.yaml", expect=2)
        assert digests(out) == before


def test_inputs_that_changed_are_refused_and_inputs_only_touched_are_not(
    corpus: Path, job: Path, shardmill: Shardmill
) -> None:
    shardmill("prepare", job, ONE)
    before = shard_digests(job.parent / "out")
    os.utime(corpus / "wiki.txt", (1, 1))
    assert "nothing to do" in shardmill("prepare", job, ONE)
    data = (corpus / "wiki.txt").read_bytes()
    (corpus / "wiki.txt").write_bytes(data.replace(b"ka", b"zu"))
    assert "changed since" in shardmill("prepare", job, ONE, expect=2)
    assert {k: v for k, v in shard_digests(job.parent / "out").items() if k.startswith("data")} == {
        k: v for k, v in before.items() if k.startswith("data")
    }


def test_a_shard_that_is_gone_is_written_again(job: Path, shardmill: Shardmill) -> None:
    shardmill("prepare", job, ONE)
    out = job.parent / "out"
    before = shard_digests(out)
    victim = sorted((out / "data").rglob("*.parquet"))[3]
    victim.unlink()
    assert "written again" in shardmill("prepare", job, ONE)
    assert shard_digests(out) == before


def test_an_unfinished_try_of_another_job_leaves_no_shards_behind(
    corpus: Path, job: Path, shardmill: Shardmill
) -> None:
    """Fails if a glob over data/ would read rows of an abandoned plan."""
    shardmill("prepare", job, ONE)
    out = job.parent / "out"
    (out / "manifest.json").unlink()
    shorter = job_for(corpus, budget={"tokens": 20_000}, curriculum=[{"stage": "only", "lengths": [16, 48]}])
    shardmill("prepare", write_job(corpus.parent, shorter), ONE)
    indexed = set(pq.read_table(out / "shards.parquet")["path"].to_pylist())
    assert {str(p.relative_to(out)) for p in (out / "data").rglob("*.parquet")} == indexed


def test_two_jobs_share_a_token_store_but_not_with_another_tokenizer(
    corpus: Path, tmp_path: Path, shardmill: Shardmill
) -> None:
    first = job_for(corpus, tokens="store")
    shardmill("prepare", write_job(tmp_path, first), ONE)
    before = digests(tmp_path / "store", "*/split=*/*")
    second = job_for(corpus, tokens="store", output="out2", objective={"kind": "causal"}, budget={"epochs": 1})
    assert "done before" in shardmill("prepare", write_job(tmp_path, second, "b.yaml"), ONE)
    third = job_for(corpus, tokens="store", output="out3")
    third["tokenizer"]["train"]["vocab_size"] = 700
    text = shardmill("prepare", write_job(tmp_path, third, "c.yaml"), ONE, expect=2)
    assert "belongs to another tokenizer" in text
    assert digests(tmp_path / "store", "*/split=*/*") == before


def test_the_phases_alone_do_what_prepare_does(corpus: Path, tmp_path: Path, shardmill: Shardmill) -> None:
    whole = write_job(tmp_path, job_for(corpus, output="whole"), "whole.yaml")
    steps = write_job(tmp_path, job_for(corpus, output="steps"), "steps.yaml")
    shardmill("prepare", whole, ONE)
    assert "not complete" in shardmill("materialize", steps, ONE, expect=2)
    shardmill("tokenizer", steps)
    shardmill("tokenize", steps, ONE)
    shardmill("materialize", steps, ONE)
    assert shard_digests(tmp_path / "whole") == shard_digests(tmp_path / "steps")
    assert shardmill("audit", tmp_path / "steps")
    assert shardmill("verify", tmp_path / "steps")


def test_the_plan_that_is_shown_is_the_plan_that_is_made(job: Path, shardmill: Shardmill) -> None:
    estimated = json.loads(shardmill("plan", job, "--json"))
    assert estimated["total_tokens"] == 60_000
    assert any("estimated" in w for w in estimated["warnings"])
    shardmill("prepare", job, ONE)
    report, manifest = json.loads(shardmill("plan", job, "--json")), manifest_of(job.parent / "out")
    assert not any("estimated" in w for w in report["warnings"])
    for shown, made in zip(report["sources"], manifest["sources"], strict=True):
        assert shown["available_tokens"] == made["available_tokens"]
        assert shown["tokens"] == made["planned_tokens"]
    for shown, made in zip(report["stages"], manifest["stages"], strict=True):
        assert shown["sources"] == {n: s["planned_tokens"] for n, s in made["sources"].items()}
    assert sum(x["weight"] for x in report["sources"]) == pytest.approx(1)
    predicted = {(k, x["length"]): x["rows"] for k, s in enumerate(report["stages"]) for x in s["lengths"]}
    real = {(x["stage"], x["length"]): x["rows"] for x in manifest["lengths"] if x["split"] == "train"}
    assert sum(predicted.values()) == pytest.approx(sum(real.values()), rel=0.1)


def test_a_plan_needs_no_data_where_tokens_are_given(tmp_path: Path, shardmill: Shardmill) -> None:
    sources = [{"name": "web", "tokens": "410e9", "weight": 60}, {"name": "books", "tokens": "67B", "weight": 16}]
    job = job_for(tmp_path, sources=sources, budget={"tokens": "300B"}, limits={})
    path = write_job(tmp_path, job)
    report = json.loads(shardmill("plan", path, "--json"))
    assert [s["available_tokens"] for s in report["sources"]] == [410 * 10**9, 67 * 10**9]
    assert sum(s["tokens"] for s in report["sources"]) == 300 * 10**9
    assert "only be planned" in shardmill("prepare", path, expect=2)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_audit_on_beam_finds_what_the_audit_here_finds(
    job: Path, shardmill: Shardmill, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Fails if statistics depend on where and in which pieces they were gathered."""
    shardmill("prepare", job, ONE)
    audit = job.parent / "out" / "audit"
    here = (audit / "audit.json").read_bytes()
    (audit / "audit.json").unlink()
    monkeypatch.setattr("pipelines.audit._AUDIT_HERE_TOKENS", 0)
    shardmill("prepare", job, f"--direct_num_workers={workers}")
    assert (audit / "audit.json").read_bytes() == here
    assert sorted(p.name for p in audit.iterdir()) == ["audit.json", "junit.xml", "report.html"]


@pytest.mark.parametrize("model", ["bpe", "unigram"])
def test_every_model_of_tokenizer_makes_a_dataset_that_passes(
    corpus: Path, tmp_path: Path, shardmill: Shardmill, model: str
) -> None:
    train = {"model": model, "vocab_size": 600, "sample_bytes": "100kB"}
    job = job_for(corpus, tokenizer={"train": train}, objective={"kind": "mlm", "whole_word": True})
    assert "gates pass" in shardmill("prepare", write_job(tmp_path, job), ONE)
    assert "[MASK=" in shardmill("show", tmp_path / "out")
    shardmill("verify", tmp_path / "out")


def test_odd_documents_survive_the_whole_way(tmp_path: Path, shardmill: Shardmill) -> None:
    """Documents of one character, control characters, emoji, special tokens' names, very long words and lines."""
    texts = [
        "a",
        "\u0000\u0001x",
        "🙂" * 300,
        "[MASK] [CLS] <extra_id_0> [SEP]",
        "w" * 5000,
        "e\u0301" * 50,
        "　全角　",
    ]
    texts += [
        "\n".join(["line"] * 500),
        "tab\tand\rreturn",
        "\u202eright to left",
        "٣٤٥",
        "a" * 70 + " " * 5000 + "b",
    ]
    rows = [{"id": str(i), "text": t} for i, t in enumerate(texts * 3)] + documents("usual", 60, 40)
    write_jsonl(tmp_path / "odd.jsonl", rows)
    for kind in ("mlm", "causal"):
        job = job_for(
            tmp_path, sources=[{"name": "odd", "files": "odd.jsonl"}], output=kind, objective={"kind": kind}
        )
        job["budget"] = {"epochs": 2}
        shardmill("prepare", write_job(tmp_path, job), ONE)
        special = set(manifest_of(tmp_path / kind)["tokenizer"]["special_token_ids"])
        for row in shards_of(tmp_path / kind).to_pylist():
            assert not set(row.get("mask_labels", [])) & special
        entries = manifest_of(tmp_path / kind)["ledger"]["entries"]
        assert all(e["read"] == e["out"] + sum(e["losses"].values()) for e in entries)


def test_archives_of_several_members_are_read_to_the_end(tmp_path: Path, shardmill: Shardmill) -> None:
    """Fails if a .gz, .zst or .bz2 that was written in appended pieces loses all but the first."""
    rows = documents("pieces", 60, 30)
    sources = []
    for suffix in (".gz", ".zst", ".bz2"):
        whole = b""
        for i in range(3):
            write_jsonl(tmp_path / f"piece.jsonl{suffix}", rows[i * 20 : i * 20 + 20])
            whole += (tmp_path / f"piece.jsonl{suffix}").read_bytes()
        (tmp_path / f"piece.jsonl{suffix}").unlink()
        (tmp_path / f"all{suffix[1:]}.jsonl{suffix}").write_bytes(whole)
        sources.append({"name": suffix[1:], "files": f"all{suffix[1:]}.jsonl{suffix}"})
    shardmill("prepare", write_job(tmp_path, job_for(tmp_path, sources=sources, budget={"epochs": 1})), ONE)
    entries = manifest_of(tmp_path / "out")["ledger"]["entries"]
    assert [e["out"] for e in entries if e["unit"] == "records"] == [60, 60, 60]
