"""Masks over finished rows of ids, for every objective that predicts hidden tokens in place (mlm and its kin).

Rows come with their special tokens; which places are predicted (`transforms.objectives.selection`) and how they are
shown are draws by the row's name and the column, so a row has the same masks whatever it is built beside. Special and
unknown tokens are never predicted, and random replacements are drawn from the ids that stand for text
(huggingface/transformers#15342 tells why).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from schemas.base import Share
from schemas.errors import RequestError
from schemas.keys import below, chance_threshold, draw
from schemas.objectives import ObjectiveParameters
from transforms.objectives import selection
from transforms.objectives.base import require_token, require_word_starts
from transforms.ragged import Int64, Ragged, offsets_of, tiles
from transforms.vocabulary import Vocabulary

_TILE_POSITIONS = 2**16
"""Positions masked at a time: the working set stays in the processor's cache."""


class MaskingParameters(ObjectiveParameters):
    """Which places of a row are predicted and how they are shown."""

    mask_rate: Share = 0.15
    """Share of the row's positions, special tokens counted, that are predicted."""
    max_predictions: Annotated[int, Field(ge=1)] | None = None
    """Upper bound on predictions in a row; none by default."""
    selection: Literal["exact", "bernoulli", "ngram", "span"] = "exact"
    """`exact`: round(mask_rate · length) places. `bernoulli`: a coin a place (the collator of
    transformers). `ngram`: runs of up to
    `max_ngram` (ALBERT). `span`: runs of words of geometric length (SpanBERT), shown alike within a run."""
    whole_word: bool = False
    """Mask all pieces of a word or none of them (`exact`, `bernoulli` and `ngram`; spans are of words anyway)."""
    max_ngram: Annotated[int, Field(ge=1, le=16)] = 3
    """Longest n-gram; n of them has a probability in proportion to 1/n."""
    span_geometric_p: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """A span has k words with a probability in proportion to p · (1 − p)^(k − 1)."""
    max_span_words: Annotated[int, Field(ge=1, le=64)] = 10
    """Longest span, in words."""
    mask_replace_prob: Share = 0.8
    """Share of predicted positions shown as the mask token."""
    random_replace_prob: Share = 0.1
    """Share of predicted positions shown as a random non-special token; the rest stay as they are."""

    @model_validator(mode="after")
    def _rates_fit(self) -> MaskingParameters:
        if self.mask_rate == 0:
            raise ValueError("mask_rate must be above 0")
        if self.mask_replace_prob + self.random_replace_prob > 1 + 1e-9:
            raise ValueError(
                f"mask_replace_prob + random_replace_prob must not exceed 1, got "
                f"{self.mask_replace_prob} + {self.random_replace_prob}"
            )
        if self.selection == "bernoulli" and self.max_predictions is not None:
            raise ValueError("selection: bernoulli draws each place alone, so max_predictions cannot bound it")
        return self

    @property
    def exact_count(self) -> bool:
        """True if the number of predictions follows from the row, False if it is drawn or only bounded."""
        return self.selection == "span" or (self.selection == "exact" and not self.whole_word)


def prediction_law(
    parameters: MaskingParameters, lengths: npt.NDArray[np.integer], candidates: npt.NDArray[np.integer]
) -> Int64:
    """The number of predictions of rows, int64 [rows]: exact, an upper bound, or what `bernoulli` has on average.

    Args:
      parameters: of the objective.
      lengths: row lengths, special tokens counted, int [rows].
      candidates: positions that may be predicted, int [rows].
    """
    rounding: Literal["nearest", "up"] = "up" if parameters.selection == "span" else "nearest"
    return selection.prediction_counts(
        parameters.mask_rate, parameters.max_predictions, lengths, candidates, rounding=rounding
    )


@dataclass(frozen=True)
class Masked:
    """Rows with their masks."""

    input_ids: Ragged
    positions: Ragged
    labels: Ragged

    @property
    def lists(self) -> dict[str, Ragged]:
        """By column."""
        return {"mask_positions": self.positions, "mask_labels": self.labels}


