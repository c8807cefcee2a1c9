"""Several processes train as one does: the same losses, the same model, and all of them end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import train_on
from small_datasets import ShardSpec, write_dataset
from test_training import CASES, LEARNABLE, cyclic


def losses(lines: list[dict[str, Any]]) -> list[float]:
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("objective", ["mlm", pytest.param("replaced_token", marks=pytest.mark.slow)])
def test_one_two_and_four_ranks_have_the_same_loss_curve(objective: str, tmp_path: Path) -> None:
    """Fails if padding rows, shares of labels or a generator's draws depend on the number of ranks."""
    data = write_dataset(tmp_path / "data", objective=objective, specs=LEARNABLE, vocab_size=120, tokens=cyclic)
    curves = {}
    for size in (1, 2, 4):
        lines = train_on(size, dataset=data, out=tmp_path / f"{size}", steps=8, tokens_per_batch=160, eval_batches=3)
        curves[size] = losses(lines)
        curves[size].append(lines[-1]["validation_loss"])
    assert curves[2] == pytest.approx(curves[1], rel=2e-4)
    assert curves[4] == pytest.approx(curves[1], rel=2e-4)
    assert len(curves[1]) == 9


def test_micro_batches_change_no_loss(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", specs=LEARNABLE, vocab_size=120, tokens=cyclic)
    options: dict[str, Any] = {"dataset": data, "steps": 6, "tokens_per_batch": 160, "eval_batches": 0}
    whole = train_on(1, out=tmp_path / "whole", **options)
    parts = train_on(1, out=tmp_path / "parts", accumulate=3, **options)
    assert losses(parts) == pytest.approx(losses(whole), rel=2e-4)


def test_shards_of_a_model_learn_as_copies_do_and_are_saved_whole(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    data = write_dataset(tmp_path / "data", specs=LEARNABLE, vocab_size=120, tokens=cyclic)
    options: dict[str, Any] = {"dataset": data, "steps": 6, "tokens_per_batch": 160, "checkpoint_every_steps": 3}
    copies = train_on(2, out=tmp_path / "ddp", **options)
    shards = train_on(2, out=tmp_path / "fsdp", parallel="fsdp", accumulate=2, **options)
    assert losses(shards) == pytest.approx(losses(copies), rel=2e-4)
    assert shards[-1]["validation_loss"] == pytest.approx(copies[-1]["validation_loss"], rel=2e-4)
    saved = [AutoModelForCausalLM.from_pretrained(tmp_path / name / "final") for name in ("ddp", "fsdp")]
    for one, other in zip(saved[0].parameters(), saved[1].parameters(), strict=True):
        assert (one - other).abs().max() < 2e-3
    # Checkpoints hold whole tensors whatever the number of processes: one process goes on with two shards' work.
    (tmp_path / "fsdp/final").rename(tmp_path / "elsewhere")
    again = train_on(1, out=tmp_path / "fsdp", **options)
    assert losses(again) == pytest.approx(losses(copies), rel=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "recipe", "parts"), CASES)
def test_shards_of_every_family_learn_as_copies_do_and_go_on_as_each_other(
    objective: str, recipe: str, parts: set[str], tmp_path: Path
) -> None:
    """Fails if nested lists of layers are sharded twice, or what two models share is not found in a checkpoint."""
    del parts
    data = write_dataset(tmp_path / "data", objective=objective, specs=LEARNABLE, vocab_size=120, tokens=cyclic)
    options: dict[str, Any] = {"dataset": data, "recipe": recipe, "steps": 4, "checkpoint_every_steps": 2}
    options |= {"tokens_per_batch": 160, "eval_batches": 3}
    curves = []
    for begun, size, ended in (("ddp", 3, "fsdp"), ("fsdp", 2, "ddp"), ("ddp", 1, "ddp")):
        out = tmp_path / f"{begun}-{size}"
        whole = train_on(2, out=out, parallel=begun, **options)
        (out / "final").rename(out / "elsewhere")
        again = train_on(size, out=out, parallel=ended, **options)
        curves += [[*losses(lines), lines[-1]["validation_loss"]] for lines in (whole, again)]
    assert len(curves[0]) == 5
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], rel=2e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(("objective", "recipe"), [("causal", "gpt-tiny"), ("span_corruption", "t5-tiny")])
def test_no_layer_of_a_compiled_model_in_shards_is_left_uncompiled(
    objective: str, recipe: str, tmp_path: Path
) -> None:
    """Too many graphs are an error here, in the processes that are forked too."""
    torch.compiler.set_default_backend("eager")
    data = write_dataset(tmp_path / "data", objective=objective, specs=LEARNABLE, vocab_size=120, tokens=cyclic)
    options: dict[str, Any] = {
        "dataset": data,
        "recipe": recipe,
        "steps": 12,
        "tokens_per_batch": 160,
        "accumulate": 2,
    }
    whole = train_on(2, out=tmp_path / "ddp", **options)
    compiled = train_on(2, out=tmp_path / "fsdp", parallel="fsdp", compile=True, **options)
    assert losses(compiled) == pytest.approx(losses(whole), rel=1e-3)


def test_1001_examples_end_on_all_of_three_ranks(tmp_path: Path) -> None:
    """Ranks that end unevenly wait for each other for ever."""
    spec = ShardSpec(stage=0, length=8, rows=1001, row_group_rows=100)
    data = write_dataset(tmp_path / "data", specs=(spec,), vocab_size=2000)
    lines = train_on(3, dataset=data, out=tmp_path / "run", tokens_per_batch=8 * 128, eval_batches=0)
    assert [line["step"] for line in lines] == list(range(1, 9))
