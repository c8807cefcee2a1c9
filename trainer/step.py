"""One optimiser step: losses on valid labels, normalised over all processes and micro-batches. Knows no files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from trainer.models import Family, Part
from trainer.stream import Batch
from trainer.world import World, without_exchange


class Losses(nn.Module):
    """A model whose forward pass gives the parts of the loss, so that what wraps it sees one call."""

    def __init__(self, family: Family, model: nn.Module, *, smoothing: float, bf16: bool) -> None:
        super().__init__()
        self.family, self.model, self._smoothing, self._bf16 = family, model, smoothing, bf16

    def forward(self, batch: Batch, correct: bool = False) -> dict[str, Part]:
        """The parts of the loss of a batch; labels are smoothed in training only."""
        with torch.autocast(batch["input_ids"].device.type, dtype=torch.bfloat16, enabled=self._bf16):
            smoothing = self._smoothing if self.training else 0.0
            return self.family.parts(self.model, batch, smoothing=smoothing, correct=correct)


def micro_batches(batch: Batch, count: int) -> Iterator[Batch]:
    """A batch's rows in `count` parts of equal size, the last ones possibly smaller; never an empty one.

    All processes have the same number of rows, and so the same number of micro-batches.
    """
    rows = batch["input_ids"].shape[0]
    size = -(-rows // count)
    for begin in range(0, rows, size):
        tensors: dict[str, torch.Tensor] = {**batch}
        yield Batch(**{name: t[begin : begin + size] for name, t in tensors.items()})  # type: ignore[typeddict-item]


def backward(
    module: nn.Module, family: Family, batch: Batch, counts: torch.Tensor, world: World, accumulate: int, sources: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of a step's loss: Σ over parts of weight · (sum over all labels of all processes) / (their number).

    Args:
      module: `Losses`, wrapped for the processes.
      family: the model's.
      batch: this process's rows, on the device.
      counts: float32 [parts], labels over all processes.
      world: the processes; their gradients are averaged, so each scales its own by their number.
      accumulate: micro-batches.
      sources: number of sources.

    Returns:
      (float32 [parts] sums of losses; float32 [sources, 2] of the first part, sum of losses and labels), of this
      process alone.
    """
    names = list(family.part_weights)
    sums = torch.zeros(len(names), device=world.device)
    by_source = torch.zeros((max(1, sources), 2), device=world.device)
    scale = torch.tensor([family.part_weights[n] for n in names], device=world.device) / counts.clamp(min=1)
    pieces = list(micro_batches(batch, accumulate))
    for i, piece in enumerate(pieces):
        with without_exchange(module, i + 1 < len(pieces)):
            parts = module(piece)
            totals = {name: part.loss.sum() for name, part in parts.items()}
            loss = torch.stack([total * scale[names.index(name)] for name, total in totals.items()]).sum()
            (loss * world.size).backward()
        for name, total in totals.items():
            sums[names.index(name)] += total.detach()
        tokens = next(iter(parts.values()))
        values = torch.stack([tokens.loss.detach(), torch.ones_like(tokens.loss)], 1)
        by_source.index_add_(0, piece["source_ids"][tokens.row], values)
    return sums, by_source


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: matrices decay, biases and norms do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
