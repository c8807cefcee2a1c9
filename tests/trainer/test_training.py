"""The loop learns, writes what it says, and repeats itself."""

from __future__ import annotations

import doctest
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import FIRST_TEXT_ID, ShardSpec, write_dataset
from rich.console import Console

import trainer.loop
from schemas.errors import RequestError
from trainer.loop import TrainSettings, train

LEARNABLE = (
    ShardSpec(stage=0, length=16, rows=120, row_group_rows=32),
    ShardSpec(stage=0, length=32, rows=60, row_group_rows=32),
    ShardSpec(stage=0, length=16, rows=20, row_group_rows=32, split="validation"),
)


def cyclic(rng: np.random.Generator, count: int) -> np.ndarray:
    """Tokens that count to 20 over and over: their neighbours tell them, and only 20 of the words occur."""
    return FIRST_TEXT_ID + np.arange(count) % 20


@pytest.mark.parametrize("objective", ["causal", "mlm"])
def test_the_loss_falls_and_the_run_is_saved(objective: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    data = write_dataset(tmp_path / "data", objective=objective, specs=LEARNABLE, vocab_size=120, tokens=cyclic)
    text = io.StringIO()
    settings = TrainSettings(dataset=data, out=tmp_path / "run", steps=40, tokens_per_batch=512, device="cpu")
    result = train(settings, console=Console(file=text, width=100))

    assert result.last_loss < 0.75 * result.first_loss
    assert result.validation is not None
    assert result.validation.loss < result.first_loss
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30, 40, 40]
    assert lines[-2]["tokens"] == result.tokens
    assert "validation_loss" in lines[-1]
    final = Path(result.model_directory)
    assert (final / "tokenizer.json").read_bytes() == (data / "tokenizer.json").read_bytes()
    assert AutoTokenizer.from_pretrained(final).pad_token == "[PAD]"
    (AutoModelForMaskedLM if objective == "mlm" else AutoModelForCausalLM).from_pretrained(final)
    assert "Finished 40 steps" in text.getvalue()

    with pytest.raises(RequestError, match="finished run"):
        train(settings, console=Console(file=text))


def test_a_run_without_validation_rows_says_so_and_repeats_itself_exactly(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", specs=LEARNABLE[:1], vocab_size=120, tokens=cyclic)
    losses = []
    for attempt in ("a", "b"):
        text = io.StringIO()
        settings = TrainSettings(
            dataset=str(data), out=tmp_path / attempt, steps=3, tokens_per_batch=64, device="cpu"
        )
        result = train(settings, console=Console(file=text, width=200))
        assert result.validation is None
        assert "no validation rows" in text.getvalue()
        losses.append((result.first_loss, result.last_loss))
    assert losses[0] == losses[1]


def test_importing_the_trainer_imports_no_beam_and_its_command_line_no_torch() -> None:
    code = (
        "import sys, trainer.cli; assert 'torch' not in sys.modules; trainer.cli._parser().format_help();"
        "import trainer.loop; bad = [m for m in sys.modules if m.split('.')[0] in"
        " ('apache_beam', 'pipelines', 'transforms')]; assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=Path(trainer.loop.__file__).parents[1])


def test_docstring_examples_are_true() -> None:
    assert doctest.testmod(trainer.loop).failed == 0
