"""Bad input: one readable paragraph, exit code 1 or 2, and nothing that was there is lost."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_jobs import Shardmill, digests, job_for, manifest_of, shard_digests, write_job

ONE = "--direct_num_workers=1"
Change = Callable[[dict[str, Any]], None]


def _set(path: str, value: Any) -> Change:
    def change(job: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        node: Any = job
        for key in parents:
            node = node[int(key) if key.isdigit() else key]
        node[int(last) if last.isdigit() else last] = value

    return change


def _all(*changes: Change) -> Change:
    def change(job: dict[str, Any]) -> None:
        for each in changes:
            each(job)

    return change


MISTAKES: dict[str, tuple[Change, list[str]]] = {
    "unknown key": (
        _set("sources.0.weigth", 1),
        ["unknown key 'weigth'", "sources[0] (web)", "Did you mean 'weight'"],
    ),
    "unknown top key": (_set("curiculum", []), ["unknown key 'curiculum'", "Did you mean 'curriculum'"]),
    "missing file": (_set("sources.1.files", "corpus/none.parquet"), ["no file", "none.parquet", "'books'"]),
    "empty glob": (
        _set("sources.0.files", "corpus/nothing-*.jsonl"),
        ["matches no file", "nothing-*.jsonl", "'web'"],
    ),
    "directory": (_set("sources.0.files", "corpus"), ["is a directory", "corpus/*.jsonl"]),
    "two of one name": (_set("sources.1.name", "web"), ["two sources are named 'web'"]),
    "unsafe name": (_set("sources.0.name", "../x"), ["'../x'", "sources[0]"]),
    "absolute name": (_set("sources.0.name", "/x"), ["'/x'", "sources[0]"]),
    "dotted name": (_set("sources.0.name", "a..b"), ["'a..b'"]),
    "unsafe job name": (_set("name", "../x"), ["'../x'"]),
    "negative weight": (_set("sources.0.weight", -0.1), ["greater than or equal to 0", "sources[0] (web).weight"]),
    "weights all zero": (
        _all(*(_set(f"sources.{i}.weight", 0) for i in range(3))),
        ["all weights are zero"],
    ),
    "not a number": (_set("sources.0.weight", float("nan")), ["finite number", "sources[0] (web).weight"]),
    "some weights": (lambda job: job["sources"][0].pop("weight"), ["weight given for some sources but not for web"]),
    "length too short": (_set("curriculum.0.lengths", [2]), ["length of 2 is too short for mlm", "at least 3"]),
    "length beyond the sentinels": (
        _all(_set("objective", {"kind": "span_corruption"}), _set("curriculum.1.lengths", [512, 2048])),
        ["length of 2048 needs more sentinels", "at most 100 spans", "114 spans"],
    ),
    "lengths unsorted": (_set("curriculum.0.lengths", [64, 32]), ["must ascend", "write [32, 64]"]),
    "length too long": (_set("curriculum.0.lengths", [10**8]), ["less than or equal to 1048576", "lengths[0]"]),
    "unknown objective": (_set("objective.kind", "mln"), ["no objective kind 'mln'", "Did you mean 'mlm'"]),
    "two budgets": (_set("budget.epochs", 1), ["exactly one of `tokens` and `epochs`"]),
    "no tokenizer file": (_set("tokenizer", {"file": "none.json"}), ["no tokenizer file", "none.json"]),
    "bad tokenizer file": (_set("tokenizer", {"file": "job.yaml"}), ["tokenizer file cannot be read", "job.yaml"]),
    "missing column": (_set("sources.1.text", "txt"), ["no column 'txt'", "id, text", "did you mean 'text'"]),
    "unknown suffix": (_set("sources.0.files", "job.yaml"), ["format", "cannot be told from its suffix"]),
    "cap below need": (_set("sources.2.max_epochs", 1), ["source 'wiki'", "on_shortfall: shrink", "rebalance"]),
    "stage mixture": (_set("curriculum.0.mixture", {"wib": 1}), ["names 'wib', which is no source"]),
    "weights of a stage that are no number": (
        _set("curriculum.0.mixture", {"wiki": float("nan")}),
        ["finite number", "curriculum[0] (short).mixture.wiki", "Weights of this stage"],
    ),
    "shares beyond one": (_set("curriculum.0.share", 0.5), ["must add to 1, got 1.1", "divide each by that"]),
    "temperature of zero": (
        _set("mixture", {"policy": "temperature", "temperature": 0}),
        ["greater than or equal to 0.01", "mixture.temperature", "1 is proportional"],
    ),
    "lengths by another word": (_set("curriculum.0.lengths", "automatic"), ["'auto'", "Got: 'automatic'", "padding"]),
    "a longest length beside lengths": (_set("curriculum.0.max_length", 64), ["`max_length` is for `lengths: auto`"]),
    "automatic lengths too short": (
        _all(_set("curriculum.0.lengths", "auto"), _set("curriculum.0.max_length", 2)),
        ["length of 2 is too short for mlm"],
    ),
    "no such place": (_set("output", "ftp://host/x"), ["'ftp' is not supported", "s3:// or gs://"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_paragraph_with_exit_2(corpus: Path, shardmill: Shardmill, name: str) -> None:
    change, expected = MISTAKES[name]
    job = job_for(corpus)
    change(job)
    path = write_job(corpus.parent, job)
    inputs = digests(corpus)
    text = shardmill("prepare", path, ONE, expect=2)
    assert text.count("error:") == 1
    for words in expected:
        assert words in text, text
    assert digests(corpus) == inputs
    if name != "cap below need":  # which cannot be known before the tokens are counted
        assert not (corpus.parent / "out").exists()


def test_a_text_column_of_numbers_is_refused(corpus: Path, shardmill: Shardmill) -> None:
    pq.write_table(pa.table({"id": ["a"], "text": [1]}), corpus / "books.parquet")
    text = shardmill("prepare", write_job(corpus.parent, job_for(corpus)), ONE, expect=2)
    assert "holds no text" in text
    assert "int64" in text


def test_a_tokenizer_without_a_mask_token_is_refused_before_data_moves(corpus: Path, shardmill: Shardmill) -> None:
    from tokenizers import Tokenizer, models

    (corpus.parent / "t.json").write_text(Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, "[UNK]")).to_str())
    job = job_for(corpus, tokenizer={"file": "t.json"})
    text = shardmill("prepare", write_job(corpus.parent, job), ONE, expect=2)
    assert "has no 'cls' token" in text
    assert not (corpus.parent / "out").exists()


def test_a_source_without_documents_is_named(corpus: Path, shardmill: Shardmill) -> None:
    (corpus / "wiki.txt").write_text("\n\n")
    text = shardmill("prepare", write_job(corpus.parent, job_for(corpus)), ONE, expect=1)
    assert "'wiki' has no training tokens" in text


@pytest.mark.parametrize("args", [["--direct_num_worker=2"], ["--direct_num_workers=two"], ["stray"]])
def test_a_misspelt_option_is_refused_which_beam_alone_would_drop(
    job: Path, shardmill: Shardmill, args: list[str]
) -> None:
    text = shardmill("prepare", job, *args, expect=2)
    assert args[0].split("=")[-1] in text or args[0].split("=")[0] in text


@pytest.mark.parametrize("command", ["show", "audit", "verify"])
def test_a_directory_without_a_dataset_is_refused(tmp_path: Path, shardmill: Shardmill, command: str) -> None:
    assert "no finished dataset" in shardmill(command, tmp_path, expect=2)
    assert list(tmp_path.iterdir()) == []


def test_another_format_version_is_refused(job: Path, shardmill: Shardmill) -> None:
    shardmill("prepare", job, ONE)
    out = job.parent / "out"
    manifest = manifest_of(out)
    manifest["format_version"] = 99
    (out / "manifest.json").write_text(json.dumps(manifest))
    for command in ("show", "verify", "audit"):
        assert "format version" in shardmill(command, out, expect=2)


def test_a_second_run_of_the_same_job_is_refused_while_the_first_goes_on(job: Path, shardmill: Shardmill) -> None:
    import fcntl

    out = job.parent / "out"
    out.mkdir()
    with open(out / ".lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "Another run" in shardmill("prepare", job, ONE, expect=2)
    shardmill("prepare", job, ONE)


@pytest.mark.parametrize(
    "kilobytes", [pytest.param(40, marks=pytest.mark.slow), 120, pytest.param(400, marks=pytest.mark.slow), 600]
)
def test_a_full_disk_is_a_clear_error_and_the_run_goes_on_with_more_space(
    corpus: Path, shardmill: Shardmill, small_disk: Callable[[str], Path], kilobytes: int
) -> None:
    """Fails if a phase turns a full disk into a traceback, or leaves something that a rerun trusts wrongly."""
    disk = small_disk(f"size={kilobytes}k")
    path = write_job(corpus.parent, job_for(corpus, output=str(disk / "out")))
    text = shardmill("prepare", path, "--direct_num_workers=2", expect=2)
    assert "disk is full" in text
    assert "run the same command again" in text
    if (disk / "out" / "manifest.json").exists():  # only the audit found no room: the dataset is whole
        shardmill("verify", disk / "out")
    subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)
    shardmill("prepare", path, ONE)
    shardmill("prepare", write_job(corpus.parent, job_for(corpus, output="good"), "good.yaml"), ONE)
    assert shard_digests(disk / "out") == shard_digests(corpus.parent / "good")
    assert not list(disk.rglob("*.tmp"))


def test_a_read_only_disk_is_a_clear_error(
    corpus: Path, shardmill: Shardmill, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("size=1m,ro")
    path = write_job(corpus.parent, job_for(corpus, output=str(disk / "out")))
    text = shardmill("prepare", path, ONE, expect=2)
    assert "cannot be written" in text
    assert str(disk / "out") in text


def test_an_output_that_is_a_file_is_a_clear_error(corpus: Path, shardmill: Shardmill) -> None:
    (corpus.parent / "out").write_text("mine")
    text = shardmill("prepare", write_job(corpus.parent, job_for(corpus)), ONE, expect=2)
    assert "file stands where a directory is needed" in text
    assert (corpus.parent / "out").read_text() == "mine"


def test_a_quickstart_does_not_move_into_a_full_directory(tmp_path: Path, shardmill: Shardmill) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    assert "not empty" in shardmill("quickstart", tmp_path, expect=2)
    assert os.listdir(tmp_path) == ["thesis.tex"]
