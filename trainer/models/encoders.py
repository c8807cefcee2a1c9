"""Encoders: BERT, RoBERTa, ALBERT and ELECTRA, with masked, pair and replaced-token losses.

Only positions that have a label go through the vocabulary head: 15 % of the work of projecting all, for one loss.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import nn

from trainer.models.family import (
    Family,
    Part,
    Parts,
    Shape,
    Size,
    TokenLoss,
    fill_id,
    predicted,
    token_ids,
    token_loss,
)
from trainer.models.micro_batch import Labels, MicroBatch, labels_of, row_labels_of
from trainer.stream import IGNORED_LABEL, Batch


class _Masked(Family):
    """An encoder with a head for masked tokens and, on pairs, one for the pair."""

    objectives: ClassVar[tuple[str, ...]] = ("mlm", "sentence_pair")
    part_weights: ClassVar = {"mlm": 1.0, "pair": 1.0}
    positions = 512

    def labels(self, batch: Batch) -> dict[str, Labels]:
        """`mlm`, and `pair` where the batch has pairs."""
        labels = {"mlm": labels_of(batch["labels"])}
        if "pair_labels" in batch:
            labels["pair"] = row_labels_of(batch["pair_labels"])
        return labels

    def parts(self, model: Any, rows: MicroBatch, *, loss: TokenLoss = token_loss, correct: bool = False) -> Parts:
        """`mlm`, and `pair` where the batch has pairs, whose labels are not smoothed."""
        batch, masked = rows.batch, rows.labels["mlm"]
        out = model.base_model(
            input_ids=batch["input_ids"],
            attention_mask=rows.attention_mask,
            **({"token_type_ids": batch["token_type_ids"]} if "token_type_ids" in batch else {}),
        )
        logits = self.token_head(model)(out.last_hidden_state[masked.row, masked.place])
        parts = {"mlm": predicted(logits, masked, loss=loss, correct=correct)}
        if "pair" in rows.labels:
            pairs = rows.labels["pair"]
            logits = self.pair_head(model)(out.pooler_output[pairs.row])
            parts["pair"] = predicted(logits, pairs, loss=token_loss, correct=correct)
        return parts

    @abstractmethod
    def token_head(self, model: Any) -> Any:
        """Hidden states [N, hidden] → logits [N, vocabulary]."""

    def pair_head(self, model: Any) -> Any:
        """Pooled outputs [N, hidden] → logits [N, 2]; TypeError for a family without `sentence_pair`."""
        raise TypeError(f"{type(self).__name__} has no head for pairs")


def _encoder_config(size: Size, shape: Shape) -> dict[str, Any]:
    return {
        "vocab_size": shape.tokenizer.vocab_size,
        "max_position_embeddings": shape.positions,
        "hidden_size": size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": size.feed_forward,
        "hidden_dropout_prob": size.dropout,
        "attention_probs_dropout_prob": size.dropout,
        **token_ids(shape.tokenizer, "pad"),
    }


class Bert(_Masked):
    """BERT (Devlin et al. 2018): masked tokens, and next sentences or sentence order where there are pairs."""

    def build(self, size: Size, shape: Shape) -> nn.Module:
        """With a pair head for pairs only."""
        from transformers import BertConfig, BertForMaskedLM, BertForPreTraining

        config = BertConfig(**_encoder_config(size, shape))
        return BertForPreTraining(config) if shape.objective == "sentence_pair" else BertForMaskedLM(config)

    def token_head(self, model: Any) -> Any:
        """Of either model."""
        return model.cls.predictions

    def pair_head(self, model: Any) -> Any:
        """Of BertForPreTraining."""
        return model.cls.seq_relationship


class Albert(_Masked):
    """ALBERT (Lan et al. 2019): shared layers, factorised embeddings, sentence order."""

    def build(self, size: Size, shape: Shape) -> nn.Module:
        """With a pair head for pairs only."""
        from transformers import AlbertConfig, AlbertForMaskedLM, AlbertForPreTraining

        config = AlbertConfig(
            **_encoder_config(size, shape),
            **token_ids(shape.tokenizer, "bos", "eos"),
            embedding_size=size.embedding or size.hidden,
            classifier_dropout_prob=size.dropout,
        )
        return AlbertForPreTraining(config) if shape.objective == "sentence_pair" else AlbertForMaskedLM(config)

    def token_head(self, model: Any) -> Any:
        """Of either model."""
        return model.predictions

    def pair_head(self, model: Any) -> Any:
        """Of AlbertForPreTraining."""
        return model.sop_classifier


class Roberta(_Masked):
    """RoBERTa (Liu et al. 2019): masked tokens alone."""

    objectives: ClassVar[tuple[str, ...]] = ("mlm",)

    def build(self, size: Size, shape: Shape) -> nn.Module:
        """Its positions are counted from the pad id on."""
        from transformers import RobertaConfig, RobertaForMaskedLM

        config = _encoder_config(size, shape) | token_ids(shape.tokenizer, "bos", "eos")
        if config["pad_token_id"] is None:
            config["pad_token_id"] = fill_id(shape.tokenizer)
        config["max_position_embeddings"] = shape.positions + config["pad_token_id"] + 1
        return RobertaForMaskedLM(RobertaConfig(**config, type_vocab_size=1))

    def token_head(self, model: Any) -> Any:
        """Of RobertaForMaskedLM."""
        return model.lm_head


class ElectraPair(nn.Module):
    """A generator and a discriminator that share their token embeddings."""

    def __init__(self, generator: Any, discriminator: Any) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
            setattr(generator.electra.embeddings, name, getattr(discriminator.electra.embeddings, name))
        generator.tie_weights()


class Electra(Family):
    """ELECTRA (Clark et al. 2020): a generator fills the masked places in, a discriminator finds what it replaced."""

    objectives: ClassVar[tuple[str, ...]] = ("replaced_token",)
    part_weights: ClassVar = {"mlm": 1.0, "rtd": 50.0}  # paper, appendix A: λ = 50
    positions = 512

    def build(self, size: Size, shape: Shape) -> nn.Module:
        """Both models, with one table of token embeddings."""
        from transformers import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining

        def config(share: float) -> Any:
            values = _encoder_config(size, shape)
            values["num_attention_heads"] = max(1, round(size.heads * share))
            values["hidden_size"] = round(size.hidden * share)
            values["intermediate_size"] = round(size.feed_forward * share)
            return ElectraConfig(**values, embedding_size=size.embedding or size.hidden)

        return ElectraPair(ElectraForMaskedLM(config(size.generator_share)), ElectraForPreTraining(config(1.0)))

    def labels(self, batch: Batch) -> dict[str, Labels]:
        """`mlm` of the generator; `rtd` of the discriminator, the original ids of all real tokens."""
        row, place = (batch["attention_mask"] & (batch["row_weight"] > 0)[:, None]).nonzero(as_tuple=True)
        originals = torch.where(batch["labels"] == IGNORED_LABEL, batch["input_ids"], batch["labels"])
        return {"mlm": labels_of(batch["labels"]), "rtd": Labels(row, place, originals[row, place])}

    def parts(self, model: Any, rows: MicroBatch, *, loss: TokenLoss = token_loss, correct: bool = False) -> Parts:
        """`mlm` of the generator; `rtd` of the discriminator, on all real tokens.

        A replacement is drawn with the batch's own draws, so it depends neither on the number of ranks nor on what
        was drawn before. One that equals the original is labelled original.
        """
        ids, mask, masked, real = rows.batch["input_ids"], rows.attention_mask, rows.labels["mlm"], rows.labels["rtd"]
        generator = model.generator
        hidden = generator.electra(input_ids=ids, attention_mask=mask).last_hidden_state[masked.row, masked.place]
        logits = generator.generator_lm_head(generator.generator_predictions(hidden))
        with torch.no_grad():
            # the first id at which the cumulated probability exceeds the draw
            ladder = logits.float().softmax(-1).cumsum(-1)
            draws = rows.batch["sample_draws"][masked.row, masked.place, None]
            drawn = torch.searchsorted(ladder, draws * ladder[:, -1:], right=True)
            filled = ids.clone()
            filled[masked.row, masked.place] = drawn.squeeze(-1).clamp(max=logits.shape[-1] - 1)
            replaced = filled[real.row, real.place] != real.ids
        score = model.discriminator(input_ids=filled, attention_mask=mask).logits[real.row, real.place].float()
        wrong = F.binary_cross_entropy_with_logits(score, replaced.float(), reduction="none")
        return {
            "mlm": predicted(logits, masked, loss=loss, correct=correct),
            "rtd": Part(wrong, real.row, (score > 0) == replaced if correct else None),
        }

    def backbones(self, model: Any) -> list[nn.Module]:
        """Both encoders."""
        return [model.generator.electra, model.discriminator.electra]

    def saved(self, model: Any) -> dict[str, Any]:
        """The discriminator, which is what is fine-tuned, and the generator beside it."""
        return {"": model.discriminator, "generator": model.generator}
