"""infilling: text infilling with permuted sentences (BART, Lewis et al. 2020, arXiv 1910.13461, sections 2.2 and 3).

An input is `[BOS] corrupted [EOS]`, its target `[BOS] original [EOS]`. First the row's sentences are put in a random
order, then spans of words are each replaced by one mask (`transforms.objectives.poisson_spans`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from schemas.base import Share
from schemas.objectives import ObjectiveParameters
from schemas.tables import TARGET
from transforms.gates.infilling import infilling_gates
from transforms.objectives.base import (
    Documents,
    Examples,
    Objective,
    require_length,
    require_token,
    require_word_starts,
)
from transforms.objectives.drawing import Drawing, Mark
from transforms.objectives.layout import Layout, document_rows, full_rows
from transforms.objectives.poisson_spans import drawn_lengths, fitted, mask_budget, place
from transforms.objectives.sentence_order import Pieces
from transforms.ragged import Int64, Ragged, concatenate, offsets_of, tiles
from transforms.statistics.infilling import INFILLING_LAWS, measure_infilling
from transforms.vocabulary import Vocabulary

if TYPE_CHECKING:
    from schemas.manifest import TokenizerRecord
    from transforms.gates.gate import Evidence, Gate
    from transforms.statistics.rows import Rows

_TILE_POSITIONS = 2**16
"""Tokens corrupted at a time: the working set stays in the processor's cache."""

_STARTS, _BREAKS = np.uint8(1), np.uint8(2)

_TOKENS_PER_WORD = 1.3
"""Of English text and a vocabulary of 30,000; only the plan's preview supposes it."""


class Infilling(ObjectiveParameters):
    """Text infilling (BART): a span of words becomes one mask, sentences are permuted; the target is the original."""

    kind: Literal["infilling"] = "infilling"
    mask_ratio: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Share of a row's words that are masked: exactly ceil(mask_ratio · words)."""
    poisson_lambda: Annotated[float, Field(ge=1, le=30)] = 3.0
    """Mean length of a span in words. A span of no word inserts a mask."""
    permute_sentences: Share = 1.0
    """Share of a row's sentences, rounded up, that change places among themselves at random."""
    pack: Literal["document", "full"] = "document"
    """`document`: a row is one document, or one piece of a document cut at the longest length. `full`: documents end
    to end with nothing between them, cut at that length."""

    @property
    def reads_sentences(self) -> bool:
        """True if sentences are permuted."""
        return self.permute_sentences > 0


