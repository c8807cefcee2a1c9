"""What a family of models is to the trainer: how one is built, and which losses its batches give.

Not a model zoo: architectures, saving and loading are those of transformers, and nothing is downloaded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import nn

from schemas.manifest import TokenizerRecord
from trainer.models.micro_batch import Labels, MicroBatch
from trainer.stream import Batch


class Part(NamedTuple):
    """What one part of a loss came to, at each of its N labels."""

    loss: torch.Tensor
    """float32 [N], in nats."""
    row: torch.Tensor
    """int64 [N], the row of the batch that each is of."""
    correct: torch.Tensor | None
    """bool [N], whether the model's first choice is right; None where nobody asked."""


Parts = dict[str, Part]
"""By name."""

TokenLoss = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
"""(logits [N, classes or more], int64 [N] the right ones, classes) → float32 [N], in nats."""


def token_loss(logits: torch.Tensor, ids: torch.Tensor, classes: int, smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy of each label in fp32; labels smoothed by a share in [0, 1) (Szegedy et al. 2016)."""
    return F.cross_entropy(logits[:, :classes].float(), ids, reduction="none", label_smoothing=smoothing)


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
    def labels(self, batch: Batch) -> dict[str, Labels]:
        """The labels of each part, of a batch on the processor."""

    @abstractmethod
    def parts(self, model: Any, rows: MicroBatch, *, loss: TokenLoss = token_loss, correct: bool = False) -> Parts:
        """The parts of the loss of some rows.

        Args:
          model: as built.
          rows: on the model's device.
          loss: of tokens.
          correct: whether to say which labels are the model's first choice.
        """

    def micro_batch(self, batch: Batch) -> MicroBatch:
        """A batch on the processor as a model gets it."""
        return MicroBatch(batch, self.labels(batch), padded=not bool(batch["attention_mask"].all()))

    def backbones(self, model: Any) -> list[nn.Module]:
        """What `torch.compile` compiles: static shapes, nothing that depends on how many labels there are."""
        return [model.base_model]

    def saved(self, model: Any) -> dict[str, Any]:
        """The models to save, by subdirectory; the one to use is ''."""
        return {"": model}


def vocabulary_logits(head: nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
    """Hidden states [N, hidden] → logits [N, vocabulary or more].

    On a GPU the matrix is filled up to a multiple of 64 rows, since tensor cores need aligned ones, which few
    vocabularies have: with 50,257 words the step of a GPT-2 of 124 M took 235 ms without, and 145 with it.
    """
    missing = -head.out_features % 64
    if not missing or hidden.device.type != "cuda":
        return head(hidden)
    bias = None if head.bias is None else F.pad(head.bias, (0, missing))
    return F.linear(hidden, F.pad(head.weight, (0, 0, 0, missing)), bias)


def predicted(
    logits: torch.Tensor, labels: Labels, *, loss: TokenLoss, correct: bool, classes: int | None = None
) -> Part:
    """A part of N labels from their logits, [N, classes or more]; as many classes as logits by default."""
    classes = logits.shape[1] if classes is None else classes
    right = logits[:, :classes].argmax(-1) == labels.ids if correct else None
    return Part(loss(logits, labels.ids, classes), labels.row, right)


def token_ids(tokenizer: TokenizerRecord, *roles: str) -> dict[str, int | None]:
    """`{"pad_token_id": 0, …}`; None where the vocabulary has no such token, never transformers' default."""
    return {f"{role}_token_id": tokenizer.special_ids.get(role) for role in roles}


def fill_id(tokenizer: TokenizerRecord) -> int:
    """What the stream fills rows up with."""
    return tokenizer.special_ids.get("pad", tokenizer.special_ids.get("eos", 0))
