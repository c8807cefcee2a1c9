"""Texts to token ids, as `tokenizers` gives them, and where in them sentences end."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel

from transforms.ragged import Int64, Ragged, concatenate, offsets_of


def encode_batch(tokenizer: Tokenizer, texts: list[str]) -> Ragged:
    """Ids of texts without special tokens, int32 flat."""
    return _ids([e.ids for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)])


def encode_sentences(tokenizer: Tokenizer, texts: list[str], bounds: list[list[int]]) -> tuple[Ragged, Ragged]:
    """Ids as `encode_batch` gives them, and the token offsets in each text at which its sentences end.

    A token belongs to the sentence its first character is in. A sentence without a token of its own has no end, so
    the offsets ascend strictly and the last is the text's number of tokens.

    Args:
      tokenizer: any.
      texts: the texts.
      bounds: by text, where its sentences end, as `transforms.sentences.sentence_bounds` gives it.

    Returns:
      (ids int32, ends int32), one sequence a text each.
    """
    pieces, inner, pieces_of_text = _cut(texts, bounds, safe_stops(tokenizer))
    ids, counts = _encode_pieces(tokenizer, pieces, inner)
    # The sentences of all texts in order: how many tokens have come by their ends.
    sentences = np.fromiter((len(places) + 1 for places in inner), dtype=np.int64, count=len(inner))
    is_last = np.zeros(int(sentences.sum()), dtype=bool)
    is_last[np.cumsum(sentences) - 1] = True
    ends = np.empty(len(is_last), dtype=np.int64)
    ends[is_last], ends[~is_last] = ids.offsets[1:], counts
    holds_token = np.diff(ends, prepend=0) > 0
    owner = np.repeat(np.repeat(np.arange(len(texts)), pieces_of_text), sentences)[holds_token]
    offsets = ids.offsets[offsets_of(pieces_of_text)]
    within = (ends[holds_token] - offsets[owner]).astype(np.int32)
    return Ragged(ids.flat, offsets), Ragged.from_lengths(within, np.bincount(owner, minlength=len(texts)))


def _cut(
    texts: list[str], bounds: list[list[int]], stops: str | None
) -> tuple[list[str], list[list[int]], npt.NDArray[np.int64]]:
    """(pieces of the texts, where in each sentences end but the last, pieces of each text).

    Looking up places in characters costs a third of the speed. A piece that is one sentence needs none, so texts are
    cut between sentences, wherever that cannot change a token.
    """
    pieces: list[str] = []
    inner: list[list[int]] = []
    pieces_of_text = np.zeros(len(texts), dtype=np.int64)
    for i, (text, places) in enumerate(zip(texts, bounds, strict=True)):
        begin, held = 0, list[int]()
        for place in places:
            if place == len(text) or (stops is not None and (text[place] in " \n\r\t" or text[place - 1] in stops)):
                pieces.append(text[begin:place])
                inner.append(held)
                pieces_of_text[i] += 1
                begin, held = place, []
            else:
                held.append(place - begin)
    return pieces, inner, pieces_of_text


def safe_stops(tokenizer: Tokenizer) -> str | None:
    """Characters after which a text can be cut and gives the same ids; None where none is known to be safe.

    Where it is not None, before whitespace that follows something else is safe too. BERT's normalizer looks at single
    characters and the marks on them, its words end at whitespace, and a punctuation mark is a word. None of GPT-2's
    words has whitespace but at its beginning. Others may look further: Llama's take line ends to the punctuation
    before them, SentencePiece's rules squeeze spaces. And an added token can hold anything, unless it is special and
    so read as plain text.
    """
    if not all(t.special and tokenizer.encode_special_tokens for t in tokenizer.get_added_tokens_decoder().values()):
        return None
    normalizer, words = tokenizer.normalizer, tokenizer.pre_tokenizer
    if isinstance(words, BertPreTokenizer) and (normalizer is None or isinstance(normalizer, BertNormalizer)):
        return ".!?。！？」』”"
    is_gpt2 = isinstance(words, ByteLevel) and words.use_regex and not words.add_prefix_space
    return "" if is_gpt2 and normalizer is None else None


def _encode_pieces(tokenizer: Tokenizer, pieces: list[str], inner: list[list[int]]) -> tuple[Ragged, Int64]:
    """(ids of all pieces, tokens of all pieces together by the end of each sentence inside a piece, in order)."""
    plain = [i for i, held in enumerate(inner) if not held]
    ids = encode_batch(tokenizer, [pieces[i] for i in plain])
    if len(plain) == len(pieces):
        return ids, np.zeros(0, np.int64)
    mixed = [i for i, held in enumerate(inner) if held]
    encodings = tokenizer.encode_batch([pieces[i] for i in mixed], add_special_tokens=False)
    mixed_ids = _ids([e.ids for e in encodings])
    # All places on one axis, pieces end to end, so that one search finds them all.
    sizes = np.array([len(pieces[i]) + 1 for i in mixed], dtype=np.int64)
    bases = np.cumsum(sizes) - sizes
    # One by one, since a list of all of them takes 120 bytes a token.
    offsets: Iterator[Any] = chain.from_iterable(map(e.token_to_chars, range(len(e))) for e in encodings)
    begins = np.fromiter(map(itemgetter(0), offsets), dtype=np.int64, count=len(mixed_ids.flat))
    # A token that stands for no character says it begins at 0, and belongs where the one before it does.
    reached = np.maximum.accumulate(begins + np.repeat(bases, mixed_ids.lengths))
    places = [base + place for base, i in zip(bases.tolist(), mixed, strict=True) for place in inner[i]]
    found = np.searchsorted(reached, np.array(places, dtype=np.int64), side="left")
    inner_counts = np.array([len(inner[i]) for i in mixed], dtype=np.int64)
    within = found - np.repeat(mixed_ids.offsets[:-1], inner_counts)
    order = np.empty(len(pieces), dtype=np.int64)
    order[plain + mixed] = np.arange(len(pieces))
    joined = concatenate([ids, mixed_ids], np.int32).take(order)
    return joined, within + np.repeat(joined.offsets[mixed], inner_counts)


def _ids(encodings: list[list[int]]) -> Ragged:
    lengths: npt.NDArray[np.int64] = np.fromiter(map(len, encodings), dtype=np.int64, count=len(encodings))
    flat = np.fromiter(chain.from_iterable(encodings), dtype=np.int32, count=int(lengths.sum()))
    return Ragged.from_lengths(flat, lengths)
