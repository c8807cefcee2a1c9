"""How many operations a model takes for a batch, counted by PyTorch on a copy of the model without storage."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from trainer.models import Family, MicroBatch
from trainer.stream import Batch


class FlopCounter:
    """Operations of matrix products and attention, forwards and backwards.

    As usual for a model's FLOPs utilisation (Chowdhery et al. 2022, appendix B), attention counts in full, also what
    is masked out, and nothing is counted twice for being computed twice.
    """

    def __init__(self, family: Family, model: Any) -> None:
        """Take a model that was built on the device `meta`."""
        self._family, self._model = family, model
        self._per_position: dict[int, float] = {}

    def of(self, rows: MicroBatch) -> float:
        """Operations of a step with these rows; per position those of the first rows of this length."""
        count, length = rows.batch["input_ids"].shape
        if length not in self._per_position:
            self._per_position[length] = self._forward(rows) * 3 / (count * length)  # a backward pass is two of them
        return self._per_position[length] * count * length

    def _forward(self, rows: MicroBatch) -> int:
        masks = ("document_ids", "position_ids", "prefix_lengths")
        tensors: dict[str, Any] = {name: t for name, t in rows.batch.items() if name not in masks}
        whole = MicroBatch(Batch(**tensors), rows.labels, padded=False)  # type: ignore[typeddict-item]
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            self._family.parts(self._model, whole.to(torch.device("meta")))
        return int(counter.get_total_flops())
