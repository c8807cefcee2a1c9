"""The loop learns, writes what it says, and repeats itself."""

from __future__ import annotations

import doctest
import io
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from small_datasets import FIRST_TEXT_ID, ShardSpec, write_dataset
from torch._dynamo.testing import CompileCounter

import trainer.loop
import trainer.schedules
from schemas.errors import RequestError
from trainer.loop import TrainSettings, train
from trainer.models import RECIPES
from trainer.samples import samples
from trainer.schedules import SCHEDULES, Schedule, learning_rate_factor, noam_peak
from trainer.stream import Stream

LEARNABLE = (
    ShardSpec(stage=0, length=16, rows=120, row_group_rows=32),
    ShardSpec(stage=0, length=32, rows=60, row_group_rows=32),
    ShardSpec(stage=0, length=16, rows=20, row_group_rows=32, split="validation"),
)


def cyclic(rng: np.random.Generator, count: int) -> np.ndarray:
    """Tokens that count to 20 over and over: their neighbours tell them, and only 20 of the words occur."""
    return FIRST_TEXT_ID + np.arange(count) % 20


LOADERS = {
    "bert-tiny": "AutoModelForMaskedLM",
    "roberta-tiny": "AutoModelForMaskedLM",
    "albert-tiny": "AutoModelForPreTraining",
    "electra-tiny": "AutoModelForPreTraining",
    "gpt-tiny": "AutoModelForCausalLM",
    "llama-tiny": "AutoModelForCausalLM",
    "prefix-lm-tiny": "AutoModelForCausalLM",
    "t5-tiny": "AutoModelForSeq2SeqLM",
    "ul2-tiny": "AutoModelForSeq2SeqLM",
    "bart-tiny": "AutoModelForSeq2SeqLM",
}
CASES = [
    ("mlm", "bert-tiny", {"mlm"}),
    ("mlm", "roberta-tiny", {"mlm"}),
    ("sentence_pair", "albert-tiny", {"mlm", "pair"}),
    ("replaced_token", "electra-tiny", {"mlm", "rtd"}),
    ("causal", "gpt-tiny", {"tokens"}),
    ("fim", "llama-tiny", {"tokens"}),
    ("prefix_lm", "prefix-lm-tiny", {"tokens"}),
    ("span_corruption", "t5-tiny", {"tokens"}),
    ("ul2", "ul2-tiny", {"tokens"}),
    ("infilling", "bart-tiny", {"tokens"}),
]


@pytest.mark.parametrize(("objective", "recipe", "parts"), CASES, ids=[c[1] for c in CASES])
def test_every_recipe_learns_and_is_saved_for_transformers(
    objective: str, recipe: str, parts: set[str], tmp_path: Path
) -> None:
    import transformers

    data = write_dataset(tmp_path / "data", objective=objective, specs=LEARNABLE, vocab_size=120, tokens=cyclic)
    text = io.StringIO()
    settings = TrainSettings(
        dataset=data,
        out=tmp_path / "run",
        recipe=recipe,
        steps=30,
        tokens_per_batch=512,
        device="cpu",
        tensorboard=False,
        eval_every_steps=20,
    )
    result = train(settings, console=Console(file=text, width=100))

    assert result.last_loss < result.first_loss
    assert result.validation is not None
    assert set(result.validation.parts) == parts
    assert set(result.validation.by_source) == {"books", "web"}
    assert set(result.validation.by_length) == {"16"}
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 20, 30, 30]
    assert lines[-2]["tokens"] == result.tokens
    assert lines[-1]["validation_loss"] < lines[2]["validation_loss"] + 0.2
    final = Path(result.model_directory)
    assert (final / "tokenizer.json").read_bytes() == (data / "tokenizer.json").read_bytes()
    assert transformers.AutoTokenizer.from_pretrained(final).pad_token == "[PAD]"
    getattr(transformers, LOADERS[recipe]).from_pretrained(final)
    if recipe == "electra-tiny":
        transformers.AutoModelForMaskedLM.from_pretrained(final / "generator")
    assert (tmp_path / "run/samples.txt").read_text().count("step ") == 2
    assert "Finished 30 steps" in text.getvalue()

    with pytest.raises(RequestError, match="finished run"):
        train(settings, console=Console(file=text))


