"""What a family of models is to the trainer: how one is built, and which losses its batches give.

Not a model zoo: architectures, saving and loading are those of transformers, and nothing is downloaded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import nn

from schemas.manifest import TokenizerRecord
from trainer.stream import IGNORED_LABEL, Batch


class Part(NamedTuple):
    """The labels of one part of a loss; N of them, those of padding left out."""

    loss: torch.Tensor
    """float32 [N], in nats."""
    row: torch.Tensor
    """int64 [N], the row of the batch that each is of."""
    correct: torch.Tensor | None
    """bool [N], whether the model's first choice is right; None where nobody asked."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """The numbers of an architecture."""

    hidden: int
    layers: int
    """Of the encoder and of the decoder each, where there are both."""
    heads: int
    feed_forward: int
    embedding: int = 0
    """Width of the embeddings where it is another (ALBERT, ELECTRA); 0 for `hidden`."""
    key_value_heads: int = 0
    """Of grouped-query attention; 0 for `heads`."""
    generator_share: float = 1.0
    """ELECTRA: the generator's width as a share of the discriminator's."""
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a dataset asks of a model."""

    tokenizer: TokenizerRecord
    positions: int
    """Tokens of the longest row, or more."""
    objective: str


class Family(ABC):
    """Models of one architecture."""

    objectives: ClassVar[tuple[str, ...]]
    """Kinds of objective that it is trained on."""
    part_weights: ClassVar[Mapping[str, float]]
    """How much each part of the loss weighs in the sum."""
    positions: ClassVar[int | None] = None
    """Positions of the published models; None where there is no bound."""
    packed: ClassVar[bool] = False
    """True if it can keep the documents of a packed row apart."""
    causal: ClassVar[bool] = False
    """True if a position predicts the next one."""

    @abstractmethod
    def build(self, size: Size, shape: Shape) -> nn.Module:
        """A transformers model, initialised from PyTorch's global seed."""

    @abstractmethod
    def parts(self, model: Any, batch: Batch, *, smoothing: float = 0.0, correct: bool = False) -> dict[str, Part]:
        """The parts of the loss of a batch.

        Args:
          model: as built.
          batch: on the model's device.
          smoothing: of the labels, in [0, 1) (Szegedy et al. 2016).
          correct: whether to say which labels are the model's first choice.
        """

    def counts(self, batch: Batch) -> dict[str, torch.Tensor]:
        """How many labels each part will have, int64 scalars, known before any model has seen the batch."""
        labels = batch["labels"][:, 1:] if self.causal else batch["labels"]
        return {"tokens": (labels != IGNORED_LABEL).sum()}

    def backbones(self, model: Any) -> list[nn.Module]:
        """What `torch.compile` compiles: static shapes, nothing that depends on how many labels there are."""
        return [model.base_model]

    def saved(self, model: Any) -> dict[str, Any]:
        """The models to save, by subdirectory; the one to use is ''."""
        return {"": model}


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, row: torch.Tensor, *, smoothing: float, correct: bool
) -> Part:
    """A part of N labels from their logits [N, classes]."""
    loss = F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing)
    return Part(loss, row, logits.argmax(-1) == labels if correct else None)


def token_ids(tokenizer: TokenizerRecord, *roles: str) -> dict[str, int | None]:
    """`{"pad_token_id": 0, …}`; None where the vocabulary has no such token, never transformers' default."""
    return {f"{role}_token_id": tokenizer.special_ids.get(role) for role in roles}


def fill_id(tokenizer: TokenizerRecord) -> int:
    """What the stream fills rows up with."""
    return tokenizer.special_ids.get("pad", tokenizer.special_ids.get("eos", 0))
