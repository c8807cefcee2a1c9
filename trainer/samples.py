"""What a model makes of fixed validation examples, as text for people: filled masks, continuations, targets."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from tokenizers import Tokenizer

from trainer.models import Family
from trainer.models.encoders import Electra
from trainer.stream import IGNORED_LABEL, Batch, Stream

_NEW_TOKENS = 32
_SHOWN_TOKENS = 64


@torch.no_grad()
def samples(family: Family, model: Any, stream: Stream, device: torch.device, *, count: int = 2) -> str:
    """A paragraph for each of the first examples of a stream; greedy, so the same for the same weights.

    Raises:
      DataError: a shard is missing or damaged.
    """
    tokenizer = Tokenizer.from_str((stream.dataset / "tokenizer.json").read_bytes().decode())
    with contextlib.closing(iter(stream)) as batches:
        batch = family.micro_batch(next(batches)).to(device).batch
    model.eval()
    rows = [i for i in range(len(batch["row_weight"])) if batch["row_weight"][i] > 0][:count]
    with torch.compiler.set_stance("force_eager"):  # not a graph for each length of a text
        texts = [_sample(family, model, batch, tokenizer, i) for i in rows]
    model.train()
    return "\n".join(texts)


def _sample(family: Family, model: Any, batch: Batch, tokenizer: Tokenizer, i: int) -> str:
    ids = batch["input_ids"][i : i + 1, : int(batch["attention_mask"][i].sum())]
    labels = batch["labels"][i]
    if family.causal:
        # A prompt is what is not predicted, or the first quarter of a packed row.
        prompt = int(batch["prefix_lengths"][i]) if "prefix_lengths" in batch else ids.shape[1] // 4
        prompt = max(1, min(prompt, _SHOWN_TOKENS))
        made = _continue(model, ids[:, :prompt])
        return f"prompt: {_text(tokenizer, ids[0, :prompt])}\nmade:   {_text(tokenizer, made)}\n"
    if labels.shape != batch["input_ids"][i].shape or not family.part_weights.keys() & {"mlm"}:
        most = model.config.max_position_embeddings if family.positions is not None else _NEW_TOKENS + 1
        mask, new = torch.ones_like(ids), min(_NEW_TOKENS, most - 1)  # beside what decoding starts with
        made = model.generate(ids, attention_mask=mask, max_new_tokens=new, do_sample=False)[0]
        wanted = labels[labels != IGNORED_LABEL][:_SHOWN_TOKENS]
        return (
            f"input:  {_text(tokenizer, ids[0, :_SHOWN_TOKENS])}\nmade:   {_text(tokenizer, made)}\n"
            f"target: {_text(tokenizer, wanted)}\n"
        )
    return _filled(family, model, ids, labels, tokenizer)


def _continue(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Greedy continuation, without transformers' warnings about what the tokenizer lacks."""
    made = ids
    for _ in range(_NEW_TOKENS):
        logits = model(input_ids=made, use_cache=False).logits[:, -1]
        made = torch.cat([made, logits.argmax(-1, keepdim=True)], dim=1)
        if made.shape[1] >= (getattr(model.config, "n_positions", None) or made.shape[1] + 1):
            break
    return made[0, ids.shape[1] :]


def _filled(family: Family, model: Any, ids: torch.Tensor, labels: torch.Tensor, tokenizer: Tokenizer) -> str:
    masked = model.generator if isinstance(family, Electra) else model
    out = masked(input_ids=ids)
    logits = (out.prediction_logits if hasattr(out, "prediction_logits") else out.logits)[0]
    (places,) = (labels != IGNORED_LABEL).nonzero(as_tuple=True)
    places = places[:8]
    pairs = [
        f"{_text(tokenizer, logits[p].argmax(-1, keepdim=True)) or '·'} ({_text(tokenizer, labels[p : p + 1])})"
        for p in places
    ]
    return f"input:  {_text(tokenizer, ids[0, :_SHOWN_TOKENS])}\nfilled (original): {', '.join(pairs)}\n"


def _text(tokenizer: Tokenizer, ids: torch.Tensor) -> str:
    return " ".join(tokenizer.decode(ids.tolist(), skip_special_tokens=False).split())