def test_it_writes_tensorboard_events(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data = write_dataset(tmp_path / "data", specs=LEARNABLE, vocab_size=120, tokens=cyclic)
    settings = TrainSettings(
        dataset=data, out=tmp_path / "run", steps=4, tokens_per_batch=64, log_every_steps=2, device="cpu"
    )
    train(settings, console=Console(quiet=True))
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    assert {"loss", "grad_norm", "learning_rate", "validation_loss"} <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("loss")] == [2, 4]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_rise_to_their_peak_and_never_above(schedule: Schedule) -> None:
    rates = [learning_rate_factor(schedule, s, steps=100, warmup_steps=10, decay_steps=20) for s in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert max(rates) == pytest.approx(1)
    assert min(rates) > 0
    assert all(a >= b for a, b in pairwise(rates[9:]))


def test_noam_is_the_papers_formula() -> None:
    peak = noam_peak(512, 40)
    for step in (1, 7, 40, 1000):  # the paper counts from 1
        factor = learning_rate_factor("inverse_sqrt", step - 1, steps=10**4, warmup_steps=40)
        assert peak * factor == pytest.approx(512**-0.5 * min(step**-0.5, step * 40**-1.5))


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
    result = doctest.testmod(trainer.schedules)
    assert (result.failed, result.attempted > 0) == (0, True)


SHORT = tuple(ShardSpec(stage=0, length=8, rows=20, row_group_rows=8, split=s) for s in ("train", "validation"))


def test_a_sample_ends_at_the_models_last_position(tmp_path: Path) -> None:
    data = write_dataset(tmp_path, objective="infilling", specs=SHORT, vocab_size=120)
    stream = Stream(data, split="validation", tokens_per_batch=64)
    recipe = RECIPES["bart-tiny"]
    model: Any = recipe.build(stream.manifest, stream.longest_row)
    model.final_logits_bias[0, 50] = 1e4  # it never ends of its own accord
    text = samples(recipe.family, model, stream, torch.device("cpu"))
    assert text.count(f"made:   [EOS]{6 * ' w50'} [EOS]") == 2


def test_validation_rows_with_nothing_to_predict_end_no_run(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", objective="mlm", specs=SHORT, vocab_size=120)
    (shard,) = (data / "data/split=validation").rglob("*.parquet")
    table = pq.read_table(shard, partitioning=None)
    for name in ("mask_positions", "mask_labels"):
        nothing = pa.array([[]] * len(table), table.schema.field(name).type)
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), nothing)
    pq.write_table(table, shard, row_group_size=8)
    settings = TrainSettings(
        dataset=data, out=tmp_path / "run", steps=2, tokens_per_batch=64, device="cpu", tensorboard=False
    )
    text = io.StringIO()
    result = train(settings, console=Console(file=text, width=100))
    assert result.finished
    assert result.validation is None
    assert "No validation" in text.getvalue()


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(("objective", "recipe", "parts"), CASES)
def test_no_length_is_left_uncompiled(objective: str, recipe: str, parts: set[str], tmp_path: Path) -> None:
    """Two shapes a length in training, one in evaluation, with padding and without; too many graphs are an error."""
    del parts
    counter = CompileCounter()
    torch.compiler.set_default_backend(counter)  # type: ignore[no-untyped-call]
    data = write_dataset(tmp_path / "data", objective=objective, specs=LEARNABLE, vocab_size=120, tokens=cyclic)
    settings = TrainSettings(
        dataset=data,
        out=tmp_path / "run",
        recipe=recipe,
        epochs=3,
        tokens_per_batch=160,
        accumulate=3,
        device="cpu",
        compile=True,
        tensorboard=False,
    )
    train(settings, console=Console(quiet=True))
    assert counter.frame_count > 4


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_compiled_models_learn_as_they_do_uncompiled(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", objective="mlm", specs=LEARNABLE, vocab_size=120, tokens=cyclic)
    found = []
    for compiled in (False, True):
        settings = TrainSettings(
            dataset=data,
            out=tmp_path / f"{compiled}",
            steps=8,
            tokens_per_batch=160,
            device="cpu",
            compile=compiled,
            tensorboard=False,
        )
        result = train(settings, console=Console(quiet=True))
        found.append((result.last_loss, result.validation.loss if result.validation else None))
    assert found[0] == pytest.approx(found[1], rel=1e-3)
