"""What the objectives need to know of a tokenizer: its special ids and which tokens start a word."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from schemas.errors import RequestError

SENTINELS = tuple(f"<extra_id_{i}>" for i in range(100))
"""Sentinel k of span corruption is `<extra_id_k>` (T5's names)."""

_USUAL = {
    "pad": ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>", "<cls>"),
    "sep": ("[SEP]", "</s>", "<sep>"),
    "mask": ("[MASK]", "<mask>"),
    "bos": ("[BOS]", "<s>", "<bos>", "<|begin_of_text|>", "<|endoftext|>"),
    "eos": ("[EOS]", "</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>"),
    "fim_prefix": ("<fim_prefix>", "<fim-prefix>", "<|fim_prefix|>", "▁<PRE>"),
    "fim_middle": ("<fim_middle>", "<fim-middle>", "<|fim_middle|>", "▁<MID>"),
    "fim_suffix": ("<fim_suffix>", "<fim-suffix>", "<|fim_suffix|>", "▁<SUF>"),
    "nlu": ("[NLU]",),
    "nlg": ("[NLG]",),
    "s2s": ("[S2S]",),
}

TRAINED_SPECIAL_TOKENS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[BOS]", "[EOS]"),
    *SENTINELS,
    *("<fim_prefix>", "<fim_middle>", "<fim_suffix>"),
    *("[NLU]", "[NLG]", "[S2S]"),
)
"""Special tokens of a trained vocabulary: its first ids, or its last for `unigram`. BERT's, sentinels (T5), fill in
the middle (StarCoder's names) and the mode tokens of UL2 (R, X and S denoisers)."""


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer's facts, as arrays."""

    sha256: str
    """Of the tokenizer's JSON file."""
    size: int
    """One more than the largest id."""
    special_ids: dict[str, int]
    """By role: pad, unk, cls, sep, mask, bos, eos, fim_prefix …, as far as the vocabulary has them."""
    is_special: npt.NDArray[np.bool_]
    """bool [size]; True for ids that never stand for text: specials, sentinels and ids without a token."""
    sentinel_ids: npt.NDArray[np.int32]
    """int32 ids of `<extra_id_0>`, `<extra_id_1>` … up to the first that the vocabulary lacks."""
    starts_word: npt.NDArray[np.bool_] | None
    """bool [size]; False for tokens that continue a word. None where the vocabulary does not tell."""

    @functools.cached_property
    def text_ids(self) -> npt.NDArray[np.int32]:
        """int32 ids that stand for text, ascending; random replacements are drawn from them."""
        return np.flatnonzero(~self.is_special).astype(np.int32)

    @property
    def special_token_ids(self) -> list[int]:
        """Ids of special tokens that exist, ascending."""
        return np.flatnonzero(self.is_special).tolist()

    @staticmethod
    def usual_names(role: str) -> tuple[str, ...]:
        """The names looked for when the job file gives none."""
        return _USUAL[role]


def read_vocabulary(data: bytes, names: dict[str, str] | None = None, *, where: str = "tokenizer") -> Vocabulary:
    """The facts of a `tokenizer.json`.

    Args:
      data: the file's bytes.
      names: special tokens by role, where the usual names do not tell.
      where: what to call the file in messages.

    Raises:
      RequestError: the file is no tokenizer, or lacks a named token.
    """
    tokenizer = load_tokenizer(data, where=where)
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    size = max(vocab.values(), default=-1) + 1
    added = {t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special}
    roles: dict[str, int] = {}
    for role, usual in _USUAL.items():
        given = (names or {}).get(role)
        if given is not None and given not in vocab:
            raise RequestError(
                f"The tokenizer has no token {given!r}",
                where=f"tokenizer.special_tokens.{role}, {where}",
                expected="a token of the vocabulary",
                got=repr(given),
            )
        candidates = (given,) if given is not None else tuple(n for n in usual if n in added or n in vocab)
        if candidates:
            roles[role] = vocab[candidates[0]]
    is_special = np.ones(size, dtype=bool)
    is_special[list(vocab.values())] = False
    is_special[[vocab[t] for t in added]] = True
    is_special[_sentinels(vocab)] = True
    is_special[list(roles.values())] = True
    return Vocabulary(
        sha256=hashlib.sha256(data).hexdigest(),
        size=size,
        special_ids=roles,
        is_special=is_special,
        sentinel_ids=_sentinels(vocab),
        starts_word=_word_starts(json.loads(data), vocab, size),
    )


def future_vocabulary(size: int) -> Vocabulary:
    """What is known of a vocabulary before it is trained, to check a job before any data moves."""
    is_special = np.zeros(size, dtype=bool)
    is_special[: len(TRAINED_SPECIAL_TOKENS)] = True
    roles = {role: TRAINED_SPECIAL_TOKENS.index(names[0]) for role, names in _USUAL.items()}
    sentinels = np.arange(len(SENTINELS), dtype=np.int32) + TRAINED_SPECIAL_TOKENS.index(SENTINELS[0])
    return Vocabulary("", size, roles, is_special, sentinels, np.ones(size, dtype=bool))


def load_tokenizer(data: bytes, *, where: str = "tokenizer") -> Tokenizer:
    """A tokenizer that neither cuts nor pads, and reads the names of special tokens in a text as plain text.

    Raises:
      RequestError: the bytes are no `tokenizer.json`.
    """
    try:
        tokenizer = Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:  # tokenizers raises bare Exception for every parse error
        raise RequestError(
            "The tokenizer file cannot be read",
            where=where,
            expected="a Hugging Face tokenizer.json",
            got=str(error),
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def _sentinels(vocab: dict[str, int]) -> npt.NDArray[np.int32]:
    ids: list[int] = []
    while (name := f"<extra_id_{len(ids)}>") in vocab:
        ids.append(vocab[name])
    return np.array(ids, dtype=np.int32)


def _word_starts(spec: dict[str, Any], vocab: dict[str, int], size: int) -> npt.NDArray[np.bool_] | None:
    """Which ids start a word: by `##` for WordPiece, by the mark of a space for byte-level and Metaspace."""
    model = spec.get("model") or {}
    starts = np.ones(size, dtype=bool)
    if model.get("type") == "WordPiece":
        prefix = model.get("continuing_subword_prefix") or "##"
        starts[[i for t, i in vocab.items() if t.startswith(prefix) and t != prefix]] = False
        return starts
    text = json.dumps([spec.get("pre_tokenizer"), spec.get("decoder")])
    # Byte-level tokenizers write a space, a line feed, a tab and a carriage return as these letters.
    marks = [m for kind, m in (('"ByteLevel"', ("Ġ", "Ċ", "ĉ", "č")), ('"Metaspace"', ("▁",))) if kind in text]
    if not marks:
        return None
    starts[[i for t, i in vocab.items() if not t.startswith(marks[0])]] = False
    return starts
