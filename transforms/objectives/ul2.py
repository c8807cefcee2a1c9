"""ul2: a mixture of denoisers (UL2, Tay et al. 2022, arXiv 2205.05131, section 3.1).

Every row draws one of the denoisers by its name and is corrupted with that one's numbers; the drawn denoiser is a
column. All rows are cut at one raw length, the largest whose inputs fit the bucket for every denoiser, so that which
text is in a row does not depend on what is drawn for it. Rows of much noise have shorter inputs and fall into
shorter buckets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

from schemas.objectives import ObjectiveParameters
from schemas.tables import TARGET, Column
from transforms.gates.denoisers import denoiser_gates
from transforms.objectives.base import Documents, Examples, Objective, require_length, require_token
from transforms.objectives.denoisers import MODE_ROLES, Denoiser, Denoisers, default_denoisers
from transforms.objectives.drawing import Drawing, hidden_spans
from transforms.objectives.sentinels import Corruptor, require_sentinels
from transforms.objectives.span_corruption import corruptible_pieces, lay_out
from transforms.ragged import Int64, Ragged
from transforms.statistics.denoisers import DENOISER_LAWS, measure_denoisers
from transforms.vocabulary import Vocabulary

if TYPE_CHECKING:
    from schemas.manifest import TokenizerRecord
    from transforms.gates.gate import Evidence, Gate
    from transforms.statistics.rows import Rows


class Ul2(ObjectiveParameters):
    """Mixture of denoisers (UL2): every row is corrupted by one that it draws."""

    kind: Literal["ul2"] = "ul2"
    denoisers: Annotated[tuple[Denoiser, ...], Field(min_length=1, max_length=64)] = Field(
        default_factory=default_denoisers
    )
    """Default: the seven of the paper's table 1, at equal rates."""
    mode_tokens: Literal["auto", "never", "always"] = "auto"
    """Whether an input begins with its denoiser's mode token: [NLU] for R, [S2S] for S, [NLG] for X. `auto`: if the
    vocabulary has those of all modes that are drawn."""
    pack: Literal["document", "full"] = "document"
    """`document`: a row is one document, or one piece of a document cut at the longest raw length that fits. `full`:
    documents end to end with nothing between them, cut at that length."""

    @model_validator(mode="after")
    def _can_be_drawn(self) -> Ul2:
        names = [d.name for d in self.denoisers]
        if repeated := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"denoisers: two are named {repeated[0]!r}; names must be unique")
        if not any(d.rate for d in self.denoisers):
            raise ValueError("denoisers: all rates are zero; give at least one a positive rate")
        return self


