"""Evaluation on the validation split: loss and accuracy of each part, over all and by source and length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch

from trainer.models import Family
from trainer.stream import Stream
from trainer.world import World

ACCURACIES = {"mlm": "masked_accuracy", "pair": "pair_accuracy", "rtd": "rtd_accuracy", "tokens": "token_accuracy"}
"""Names of the parts' accuracies in the metrics."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a model scored on some labels."""

    loss: float
    """Mean, in nats a label."""
    accuracy: float
    labels: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a model scored."""

    loss: float
    """Mean cross-entropy in nats per predicted token."""
    predicted_tokens: int
    """Labels it is the mean of."""
    parts: dict[str, Score] = field(default_factory=dict)
    """By part of the loss."""
    by_source: dict[str, dict[str, Score]] = field(default_factory=dict)
    """By source, by part."""
    by_length: dict[str, dict[str, Score]] = field(default_factory=dict)
    """By length of the bucket, by part."""

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    def metrics(self) -> dict[str, Any]:
        """As a line of the metrics."""
        values: dict[str, Any] = {"validation_loss": self.loss, "validation_perplexity": self.perplexity}
        for part, score in self.parts.items():
            values[f"validation_{part}_loss"] = score.loss
            values[f"validation_{ACCURACIES[part]}"] = score.accuracy
        for name, groups in (("source", self.by_source), ("length", self.by_length)):
            values[f"validation_by_{name}"] = {
                group: {
                    part: {"loss": s.loss, "accuracy": s.accuracy, "labels": s.labels} for part, s in some.items()
                }
                for group, some in groups.items()
            }
        return values


@torch.no_grad()
def evaluate(
    model: torch.nn.Module, family: Family, stream: Stream, *, batches: int, world: World, parts: Sequence[str]
) -> Evaluation | None:
    """Score a model on the first batches of a stream. Leaves it in training mode; all processes call it together.

    Args:
      model: a `trainer.step.Losses`, wrapped for the processes or not.
      family: the model's.
      stream: with sources, from step 0.
      batches: at most.
      world: the processes.
      parts: of the loss.

    Returns:
      None if the batches have nothing to predict.

    Raises:
      DataError: a shard is missing or damaged.
    """
    model.eval()
    lengths = sorted({b.length for b in stream.plan.buckets})
    sources = [s.name for s in stream.manifest.sources]
    table = torch.zeros((len(parts), len(lengths), max(1, len(sources)), 3), dtype=torch.float64, device=world.device)
    for batch in islice(stream, batches):
        rows = family.micro_batch(batch).to(world.device)
        bucket = lengths.index(batch["input_ids"].shape[1])
        for name, part in model(rows, correct=True).items():
            if part.correct is None:
                raise AssertionError("correct was asked for")
            values = torch.stack([part.loss.double(), torch.ones_like(part.loss).double(), part.correct.double()], 1)
            table[parts.index(name), bucket].index_add_(0, rows.batch["source_ids"][part.row], values)
    model.train()
    world.sum(table)
    whole = _scores(table.sum((1, 2)), parts)
    if not whole:
        return None
    tokens = whole.get("tokens") or whole.get("mlm") or next(iter(whole.values()))
    return Evaluation(
        loss=tokens.loss,
        predicted_tokens=tokens.labels,
        parts=whole,
        by_source={s: found for i, s in enumerate(sources) if (found := _scores(table.sum(1)[:, i], parts))},
        by_length={str(n): found for i, n in enumerate(lengths) if (found := _scores(table.sum(2)[:, i], parts))},
    )


def _scores(sums: torch.Tensor, parts: Sequence[str]) -> dict[str, Score]:
    """Of each part that has labels; sums of (loss, labels, right ones), float64 [parts, 3]."""
    return {
        part: Score(loss=loss / labels, accuracy=correct / labels, labels=int(labels))
        for part, (loss, labels, correct) in zip(parts, sums.tolist(), strict=True)
        if labels
    }
