"""span_corruption: sentinels replace spans of a piece, and the target gives them back (T5, Raffel et al. 2020).

The rule is that of google-research/text-to-text-transfer-transformer, t5/data/preprocessors.py, with one rounding
(half to even in double) for the helper that finds the raw length and for the mask, where T5 has two that disagree.
Noise and non-noise are each cut into as many parts by a uniform random composition, and the parts interleave with
non-noise first; so the first token is never noise, the last always is, and every such mask is equally likely.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.errors import RequestError
from schemas.keys import draw
from schemas.objectives import SpanCorruption
from transforms.objectives.base import Documents, Examples, join_examples, require_length, require_token
from transforms.objectives.choose import choose
from transforms.ragged import Ragged, offsets_of, ranges
from transforms.vocabulary import Vocabulary

Int64 = npt.NDArray[np.int64]

_BATCH_POSITIONS = 2**20
"""Positions corrupted at a time; bounds the working set whatever the block's size."""


def noise_counts(parameters: SpanCorruption, raw: npt.NDArray[np.integer]) -> tuple[Int64, Int64]:
    """(noise tokens, spans) of pieces of `raw` tokens each, int64 of the same shape; `raw` must be at least 2.

    noise = clamp(round(n·density), 1, n − 1); spans = clamp(round(noise / mean), 1, n − noise).

    >>> [int(c[0]) for c in noise_counts(SpanCorruption(noise_density=0.2, mean_noise_span_length=2), np.array([70]))]
    [14, 7]
    """
    raw = np.asarray(raw, dtype=np.int64)
    noise = np.clip(np.rint(raw * parameters.noise_density).astype(np.int64), 1, raw - 1)
    spans = np.maximum(1, np.rint(noise / parameters.mean_noise_span_length).astype(np.int64))
    return noise, np.minimum(spans, np.minimum(noise, raw - noise))


def raw_tokens(parameters: SpanCorruption, length: int) -> int:
    """The most corpus tokens whose inputs (n − noise + spans + EOS) fit into `length`, which must be at least 3."""
    # Half the noise at least is saved as spans need one token each, and non-noise alone is at most the length.
    most = np.arange(2, int(2 * length / (1 - parameters.noise_density)) + 8)
    noise, spans = noise_counts(parameters, most)
    return int(most[most - noise + spans + 1 <= length].max())


