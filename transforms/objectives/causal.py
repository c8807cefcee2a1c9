"""causal: next-token prediction. Documents joined by the end-of-sequence token and cut into full rows.

`pack: concat` (GPT-3, Brown et al. 2020, section 2): every corpus token and one EOS a document are in exactly one
row; only the last row of a source, pass and block is shorter than the longest length. Labels are the inputs
shifted by one and are not stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.objectives import Causal
from transforms.objectives.base import Documents, Examples, require_length, require_token
from transforms.ragged import Ragged, offsets_of
from transforms.vocabulary import Vocabulary


@dataclass(frozen=True)
class CausalBuilder:
    """Builds causal examples.

    Law: the rows of a source, pass and block, laid end to end, are its documents in order, each followed by one
    EOS; so Σ length = Σ doc_lengths + number of documents, and an attention boundary lies after each EOS.
    """

    parameters: Causal
    eos_id: int
    kind: str = "causal"

    @classmethod
    def of(cls, parameters: Causal, vocabulary: Vocabulary) -> CausalBuilder:
        """The builder for a vocabulary, which must have an `eos` token."""
        return cls(parameters, require_token(vocabulary, "causal", "eos"))

    def resolve(self, length: int) -> dict[str, Any]:
        """`predictions`: next tokens predicted in a full row."""
        require_length("causal", length, 2, "since a row of one token predicts nothing")
        return {"length": length, "predictions": length - 1, "eos_id": self.eos_id}

    def build(self, documents: Documents, *, longest: int, seed: int) -> Examples:
        """Rows of `longest` tokens; the order of the documents is the caller's, so no draw is needed here."""
        ids = documents.ids
        total = len(ids.flat) + len(documents)
        ends = ids.offsets[1:] + np.arange(len(documents))  # where each document's EOS stands in the stream
        stream = np.full(total, self.eos_id, dtype=np.int32)
        is_text = np.ones(total, dtype=bool)
        is_text[ends] = False
        stream[is_text] = ids.flat

        # A piece is what a row holds of a document: the stream cut at document starts and at row starts.
        doc_starts = ids.offsets[:-1] + np.arange(len(documents))
        row_starts = np.arange(0, total, longest)
        starts = np.union1d(doc_starts, row_starts)
        stops = np.append(starts[1:], total)
        doc = np.searchsorted(doc_starts, starts, side="right") - 1
        rows = len(row_starts)
        return Examples(
            input_ids=Ragged(stream, np.append(row_starts, total).astype(np.int64)),
            doc_keys=self._by_row(documents.keys[doc], starts, longest, rows),
            doc_offsets=self._by_row(starts - doc_starts[doc], starts, longest, rows),
            # The EOS belongs to its document's piece but is no corpus token, so a piece may be EOS alone.
            doc_lengths=self._by_row((np.minimum(stops, ends[doc]) - starts).astype(np.int32), starts, longest, rows),
            copy=np.full(rows, documents.copy, dtype=np.int32),
        )

    def row_lengths(
        self, doc_lengths: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], *, longest: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Full rows; the few shorter ones at the ends of blocks are left out."""
        total = float(((doc_lengths + 1) * counts).sum())
        return np.array([longest]), np.array([total / longest])

    @staticmethod
    def _by_row(values: npt.NDArray[np.generic], starts: npt.NDArray[np.int64], longest: int, rows: int) -> Ragged:
        return Ragged(values, offsets_of(np.bincount(starts // longest, minlength=rows)))
