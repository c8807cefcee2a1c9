"""Pairs of segments: which stretches of which documents make up a row. Decided from lengths; no token is read.

The walk over a document is that of google-research/bert, create_pretraining_data.py: gather sentences until they
reach a target, split them in two, go on behind them, or behind the first part if the second is replaced. What a chunk
would be that begins at some sentence (target, end, split, coin) follows from that sentence's name alone. So it is
worked out for all sentences at once, and `transforms.packing.chain` tells at which of them chunks really begin.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from schemas.keys import below, draw, happens
from transforms.objectives.base import Documents
from transforms.objectives.layout import Layout, short_targets
from transforms.packing import chain
from transforms.ragged import Int64, offsets_of, ranges

Bool = npt.NDArray[np.bool_]
UInt64 = npt.NDArray[np.uint64]

_TILE_SENTENCES = 2**15
"""Sentences walked over at a time, whole documents: memory does not grow with the block."""


def chunk_names(seed: int, keys: UInt64, offsets: npt.ArrayLike, copies: npt.ArrayLike) -> UInt64:
    """uint64 [chunks], what a chunk's draws are named by: its document, its first token there, the pass."""
    return draw(seed, "row", keys, offsets, copies)


def chunk_coins(seed: int, names: UInt64, probability: float) -> Bool:
    """bool [chunks]: B is to be random (nsp), or the segments are swapped (sop)."""
    return happens(draw(seed, "pair.coin", names), probability)


@dataclass(frozen=True)
class Chunks:
    """Stretches of sentences that follow each other in a document; arrays are [chunks]."""

    name: UInt64
    doc: Int64
    begin: Int64
    """First token, counted over all documents; so are the next two."""
    split: Int64
    """First token behind A."""
    end: Int64
    """One past the last token."""
    target: Int64
    """Tokens that A and B are to have."""
    lone: Bool
    """The chunk is one sentence, and all of it is A."""
    coin: Bool

    def take(self, which: Int64 | Bool) -> Chunks:
        """The chunks at these indices, or where this is true."""
        return Chunks(*(getattr(self, f.name)[which] for f in fields(self)))