@dataclass(frozen=True)
class InfillingObjective(Objective):
    """Builds pairs of a corrupted input and the original.

    Law: ceil(mask_ratio · words) words of a row are hidden, in spans of which no two touch, each behind one mask.
    """

    parameters: Infilling
    bos_id: int
    eos_id: int
    mask_id: int
    kinds: npt.NDArray[np.uint8]
    """[vocabulary]: whether a token starts a word, and whether one starts behind it (special and unknown tokens)."""

    parameters_class = Infilling
    columns = TARGET
    laws = INFILLING_LAWS

    @classmethod
    def of(cls, parameters: Any, vocabulary: Vocabulary) -> InfillingObjective:
        """The objective for a vocabulary, which must have `bos`, `eos` and `mask` tokens and tell words."""
        starts = require_word_starts(vocabulary, "kind: infilling")
        kinds = (starts | vocabulary.is_special) * _STARTS + vocabulary.is_special * _BREAKS
        bos, eos, mask = (require_token(vocabulary, "infilling", role) for role in ("bos", "eos", "mask"))
        return cls(parameters, bos, eos, mask, kinds.astype(np.uint8))

    def resolve(self, length: int) -> dict[str, Any]:
        """`raw_tokens` and `target_length` of the longest row, whose input is shorter by what is hidden."""
        require_length("infilling", length, 5, "for BOS, three tokens and EOS")
        return {"length": length, "raw_tokens": length - 2, "target_length": length}

    def build(self, documents: Documents, *, lengths: Sequence[int], seed: int) -> Examples:
        """Rows whose inputs and targets have at most the longest length."""
        layout = self._lay_out(documents, lengths[-1]).by_length()
        names = layout.names(documents, seed)
        last = np.zeros(len(layout.doc), dtype=bool)
        last[layout.row_offsets[1:] - 1] = True
        targets = layout.tokens(documents, first=self.bos_id, after=self.eos_id, followed=last)
        pieces = Pieces.of(documents, layout)
        if self.parameters.permute_sentences:
            pieces = pieces.sentences(documents)
        inputs = [
            self._corrupt(documents.ids, pieces.rows(some.start, some.stop), names[some], seed)
            for some in tiles(layout.row_tokens, _TILE_POSITIONS)
        ]
        return Examples(
            input_ids=concatenate(inputs, np.int32), lists={"target_ids": targets}, **layout.provenance(documents)
        )

    def _lay_out(self, documents: Documents, longest: int) -> Layout:
        if self.parameters.pack == "full":
            return full_rows(documents, longest - 2, separators=0)
        return document_rows(documents, longest - 2)

    def _corrupt(self, ids: Ragged, pieces: Pieces, names: npt.NDArray[np.uint64], seed: int) -> Ragged:
        """Inputs of a few rows."""
        if self.parameters.permute_sentences:
            pieces = pieces.permuted(names, self.parameters.permute_sentences, seed)
        text = ids.slices(pieces.begin, pieces.length).flat
        ends = np.cumsum(pieces.length)
        bounds = np.append(0, ends)[pieces.row_offsets]
        kinds = self.kinds[text]
        starts = (kinds & _STARTS).astype(bool)
        if len(behind := np.flatnonzero(kinds & _BREAKS) + 1):
            starts[behind[behind < len(text)]] = True
        starts[ends - pieces.length] = True
        begins = np.append(np.flatnonzero(starts), len(text))
        first_word = np.searchsorted(begins, bounds)
        words = np.diff(first_word)

        budgets = mask_budget(words, self.parameters.mask_ratio)
        drawn = drawn_lengths(names, budgets, self.parameters.poisson_lambda, seed)
        masks = place(fitted(drawn, words, budgets), words, names, seed)
        word = first_word[masks.row] + masks.word
        begin, end = begins[word], begins[word + masks.words]
        return self._write(text.astype(np.int32, copy=True), bounds, masks.row, begin, end)

    def _write(self, text: npt.NDArray[np.int32], bounds: Int64, row: Int64, begin: Int64, end: Int64) -> Ragged:
        """Inputs of rows `text[bounds[i]:bounds[i + 1]]`, with one mask for each of `text[begin[j]:end[j]]`."""
        hides = end > begin
        step = np.zeros(len(text) + 1, dtype=np.int8)
        step[begin[hides]] = 1
        step[end[hides]] -= 1
        keep = np.cumsum(step[:-1], dtype=np.int8) == 0
        keep[begin[hides]] = True  # a mask stands at the first place of what it hides
        text[begin[hides]] = self.mask_id
        grows = 1 - (end - begin)  # 1 for an inserted mask
        rows = len(bounds) - 1
        lengths = np.diff(bounds) + 2 + np.bincount(row, weights=grows, minlength=rows).astype(np.int64)
        offsets = offsets_of(lengths)
        ids = np.full(int(offsets[-1]), self.eos_id, dtype=np.int32)
        is_text = np.ones(len(ids), dtype=bool)
        is_text[offsets[1:] - 1] = False
        ids[offsets[:-1]] = self.bos_id
        is_text[offsets[:-1]] = False
        # Before a place there are BOS and EOS of earlier rows, this row's BOS, and what earlier masks added or hid.
        at = (begin + np.cumsum(grows) - grows + 2 * row + 1)[~hides]
        ids[at] = self.mask_id
        is_text[at] = False
        ids[is_text] = text[keep]
        return Ragged(ids, offsets)

    def row_lengths(
        self, doc_lengths: Int64, counts: Int64, *, lengths: Sequence[int]
    ) -> tuple[Int64, npt.NDArray[np.float64]]:
        """Input lengths of the pieces, as far as they can be known without words."""
        room = lengths[-1] - 2
        if self.parameters.pack == "full":
            raw, rows = np.array([room]), np.array([float((doc_lengths * counts).sum()) / room])
        else:
            full, rest = doc_lengths // room, doc_lengths % room
            raw = np.append(rest[rest > 0], room)
            rows = np.append(counts[rest > 0], (full * counts).sum()).astype(np.float64)
        hidden = raw * self.parameters.mask_ratio
        masks = hidden / (_TOKENS_PER_WORD * self.parameters.poisson_lambda)
        return np.minimum(raw, np.rint(raw - hidden + masks).astype(np.int64)) + 2, rows

    @staticmethod
    def measure(rows: Rows, table: pa.Table) -> None:
        """Figures of inputs and targets."""
        parameters = rows.context.parameters
        assert isinstance(parameters, Infilling)
        measure_infilling(
            rows,
            Ragged.from_arrow(table["target_ids"]),
            ratio=parameters.mask_ratio,
            mean=parameters.poisson_lambda,
            in_order=not parameters.permute_sentences,
        )

    @staticmethod
    def gates(evidence: Evidence) -> list[Gate]:
        """How much is masked, and in how many spans."""
        parameters = evidence.context.parameters
        assert isinstance(parameters, Infilling)
        return infilling_gates(evidence, parameters.mask_ratio)

    @staticmethod
    def draw(row: Mapping[str, Any], tokenizer: TokenizerRecord) -> Drawing:
        """Masks, and the original below."""
        mask_id = tokenizer.special_ids.get("mask")
        places = [i for i, token in enumerate(row["input_ids"]) if token == mask_id]
        marks = tuple(Mark("gap", place, place + 1) for place in places)
        return Drawing(marks, target=tuple(row["target_ids"]), notes=(f"{len(places)} masks",))
