"""Texts to token ids, as `tokenizers` gives them, and where in them sentences end.

Words repeat, and most of a tokenizer's work is done again and again. `Encoder` cuts texts where the tokenizer cannot
see across (`transforms.boundaries` has the proof), finds the distinct pieces of a batch, has the tokenizer encode
those it has not met (`transforms.memo`), and gathers the ids of all. A tokenizer for which no cuts are known encodes
every text whole, which is what `encode_batch` and `encode_with_ends` do for any.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import Tokenizer

from transforms.boundaries import Boundaries, boundaries_of
from transforms.memo import Memo
from transforms.ragged import Int64, Ragged, concatenate, offsets_of
from transforms.texts import strings

_GROUP_TEXTS, _GROUP_CHARACTERS = 2**13, 2**20
"""Encoded at a time: it takes a kilobyte a text and 120 bytes a character."""


def encode_batch(tokenizer: Tokenizer, texts: list[str]) -> Ragged:
    """Ids of texts without special tokens, int32."""
    return concatenate(
        [
            _ids([e.ids for e in tokenizer.encode_batch_fast(group, add_special_tokens=False)])
            for group in _groups(texts)
        ],
        np.int32,
    )


def encode_with_ends(tokenizer: Tokenizer, texts: list[str], bounds: list[list[int]]) -> tuple[Ragged, Ragged]:
    """Ids as `encode_batch` gives them, and how many tokens begin before each place of a text.

    A token begins where its first character does. One that stands for no character belongs to the one before it.

    Args:
      tokenizer: any.
      texts: the texts.
      bounds: by text, places in characters, ascending.

    Returns:
      (ids int32, counts int64), one sequence a text each.
    """
    ids, counts, done = [], [], 0
    for group in _groups(texts):
        encodings = tokenizer.encode_batch(group, add_special_tokens=False)
        ids.append(_ids([e.ids for e in encodings]))
        # One by one, since a list of all of them takes 120 bytes a token.
        offsets: Iterator[Any] = chain.from_iterable(map(e.token_to_chars, range(len(e))) for e in encodings)
        begins = np.fromiter(map(itemgetter(0), offsets), dtype=np.int64, count=len(ids[-1].flat))
        for i, places in enumerate(bounds[done : done + len(group)]):
            reached = np.maximum.accumulate(begins[ids[-1].offsets[i] : ids[-1].offsets[i + 1]])
            counts.append(np.searchsorted(reached, places, side="left").astype(np.int64))
        done += len(group)
    return concatenate(ids, np.int32), Ragged.from_lengths(
        np.concatenate([np.zeros(0, np.int64), *counts]), np.array([len(c) for c in counts], dtype=np.int64)
    )


class Encoder:
    """Encodes texts with a tokenizer, and remembers. Ids are those of `encode_batch`, whatever came before."""

    def __init__(self, tokenizer: Tokenizer):
        """For a tokenizer, which must not be changed any more."""
        self.tokenizer = tokenizer
        self.boundaries = boundaries_of(tokenizer)
        """None where texts are encoded whole."""
        self.memo = Memo(lambda pieces: encode_batch(tokenizer, pieces))

    def encode(self, texts: Ragged) -> Ragged:
        """Ids of texts without special tokens, int32.

        Args:
          texts: uint8, the UTF-8 of each text.
        """
        if self.boundaries is None:
            return encode_batch(self.tokenizer, strings(texts))
        return _of_texts(texts, *self._pieces(texts, self.boundaries))

    def encode_sentences(self, texts: Ragged, bounds: list[list[int]]) -> tuple[Ragged, Ragged]:
        """Ids as `encode` gives them, and the token offsets in each text at which its sentences end.

        A token belongs to the sentence its first character is in. A sentence without a token of its own has no end,
        so the offsets ascend strictly and the last is the text's number of tokens.

        Args:
          texts: uint8, the UTF-8 of each text.
          bounds: by text, where its sentences end, as `transforms.sentences.sentence_bounds` gives it.

        Returns:
          (ids int32, ends int32), one sequence a text each.
        """
        sentences = np.fromiter(map(len, bounds), dtype=np.int64, count=len(bounds))
        if self.boundaries is None:
            ids, found = encode_with_ends(self.tokenizer, strings(texts), bounds)
            counts = found.flat.astype(np.int64)
        else:
            cut, pieces = self._pieces(texts, self.boundaries)
            ids = _of_texts(texts, cut, pieces)
            counts = self._tokens_before(cut, pieces, _byte_places(texts, bounds, sentences))
            counts -= np.repeat(ids.offsets[:-1], sentences)
        firsts = offsets_of(sentences)[:-1]
        counts[firsts + sentences - 1] = ids.lengths
        new = np.diff(counts, prepend=0)
        new[firsts] = counts[firsts]
        owner = np.repeat(np.arange(len(bounds)), sentences)[new > 0]
        return ids, Ragged.from_lengths(counts[new > 0].astype(np.int32), np.bincount(owner, minlength=len(bounds)))

    def _pieces(self, texts: Ragged, boundaries: Boundaries) -> tuple[_Cut, Ragged]:
        """The pieces of the texts, and the ids of each."""
        cut = _Cut.of(texts, boundaries)
        return cut, self.memo.ids_of(cut.pieces, cut.order)

    def _tokens_before(self, cut: _Cut, ids: Ragged, places: Int64) -> Int64:
        """Tokens of all texts together that begin before each place, a byte."""
        piece = np.searchsorted(cut.edges, places, side="left")
        counts = ids.offsets[piece]
        if len(within := np.flatnonzero(cut.edges[piece] != places)):
            piece = piece[within] - 1
            named = (cut.order[piece].astype(np.int64) << 32) | (places[within] - cut.edges[piece])
            named, which = np.unique(named, return_inverse=True)
            texts = [cut.pieces[name >> 32] for name in named.tolist()]
            heads = [t.encode()[: name & 0xFFFFFFFF].decode() for t, name in zip(texts, named.tolist(), strict=True)]
            _, found = encode_with_ends(self.tokenizer, texts, [[len(head)] for head in heads])
            counts[within] = ids.offsets[piece] + found.flat.astype(np.int64)[which]
        return counts


@dataclass(frozen=True)
class _Cut:
    """The pieces of texts."""

    edges: Int64
    """int64 [pieces + 1]: first byte of each, and the end."""
    pieces: list[str]
    """The distinct ones."""
    order: npt.NDArray[np.integer]
    """int [pieces]: which of them each is."""

    @staticmethod
    def of(texts: Ragged, boundaries: Boundaries) -> _Cut:
        data = texts.flat.tobytes()
        edges = boundaries.cut(data, texts.offsets)
        distinct = pa.StringArray.from_buffers(
            len(edges) - 1, pa.py_buffer(edges.astype(np.int32)), pa.py_buffer(data)
        ).dictionary_encode()
        return _Cut(edges, distinct.dictionary.to_pylist(), np.asarray(distinct.indices))


def _of_texts(texts: Ragged, cut: _Cut, ids: Ragged) -> Ragged:
    """The ids of texts from those of their pieces."""
    return Ragged(ids.flat, ids.offsets[np.searchsorted(cut.edges[:-1], texts.offsets)])


def _byte_places(texts: Ragged, bounds: list[list[int]], counts: Int64) -> Int64:
    """Places in characters of each text as bytes of all texts together."""
    places = np.fromiter(chain.from_iterable(bounds), dtype=np.int64, count=int(counts.sum()))
    characters = np.flatnonzero((texts.flat.view(np.uint8) & 0xC0) != 0x80)
    if len(characters) == len(texts.flat):
        return places + np.repeat(texts.offsets[:-1], counts)
    firsts = np.searchsorted(characters, texts.offsets[:-1])
    return np.append(characters, len(texts.flat))[places + np.repeat(firsts, counts)]


def _groups(texts: list[str]) -> Iterator[list[str]]:
    """Runs of texts to encode at a time."""
    begin, characters = 0, 0
    for i, text in enumerate(texts):
        if i > begin and (i - begin >= _GROUP_TEXTS or characters + len(text) > _GROUP_CHARACTERS):
            yield texts[begin:i]
            begin, characters = i, 0
        characters += len(text)
    if begin < len(texts):
        yield texts[begin:]


def _ids(encodings: list[list[int]]) -> Ragged:
    lengths: npt.NDArray[np.int64] = np.fromiter(map(len, encodings), dtype=np.int64, count=len(encodings))
    flat = np.fromiter(chain.from_iterable(encodings), dtype=np.int32, count=int(lengths.sum()))
    return Ragged.from_lengths(flat, lengths)
