"""span_corruption: sentinels replace spans of a piece, and the target gives them back (T5, Raffel et al. 2020).

The rule itself is `transforms.objectives.sentinels`; here it is applied to one piece of one document a row, or to
documents laid end to end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from schemas.objectives import ObjectiveParameters
from schemas.tables import TARGET
from transforms.gates.spans import span_gates
from transforms.objectives.base import Documents, Examples, Objective, require_length, require_token
from transforms.objectives.drawing import Drawing, hidden_spans
from transforms.objectives.layout import Layout, full_rows
from transforms.objectives.sentinels import Corruptor, noise_counts, raw_tokens, require_sentinels
from transforms.ragged import Int64, Ragged, ranges
from transforms.statistics.sentinels import SENTINEL_LAWS, measure_sentinels
from transforms.vocabulary import Vocabulary

if TYPE_CHECKING:
    from schemas.manifest import TokenizerRecord
    from transforms.gates.gate import Evidence, Gate
    from transforms.statistics.rows import Rows


class SpanCorruption(ObjectiveParameters):
    """Span corruption (T5): spans are replaced by sentinels, the target gives them back."""

    kind: Literal["span_corruption"] = "span_corruption"
    noise_density: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of a piece's tokens that are noise."""
    mean_noise_span_length: Annotated[float, Field(ge=1)] = 3.0
    """Noise tokens a span on average."""
    pack: Literal["document", "full"] = "document"
    """`document`: a row is one document, or one piece of a document cut at the longest raw length that fits. `full`:
    documents end to end with nothing between them, cut at that length (T5)."""


@dataclass(frozen=True)
class SpanCorruptionObjective(Objective):
    """Builds pairs of inputs and targets. Single tokens have nothing to be predicted from and are a named loss."""

    parameters: SpanCorruption
    corruptor: Corruptor

    parameters_class = SpanCorruption
    columns = TARGET
    laws = SENTINEL_LAWS

    @classmethod
    def of(cls, parameters: Any, vocabulary: Vocabulary) -> SpanCorruptionObjective:
        """The objective for a vocabulary, which must have an `eos` token and sentinels."""
        return cls(
            parameters, Corruptor(require_token(vocabulary, "span_corruption", "eos"), vocabulary.sentinel_ids)
        )

    def resolve(self, length: int) -> dict[str, Any]:
        """`raw_tokens` of a full row's piece, its `noise_tokens` and `noise_spans`, and `target_length`."""
        require_length("span_corruption", length, 3, "for a token, a sentinel and EOS")
        density, mean = self.parameters.noise_density, self.parameters.mean_noise_span_length
        raw = raw_tokens(density, mean, length)
        noise, spans = (int(c[0]) for c in noise_counts(np.array([raw]), density, mean))
        what = f"{raw} tokens at noise_density {density:g} and mean_noise_span_length {mean:g}"
        require_sentinels(self.corruptor.sentinel_ids, spans, length, what)
        return {
            "length": length,
            "raw_tokens": raw,
            "noise_tokens": noise,
            "noise_spans": spans,
            "target_length": noise + spans + 1,
        }

    def build(self, documents: Documents, *, lengths: Sequence[int], seed: int) -> Examples:
        """Rows of at most the longest length of input tokens."""
        layout, losses = lay_out(documents, self._raw(lengths[-1]), self.parameters.pack)
        layout = layout.by_length()
        raw = layout.row_tokens
        noise, spans = self._counts(raw)
        text = Ragged.from_lengths(layout.text(documents).flat, raw)
        corrupted = self.corruptor.corrupt(text, layout.names(documents, seed), noise, spans, seed)
        return Examples(
            input_ids=corrupted.input_ids,
            lists={"target_ids": corrupted.target_ids},
            losses=losses,
            **layout.provenance(documents),
        )

    def row_lengths(
        self, doc_lengths: Int64, counts: Int64, *, lengths: Sequence[int]
    ) -> tuple[Int64, npt.NDArray[np.float64]]:
        """Input lengths of the pieces."""
        raw = self._raw(lengths[-1])
        if self.parameters.pack == "full":
            return np.array([lengths[-1]]), np.array([float((doc_lengths * counts).sum()) / raw])
        doc, _, length = corruptible_pieces(doc_lengths, raw)
        noise, spans = self._counts(length)
        return length - noise + spans + 1, counts[doc].astype(np.float64)

    def _raw(self, longest: int) -> int:
        return raw_tokens(self.parameters.noise_density, self.parameters.mean_noise_span_length, longest)

    def _counts(self, raw: Int64) -> tuple[Int64, Int64]:
        return noise_counts(raw, self.parameters.noise_density, self.parameters.mean_noise_span_length)

    @staticmethod
    def measure(rows: Rows, table: pa.Table) -> None:
        """Figures of inputs and targets."""
        parameters = rows.context.parameters
        assert isinstance(parameters, SpanCorruption)
        raw = np.maximum(rows.corpus_tokens, 2)
        noise, spans = noise_counts(raw, parameters.noise_density, parameters.mean_noise_span_length)
        measure_sentinels(rows, Ragged.from_arrow(table["target_ids"]), noise, spans, np.zeros_like(raw))

    @staticmethod
    def gates(evidence: Evidence) -> list[Gate]:
        """Lengths of spans, and that further passes hide others."""
        return span_gates(evidence)

    @staticmethod
    def draw(row: Mapping[str, Any], tokenizer: TokenizerRecord) -> Drawing:
        """Sentinels with what they stand for."""
        return Drawing(tuple(hidden_spans(row, tokenizer)))


def lay_out(documents: Documents, raw: int, pack: str) -> tuple[Layout, dict[str, int]]:
    """Rows of at least two tokens, at most `raw`, and the tokens that are in none, by reason."""
    if pack == "full":
        layout = full_rows(documents, raw, separators=0)
        single = layout.row_tokens < 2
        return layout.take(np.flatnonzero(~single)), {"one_token_rests": int(single.sum())} if single.any() else {}
    doc, begin, length = corruptible_pieces(documents.ids.lengths, raw)
    whole = int((documents.ids.lengths == 1).sum())
    rests = len(documents.ids.flat) - int(length.sum()) - whole
    losses = {k: n for k, n in (("one_token_documents", whole), ("one_token_rests", rests)) if n}
    return Layout(doc, begin, length, np.arange(len(doc) + 1)), losses


def corruptible_pieces(lengths: Int64, raw: int) -> tuple[Int64, Int64, Int64]:
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
