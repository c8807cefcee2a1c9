"""mlm: masked language modeling, pre-masked (BERT, Devlin et al. 2019, appendix A.1).

A row is `[CLS] piece [SEP]`. The number of predictions is exact, not a coin a token: BERT's
`min(max_predictions, max(1, round(mask_rate · length)))` with Python's half-to-even rounding
(google-research/bert, create_pretraining_data.py). Special and unknown tokens are never chosen, and the random
replacements are drawn from the ids that stand for text (huggingface/transformers#15342 tells why).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.errors import RequestError
from schemas.keys import below, chance_threshold, draw
from schemas.objectives import Mlm
from transforms.objectives.base import Documents, Examples, join_examples, require_length, require_token
from transforms.objectives.choose import NEVER, choose
from transforms.ragged import Ragged, offsets_of, ranges
from transforms.vocabulary import Vocabulary

_BATCH_POSITIONS = 2**20
"""Positions masked at a time; bounds the working set at about 60 MB whatever the block's size."""


def prediction_counts(
    parameters: Mlm, lengths: npt.NDArray[np.integer], candidates: npt.NDArray[np.integer]
) -> npt.NDArray[np.int64]:
    """The law of the number of predictions, exact unless `whole_word`, then an upper bound.

    Args:
      parameters: of the objective.
      lengths: row lengths, [CLS] and [SEP] counted, int [rows].
      candidates: positions that may be chosen, int [rows].

    Returns:
      int64 [rows].

    >>> prediction_counts(Mlm(), np.array([128, 130, 512]), np.array([126, 128, 510])).tolist()
    [19, 20, 77]
    """
    counts = np.maximum(1, np.rint(parameters.mask_rate * np.asarray(lengths, dtype=np.float64))).astype(np.int64)
    if parameters.max_predictions is not None:
        counts = np.minimum(counts, parameters.max_predictions)
    return np.minimum(counts, candidates)


