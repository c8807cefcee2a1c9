"""Rows of a batch as a model gets them: with the places of their labels, found on the processor.

A GPU that is asked where the labels are has to finish everything before it can answer, in every step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from trainer.stream import IGNORED_LABEL, Batch


class Labels(NamedTuple):
    """The labels of one part of a loss; N of them, those of padding left out."""

    row: torch.Tensor
    """int64 [N], the row of the batch that each is of."""
    place: torch.Tensor
    """int64 [N], the position whose output predicts it; 0 for a label of a whole row."""
    ids: torch.Tensor
    """int64 [N], what is predicted."""


class MicroBatch(NamedTuple):
    """Rows that go through a model together."""

    batch: Batch
    labels: dict[str, Labels]
    """By part of the loss."""
    padded: bool
    """True if a row has padding; without, attention needs no mask and takes its fastest kernel."""

    @property
    def attention_mask(self) -> torch.Tensor | None:
        """bool [rows, 1, 1, length], true on tokens; None where all are.

        Of four dimensions, since transformers looks into one of two and waits for the device.
        """
        return self.batch["attention_mask"][:, None, None] if self.padded else None

    def to(self, device: torch.device) -> MicroBatch:
        """On a device; a GPU copies from pinned memory while it goes on with what it has."""
        if device.type == "cpu":
            return self
        tensors: dict[str, torch.Tensor] = {**self.batch}
        return MicroBatch(
            Batch(**{name: moved(t, device) for name, t in tensors.items()}),  # type: ignore[typeddict-item]
            {part: Labels(*(moved(t, device) for t in labels)) for part, labels in self.labels.items()},
            self.padded,
        )


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the processor's on a device, without waiting for what the device is at."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def labels_of(labels: torch.Tensor) -> Labels:
    """Of a table with `IGNORED_LABEL` where nothing is predicted, int64 [rows, length]."""
    row, place = (labels != IGNORED_LABEL).nonzero(as_tuple=True)
    return Labels(row, place, labels[row, place])


def next_labels_of(labels: torch.Tensor) -> Labels:
    """As `labels_of`, each predicted at the place before its own."""
    return labels_of(labels[:, 1:])


def row_labels_of(labels: torch.Tensor) -> Labels:
    """Of labels of whole rows, int64 [rows]."""
    (row,) = (labels != IGNORED_LABEL).nonzero(as_tuple=True)
    return Labels(row, torch.zeros_like(row), labels[row])
