"""One optimiser step: losses on valid labels, normalised over all processes and micro-batches. Knows no files."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from trainer.models import Family, MicroBatch, moved
from trainer.models.family import Parts, token_loss
from trainer.stream import Batch
from trainer.world import World, without_exchange


class Losses(nn.Module):
    """A model whose forward pass gives the parts of the loss, so that what wraps it sees one call."""

    def __init__(
        self, family: Family, model: nn.Module, *, smoothing: float = 0.0, bf16: bool = False, compiled: bool = False
    ) -> None:
        """Take a model as it is.

        Args:
          family: the model's.
          model: as built.
          smoothing: of token labels, in training only.
          bf16: whether to compute in bf16 where that is safe (autocast).
          compiled: whether to compile backbones, one graph a length and one more where rows have padding, and the
            token loss, which then needs no table of logits in fp32.
        """
        super().__init__()
        self.family, self.model, self._bf16 = family, model, bf16
        self._training_loss, self._loss = functools.partial(token_loss, smoothing=smoothing), token_loss
        if compiled:
            self._training_loss, self._loss = torch.compile(self._training_loss), torch.compile(self._loss)
            for backbone in family.backbones(model):
                backbone.compile(dynamic=False)

    def forward(self, rows: MicroBatch, correct: bool = False) -> Parts:
        """The parts of the loss of some rows."""
        loss = self._training_loss if self.training else self._loss
        with torch.autocast(rows.batch["input_ids"].device.type, dtype=torch.bfloat16, enabled=self._bf16):
            return self.family.parts(self.model, rows, loss=loss, correct=correct)


def allow_graphs(backbones: Sequence[nn.Module], lengths: int) -> None:
    """Let PyTorch compile as many graphs as a run needs; beyond its own limit of 8 the rest would run uncompiled.

    Transformers' models are all called through one function, and PyTorch counts that function's graphs together; what
    FSDP gathers is a graph of its own, and layers of one class count together. For each of these and each length
    there may be six: of training's micro-batches, of the last and smaller one, and of evaluation's batches, each with
    padding and without.
    """
    config, modules = torch._dynamo.config, sum(1 for backbone in backbones for _ in backbone.modules())
    config.recompile_limit = max(config.recompile_limit, 6 * lengths * modules)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, config.recompile_limit)


def micro_batches(family: Family, batch: Batch, count: int) -> Iterator[MicroBatch]:
    """A batch's rows in `count` parts of equal size, the last ones possibly smaller; never an empty one.

    All processes have the same number of rows, and so the same number of micro-batches.
    """
    rows = batch["input_ids"].shape[0]
    size = -(-rows // count)
    for begin in range(0, rows, size):
        tensors: dict[str, torch.Tensor] = {**batch}
        some = {name: t[begin : begin + size] for name, t in tensors.items()}
        yield family.micro_batch(Batch(**some))  # type: ignore[typeddict-item]


def backward(
    module: nn.Module,
    family: Family,
    pieces: Sequence[MicroBatch],
    counts: torch.Tensor,
    world: World,
    sources: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of a step's loss: Σ over parts of weight · (sum over all labels of all processes) / (their number).

    Nothing here asks the device for a value, and so nothing waits for it.

    Args:
      module: `Losses`, wrapped for the processes.
      family: the model's.
      pieces: this process's rows, on the device.
      counts: float [parts], labels over all processes, on the processor.
      world: the processes; their gradients are averaged, so each scales its own by their number.
      sources: number of sources.

    Returns:
      (float32 [parts] sums of losses; float32 [sources, 2] of the first part, sum of losses and labels), of this
      process alone, on the device.
    """
    names = list(family.part_weights)
    sums = torch.zeros(len(names), device=world.device)
    by_source = torch.zeros((max(1, sources), 2), device=world.device)
    weights = torch.tensor(list(family.part_weights.values()))
    scale = moved((weights / counts.clamp(min=1)).float() * world.size, world.device)
    for i, piece in enumerate(pieces):
        with without_exchange(module, i + 1 < len(pieces)):
            parts = module(piece)
            totals = {name: part.loss.sum() for name, part in parts.items()}
            torch.stack([total * scale[names.index(name)] for name, total in totals.items()]).sum().backward()
        for name, total in totals.items():
            sums[names.index(name)] += total.detach()
        tokens = next(iter(parts.values()))
        values = torch.stack([tokens.loss.detach(), torch.ones_like(tokens.loss)], 1)
        by_source.index_add_(0, piece.batch["source_ids"][tokens.row], values)
    return sums, by_source


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: matrices decay, biases and norms do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
