"""What a person gets wrong comes back as one paragraph and the right exit code, never as a traceback."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small_datasets import write_dataset

from schemas.errors import ShardmillError
from schemas.tables import FINGERPRINT_KEY
from trainer.cli import main
from trainer.models import RECIPES


def first_shard(dataset: Path) -> Path:
    return sorted((dataset / "data/split=train").rglob("*.parquet"))[0]


def no_manifest(dataset: Path) -> None:
    (dataset / "manifest.json").unlink()


def other_version(dataset: Path) -> None:
    manifest = json.loads((dataset / "manifest.json").read_text())
    (dataset / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))


def other_objective(dataset: Path) -> None:
    manifest = json.loads((dataset / "manifest.json").read_text())
    (dataset / "manifest.json").write_text(json.dumps({**manifest, "objective": {"kind": "electra"}}))


def no_tokenizer(dataset: Path) -> None:
    (dataset / "tokenizer.json").unlink()


def other_tokenizer(dataset: Path) -> None:
    place = dataset / "tokenizer.json"
    place.write_text(place.read_text().replace("w20", "v20"))


def missing_shard(dataset: Path) -> None:
    first_shard(dataset).unlink()


def truncated_shard(dataset: Path) -> None:
    shard = first_shard(dataset)
    shard.write_bytes(shard.read_bytes()[:-100])


def flipped_byte(dataset: Path) -> None:
    shard = first_shard(dataset)
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(data)


def foreign_shard(dataset: Path) -> None:
    shard = first_shard(dataset)
    table = pq.ParquetFile(shard).read()
    pq.write_table(table.replace_schema_metadata({FINGERPRINT_KEY: "f" * 32}), shard)


def short_shard(dataset: Path) -> None:
    shard = first_shard(dataset)
    pq.write_table(pq.ParquetFile(shard).read().slice(1), shard, row_group_size=4)


def small_vocabulary(dataset: Path) -> None:
    manifest = json.loads((dataset / "manifest.json").read_text())
    manifest["tokenizer"]["vocab_size"] = 20
    (dataset / "manifest.json").write_text(json.dumps(manifest))


def nothing(dataset: Path) -> None:
    pass


BAD: list[tuple[Callable[[Path], None], list[str], int, str]] = [
    (no_manifest, [], 2, "no finished dataset"),
    (other_version, [], 2, "format_version 1"),
    (other_objective, [], 2, "'electra'"),
    (no_tokenizer, [], 1, "tokenizer.json"),
    (other_tokenizer, [], 2, "not the one that made"),
    (missing_shard, [], 1, "A shard is missing"),
    (truncated_shard, [], 1, "cannot be read"),
    (flipped_byte, [], 1, "cannot be read"),
    (foreign_shard, [], 1, "f" * 32),
    (short_shard, [], 1, "rows"),
    (small_vocabulary, [], 1, "0 to 19"),
    (nothing, ["--recipe", "bert-tiny"], 2, "--recipe gpt-tiny"),
    (nothing, ["--recipe", "gpt-tny"], 2, "did you mean 'gpt-tiny'"),
    (nothing, ["--tokens-per-batch", "31"], 2, "--tokens-per-batch 32"),
    (nothing, ["--learning-rate", "0"], 2, "learning rate"),
    (nothing, ["--learning-rate", "1e30", "--steps", "20"], 2, "diverged"),
    (nothing, ["--out", "http://host/run"], 2, "s3:// or gs://"),
    (nothing, ["--positions", "31"], 2, "--positions 32"),
    (nothing, ["--schedule", "cosin"], 2, "did you mean 'cosine'"),
    (nothing, ["--order", "grow"], 2, "did you mean 'grow_p2'"),
    (nothing, ["--precision", "fp16"], 2, "did you mean 'bf16'"),
    (nothing, ["--epochs", "0"], 2, "epochs"),
    (nothing, ["--warmup-share", "1.5"], 2, "0 to 1"),
    (nothing, ["--accumulate", "1", "--label-smoothing", "1"], 2, "smoothing"),
    (nothing, ["--device", "cuda"], 2, "no CUDA device"),
]


@pytest.mark.parametrize(
    ("damage", "options", "code", "named"), BAD, ids=[d.__name__ + " ".join(["", *o]) for d, o, _, _ in BAD]
)
def test_bad_input_is_one_paragraph_and_an_exit_code(
    damage: Callable[[Path], None],
    options: list[str],
    code: int,
    named: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_dataset(tmp_path / "data")
    damage(data)
    run = [str(data), "--device", "cpu", "--tokens-per-batch", "64", "--out", str(tmp_path / "run")]
    assert main([*run, *options]) == code
    error = capsys.readouterr().err
    assert named in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run/final").exists()


def test_debug_lets_the_traceback_through(tmp_path: Path) -> None:
    with pytest.raises(ShardmillError):
        main([str(tmp_path), "--debug"])


def test_without_torch_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main([str(tmp_path)]) == 2
    assert "pip install 'shardmill[train]'" in capsys.readouterr().err


def test_several_processes_without_torchrun_are_refused_rather_than_trained_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert main([str(write_dataset(tmp_path / "data")), "--out", str(tmp_path / "run")]) == 2
    assert "torchrun --nproc-per-node" in capsys.readouterr().err


def test_a_bad_shard_can_be_skipped_and_is_counted(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    missing_shard(data)
    run = tmp_path / "run"
    command = [str(data), "--out", str(run), "--on-error", "skip", "--tokens-per-batch", "64", "--device", "cpu"]
    assert main([*command, "--eval-batches", "0", "--no-tensorboard"]) == 0
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["skipped_rows"] == 10  # of length 16


def test_the_help_shows_examples_and_every_family(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    for word in ("torchrun --nproc-per-node", "shardmill-train out/", *(n.removesuffix("-tiny") for n in RECIPES)):
        assert word.removesuffix("-small").removesuffix("-base") in shown


def test_the_default_run_directory_is_named_after_the_dataset_and_overwrite_replaces_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [str(write_dataset(tmp_path / "small")), "--steps", "2", "--device", "cpu", "--eval-batches", "0"]
    assert main(command) == 0
    assert (tmp_path / "runs/small/final/config.json").exists()
    assert main(command) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
