"""mlm: masked language modeling, pre-masked (BERT, Devlin et al. 2019, appendix A.1; RoBERTa; ALBERT; SpanBERT).

A row is `[CLS] text [SEP]`. The number of predictions is exact, not a coin a token: BERT's
`min(max_predictions, max(1, round(mask_rate · length)))` with Python's half-to-even rounding (google-research/bert,
create_pretraining_data.py), unless the parameters ask for a coin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.base import Share
from schemas.keys import draw
from schemas.tables import MASKS
from transforms.gates.masks import mask_gates
from transforms.gates.short_rows import short_rows
from transforms.objectives.base import Documents, Examples, Objective, require_length, require_token
from transforms.objectives.drawing import Drawing, document_boundaries, masked_places, merge_marks
from transforms.objectives.layout import Layout, document_rows, full_rows, sentence_rows
from transforms.objectives.masking import Masker, MaskingParameters
from transforms.ragged import Int64
from transforms.statistics.masks import MASK_LAWS, measure_drawn_masks, measure_masks
from transforms.statistics.short_rows import first_pieces, measure_short_rows
from transforms.vocabulary import Vocabulary

if TYPE_CHECKING:
    from schemas.manifest import TokenizerRecord
    from transforms.gates.gate import Evidence, Gate
    from transforms.statistics.rows import Rows


class PackedMaskingParameters(MaskingParameters):
    """How rows are filled, beside how they are masked."""

    pack: Literal["document", "sentences", "full"] = "document"
    """`document`: a row is one document, or one piece of a document cut at the longest length. `sentences`: whole
    sentences that follow each other, across documents, up to the longest length. `full`: documents end to end, cut
    where a row is full. [SEP] lies between documents; all of a row are of one source."""
    short_sequence_rate: Share = 0.0
    """Share of rows with a target length drawn uniformly below the longest (BERT: 0.1)."""

    @property
    def reads_sentences(self) -> bool:
        """True if rows are made of whole sentences."""
        return self.pack == "sentences"


class Mlm(PackedMaskingParameters):
    """Masked language modeling (BERT, RoBERTa): pre-masked rows with the original ids at the masked places."""

    kind: Literal["mlm"] = "mlm"


@dataclass(frozen=True)
class MlmObjective(Objective):
    """Builds pre-masked rows of pieces of documents."""

    parameters: PackedMaskingParameters
    masker: Masker
    cls_id: int
    sep_id: int

    parameters_class: ClassVar[type[PackedMaskingParameters]] = Mlm
    columns = MASKS
    laws = MASK_LAWS

    @classmethod
    def of(cls, parameters: Any, vocabulary: Vocabulary) -> MlmObjective:
        """The objective for a vocabulary, which must have `cls`, `sep` and `mask` tokens."""
        cls_id, sep_id = (require_token(vocabulary, parameters.kind, role) for role in ("cls", "sep"))
        return cls(parameters, Masker.of(parameters, vocabulary), cls_id, sep_id)

    def resolve(self, length: int) -> dict[str, Any]:
        """`predictions`: positions predicted in a full row."""
        require_length(self.parameters.kind, length, 3, "for [CLS], a token and [SEP]")
        return {"length": length, **self.masker.resolve(length, specials=2)}

    def build(self, documents: Documents, *, lengths: Sequence[int], seed: int) -> Examples:
        """Rows of at most the longest length."""
        layout = self.lay_out(documents, lengths[-1], seed).by_length()
        rows = layout.tokens(documents, first=self.cls_id, after=self.sep_id)
        masked = self.masker.mask(rows, layout.names(documents, seed), seed)
        return Examples(input_ids=masked.input_ids, lists=masked.lists, **layout.provenance(documents))

    def lay_out(self, documents: Documents, longest: int, seed: int) -> Layout:
        """Which pieces make up which rows."""
        make = {"document": document_rows, "sentences": sentence_rows, "full": full_rows}[self.parameters.pack]
        return make(documents, longest - 2, short_rate=self.parameters.short_sequence_rate, seed=seed)

    def row_lengths(
        self, doc_lengths: Int64, counts: Int64, *, lengths: Sequence[int]
    ) -> tuple[Int64, npt.NDArray[np.float64]]:
        """Full pieces and the rests, or full rows only; short rows are left out."""
        room = lengths[-1] - 2
        if self.parameters.pack != "document":
            return np.array([lengths[-1]]), np.array([float(((doc_lengths + 1) * counts).sum()) / room])
        full, rest = doc_lengths // room, doc_lengths % room
        rows = np.append(rest[rest > 0] + 2, lengths[-1])
        return rows, np.append(counts[rest > 0], (full * counts).sum()).astype(np.float64)

    @staticmethod
    def measure(rows: Rows, table: pa.Table) -> None:
        """Figures of masked rows."""
        parameters = rows.context.parameters
        assert isinstance(parameters, PackedMaskingParameters)
        places = measure_masks(rows, table)
        key, begin, known = first_pieces(rows)
        measure_drawn_masks(rows, places, draw(rows.context.seed, "row", key, begin, rows.copy), known)
        measure_short_rows(rows, parameters.pack, parameters.short_sequence_rate)

    @staticmethod
    def gates(evidence: Evidence) -> list[Gate]:
        """How many places are masked, how they are shown and where they lie, and how many rows are short."""
        parameters = evidence.context.parameters
        assert isinstance(parameters, PackedMaskingParameters)
        return [
            *mask_gates(evidence),
            *short_rows(evidence, parameters.short_sequence_rate, parameters.pack),
        ]

    @staticmethod
    def draw(row: Mapping[str, Any], tokenizer: TokenizerRecord) -> Drawing:
        """Masked places and the beginnings of documents."""
        return Drawing(merge_marks(masked_places(row, tokenizer), document_boundaries(row, first=1)))
