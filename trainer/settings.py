"""What a training run is asked for, and what came of it. Values only; `trainer.loop` does the work."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from schemas.errors import RequestError, did_you_mean
from trainer.evaluation import Evaluation
from trainer.schedules import SCHEDULES, Schedule
from trainer.stream import ORDERS, Order

_CHOICES: dict[str, tuple[str, ...]] = {
    "schedule": SCHEDULES,
    "order": ORDERS,
    "precision": ("auto", "fp32", "bf16"),
    "parallel": ("ddp", "fsdp"),
    "device": ("auto", "cpu", "cuda"),
    "documents": ("auto", "apart", "together"),
    "on_error": ("fail", "skip"),
}


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """What to train, on what, for how long."""

    dataset: str | os.PathLike[str]
    """Directory of the dataset, local, `s3://` or `gs://`."""
    out: str | os.PathLike[str]
    """Directory of the run, local, `s3://` or `gs://`: metrics, checkpoints, samples and, at the end, `final/`."""
    recipe: str | None = None
    """Name of a recipe; by default the tiny one for the dataset's objective."""
    steps: int | None = None
    """Optimiser steps; by default `epochs`."""
    epochs: float = 1.0
    """Passes over the train split, where no steps are given."""
    tokens_per_batch: int = 4096
    """Tokens of an optimiser step over all ranks, padding included, at most."""
    accumulate: int = 1
    """Micro-batches that a rank's rows of a step are split into; changes memory, and neither order nor loss."""
    order: Order = "natural"
    """Of the lengths within a stage, see `trainer.stream.turns.curriculum`."""
    learning_rate: float | None = None
    """Peak; by default the recipe's, or of `noam`."""
    noam: bool = False
    """Take `inverse_sqrt` with the peak (d_model · warmup)^-0.5."""
    schedule: Schedule | None = None
    """By default the recipe's."""
    warmup_share: float = 0.1
    """Share of the steps over which the learning rate rises from 0."""
    decay_share: float = 0.2
    """Of `wsd`: share of the steps over which it falls at the end."""
    weight_decay: float | None = None
    """Of matrices, by default the recipe's; biases and norms have none."""
    label_smoothing: float = 0.0
    """Of token losses in training; evaluation has none."""
    max_grad_norm: float = 1.0
    """Gradients of a greater norm are scaled down to it."""
    positions: int | None = None
    """Of the model; by default the published one's, and of tiny ones the dataset's longest row."""
    documents: Literal["auto", "apart", "together"] = "auto"
    """Of packed rows: whether attention, positions and labels stop at documents. `auto`: where rows are packed."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`bf16` is autocast, with weights in fp32; `auto`: on a GPU."""
    compile: bool = False
    """Compile the model, one graph a length."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How several processes share the work: a whole model each, or a shard of it (FSDP2)."""
    seed: int = 0
    """Of the order of batches, the initial weights and dropout."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    log_every_steps: int = 10
    """Steps from one line of metrics to the next."""
    eval_every_steps: int | None = None
    """Steps from one evaluation to the next; at the end there is one in any case."""
    eval_batches: int = 20
    """Validation batches of an evaluation, at most; 0 for no evaluation."""
    checkpoint_every_steps: int = 500
    keep_checkpoints: int = 2
    """Newest ones that are kept."""
    on_error: Literal["fail", "skip"] = "fail"
    """Where a row group cannot be read: stop, or leave its rows out."""
    checksums: bool = False
    """Hash each shard before it is first read."""
    tensorboard: bool = True
    peak_tflops: float | None = None
    """Of a device at this precision, for MFU; known for some GPUs."""
    overwrite: bool = False
    """Replace what is in `out`."""

    def check(self) -> None:
        """Refuse values out of range.

        Raises:
          RequestError: naming the setting and its value.
        """
        bounds: list[tuple[str, float | None, Callable[[float], bool], str]] = [
            ("number of steps", self.steps, lambda x: x >= 1, "at least 1"),
            ("number of epochs", self.epochs, lambda x: x > 0, "above 0"),
            ("number of micro-batches", self.accumulate, lambda x: x >= 1, "at least 1"),
            ("learning rate", self.learning_rate, lambda x: x > 0, "above 0"),
            ("warm-up share", self.warmup_share, lambda x: 0 <= x <= 1, "0 to 1"),
            ("decay share", self.decay_share, lambda x: 0 <= x <= 1, "0 to 1"),
            ("weight decay", self.weight_decay, lambda x: x >= 0, "at least 0"),
            ("label smoothing", self.label_smoothing, lambda x: 0 <= x < 1, "0 to below 1"),
            ("gradient norm", self.max_grad_norm, lambda x: x > 0, "above 0"),
            ("number of positions", self.positions, lambda x: x >= 1, "at least 1"),
            ("log interval", self.log_every_steps, lambda x: x >= 1, "at least 1 step"),
            ("evaluation interval", self.eval_every_steps, lambda x: x >= 1, "at least 1 step"),
            ("number of evaluation batches", self.eval_batches, lambda x: x >= 0, "at least 0"),
            ("checkpoint interval", self.checkpoint_every_steps, lambda x: x >= 1, "at least 1 step"),
            ("number of checkpoints to keep", self.keep_checkpoints, lambda x: x >= 1, "at least 1"),
            ("peak speed", self.peak_tflops, lambda x: x > 0, "above 0 Tflop/s"),
        ]
        for name, value, good, expected in bounds:
            if value is not None and not (math.isfinite(value) and good(value)):
                raise RequestError(f"The {name} is out of range", expected=expected, got=f"{value:g}")
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in known:
                raise RequestError(f"There is no {name} {value!r}: {did_you_mean(value, known)}", got=repr(value))

    def identity(self, plan_digest: str, recipe: str, steps: int) -> dict[str, Any]:
        """What makes two runs the same one, so that the second goes on with the first; JSON."""
        free = {
            *("dataset", "out", "overwrite", "device", "accumulate", "parallel", "compile", "tensorboard"),
            *("checksums", "on_error", "peak_tflops", "keep_checkpoints", "checkpoint_every_steps", "epochs"),
        }
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in free}
        return {**values, "recipe": recipe, "steps": steps, "plan_digest": plan_digest}


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What came of it."""

    recipe: str
    steps: int
    """Optimiser steps done, over all starts of the run."""
    tokens: int
    """Real tokens trained on, padding left out."""
    seconds: float
    """Of the steps since the last start, without start-up, evaluation and saving."""
    first_loss: float
    """Mean loss of the first tenth of the lines of metrics, in nats per predicted token."""
    last_loss: float
    """Mean loss of the last tenth."""
    validation: Evaluation | None
    """None where the dataset has no validation rows, or no evaluation was asked for."""
    model_directory: str
    """The saved model, for `from_pretrained`."""
    finished: bool = True
    """False if a signal stopped the run after a checkpoint."""
    stopped_by: int = 0
    """Number of that signal, of another process's if this one got none: SIGTERM's."""
