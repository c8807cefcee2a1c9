"""A disk that fills while a model is trained: one paragraph, and with more space the run goes on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from small_datasets import write_dataset
from test_training import LEARNABLE, cyclic

from trainer.cli import main

OPTIONS = ["--steps", "12", "--tokens-per-batch", "160", "--device", "cpu", "--log-every", "1", "--eval-batches", "2"]
OPTIONS += ["--keep-checkpoints", "1"]

FILLS = {
    "the first line": (8, 4),
    "a tensor": (300, 4),
    "the end of a tensor": (2500, 4),
    "the second checkpoint": (7500, 4),
    "the model": (6000, 8),
}
"""What finds the disk full: its kilobytes, and steps from one checkpoint, of some 5 MB here, to the next."""


@pytest.mark.parametrize("where", FILLS)
def test_a_full_disk_is_one_paragraph_and_with_more_space_the_run_goes_on(
    where: str, tmp_path: Path, small_disk: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_dataset(tmp_path / "data", objective="mlm", specs=LEARNABLE, vocab_size=120, tokens=cyclic)
    kilobytes, every = FILLS[where]
    disk = small_disk(f"size={kilobytes}k")
    command = [str(data), *OPTIONS, "--checkpoint-every", str(every), "--out", str(disk / "run")]
    assert main(command) == 2
    text = "".join(capsys.readouterr())
    assert "The disk is full" in text
    assert "run the same command again" in text
    subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
    assert main(command) == 0
    assert main([str(data), *OPTIONS, "--out", str(tmp_path / "whole")]) == 0
    runs = [disk / "run", tmp_path / "whole"]
    lines = [[json.loads(line) for line in (r / "metrics.jsonl").read_text().splitlines()] for r in runs]
    assert [x.get("loss") for x in lines[0]] == [x.get("loss") for x in lines[1]]
    weights = [(r / "final/model.safetensors").read_bytes() for r in runs]
    assert weights[0] == weights[1]
    assert not list(disk.rglob("*.tmp"))
