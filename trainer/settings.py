"""What a training run is asked for, and what came of it. Values only; `trainer.loop` does the work."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

from schemas.errors import RequestError
from trainer.evaluation import Evaluation


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """What to train, on what, for how long."""

    dataset: str | os.PathLike[str]
    """Directory of the dataset, local, `s3://` or `gs://`."""
    out: str | os.PathLike[str]
    """Local directory of the run: `metrics.jsonl` and, at the end, `final/`."""
    recipe: str | None = None
    """Name of a recipe; by default the one for the dataset's objective."""
    steps: int | None = None
    """Optimiser steps; by default one epoch."""
    tokens_per_batch: int = 4096
    """Tokens of a batch, padding included, at most."""
    learning_rate: float | None = None
    """Peak; by default the recipe's."""
    warmup_share: float = 0.1
    """Share of the steps over which the learning rate rises from 0."""
    weight_decay: float = 0.01
    """Of matrices; biases and norms have none."""
    max_grad_norm: float = 1.0
    """Gradients of a greater norm are scaled down to it."""
    seed: int = 0
    """Of the order of batches, the initial weights and dropout."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""
    log_every_steps: int = 10
    """Steps from one line of metrics to the next."""
    eval_batches: int = 20
    """Validation batches at the end, at most."""
    overwrite: bool = False
    """Replace a finished run in `out`."""

    def check(self) -> None:
        """Refuse values out of range.

        Raises:
          RequestError: naming the setting and its value.
        """
        bounds: list[tuple[str, float | None, Callable[[float], bool], str]] = [
            ("number of steps", self.steps, lambda x: x >= 1, "at least 1"),
            ("learning rate", self.learning_rate, lambda x: x > 0, "above 0"),
            ("warm-up share", self.warmup_share, lambda x: 0 <= x <= 1, "0 to 1"),
            ("weight decay", self.weight_decay, lambda x: x >= 0, "at least 0"),
            ("gradient norm", self.max_grad_norm, lambda x: x > 0, "above 0"),
            ("log interval", self.log_every_steps, lambda x: x >= 1, "at least 1 step"),
            ("number of evaluation batches", self.eval_batches, lambda x: x >= 0, "at least 0"),
        ]
        for name, value, good, expected in bounds:
            if value is not None and not (math.isfinite(value) and good(value)):
                raise RequestError(f"The {name} is out of range", expected=expected, got=f"{value:g}")


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What came of it."""

    recipe: str
    steps: int
    tokens: int
    """Real tokens trained on, padding left out."""
    seconds: float
    """Of the steps alone, without start-up, evaluation and saving."""
    first_loss: float
    """Mean loss of the first tenth of the steps, in nats per predicted token."""
    last_loss: float
    """Mean loss of the last tenth."""
    validation: Evaluation | None
    """None where the dataset has no validation rows, or no evaluation was asked for."""
    model_directory: str
    """The saved model, for `from_pretrained`."""
