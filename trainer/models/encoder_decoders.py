"""Encoder-decoders: T5, UL2's T5 with gated units, and BART, trained on target ids."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import nn

from trainer.models.family import (
    Family,
    Parts,
    Shape,
    Size,
    TokenLoss,
    fill_id,
    predicted,
    token_loss,
    vocabulary_logits,
)
from trainer.models.micro_batch import Labels, MicroBatch, labels_of
from trainer.stream import IGNORED_LABEL, Batch


class _EncoderDecoder(Family):
    """A decoder that predicts the targets from the inputs."""

    part_weights: ClassVar = {"tokens": 1.0}

    def labels(self, batch: Batch) -> dict[str, Labels]:
        """`tokens`: the targets."""
        return {"tokens": labels_of(batch["labels"])}

    def parts(self, model: Any, rows: MicroBatch, *, loss: TokenLoss = token_loss, correct: bool = False) -> Parts:
        """`tokens`: the targets."""
        targets, labels = rows.batch["labels"], rows.labels["tokens"]
        given = torch.full_like(targets, model.config.decoder_start_token_id)
        given[:, 1:] = targets[:, :-1]
        given = given.masked_fill(given == IGNORED_LABEL, model.config.pad_token_id)
        encoder, decoder = self.backbones(model)
        mask, place = rows.attention_mask, torch.arange(targets.shape[1], device=targets.device)
        read = encoder(input_ids=rows.batch["input_ids"], attention_mask=mask).last_hidden_state
        hidden = decoder(
            input_ids=given,
            attention_mask=(place <= place[:, None])[None, None],  # given none, transformers would look for padding
            encoder_hidden_states=read,
            encoder_attention_mask=mask,
            use_cache=False,
        ).last_hidden_state
        logits = self.token_head(model, hidden[labels.row, labels.place])
        return {"tokens": predicted(logits, labels, loss=loss, correct=correct, classes=model.config.vocab_size)}

    def backbones(self, model: Any) -> list[nn.Module]:
        """Encoder and decoder."""
        return [model.get_encoder(), model.get_decoder()]

    @abstractmethod
    def token_head(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states [N, hidden] → logits [N, vocabulary or more]."""


class T5(_EncoderDecoder):
    """T5 (Raffel et al. 2020)."""

    objectives: ClassVar[tuple[str, ...]] = ("span_corruption", "seq2seq")
    feed_forward = "relu"

    def build(self, size: Size, shape: Shape) -> nn.Module:
        """T5ForConditionalGeneration, which scales its output embeddings as the paper's models do."""
        from transformers import T5Config, T5ForConditionalGeneration

        start = fill_id(shape.tokenizer)
        config = T5Config(
            vocab_size=shape.tokenizer.vocab_size,
            d_model=size.hidden,
            d_kv=size.hidden // size.heads,
            d_ff=size.feed_forward,
            num_layers=size.layers,
            num_heads=size.heads,
            dropout_rate=size.dropout,
            feed_forward_proj=self.feed_forward,
            decoder_start_token_id=start,
            pad_token_id=start,
            eos_token_id=shape.tokenizer.special_ids.get("eos"),
        )
        return T5ForConditionalGeneration(config)

    def token_head(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Of T5ForConditionalGeneration."""
        if model.config.scale_decoder_outputs:
            hidden = hidden * model.config.d_model**-0.5
        return vocabulary_logits(model.lm_head, hidden)


class Ul2(T5):
    """UL2 (Tay et al. 2022): T5 with gated GELU units, on a mixture of denoisers."""

    objectives: ClassVar[tuple[str, ...]] = ("ul2", "span_corruption", "seq2seq")
    feed_forward = "gated-gelu"


class Bart(_EncoderDecoder):
    """BART (Lewis et al. 2019)."""

    objectives: ClassVar[tuple[str, ...]] = ("infilling", "seq2seq")
    positions = 1024

    def build(self, size: Size, shape: Shape) -> nn.Module:
        """BartForConditionalGeneration; decoding starts with EOS, as the published models have it."""
        from transformers import BartConfig, BartForConditionalGeneration

        eos = shape.tokenizer.special_ids.get("eos", 0)
        config = BartConfig(
            vocab_size=shape.tokenizer.vocab_size,
            max_position_embeddings=shape.positions,
            d_model=size.hidden,
            encoder_layers=size.layers,
            decoder_layers=size.layers,
            encoder_attention_heads=size.heads,
            decoder_attention_heads=size.heads,
            encoder_ffn_dim=size.feed_forward,
            decoder_ffn_dim=size.feed_forward,
            dropout=size.dropout,
            pad_token_id=fill_id(shape.tokenizer),
            bos_token_id=shape.tokenizer.special_ids.get("bos"),
            eos_token_id=eos,
            decoder_start_token_id=eos,
            forced_eos_token_id=eos,
        )
        return BartForConditionalGeneration(config)

    def token_head(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Of BartForConditionalGeneration; its `final_logits_bias` is not trained and stays 0."""
        return vocabulary_logits(model.lm_head, hidden)
