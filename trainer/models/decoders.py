"""Decoders: GPT-2 and Llama on packed rows, and the prefix LM."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from trainer.models.attention import attention_arguments, register
from trainer.models.family import (
    Family,
    Parts,
    Shape,
    Size,
    TokenLoss,
    predicted,
    token_ids,
    token_loss,
    vocabulary_logits,
)
from trainer.models.micro_batch import Labels, MicroBatch, next_labels_of
from trainer.stream import Batch


class _Decoder(Family):
    """A decoder whose positions each predict the next token."""

    objectives: ClassVar[tuple[str, ...]] = ("causal", "fim")
    part_weights: ClassVar = {"tokens": 1.0}
    packed = True
    causal = True

    def labels(self, batch: Batch) -> dict[str, Labels]:
        """`tokens`: next tokens, of padding and across documents left out."""
        return {"tokens": next_labels_of(batch["labels"])}

    def parts(self, model: Any, rows: MicroBatch, *, loss: TokenLoss = token_loss, correct: bool = False) -> Parts:
        """`tokens`."""
        batch, labels = rows.batch, rows.labels["tokens"]
        positions = {"position_ids": batch["position_ids"]} if "position_ids" in batch else {}
        hidden = model.base_model(
            input_ids=batch["input_ids"],
            use_cache=False,
            **positions,
            **attention_arguments(batch, flex=batch["input_ids"].device.type == "cuda"),
        ).last_hidden_state
        logits = vocabulary_logits(model.lm_head, hidden[labels.row, labels.place])
        return {"tokens": predicted(logits, labels, loss=loss, correct=correct, classes=model.config.vocab_size)}


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
                attn_pdrop=0.0,  # FlexAttention has none
                resid_pdrop=size.dropout,
                attn_implementation=register(),
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
                tie_word_embeddings=True,
                attn_implementation=register(),
                **token_ids(shape.tokenizer, "pad", "bos", "eos"),
            )
        )