@dataclass(frozen=True)
class Pairs:
    """Two segments a row; arrays are [2, pairs], what comes first in the row first, unless said otherwise."""

    name: UInt64
    """[pairs]."""
    doc: Int64
    begin: Int64
    """First token, counted over all documents."""
    length: Int64
    """Tokens, at least 1."""
    is_next: Bool
    """[pairs], the label."""

    def layout(self, documents: Documents) -> Layout:
        """As rows of two pieces."""
        within = self.begin - documents.ids.offsets[self.doc]
        doc, begin, length = (a.T.reshape(-1) for a in (self.doc, within, self.length))
        return Layout(doc, begin, length, np.arange(0, 2 * len(self.name) + 1, 2))

    def cut(self, most: int, seed: int) -> Pairs:
        """With at most `most` tokens (at least 2) a pair.

        While a pair is too long, the longer segment (B if they are equal) loses a token, in front or behind with
        probability .5 each (google-research/bert, create_pretraining_data.py, truncate_seq_pair). So an A that is cut
        keeps at least half of `most`, rounded up, a B at least half, rounded down; and of n tokens cut
        Binomial(n, .5) are cut in front.
        """
        a, b = self.length
        a = np.maximum(np.minimum(a, most - b), np.minimum(a, (most + 1) // 2))
        length = np.stack([a, np.minimum(b, most - a)])
        return replace(self, begin=self.begin + self._front_cuts(self.length - length, seed), length=length)

    def _front_cuts(self, cuts: Int64, seed: int) -> Int64:
        """How many of so many cuts are in front, both int64 [2, pairs]: the ones among as many random bits."""
        front = np.zeros_like(cuts)
        segment, pair = np.nonzero(cuts)
        if len(pair) == 0:
            return front
        bits = cuts[segment, pair]
        words = -(-bits // 64)
        offsets = offsets_of(words)
        names = np.repeat(self.name[pair], words)
        drawn = draw(seed, "pair.cut", names, np.repeat(segment, words), ranges(words))
        drawn[offsets[1:] - 1] >>= (64 * words - bits).astype(np.uint64)
        front[segment, pair] = np.add.reduceat(np.bitwise_count(drawn).astype(np.int64), offsets[:-1])
        return front


@dataclass(frozen=True)
class Walk:
    """Documents and how they are walked over."""

    documents: Documents
    """With their sentences."""
    room: int
    """Tokens of a full pair, at least 2."""
    short_rate: float
    """Share of chunks whose target is uniform in [2, room]."""
    probability: float
    """Of the coin."""
    seed: int

    def next_sentence(self) -> tuple[Pairs, dict[str, int]]:
        """Pairs for next sentence prediction, and tokens lost by reason.

        Where the coin says so, and where A is the whole chunk, B begins at a random sentence of a random document of
        another key among these. Where there is none B is the real one, and a chunk of one sentence is lost.
        """
        keys = self.documents.keys
        has_others = len(keys) > 0 and bool((keys != keys[0]).any())
        chunks = self.chunks(splits_return=has_others)
        if not has_others:
            lost = int((chunks.end - chunks.begin)[chunks.lone].sum())
            kept = chunks.take(~chunks.lone)
            return self._pairs(kept, np.ones(len(kept.name), bool)), ({"no_other_document": lost} if lost else {})
        is_next = ~(chunks.coin | chunks.lone)
        pairs = self._pairs(chunks, is_next)
        strange = np.flatnonzero(~is_next)
        self._replace_second(pairs, chunks.take(strange), strange)
        return pairs, {}

    def sentence_order(self) -> tuple[Pairs, dict[str, int]]:
        """Pairs for sentence order prediction, swapped where the coin says so, and tokens lost by reason."""
        chunks = self.chunks(splits_return=False)
        lost = int((chunks.end - chunks.begin)[chunks.lone].sum())
        chunks = chunks.take(~chunks.lone)
        pairs = self._pairs(chunks, ~chunks.coin)
        for segments in (pairs.begin, pairs.length):
            segments[:, chunks.coin] = segments[::-1, chunks.coin]
        return pairs, ({"one_sentence_chunks": lost} if lost else {})

    def chunks(self, *, splits_return: bool) -> Chunks:
        """The chunks of all documents in order.

        Args:
          splits_return: where the coin is true the sentences behind the split go back to the walk.
        """
        parts = [self._chunks_of(first, stop, splits_return) for first, stop in self._tiles()]
        return Chunks(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Chunks)))

    def _tiles(self) -> Iterator[tuple[int, int]]:
        """Documents `first` to `stop`, of some 2**15 sentences; one tile where there are none."""
        offsets, first = self._sentences, 0
        while True:
            stop = int(np.searchsorted(offsets, offsets[first] + _TILE_SENTENCES, side="right")) - 1
            stop = min(max(stop, first + 1), len(self.documents))
            yield first, stop
            if stop >= len(self.documents):
                return
            first = stop

    @property
    def _sentences(self) -> Int64:
        """int64 [documents + 1], each document's first sentence."""
        assert self.documents.sentence_ends is not None
        return self.documents.sentence_ends.offsets

    def _ends(self, first: int, stop: int) -> Int64:
        """int64 [sentences] of documents `first` to `stop`: one past the last token, counted over all documents."""
        assert self.documents.sentence_ends is not None
        offsets = self._sentences[first : stop + 1]
        within = self.documents.sentence_ends.flat[offsets[0] : offsets[-1]].astype(np.int64)
        return within + np.repeat(self.documents.ids.offsets[first:stop], np.diff(offsets))

    def _chunks_of(self, first: int, stop: int, splits_return: bool) -> Chunks:
        documents, seed = self.documents, self.seed
        offsets = self._sentences[first : stop + 1] - self._sentences[first]  # sentences are numbered within the tile
        count, token = int(offsets[-1]), documents.ids.offsets
        edges = np.append(token[first], self._ends(first, stop))
        index, doc = np.arange(count), np.repeat(np.arange(first, stop), np.diff(offsets))
        begin, behind = edges[:-1], offsets[1:][doc - first]  # `behind`: the next document's first sentence

        within = documents.first_tokens(doc) + begin - token[doc]
        name = chunk_names(seed, documents.keys[doc], within, documents.copy)
        target = short_targets(name, self.room, self.short_rate)
        # The first sentence at whose end the target is reached is the chunk's last.
        stops = np.minimum(np.searchsorted(edges, begin + target), behind)
        segments = stops - index
        splits = index + 1 + below(draw(seed, "pair.split", name), np.maximum(segments - 1, 1))
        coin = chunk_coins(seed, name, self.probability)
        following = np.where(coin, splits, stops) if splits_return else stops
        following = np.where(following < behind, following, count)  # chains end with their document
        at = chain(following, offsets[:-1])
        every = Chunks(name, doc, begin, edges[splits], edges[stops], target, segments == 1, coin)
        return every.take(at)

    def _pairs(self, chunks: Chunks, is_next: Bool) -> Pairs:
        """The chunks split in two."""
        begin, end = np.stack([chunks.begin, chunks.split]), np.stack([chunks.split, chunks.end])
        return Pairs(chunks.name, np.stack([chunks.doc, chunks.doc]), begin, end - begin, is_next)

    def _replace_second(self, pairs: Pairs, chunks: Chunks, at: Int64) -> None:
        """Give the pairs `at`, of these chunks, a B from another document.

        A document of another key, all alike likely, and in it a sentence, all alike likely; from there sentences
        until the target is reached or the document ends, at least one.
        """
        documents, seed, first = self.documents, self.seed, self._sentences
        # Numbered by key: in which order the documents are here changes nothing.
        by_key = np.lexsort((documents.ids.lengths, documents.keys))
        keys = documents.keys[by_key]
        own = documents.keys[chunks.doc]
        before, through = np.searchsorted(keys, own), np.searchsorted(keys, own, side="right")
        pick = below(draw(seed, "pair.document", chunks.name), len(keys) - (through - before))
        doc = by_key[np.where(pick < before, pick, pick + (through - before))]
        sentences = first[doc + 1] - first[doc]
        sentence = first[doc] + below(draw(seed, "pair.sentence", chunks.name), sentences)
        edges = np.append(0, self._ends(0, len(documents)))
        wanted = np.maximum(chunks.target - (chunks.split - chunks.begin), 1)
        end = np.minimum(np.searchsorted(edges, edges[sentence] + wanted), first[doc + 1])
        pairs.doc[1, at], pairs.begin[1, at] = doc, edges[sentence]
        pairs.length[1, at] = edges[end] - edges[sentence]