@dataclass(frozen=True)
class Ul2Objective(Objective):
    """Builds pairs of inputs and targets. Single tokens have nothing to be predicted from and are a named loss."""

    parameters: Ul2
    denoisers: Denoisers
    corruptor: Corruptor
    lead_ids: npt.NDArray[np.int32]
    """Mode token of each denoiser, int32 [denoisers]; −1 for none."""

    parameters_class = Ul2
    columns = (
        *TARGET,
        Column("denoiser", pa.dictionary(pa.int32(), pa.string()), "the denoiser that corrupted the row"),
    )
    laws = DENOISER_LAWS

    @classmethod
    def of(cls, parameters: Any, vocabulary: Vocabulary) -> Ul2Objective:
        """The objective for a vocabulary, which must have an `eos` token, sentinels, and mode tokens if asked for."""
        denoisers = Denoisers(parameters.denoisers)
        if parameters.mode_tokens == "always":
            for mode in denoisers.modes:
                require_token(vocabulary, f"mode {mode} of ul2 (mode_tokens: always)", MODE_ROLES[mode])
        return cls(
            parameters,
            denoisers,
            Corruptor(require_token(vocabulary, "ul2", "eos"), vocabulary.sentinel_ids),
            denoisers.lead_ids(vocabulary.special_ids, parameters.mode_tokens),
        )

    def resolve(self, length: int) -> dict[str, Any]:
        """`raw_tokens` of a full row, and by denoiser its `noise_tokens`, `noise_spans` and `target_length`."""
        require_length(
            "ul2", length, 3 + self._leads, "for a token, a sentinel, EOS and the mode token if there is one"
        )
        raw = self._raw(length)
        drawn = self.denoisers.drawn
        noise, spans = self.denoisers.counts(np.full(len(drawn), raw), drawn)
        found = [
            {"name": self.denoisers.members[i].name, "noise_tokens": n, "noise_spans": s, "target_length": n + s + 1}
            for i, n, s in zip(drawn.tolist(), noise.tolist(), spans.tolist(), strict=True)
        ]
        most = max(found, key=_spans)
        what = f"{raw} tokens of denoiser {most['name']}"
        require_sentinels(self.corruptor.sentinel_ids, most["noise_spans"], length, what)
        return {"length": length, "raw_tokens": raw, "denoisers": found}

    def build(self, documents: Documents, *, lengths: Sequence[int], seed: int) -> Examples:
        """Rows of at most the longest length of input tokens."""
        layout, losses = lay_out(documents, self._raw(lengths[-1]), self.parameters.pack)
        which = self.denoisers.draw(layout.names(documents, seed), seed)
        # Tiles are as wide as their longest row and its noise, so rows of like length and noise are neighbours.
        order = np.lexsort((layout.row_tokens, which))
        layout, which = layout.take(order), which[order]
        raw = layout.row_tokens
        noise, spans = self.denoisers.counts(raw, which)
        text = Ragged.from_lengths(layout.text(documents).flat, raw)
        lead = self.lead_ids[which] if self._leads else None
        corrupted = self.corruptor.corrupt(text, layout.names(documents, seed), noise, spans, seed, lead)
        return Examples(
            input_ids=corrupted.input_ids,
            lists={"target_ids": corrupted.target_ids},
            scalars={"denoiser": pa.DictionaryArray.from_arrays(which.astype(np.int32), self._names)},
            losses=losses,
            **layout.provenance(documents),
        )

    def row_lengths(
        self, doc_lengths: Int64, counts: Int64, *, lengths: Sequence[int]
    ) -> tuple[Int64, npt.NDArray[np.float64]]:
        """Input lengths of the pieces, in the denoisers' shares."""
        raw = self._raw(lengths[-1])
        length, rows = np.array([raw]), np.array([float((doc_lengths * counts).sum()) / raw])
        if self.parameters.pack == "document":
            doc, _, length = corruptible_pieces(doc_lengths, raw)
            rows = counts[doc].astype(np.float64)
        which = np.repeat(self.denoisers.drawn, len(length))
        length, rows = (np.tile(x, len(self.denoisers.drawn)) for x in (length, rows))
        noise, spans = self.denoisers.counts(length, which)
        return length - noise + spans + 1 + self._leads, rows * self.denoisers.shares[which]

    @property
    def _leads(self) -> int:
        """Mode tokens of a row, 0 or 1."""
        return int(self.lead_ids.max() >= 0)

    @property
    def _names(self) -> pa.Array:
        return pa.array([d.name for d in self.denoisers.members])

    def _raw(self, longest: int) -> int:
        return self.denoisers.raw_tokens(longest - self._leads)

    @staticmethod
    def measure(rows: Rows, table: pa.Table) -> None:
        """Figures of inputs and targets against each row's denoiser."""
        parameters = rows.context.parameters
        assert isinstance(parameters, Ul2)
        measure_denoisers(rows, table, Denoisers(parameters.denoisers), parameters.mode_tokens)

    @staticmethod
    def gates(evidence: Evidence) -> list[Gate]:
        """How often each denoiser is drawn."""
        parameters = evidence.context.parameters
        assert isinstance(parameters, Ul2)
        return denoiser_gates(evidence, Denoisers(parameters.denoisers))

    @staticmethod
    def draw(row: Mapping[str, Any], tokenizer: TokenizerRecord) -> Drawing:
        """Sentinels with what they stand for, and the denoiser."""
        return Drawing(tuple(hidden_spans(row, tokenizer)), notes=(f"denoiser {row['denoiser']}",))


def _spans(found: dict[str, Any]) -> int:
    return int(found["noise_spans"])
