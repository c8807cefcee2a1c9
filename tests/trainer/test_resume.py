"""A run that was stopped goes on as if it had not been, whatever stopped it."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from signed_checkpoints import sign
from small_datasets import write_dataset
from test_training import LEARNABLE, cyclic

import trainer.loop
from schemas.errors import DataError, RequestError
from trainer.loop import TrainSettings, train

OPTIONS: dict[str, Any] = {
    "steps": 16,
    "tokens_per_batch": 160,
    "device": "cpu",
    "tensorboard": False,
    "log_every_steps": 1,
    "checkpoint_every_steps": 4,
    "eval_batches": 2,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("resume")
    return write_dataset(place, objective="mlm", specs=LEARNABLE, vocab_size=120, tokens=cyclic)


def run(data: Path, out: Path, **options: Any) -> str:
    text = io.StringIO()
    train(TrainSettings(dataset=data, out=out, **(OPTIONS | options)), console=Console(file=text, width=300))
    return text.getvalue()


def start(data: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "trainer", str(data), "--out", str(out), "--steps", "16"]
    command += ["--tokens-per-batch", "160", "--device", "cpu", "--no-tensorboard", "--log-every", "1"]
    command += ["--checkpoint-every", "4", "--eval-batches", "2"]
    root = Path(trainer.loop.__file__).parents[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for_checkpoint(out: Path, process: subprocess.Popen[str], step: int) -> None:
    deadline = time.monotonic() + 120
    while not (out / f"checkpoints/step-{step:08d}").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def curve(out: Path) -> list[dict[str, Any]]:
    names = ("step", "loss", "grad_norm", "tokens", "learning_rate", "validation_loss")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{n: line[n] for n in names if n in line} for line in lines]


def test_kill_9_and_again_gives_the_same_model_bit_for_bit(data: Path, tmp_path: Path) -> None:
    process = start(data, tmp_path / "killed")
    wait_for_checkpoint(tmp_path / "killed", process, 8)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "killed/final").exists()
    text = run(data, tmp_path / "killed")
    assert "Going on from the checkpoint of step" in text
    run(data, tmp_path / "whole")
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    weights = [(tmp_path / name / "final/model.safetensors").read_bytes() for name in ("killed", "whole")]
    assert weights[0] == weights[1]


def test_sigterm_ends_the_run_at_a_checkpoint_with_its_exit_code(data: Path, tmp_path: Path) -> None:
    process = start(data, tmp_path / "run")
    wait_for_checkpoint(tmp_path / "run", process, 4)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "Stopped by a signal after step" in output
    last = curve(tmp_path / "run")[-1]["step"]
    assert (tmp_path / f"run/checkpoints/step-{last:08d}").exists()
    assert f"Going on from the checkpoint of step {last}" in run(data, tmp_path / "run")


@pytest.fixture(scope="module")
def failed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that failed at its end, before its model was saved."""
    out = tmp_path_factory.mktemp("failed")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trainer.loop._Training, "_save", lambda self, module: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(data, out)
    return out


@pytest.fixture
def interrupted(failed: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(failed, tmp_path / "run"))


def test_the_newest_checkpoints_are_kept_and_half_written_ones_removed(data: Path, interrupted: Path) -> None:
    (interrupted / "checkpoints/.step-00000016.tmp").mkdir()
    assert sorted(p.name for p in (interrupted / "checkpoints").iterdir())[1:] == ["step-00000008", "step-00000012"]
    assert "step 12" in run(data, interrupted)
    assert not (interrupted / "checkpoints/.step-00000016.tmp").exists()


def test_other_settings_do_not_go_on_with_a_run(data: Path, interrupted: Path) -> None:
    with pytest.raises(RequestError, match=r"learning_rate 0\.5"):
        run(data, interrupted, learning_rate=0.5)
    run(data, interrupted, accumulate=2)  # changes memory, and nothing that is learnt


def test_a_damaged_checkpoint_is_named(data: Path, interrupted: Path) -> None:
    shard = interrupted / "checkpoints/step-00000012/__0_0.distcp"
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(DataError, match="step-00000012"):
        run(data, interrupted)


@pytest.mark.parametrize("path", ["posix.system", "torch.distributed.checkpoint.filesystem os.system"])
def test_a_checkpoint_cannot_run_code(path: str, data: Path, interrupted: Path, tmp_path: Path) -> None:
    module, name = path.split(" ") if " " in path else path.rsplit(".", 1)
    proof = tmp_path / "code-was-run"
    command = f"touch {proof}".encode()
    # What pickle writes for a call of module.name with one string; a dotted name reaches what the module imports.
    evil = b"\x80\x04\x8c" + bytes([len(module)]) + module.encode() + b"\x8c" + bytes([len(name)]) + name.encode()
    evil += b"\x93\x8c" + bytes([len(command)]) + command + b"\x85R."
    pickle.loads(evil)
    assert proof.exists(), "the attack must work where nothing stops it"
    proof.unlink()
    (interrupted / "checkpoints/step-00000012/.metadata").write_bytes(evil)
    sign(interrupted / "checkpoints/step-00000012")
    with pytest.raises(DataError, match="must not name"):
        run(data, interrupted)
    assert not proof.exists()