@dataclass(frozen=True)
class MlmBuilder:
    """Builds pre-masked rows of one piece of one document each."""

    parameters: Mlm
    vocabulary: Vocabulary
    cls_id: int
    sep_id: int
    mask_id: int
    kind: str = "mlm"

    @classmethod
    def of(cls, parameters: Mlm, vocabulary: Vocabulary) -> MlmBuilder:
        """The builder for a vocabulary, which must have `cls`, `sep` and `mask` tokens."""
        if parameters.whole_word and vocabulary.starts_word is None:
            raise RequestError(
                "This tokenizer does not tell where words start",
                where="objective.whole_word",
                expected="WordPiece (##), byte-level BPE (Ġ) or Metaspace (▁)",
                remedy="Set whole_word: false, or use another tokenizer",
            )
        if parameters.random_replace_prob > 0 and len(vocabulary.text_ids) == 0:
            raise RequestError("The tokenizer has no tokens that stand for text", where="tokenizer")
        cls_id, sep_id, mask_id = (require_token(vocabulary, "mlm", role) for role in ("cls", "sep", "mask"))
        return cls(parameters, vocabulary, cls_id, sep_id, mask_id)

    def resolve(self, length: int) -> dict[str, Any]:
        """`predictions`: positions predicted in a full row."""
        require_length("mlm", length, 3, "for [CLS], a token and [SEP]")
        full = np.array([length])
        return {"length": length, "predictions": int(prediction_counts(self.parameters, full, full - 2)[0])}

    def build(self, documents: Documents, *, longest: int, seed: int) -> Examples:
        """Rows of at most `longest` tokens; a document longer than that is cut into full pieces and a rest."""
        room = longest - 2
        pieces = -(-documents.ids.lengths // room)  # ceiling
        doc = np.repeat(np.arange(len(documents)), pieces)
        begin = ranges(pieces) * room
        length = np.minimum(documents.ids.lengths[doc] - begin, room)
        # Rows of one length together waste no padding; the order of rows is drawn later, by key.
        order = np.argsort(length, kind="stable")
        doc, begin, length = doc[order], begin[order], length[order]
        batches, at = [], 0
        while at < len(doc):
            stop = at + max(1, _BATCH_POSITIONS // int(length[min(at + _BATCH_POSITIONS, len(doc)) - 1] + 2))
            batches.append(self._mask(documents, doc[at:stop], begin[at:stop], length[at:stop], seed))
            at = stop
        return join_examples(batches)

    def row_lengths(
        self, doc_lengths: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], *, longest: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Full pieces and the rests."""
        room = longest - 2
        full, rest = doc_lengths // room, doc_lengths % room
        lengths = np.append(rest[rest > 0] + 2, longest)
        return lengths, np.append(counts[rest > 0], (full * counts).sum()).astype(np.float64)

    def _mask(
        self,
        documents: Documents,
        doc: npt.NDArray[np.int64],
        begin: npt.NDArray[np.int64],
        length: npt.NDArray[np.int64],
        seed: int,
    ) -> Examples:
        """Rows of the pieces `begin[i]:begin[i] + length[i]` of documents `doc[i]`, masked."""
        rows, width = len(doc), int(length.max()) + 2
        columns = np.arange(width)
        is_piece = (columns > 0) & (columns <= length[:, None])  # [rows, width]
        ids = np.full((rows, width), self.cls_id, dtype=np.int32)
        ids[is_piece] = documents.ids.slices(documents.ids.offsets[doc] + begin, length).flat
        ids[np.arange(rows), length + 1] = self.sep_id

        name = (documents.keys[doc][:, None], begin[:, None], documents.copy, columns)
        candidate = is_piece & ~self.vocabulary.is_special[ids]
        counts = prediction_counts(self.parameters, length + 2, candidate.sum(axis=1))
        order = draw(seed, "mlm.select", *name)
        if self.parameters.whole_word:
            assert self.vocabulary.starts_word is not None
            chosen = _choose_words(order, candidate, self.vocabulary.starts_word[ids], counts)
        else:
            chosen = choose(order, candidate, counts)

        row, column = np.nonzero(chosen)
        labels = ids[row, column]
        keys, begins = documents.keys[doc[row]], begin[row]
        fate = draw(seed, "mlm.replace", keys, begins, documents.copy, column) >> np.uint64(11)
        masked = chance_threshold(self.parameters.mask_replace_prob)
        random = chance_threshold(self.parameters.mask_replace_prob + self.parameters.random_replace_prob)
        shown = np.where(fate < masked, np.int32(self.mask_id), labels)
        is_random = (fate >= masked) & (fate < random)
        text_ids = self.vocabulary.text_ids
        bits = draw(seed, "mlm.random", keys[is_random], begins[is_random], documents.copy, column[is_random])
        shown[is_random] = text_ids[below(bits, len(text_ids))]
        ids[row, column] = shown

        predicted = np.bincount(row, minlength=rows)
        one_piece = np.arange(rows + 1)
        return Examples(
            input_ids=Ragged(ids[columns < length[:, None] + 2], offsets_of(length + 2)),
            doc_keys=Ragged(documents.keys[doc], one_piece),
            doc_offsets=Ragged(begin, one_piece),
            doc_lengths=Ragged(length.astype(np.int32), one_piece),
            copy=np.full(rows, documents.copy, dtype=np.int32),
            lists={
                "mask_positions": Ragged(column.astype(np.int32), offsets_of(predicted)),
                "mask_labels": Ragged(labels, offsets_of(predicted)),
            },
        )


def _choose_words(
    order: npt.NDArray[np.uint64],
    candidate: npt.NDArray[np.bool_],
    starts: npt.NDArray[np.bool_],
    budget: npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    """Whole words in a random order while they fit; a word that would exceed the budget is skipped.

    All rows walk their own order of words together, so the loop has as many turns as the longest row has words.
    """
    rows = len(candidate)
    # A word starts at a starting piece and wherever candidates begin anew (row start, after a special token).
    before = np.zeros_like(candidate)
    before[:, 1:] = candidate[:, :-1]
    word_start = candidate & (starts | ~before)
    word = np.cumsum(word_start, axis=1) - 1  # [rows, width], -1 before the first word
    words = int(word[:, -1].max()) + 1
    if words == 0:
        return np.zeros_like(candidate)
    row, column = np.nonzero(word_start)
    keys = np.full((rows, words), NEVER)
    keys[row, word[row, column]] = order[row, column] >> np.uint64(1)
    row, column = np.nonzero(candidate)
    sizes = np.bincount(row * words + word[row, column], minlength=rows * words).reshape(rows, words)
    turn = np.argsort(keys, axis=1, kind="stable")
    sizes_in_turn = np.ascontiguousarray(np.take_along_axis(sizes, turn, axis=1).T)
    taken = np.zeros((words, rows), dtype=bool)
    left = budget.copy()
    for i in range(words):
        taken[i] = (sizes_in_turn[i] <= left) & (sizes_in_turn[i] > 0)
        left -= np.where(taken[i], sizes_in_turn[i], 0)
        if not left.any():
            break
    chosen_words = np.zeros((rows, words), dtype=bool)
    np.put_along_axis(chosen_words, turn, taken.T, axis=1)
    return candidate & np.take_along_axis(chosen_words, np.maximum(word, 0), axis=1)
