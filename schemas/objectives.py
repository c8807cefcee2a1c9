"""The objectives' parameters, as a job file gives them. What they do is in `transforms/objectives/`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.base import Frozen, Share


class Causal(Frozen):
    """Next-token prediction (GPT). Labels are the inputs shifted by one."""

    kind: Literal["causal"] = "causal"
    pack: Literal["concat"] = "concat"
    """`concat`: documents joined by the end-of-sequence token and cut at the longest length; the tail is kept."""


class Mlm(Frozen):
    """Masked language modeling (BERT, RoBERTa): pre-masked rows with the original ids at the masked places."""

    kind: Literal["mlm"] = "mlm"
    mask_rate: Share = 0.15
    """Share of the row's positions, special tokens counted, that are predicted."""
    max_predictions: Annotated[int, Field(ge=1)] | None = None
    """Upper bound on predictions in a row; none by default."""
    whole_word: bool = False
    """Mask all pieces of a word or none of them."""
    mask_replace_prob: Share = 0.8
    """Share of predicted positions shown as the mask token."""
    random_replace_prob: Share = 0.1
    """Share of predicted positions shown as a random non-special token; the rest stay as they are."""
    pack: Literal["document"] = "document"
    """`document`: a row is one document, or one piece of a document cut at the longest length."""

    @model_validator(mode="after")
    def _rates_fit(self) -> Mlm:
        if self.mask_rate == 0:
            raise ValueError("mask_rate must be above 0")
        if self.mask_replace_prob + self.random_replace_prob > 1 + 1e-9:
            raise ValueError(
                f"mask_replace_prob + random_replace_prob must not exceed 1, got "
                f"{self.mask_replace_prob} + {self.random_replace_prob}"
            )
        return self


class SpanCorruption(Frozen):
    """Span corruption (T5): spans are replaced by sentinels, the target gives them back."""

    kind: Literal["span_corruption"] = "span_corruption"
    noise_density: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of a piece's tokens that are noise."""
    mean_noise_span_length: Annotated[float, Field(ge=1)] = 3.0
    """Noise tokens a span on average."""
    pack: Literal["document"] = "document"
    """`document`: a row is one document, or one piece of a document cut at the longest raw length that fits."""


Objective = Annotated[Causal | Mlm | SpanCorruption, Field(discriminator="kind")]
AnyObjective = Causal | Mlm | SpanCorruption
"""The same union without pydantic's discriminator, for annotations."""
