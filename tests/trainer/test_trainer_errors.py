"""What a person gets wrong comes back as one paragraph and the right exit code, never as a traceback."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import write_dataset

from schemas.errors import ShardmillError
from schemas.tables import FINGERPRINT_KEY
from trainer.cli import main


def first_shard(dataset: Path) -> Path:
    return sorted((dataset / "data/split=train").rglob("*.parquet"))[0]


def no_manifest(dataset: Path) -> None:
    (dataset / "manifest.json").unlink()


def other_version(dataset: Path) -> None:
    manifest = json.loads((dataset / "manifest.json").read_text())
    (dataset / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))


def other_objective(dataset: Path) -> None:
    manifest = json.loads((dataset / "manifest.json").read_text())
    (dataset / "manifest.json").write_text(json.dumps({**manifest, "objective": {"kind": "ul2"}}))


def no_tokenizer(dataset: Path) -> None:
    (dataset / "tokenizer.json").unlink()


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
    (other_objective, [], 2, "'ul2'"),
    (no_tokenizer, [], 1, "tokenizer.json"),
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
    (nothing, ["--out", "s3://bucket/run"], 2, "local"),
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


def test_a_second_process_of_torchrun_is_refused_rather_than_trained_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([str(write_dataset(tmp_path / "data")), "--out", str(tmp_path / "run")]) == 2
    assert "WORLD_SIZE 2" in capsys.readouterr().err


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
