"""Decoders: GPT-2 and Llama on packed rows, and the prefix LM."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from trainer.models.family import Family, Part, Shape, Size, cross_entropy, token_ids
from trainer.stream import IGNORED_LABEL, Batch


def block_mask(batch: Batch) -> torch.Tensor | None:
    """bool [rows, 1, length, length]: whom a token may attend to, where that is not simply all before it.

    Tokens of the same document up to itself; in a prefix, the whole prefix (Raffel et al. 2020, figure 4). None
    where a batch has neither documents nor prefixes, so that the attention's own causal kernel serves.
    """
    documents, prefix = batch.get("document_ids"), batch.get("prefix_lengths")
    if documents is None and prefix is None:
        return None
    place = torch.arange(batch["input_ids"].shape[1], device=batch["input_ids"].device)
    allowed = (place <= place[:, None])[None]
    if prefix is not None:
        allowed = allowed | (place < prefix[:, None])[:, None, :]
    if documents is not None:
        allowed = allowed & (documents[:, :, None] == documents[:, None, :])
    return (allowed & batch["attention_mask"][:, None, :])[:, None]


class _Decoder(Family):
    """A decoder whose positions each predict the next token."""

    objectives: ClassVar[tuple[str, ...]] = ("causal", "fim")
    part_weights: ClassVar = {"tokens": 1.0}
    packed = True
    causal = True

    def parts(self, model: Any, batch: Batch, *, smoothing: float = 0.0, correct: bool = False) -> dict[str, Part]:
        """`tokens`: next tokens, of padding and across documents left out."""
        mask = block_mask(batch)
        positions = {"position_ids": batch["position_ids"]} if "position_ids" in batch else {}
        hidden = model.base_model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"] if mask is None else mask,
            use_cache=False,
            **positions,
        ).last_hidden_state
        row, place = (batch["labels"][:, 1:] != IGNORED_LABEL).nonzero(as_tuple=True)
        labels = batch["labels"][row, place + 1]
        logits = model.lm_head(hidden[row, place])
        return {"tokens": cross_entropy(logits, labels, row, smoothing=smoothing, correct=correct)}


class Gpt(_Decoder):
    """GPT-2 (Radford et al. 2019)."""

    positions = 1024

    def build(self, size: Size, shape: Shape) -> nn.Module:
        """GPT2LMHeadModel."""
        from transformers import GPT2Config, GPT2LMHeadModel

        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=shape.tokenizer.vocab_size,
                n_positions=shape.positions,
                n_embd=size.hidden,
                n_layer=size.layers,
                n_head=size.heads,
                n_inner=size.feed_forward,
                activation_function="gelu_pytorch_tanh",  # the same function as GPT-2's in one kernel
                embd_pdrop=size.dropout,
                attn_pdrop=size.dropout,
                resid_pdrop=size.dropout,
                **token_ids(shape.tokenizer, "pad", "bos", "eos"),
            )
        )


class PrefixLm(Gpt):
    """GPT-2 that reads a prefix in both directions and is trained on what follows it."""

    objectives: ClassVar[tuple[str, ...]] = ("prefix_lm",)


class Llama(_Decoder):
    """Llama (Touvron et al. 2023): rotary positions, RMS norms, SwiGLU, grouped-query attention."""

    def build(self, size: Size, shape: Shape) -> nn.Module:
        """LlamaForCausalLM."""
        from transformers import LlamaConfig, LlamaForCausalLM

        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=shape.tokenizer.vocab_size,
                max_position_embeddings=max(2048, shape.positions),
                hidden_size=size.hidden,
                num_hidden_layers=size.layers,
                num_attention_heads=size.heads,
                num_key_value_heads=size.key_value_heads or size.heads,
                intermediate_size=size.feed_forward,
                attention_dropout=size.dropout,
                tie_word_embeddings=True,
                **token_ids(shape.tokenizer, "pad", "bos", "eos"),
            )
        )
