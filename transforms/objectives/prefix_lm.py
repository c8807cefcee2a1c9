"""prefix_lm: a prefix that is read in both directions, and the rest that is predicted from it.

Raffel et al. 2020 (arXiv 1910.10683, sections 3.2.1 and 3.3): a row is split at a place drawn uniformly, here from
1..n − 1 of its n ids, and the loss is on the suffix. Attention is full within the prefix and causal behind it.

Each document is followed by one EOS. A row needs two ids to be split, so an EOS that would be alone is lent the token
before it by the row before; no token is lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.keys import below, draw
from schemas.objectives import ObjectiveParameters
from schemas.tables import Column
from transforms.gates.chance import places_gate
from transforms.gates.packed import documents_whole
from transforms.objectives.base import Documents, Examples, Objective, require_length, require_token
from transforms.objectives.causal import cut, packed_boundaries, packed_layout
from transforms.objectives.drawing import Drawing, Mark, merge_marks
from transforms.packing import fill
from transforms.ragged import Int64
from transforms.statistics.prefix_lm import PREFIX_LAWS, measure_prefix_lm
from transforms.vocabulary import Vocabulary

if TYPE_CHECKING:
    from schemas.manifest import TokenizerRecord
    from transforms.gates.gate import Evidence, Gate
    from transforms.statistics.rows import Rows


class PrefixLm(ObjectiveParameters):
    """Prefix language modeling: the loss is on what follows a prefix of random length."""

    kind: Literal["prefix_lm"] = "prefix_lm"
    pack: Literal["document", "concat"] = "document"
    """`document`: a row is one document, or one piece of a document cut at the longest length. `concat`: documents
    joined by the end-of-sequence token and cut at that length."""


@dataclass(frozen=True)
class PrefixLmObjective(Objective):
    """Builds rows and the lengths of their prefixes.

    Law: length = Σ doc_lengths + EOS tokens; `prefix_length` is uniform in 1..length − 1.
    """

    parameters: PrefixLm
    eos_id: int

    parameters_class = PrefixLm
    columns = (Column("prefix_length", pa.int32(), "ids of the prefix; the loss is on those behind it"),)
    laws = PREFIX_LAWS

    @classmethod
    def of(cls, parameters: Any, vocabulary: Vocabulary) -> PrefixLmObjective:
        """The objective for a vocabulary, which must have an `eos` token."""
        return cls(parameters, require_token(vocabulary, "prefix_lm", "eos"))

    def resolve(self, length: int) -> dict[str, Any]:
        """`predictions`: ids predicted in a full row on average."""
        require_length("prefix_lm", length, 3, "for a prefix and two ids, of which one can be lent to the next row")
        return {"length": length, "predictions": length / 2, "eos_id": self.eos_id}

    def build(self, documents: Documents, *, lengths: Sequence[int], seed: int) -> Examples:
        """Rows of at most the longest length."""
        # A token that is all there is of a document has its EOS even where a stage's edge cuts it off.
        ended = documents.ends | (documents.ids.lengths == 1)
        units = documents.ids.lengths + ended  # a document and its EOS
        layout, ends = packed_layout(*self._pieces(units, lengths[-1]), units, ended)
        rows = layout.tokens(documents, after=self.eos_id, followed=ends)
        names = draw(seed, "prefix_lm", layout.names(documents, seed))
        prefix = 1 + below(names, rows.lengths - 1)
        return Examples(
            input_ids=rows, scalars={"prefix_length": prefix.astype(np.int32)}, **layout.provenance(documents)
        )

    def _pieces(self, units: Int64, longest: int) -> tuple[Int64, Int64, Int64, Int64]:
        """(document, first unit, units, row) of each piece; every row has two units or more."""
        if self.parameters.pack == "document":
            doc, begin, count = cut(units, longest)
            alone = np.flatnonzero(count == 1)  # an EOS; its document's full piece is just before
            begin[alone] -= 1
            count[alone] += 1
            count[alone - 1] -= 1
            return doc, begin, count, np.arange(len(doc))
        total = int(units.sum())
        rooms = np.full(-(-total // longest), longest)
        if total % longest == 1:
            rooms[-2:] = longest - 1, 2
        return fill(units, rooms)

    def row_lengths(
        self, doc_lengths: Int64, counts: Int64, *, lengths: Sequence[int]
    ) -> tuple[Int64, npt.NDArray[np.float64]]:
        """Pieces of documents, or full rows."""
        units = doc_lengths + 1
        if self.parameters.pack == "concat":
            return np.array([lengths[-1]]), np.array([float((units * counts).sum()) / lengths[-1]])
        doc, _, count, _ = self._pieces(units, lengths[-1])
        return count, counts[doc].astype(np.float64)

    @staticmethod
    def measure(rows: Rows, table: pa.Table) -> None:
        """Figures of rows and their prefixes."""
        parameters = rows.context.parameters
        assert isinstance(parameters, PrefixLm)
        prefix = np.asarray(table["prefix_length"].combine_chunks()).astype(np.int64)
        measure_prefix_lm(rows, prefix, parameters.pack)

    @staticmethod
    def gates(evidence: Evidence) -> list[Gate]:
        """Nothing of a document is missing, and prefixes are of every length alike."""
        law = "prefixes of 1..n − 1 of a row's n ids, all equally likely"
        return [
            documents_whole(evidence),
            places_gate(evidence, "prefix_uniformity", "prefix_length", law, tests=1),
        ]

    @staticmethod
    def draw(row: Mapping[str, Any], tokenizer: TokenizerRecord) -> Drawing:
        """The suffix, which is predicted, and the beginnings of documents."""
        boundaries = packed_boundaries(row, tokenizer)
        prefix, end = row["prefix_length"], len(row["input_ids"])
        # A mark ends where a document begins, since marks do not overlap.
        edges = [prefix, *(m.begin for m in boundaries if prefix < m.begin < end), end]
        suffix = [Mark("predicted", a, b) for a, b in pairwise(edges) if a < b]
        here = [Mark("boundary", prefix, prefix, note=f"prefix of {prefix} ids; from here on predicted")]
        return Drawing(merge_marks(boundaries, here, suffix))
