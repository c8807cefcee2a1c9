"""Which of the rules holds for a tokenizer, if any does."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer

from transforms.boundaries.bert import bert_boundaries
from transforms.boundaries.byte_level import byte_level_boundaries, pattern_of
from transforms.boundaries.cuts import Boundaries
from transforms.boundaries.metaspace import metaspace_boundaries


def boundaries_of(tokenizer: Tokenizer) -> Boundaries | None:
    """The safe cuts of a tokenizer; None where none are known.

    Added tokens could hold anything, so all have to be special and read as plain text.
    """
    if not all(t.special and tokenizer.encode_special_tokens for t in tokenizer.get_added_tokens_decoder().values()):
        return None
    if tokenizer.truncation is not None or tokenizer.padding is not None:
        return None
    spec = json.loads(tokenizer.to_str())
    if (spec["model"] or {}).get("dropout"):
        return None
    normalizer, steps = spec["normalizer"], steps_of(spec["pre_tokenizer"], "pretokenizers")
    kinds = [step["type"] for step in steps]
    if kinds == ["BertPreTokenizer"] and (normalizer is None or normalizer["type"] == "BertNormalizer"):
        return bert_boundaries(tokenizer)
    if kinds in (["Metaspace"], ["WhitespaceSplit", "Metaspace"]) and steps[-1].get("split", True):
        return metaspace_boundaries(tokenizer, steps_of(normalizer, "normalizers"), steps[-1]["replacement"])
    pattern = pattern_of(steps)
    if pattern is None or normalizer not in (None, {"type": "NFC"}):
        return None
    return byte_level_boundaries(pattern, composes=normalizer is not None)


def steps_of(step: dict[str, Any] | None, parts: str) -> list[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, sequences dissolved."""
    if step is None:
        return []
    if step["type"] != "Sequence":
        return [step]
    return [inner for part in step[parts] for inner in steps_of(part, parts)]
