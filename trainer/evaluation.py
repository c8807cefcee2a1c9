"""Evaluation on the validation split: loss and perplexity over a bounded number of batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from trainer.models import Recipe, loss_sum
from trainer.stream import Batch, Stream


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a model scored."""

    loss: float
    """Mean cross-entropy in nats per predicted token."""
    predicted_tokens: int
    """Labels it is the mean of."""

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch's tensors on a device."""
    return Batch(
        input_ids=batch["input_ids"].to(device, non_blocking=True),
        attention_mask=batch["attention_mask"].to(device, non_blocking=True),
        labels=batch["labels"].to(device, non_blocking=True),
        row_weight=batch["row_weight"].to(device, non_blocking=True),
    )


@torch.no_grad()
def evaluate(recipe: Recipe, model: Any, stream: Stream, *, batches: int, device: torch.device) -> Evaluation:
    """Score a model on the first batches of a stream. Leaves it in training mode.

    Raises:
      DataError: a shard is missing or damaged.
    """
    model.eval()
    total, count = torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)
    for batch in islice(stream, batches):
        loss, labels = loss_sum(recipe, model, to_device(batch, device))
        total += loss
        count += labels
    model.train()
    return Evaluation(loss=float(total) / max(1, int(count)), predicted_tokens=int(count))
