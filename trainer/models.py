"""Recipes: the models this trainer builds, randomly initialised, and the loss each is trained with.

A recipe is one entry of `RECIPES`. The tiny ones have no dropout: they see a corpus once, for minutes. Not a model
zoo: architectures, saving and loading are those of transformers, and nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import nn

from schemas.errors import RequestError, did_you_mean
from schemas.manifest import TokenizerRecord
from trainer.stream import IGNORED_LABEL, Batch


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A model and how it is trained."""

    name: str
    objective: str
    """The kind of objective that its loss is for."""
    build: Callable[[TokenizerRecord, int], Any]
    """(tokenizer, longest row in tokens) → a transformers model, initialised from PyTorch's global seed."""
    hidden_states: Callable[[Any, Batch], torch.Tensor]
    """(model, batch) → the last hidden states, float [rows, length, hidden]."""
    head: Callable[[Any, torch.Tensor], torch.Tensor]
    """(model, hidden states [N, hidden]) → logits [N, vocabulary]."""
    shift: int
    """A position predicts the label this many positions later: 0 in place, 1 the next token."""
    learning_rate: float
    """Peak, where none is asked for."""


def loss_sum(recipe: Recipe, model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of a batch in nats, summed over its valid labels, and their number.

    Only positions that have a label go through the head: for `mlm` that is 15 % of the work of projecting every
    position onto the vocabulary, for the same loss.

    Returns:
      (float scalar, int64 scalar); (0, 0) for a batch of padding rows alone.
    """
    hidden, labels = recipe.hidden_states(model, batch), batch["labels"]
    if recipe.shift:
        hidden, labels = hidden[:, : -recipe.shift], labels[:, recipe.shift :]
    valid = labels != IGNORED_LABEL
    logits = recipe.head(model, hidden[valid])
    return F.cross_entropy(logits.float(), labels[valid], reduction="sum"), valid.sum()


def _token_ids(tokenizer: TokenizerRecord, *roles: str) -> dict[str, int | None]:
    """`{"pad_token_id": 0, …}`; None where the vocabulary has no such token, never transformers' default."""
    return {f"{role}_token_id": tokenizer.special_ids.get(role) for role in roles}


def _bert_tiny(tokenizer: TokenizerRecord, max_length: int) -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(
        BertConfig(
            vocab_size=tokenizer.vocab_size,
            max_position_embeddings=max_length,
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=512,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            **_token_ids(tokenizer, "pad"),
        )
    )


def _gpt_tiny(tokenizer: TokenizerRecord, max_length: int) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=tokenizer.vocab_size,
            n_positions=max_length,
            n_embd=128,
            n_layer=2,
            n_head=2,
            activation_function="gelu_pytorch_tanh",  # the same function as GPT-2's in one kernel
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            resid_pdrop=0.0,
            **_token_ids(tokenizer, "pad", "bos", "eos"),
        )
    )


def _bert_hidden_states(model: Any, batch: Batch) -> torch.Tensor:
    return model.bert(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state


def _gpt_hidden_states(model: Any, batch: Batch) -> torch.Tensor:
    return model.transformer(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    ).last_hidden_state


RECIPES: dict[str, Recipe] = {
    r.name: r
    for r in (
        Recipe(
            name="bert-tiny",
            objective="mlm",
            build=_bert_tiny,
            hidden_states=_bert_hidden_states,
            head=lambda model, hidden: model.cls(hidden),
            shift=0,
            learning_rate=2e-3,
        ),
        Recipe(
            name="gpt-tiny",
            objective="causal",
            build=_gpt_tiny,
            hidden_states=_gpt_hidden_states,
            head=lambda model, hidden: model.lm_head(hidden),
            shift=1,
            learning_rate=2e-3,
        ),
    )
}
"""By name."""


def choose_recipe(name: str | None, objective: str) -> Recipe:
    """The recipe of that name, or the first one for the objective.

    Raises:
      RequestError: there is no such recipe, or it is for another objective.
    """
    fitting = [r for r in RECIPES.values() if r.objective == objective]
    if name is None and fitting:
        return fitting[0]
    if name is None:
        raise RequestError(
            f"No recipe trains the objective {objective!r}",
            expected=" or ".join(sorted({r.objective for r in RECIPES.values()})),
        )
    if name not in RECIPES:
        raise RequestError(f"There is no recipe {name!r}: {did_you_mean(name, RECIPES)}")
    if RECIPES[name] not in fitting:
        names = ", ".join(r.name for r in fitting)
        raise RequestError(
            "The recipe does not fit the dataset's objective",
            expected=f"a recipe for {objective}: {names}" if names else "a dataset of another objective",
            got=f"{name}, which is for {RECIPES[name].objective}",
            remedy=f"Use --recipe {names}" if len(fitting) == 1 else "",
        )
    return RECIPES[name]
