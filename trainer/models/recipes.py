"""Recipes: a family, a size and the numbers it is trained with, by name such as `bert-tiny`.

The tiny ones are for a processor and minutes: two layers, no dropout, since they see a corpus once. Small and base
have the shapes of published models, or say that they are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from schemas.errors import RequestError, did_you_mean
from schemas.manifest import Manifest
from trainer.models.decoders import Gpt, Llama, PrefixLm
from trainer.models.encoder_decoders import T5, Bart, Ul2
from trainer.models.encoders import Albert, Bert, Electra, Roberta
from trainer.models.family import Family, Shape, Size
from trainer.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A model and how it is trained."""

    name: str
    family: Family
    size: Size
    learning_rate: float
    """Peak, where none is asked for."""
    schedule: Schedule
    betas: tuple[float, float]
    weight_decay: float

    def build(self, manifest: Manifest, longest_row: int, positions: int | None = None) -> nn.Module:
        """The model for a dataset, initialised from PyTorch's global seed.

        Args:
          manifest: the dataset's.
          longest_row: tokens of its longest length bucket, or of that one's targets.
          positions: of the model; by default those of the published one, and of tiny ones `longest_row`.

        Raises:
          RequestError: a row is longer than the model's positions.
        """
        bound = positions or (None if self.name.endswith("-tiny") else self.family.positions)
        if bound is not None and bound < longest_row:
            raise RequestError(
                "The dataset has rows or targets that are longer than the model's positions",
                expected=f"at most {bound} tokens, the positions of {self.name}",
                got=f"a length of {longest_row}",
                remedy=f"Give the model more (--positions {longest_row}), or prepare a dataset of shorter lengths",
            )
        objective = str(manifest.objective.get("kind"))
        shape = Shape(tokenizer=manifest.tokenizer, positions=bound or longest_row, objective=objective)
        return self.family.build(self.size, shape)


_ENCODER = {"schedule": "linear", "betas": (0.9, 0.999), "weight_decay": 0.01}
_DECODER = {"schedule": "cosine", "betas": (0.9, 0.95), "weight_decay": 0.1}
_ENCODER_DECODER = {"schedule": "inverse_sqrt", "betas": (0.9, 0.98), "weight_decay": 0.01}

_TINY = Size(hidden=128, layers=2, heads=2, feed_forward=512)
_BERT_SMALL = Size(hidden=512, layers=4, heads=8, feed_forward=2048, dropout=0.1)  # Turc et al. 2019
_BERT_BASE = Size(hidden=768, layers=12, heads=12, feed_forward=3072, dropout=0.1)
_GPT_SMALL = Size(hidden=768, layers=12, heads=12, feed_forward=3072)  # GPT-2 124M; no dropout on one pass
_GPT_BASE = Size(hidden=1024, layers=24, heads=16, feed_forward=4096)  # GPT-2 355M
_LLAMA_SMALL = Size(hidden=768, layers=12, heads=12, feed_forward=2048, key_value_heads=4)  # ours
_LLAMA_BASE = Size(hidden=2048, layers=16, heads=32, feed_forward=8192, key_value_heads=8)  # Llama 3.2 1B

