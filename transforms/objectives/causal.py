"""causal: next-token prediction (GPT). Labels are the inputs shifted by one and are not stored.

Each document is followed by one EOS, unless a stage's edge cuts it before its end. `pack` says how documents become
rows:

- `concat` (GPT-3, Brown et al. 2020, section 2): documents end to end, cut at the longest length; every corpus token
  and every EOS is in exactly one row, and only the last row of a source, pass and block is shorter.
- `best_fit` (Ding et al. 2024, arXiv 2404.10830): only documents longer than a row are cut; pieces are packed into
  rows by best-fit decreasing.
- `decompose` (Pouransari et al. 2024, arXiv 2405.13226): a document is cut into powers of two, longest first, each a
  row of its own; pieces shorter than the shortest length are packed into rows of that length, not dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.objectives import ObjectiveParameters
from transforms.gates.packed import documents_whole
from transforms.histogram_packing import expected_fills, last_pieces
from transforms.objectives.base import Documents, Examples, Objective, require_length, require_token
from transforms.objectives.drawing import Drawing, Mark
from transforms.objectives.layout import Layout
from transforms.packing import best_fit, fill, powers_of_two
from transforms.ragged import Int64, offsets_of
from transforms.statistics.packed import PACKED_LAWS, measure_packed
from transforms.vocabulary import Vocabulary

if TYPE_CHECKING:
    from schemas.manifest import TokenizerRecord
    from transforms.gates.gate import Evidence, Gate
    from transforms.statistics.rows import Rows


class Causal(ObjectiveParameters):
    """Next-token prediction (GPT). Labels are the inputs shifted by one."""

    kind: Literal["causal"] = "causal"
    pack: Literal["concat", "best_fit", "decompose"] = "concat"
    """`concat`: documents joined by the end-of-sequence token and cut at the longest length; the tail is kept.
    `best_fit`: only documents longer than that are cut, and rows are packed by best-fit decreasing. `decompose`:
    documents cut into powers of two, a row each; the shortest pieces are packed."""


@dataclass(frozen=True)
class CausalObjective(Objective):
    """Builds causal examples.

    Law: Σ length = Σ doc_lengths + number of documents, one EOS after the end of each document and nowhere else. With
    `concat`, the rows of a source, pass and block, laid end to end, are its documents in order; with `best_fit`, a
    piece without EOS is a full row; with `decompose`, a piece and its EOS are a power of two.
    """

    parameters: Causal
    eos_id: int

    parameters_class = Causal
    laws = PACKED_LAWS

    @classmethod
    def of(cls, parameters: Any, vocabulary: Vocabulary) -> CausalObjective:
        """The objective for a vocabulary, which must have an `eos` token."""
        return cls(parameters, require_token(vocabulary, "causal", "eos"))

    def resolve(self, length: int) -> dict[str, Any]:
        """`predictions`: next tokens predicted in a full row."""
        require_length("causal", length, 2, "since a row of one token predicts nothing")
        return {"length": length, "predictions": length - 1, "eos_id": self.eos_id}

    def build(self, documents: Documents, *, lengths: Sequence[int], seed: int) -> Examples:
        """Rows of at most the longest length; the order of the documents is the caller's, so nothing is drawn."""
        units = documents.ids.lengths + documents.ends  # a document and its EOS
        if self.parameters.pack == "concat":
            doc, begin, count, row = fill(units, lengths[-1])
        elif self.parameters.pack == "best_fit":
            doc, begin, count = cut(units, lengths[-1])
            row = best_fit(count, lengths[-1])
        else:
            doc, begin, count = powers_of_two(units, lengths[-1])
            row = np.arange(len(doc))
            short = count < lengths[0]
            tails = best_fit(count[short], lengths[0])
            row[short] = len(doc) + tails
        layout, ends = packed_layout(doc, begin, count, row, units, documents.ends)
        rows = layout.tokens(documents, after=self.eos_id, followed=ends)
        return Examples(input_ids=rows, **layout.provenance(documents))

    def row_lengths(
        self, doc_lengths: Int64, counts: Int64, *, lengths: Sequence[int]
    ) -> tuple[Int64, npt.NDArray[np.float64]]:
        """Full rows, rows as packing leaves them, or powers of two; shorter rows that end blocks are left out."""
        units, longest = doc_lengths + 1, lengths[-1]
        if self.parameters.pack == "concat":
            return np.array([longest]), np.array([float((units * counts).sum()) / longest])
        if self.parameters.pack == "decompose":
            longest = 1 << (longest.bit_length() - 1)
        last, before = last_pieces(units, counts, longest)
        pieces, n = np.append(last, longest), np.append(counts, before)
        if self.parameters.pack == "best_fit":
            return expected_fills(pieces, n, longest)
        item, _, power = powers_of_two(pieces, longest)
        own = power >= lengths[0]
        fills, rows = expected_fills(power[~own], n[item][~own], lengths[0])
        return np.append(power[own], fills), np.append(n[item][own], rows)

    @staticmethod
    def measure(rows: Rows, table: pa.Table) -> None:
        """Figures of packed rows."""
        parameters = rows.context.parameters
        assert isinstance(parameters, Causal)
        measure_packed(rows, parameters.pack)

    @staticmethod
    def gates(evidence: Evidence) -> list[Gate]:
        """Nothing of a document is missing."""
        return [documents_whole(evidence)]

    @staticmethod
    def draw(row: Mapping[str, Any], tokenizer: TokenizerRecord) -> Drawing:
        """The beginnings of documents."""
        return Drawing(tuple(packed_boundaries(row, tokenizer)))


def packed_boundaries(row: Mapping[str, Any], tokenizer: TokenizerRecord) -> list[Mark]:
    """A mark where each further piece of a row begins, behind the EOS of the one before, if that has one."""
    marks, place, ids = [], 0, row["input_ids"]
    pieces = zip(row["doc_keys"], row["doc_offsets"], row["doc_lengths"], strict=False)
    for i, (key, offset, count) in enumerate(pieces):
        if i:
            marks.append(Mark("boundary", place, place, note=f"document {key:016x} from token {offset}"))
        place += count
        place += ids[place : place + 1] == [tokenizer.special_ids.get("eos")]
    return marks


def cut(units: Int64, longest: int) -> tuple[Int64, Int64, Int64]:
    """(document, first unit, units) of documents cut every `longest` units, those that fit left whole."""
    doc, begin, count, _ = fill(-(-units // longest) * longest, longest)
    count = np.minimum(count, units[doc] - begin)
    return doc, begin, count


def packed_layout(
    doc: Int64, begin: Int64, count: Int64, row: Int64, units: Int64, ended: npt.NDArray[np.bool_]
) -> tuple[Layout, npt.NDArray[np.bool_]]:
    """Rows of pieces whose last unit is the document's EOS, or not.

    Args:
      doc, begin, count: document, first unit and units of each piece.
      row: of each piece; numbers need be neither ascending nor without gaps.
      units: of each document, its EOS counted.
      ended: which documents have one, bool [documents].

    Returns:
      The layout, and which of its pieces EOS follows. A piece may be EOS alone.
    """
    if len(row) > 1 and (row[1:] < row[:-1]).any():
        order = np.argsort(row, kind="stable")
        doc, begin, count, row = doc[order], begin[order], count[order], row[order]
    ends = (begin + count == units[doc]) & ended[doc]
    first = np.ones(len(row), dtype=bool)
    first[1:] = row[1:] != row[:-1]
    pieces = np.diff(np.append(np.flatnonzero(first), len(row)))
    return Layout(doc, begin, count - ends, offsets_of(pieces)), ends