@dataclass(frozen=True)
class Masker:
    """Masks rows of one vocabulary."""

    parameters: MaskingParameters
    vocabulary: Vocabulary
    mask_id: int

    @classmethod
    def of(cls, parameters: MaskingParameters, vocabulary: Vocabulary) -> Masker:
        """The masker for a vocabulary.

        Raises:
          RequestError: it has no mask token, does not tell words where words are masked, or has no text at all.
        """
        if parameters.whole_word:
            require_word_starts(vocabulary, "whole_word")
        if parameters.selection == "span":
            require_word_starts(vocabulary, "selection: span")
        if parameters.random_replace_prob > 0 and len(vocabulary.text_ids) == 0:
            raise RequestError("The tokenizer has no tokens that stand for text", where="tokenizer")
        return cls(parameters, vocabulary, require_token(vocabulary, parameters.kind, "mask"))

    def resolve(self, length: int, specials: int) -> dict[str, Any]:
        """`predictions` of a full row with so many special tokens."""
        full = np.array([length])
        return {"predictions": int(prediction_law(self.parameters, full, full - specials)[0])}

    def mask(self, rows: Ragged, names: npt.NDArray[np.uint64], seed: int) -> Masked:
        """Masks for rows; rows of like length should be neighbours.

        Args:
          rows: int32 ids with their special tokens.
          names: uint64 [rows], under which draws are made.
          seed: the job's.
        """
        flat = rows.flat.astype(np.int32, copy=True)
        lengths, offsets, is_text = rows.lengths, rows.offsets, ~self.vocabulary.is_special
        counts, places, labels = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
        for some in tiles(lengths, _TILE_POSITIONS):
            n, name = lengths[some], names[some]
            width, tile = int(n.max()), flat[offsets[some.start] : offsets[some.stop]]
            if (n == width).all():
                ids, inside = tile.reshape(-1, width), None
            else:
                inside = np.arange(width, dtype=np.int32) < n[:, None]
                ids = np.zeros(inside.shape, dtype=np.int32)
                ids[inside] = tile
            candidate = is_text[ids]
            if inside is not None:
                candidate &= inside
            starts = self.vocabulary.starts_word[ids] if self._needs_words else None  # type: ignore[index]
            chosen = self._select(selection.Maskable(name, n, candidate, starts), seed)
            where = np.flatnonzero(chosen.chosen)
            row, column = where // width, where % width
            anchor = column if chosen.anchor is None else chosen.anchor.reshape(-1)[where]
            at = offsets[some][row] + column
            labels.append(flat[at])
            flat[at] = self._show(labels[-1], name[row], column, anchor, seed)
            places.append(column.astype(np.int32))
            counts.append(np.bincount(row, minlength=len(n)))
        predicted = offsets_of(np.concatenate(counts))
        return Masked(
            Ragged(flat, offsets),
            Ragged(np.concatenate(places), predicted),
            Ragged(np.concatenate(labels), predicted),
        )

    @property
    def _needs_words(self) -> bool:
        return self.parameters.whole_word or self.parameters.selection == "span"

    def _select(self, rows: selection.Maskable, seed: int) -> selection.Selection:
        p = self.parameters
        if p.selection == "bernoulli":
            return selection.bernoulli(rows, p.mask_rate, seed, whole_word=p.whole_word)
        counts = prediction_law(p, rows.lengths, rows.candidate.sum(axis=1))
        if p.selection == "ngram":
            return selection.ngrams(rows, counts, seed, most=p.max_ngram, whole_word=p.whole_word)
        if p.selection == "span":
            return selection.spans(rows, counts, seed, p=p.span_geometric_p, most_words=p.max_span_words)
        return selection.words(rows, counts, seed) if p.whole_word else selection.exact(rows, counts, seed)

    def _show(
        self,
        labels: npt.NDArray[np.int32],
        names: npt.NDArray[np.uint64],
        column: npt.NDArray[np.integer],
        anchor: npt.NDArray[np.integer],
        seed: int,
    ) -> npt.NDArray[np.int32]:
        """What stands at the predicted places: the mask token, a random one, or the label; [places] each."""
        fate = draw(seed, "mask.replace", names, anchor) >> np.uint64(11)
        masked = chance_threshold(self.parameters.mask_replace_prob)
        random = chance_threshold(self.parameters.mask_replace_prob + self.parameters.random_replace_prob)
        shown = np.where(fate < masked, np.int32(self.mask_id), labels)
        is_random = np.flatnonzero((fate >= masked) & (fate < random))
        text_ids = self.vocabulary.text_ids
        bits = draw(seed, "mask.random", names[is_random], column[is_random])
        shown[is_random] = text_ids[below(bits, len(text_ids))]
        return shown