# name: family, common numbers, size and peak learning rate of tiny, small and base
_TABLE: dict[str, tuple[Family, Mapping[str, Any], tuple[tuple[Size, float], ...]]] = {
    "bert": (Bert(), _ENCODER, ((_TINY, 2e-3), (_BERT_SMALL, 5e-4), (_BERT_BASE, 1e-4))),
    "roberta": (Roberta(), _ENCODER, ((_TINY, 2e-3), (_BERT_SMALL, 6e-4), (_BERT_BASE, 6e-4))),
    "albert": (
        Albert(),
        _ENCODER,
        (
            (replace(_TINY, embedding=64), 2e-3),
            (replace(_BERT_SMALL, embedding=128, dropout=0.0), 5e-4),
            (replace(_BERT_BASE, embedding=128, dropout=0.0), 2e-4),
        ),
    ),
    "electra": (
        Electra(),
        _ENCODER,
        (
            (replace(_TINY, generator_share=0.5), 2e-3),
            # paper, table 6; the code's small generator is as wide as a quarter
            (Size(hidden=256, layers=12, heads=4, feed_forward=1024, embedding=128, generator_share=0.25), 5e-4),
            (replace(_BERT_BASE, generator_share=1 / 3), 2e-4),
        ),
    ),
    "gpt": (Gpt(), _DECODER, ((_TINY, 2e-3), (_GPT_SMALL, 6e-4), (_GPT_BASE, 3e-4))),
    "llama": (
        Llama(),
        _DECODER,
        ((replace(_TINY, feed_forward=384, key_value_heads=1), 2e-3), (_LLAMA_SMALL, 6e-4), (_LLAMA_BASE, 3e-4)),
    ),
    "prefix-lm": (PrefixLm(), _DECODER, ((_TINY, 2e-3), (_GPT_SMALL, 6e-4), (_GPT_BASE, 3e-4))),
    "t5": (
        T5(),
        _ENCODER_DECODER,
        (
            (_TINY, 2e-3),
            (Size(hidden=512, layers=6, heads=8, feed_forward=2048), 1e-3),
            (Size(hidden=768, layers=12, heads=12, feed_forward=3072), 1e-3),
        ),
    ),
    "ul2": (
        Ul2(),
        _ENCODER_DECODER,
        (
            (replace(_TINY, feed_forward=384), 2e-3),
            (Size(hidden=512, layers=8, heads=8, feed_forward=1024), 1e-3),
            (Size(hidden=768, layers=12, heads=12, feed_forward=2048), 1e-3),
        ),
    ),
    "bart": (
        Bart(),
        {**_ENCODER_DECODER, "schedule": "linear"},
        (
            (_TINY, 2e-3),
            (Size(hidden=512, layers=6, heads=8, feed_forward=2048, dropout=0.1), 5e-4),
            (Size(hidden=768, layers=6, heads=12, feed_forward=3072, dropout=0.1), 3e-4),
        ),
    ),
}

RECIPES: dict[str, Recipe] = {
    f"{name}-{size_name}": Recipe(name=f"{name}-{size_name}", family=family, size=size, learning_rate=rate, **common)
    for name, (family, common, sizes) in _TABLE.items()
    for size_name, (size, rate) in zip(("tiny", "small", "base"), sizes, strict=True)
}
"""By name."""


def choose_recipe(name: str | None, objective: Mapping[str, Any]) -> Recipe:
    """The recipe of that name, or the tiny one for the objective.

    Args:
      name: of a recipe; None for the default.
      objective: the manifest's.

    Raises:
      RequestError: there is no such recipe, or it is for another objective.
    """
    kind = str(objective.get("kind"))
    fitting = [r for r in RECIPES.values() if kind in r.family.objectives]
    if name is None and fitting:
        tiny = "albert-tiny" if objective.get("task") == "sop" else fitting[0].name
        return RECIPES[tiny]
    if name is None:
        every = {o for r in RECIPES.values() for o in r.family.objectives}
        raise RequestError(f"No recipe trains the objective {kind!r}", expected=" or ".join(sorted(every)))
    if name not in RECIPES:
        raise RequestError(f"There is no recipe {name!r}: {did_you_mean(name, RECIPES)}")
    if RECIPES[name] not in fitting:
        names = ", ".join(r.name for r in fitting)
        raise RequestError(
            "The recipe does not fit the dataset's objective",
            expected=f"a recipe for {kind}: {names}" if names else "a dataset of another objective",
            got=f"{name}, which is for {' or '.join(RECIPES[name].family.objectives)}",
            remedy=f"Use --recipe {fitting[0].name}" if fitting else "",
        )
    return RECIPES[name]