@dataclass(frozen=True)
class SpanCorruptionBuilder:
    """Builds pairs of inputs and targets from one piece of one document each.

    Law: inputs have n − noise + spans + 1 tokens and targets noise + spans + 1, both end with EOS; sentinels are
    `<extra_id_0>` and on in both; a span has k tokens with probability C(noise − k − 1, spans − 2) / C(noise − 1,
    spans − 1). Single tokens have nothing to be predicted from and are a named loss.
    """

    parameters: SpanCorruption
    eos_id: int
    sentinel_ids: npt.NDArray[np.int32]
    kind: str = "span_corruption"

    @classmethod
    def of(cls, parameters: SpanCorruption, vocabulary: Vocabulary) -> SpanCorruptionBuilder:
        """The builder for a vocabulary, which must have an `eos` token and sentinels."""
        return cls(parameters, require_token(vocabulary, "span_corruption", "eos"), vocabulary.sentinel_ids)

    def resolve(self, length: int) -> dict[str, Any]:
        """`raw_tokens` of a full row's piece, its `noise_tokens` and `noise_spans`, and `target_length`."""
        require_length("span_corruption", length, 3, "for a token, a sentinel and EOS")
        raw = raw_tokens(self.parameters, length)
        noise, spans = (int(c[0]) for c in noise_counts(self.parameters, np.array([raw])))
        if spans > len(self.sentinel_ids):
            raise RequestError(
                f"A length of {length} needs more sentinels than the tokenizer has",
                where="curriculum lengths, objective, tokenizer",
                expected=f"at most {len(self.sentinel_ids)} spans, one for each of <extra_id_0> and on",
                got=f"{spans} spans in {raw} tokens at noise_density {self.parameters.noise_density:g} and "
                f"mean_noise_span_length {self.parameters.mean_noise_span_length:g}",
                remedy="Give shorter lengths, longer or fewer spans, or a tokenizer with more sentinels",
            )
        return {
            "length": length,
            "raw_tokens": raw,
            "noise_tokens": noise,
            "noise_spans": spans,
            "target_length": noise + spans + 1,
        }

    def build(self, documents: Documents, *, longest: int, seed: int) -> Examples:
        """Rows of at most `longest` input tokens; a longer document is cut into full pieces and a rest."""
        doc, begin, length = _pieces(documents.ids.lengths, raw_tokens(self.parameters, longest))
        order = np.argsort(length, kind="stable")  # rows of one length together waste no padding
        doc, begin, length = doc[order], begin[order], length[order]
        empty = np.zeros(0, np.int64)
        batches, at = [self._corrupt(documents, empty, empty, empty, seed)], 0
        while at < len(doc):
            stop = at + max(1, _BATCH_POSITIONS // int(length[min(at + _BATCH_POSITIONS, len(doc)) - 1]))
            batches.append(self._corrupt(documents, doc[at:stop], begin[at:stop], length[at:stop], seed))
            at = stop
        joined = join_examples(batches)
        whole = int((documents.ids.lengths == 1).sum())
        rests = len(documents.ids.flat) - int(length.sum()) - whole
        joined.losses.update({k: n for k, n in (("one_token_documents", whole), ("one_token_rests", rests)) if n})
        return joined

    def row_lengths(
        self, doc_lengths: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], *, longest: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Input lengths of the pieces."""
        doc, _, length = _pieces(doc_lengths, raw_tokens(self.parameters, longest))
        noise, spans = noise_counts(self.parameters, length)
        return length - noise + spans + 1, counts[doc].astype(np.float64)

    def _corrupt(self, documents: Documents, doc: Int64, begin: Int64, length: Int64, seed: int) -> Examples:
        """Rows of the pieces `begin[i]:begin[i] + length[i]` of documents `doc[i]`."""
        rows = len(doc)
        noise, spans = noise_counts(self.parameters, length) if rows else (length, length)
        name = (documents.keys[doc][:, None], begin[:, None], documents.copy)
        kept_part = _compose(
            draw(seed, "span_corruption.kept", *name, _columns(length - noise)), length - noise, spans
        )
        noise_part = _compose(draw(seed, "span_corruption.noise", *name, _columns(noise)), noise, spans)

        # A token of noise part s stands behind all kept tokens of parts 0..s, and likewise the other way round.
        row_of_noise, ordinal = np.nonzero(noise_part >= 0)
        part = noise_part[row_of_noise, ordinal]
        most = int(spans.max(initial=0))
        row_of_kept, kept_ordinal = np.nonzero(kept_part >= 0)
        kept_key = row_of_kept * most + kept_part[row_of_kept, kept_ordinal]
        kept_in = np.bincount(kept_key, minlength=rows * most).reshape(rows, most)
        place = ordinal + np.cumsum(kept_in, axis=1)[row_of_noise, part]
        starts_span = np.ones(len(part), dtype=bool)
        starts_span[1:] = (row_of_noise[1:] != row_of_noise[:-1]) | (part[1:] != part[:-1])

        piece_offsets = offsets_of(length)
        tokens = documents.ids.slices(documents.ids.offsets[doc] + begin, length).flat.astype(np.int32, copy=False)
        flat = piece_offsets[row_of_noise] + place
        shown, keep = tokens.copy(), np.ones(len(tokens), dtype=bool)
        keep[flat] = starts_span
        shown[flat[starts_span]] = self.sentinel_ids[part[starts_span]]

        input_lengths, target_lengths = length - noise + spans + 1, noise + spans + 1
        inputs, targets = offsets_of(input_lengths), offsets_of(target_lengths)
        input_ids = np.full(int(inputs[-1]), self.eos_id, dtype=np.int32)
        is_token = np.ones(len(input_ids), dtype=bool)
        is_token[inputs[1:] - 1] = False
        input_ids[is_token] = shown[keep]
        target_ids = np.full(int(targets[-1]), self.eos_id, dtype=np.int32)
        # Each span's tokens follow its sentinel: the i-th noise token has i tokens and part + 1 sentinels before it.
        target_ids[targets[row_of_noise] + ordinal + part + 1] = tokens[flat]
        target_ids[(targets[row_of_noise] + ordinal + part)[starts_span]] = self.sentinel_ids[part[starts_span]]
        one_piece = np.arange(rows + 1)
        return Examples(
            input_ids=Ragged(input_ids, inputs),
            doc_keys=Ragged(documents.keys[doc], one_piece),
            doc_offsets=Ragged(begin, one_piece),
            doc_lengths=Ragged(length.astype(np.int32), one_piece),
            copy=np.full(rows, documents.copy, dtype=np.int32),
            lists={"target_ids": Ragged(target_ids, targets)},
        )


def _pieces(lengths: Int64, raw: int) -> tuple[Int64, Int64, Int64]:
    """(document, first token, tokens) of each piece: full ones and a rest of at least two tokens.

    A rest of one token could not be corrupted, so the piece before lends it one; pieces of two tokens cannot lend.
    """
    usable = np.flatnonzero(lengths >= 2)
    n = lengths[usable]
    lends = (n % raw == 1) & (n > 1) & (raw > 2)
    pieces = n // raw + ((n % raw > 1) | lends)
    doc = np.repeat(np.arange(len(usable)), pieces)
    ordinal = ranges(pieces)
    begin = ordinal * raw
    is_last = ordinal == pieces[doc] - 1
    begin -= (is_last & lends[doc]).astype(np.int64)
    end = np.minimum(begin + raw, n[doc])
    end -= ((ordinal == pieces[doc] - 2) & lends[doc]).astype(np.int64)
    return usable[doc], begin, end - begin


def _columns(counts: Int64) -> Int64:
    return np.arange(int(counts.max(initial=0)))


def _compose(order: npt.NDArray[np.uint64], counts: Int64, parts: Int64) -> Int64:
    """A uniform random composition of `counts[i]` into `parts[i]` positive parts.

    Returns:
      int64 [rows, max count]: the part of each element, ascending from 0; −1 beyond the row's count.
    """
    columns = _columns(counts)
    inside = columns < counts[:, None]
    # A composition is a choice of parts − 1 of the count − 1 places where a new part can begin.
    begins = choose(order, inside & (columns > 0), parts - 1)
    return np.where(inside, np.cumsum(begins, axis=1), -1)
