"""seq2seq: text to text (T5, Raffel et al. 2020, section 2.4): an encoder's input and a decoder's target.

A record's input, with its source's prefix before it, and its target are each followed by EOS; a row is one record.
Records that do not fit are left out or cut, and counted by tokens either way.
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
from transforms.objectives.base import Documents, Examples, Objective, require_length, require_token
from transforms.objectives.drawing import Drawing
from transforms.ragged import Int64, Ragged, offsets_of
from transforms.statistics.seq2seq import SEQ2SEQ_LAWS, measure_seq2seq
from transforms.vocabulary import Vocabulary

if TYPE_CHECKING:
    from schemas.manifest import TokenizerRecord
    from transforms.statistics.rows import Rows


class Seq2Seq(ObjectiveParameters):
    """Text to text (T5): records of an input and a target."""

    kind: Literal["seq2seq"] = "seq2seq"
    on_long: Literal["reject", "truncate"] = "reject"
    """What becomes of a record whose input is longer than the longest length, or its target than
    `max_target_length`, EOS counted: it is left out, or cut at the end. Its tokens are counted as a loss."""
    max_target_length: Annotated[int, Field(ge=2)] | None = None
    """Most ids of a target, EOS counted; by default the longest length."""

    @property
    def reads_pairs(self) -> bool:
        """True: a record is an input and a target."""
        return True


@dataclass(frozen=True)
class Seq2SeqObjective(Objective):
    """Builds pairs of inputs and targets.

    Law: length + target's length = doc_lengths + 2, where doc_lengths counts the tokens of both that are in the row.
    """

    parameters: Seq2Seq
    eos_id: int

    parameters_class = Seq2Seq
    columns = TARGET
    laws = SEQ2SEQ_LAWS

    @classmethod
    def of(cls, parameters: Any, vocabulary: Vocabulary) -> Seq2SeqObjective:
        """The objective for a vocabulary, which must have an `eos` token."""
        return cls(parameters, require_token(vocabulary, "seq2seq", "eos"))

    def resolve(self, length: int) -> dict[str, Any]:
        """`target_length`: the most ids of a target if this is the longest length."""
        require_length("seq2seq", length, 2, "for a token and EOS")
        return {"length": length, "target_length": self._most(length), "eos_id": self.eos_id}

    def build(self, documents: Documents, *, lengths: Sequence[int], seed: int) -> Examples:
        """A row a record with an input of at most the longest length; nothing is drawn."""
        inputs, targets = documents.ids, documents.targets
        assert targets is not None
        given = inputs.lengths, targets.lengths
        kept = tuple(np.minimum(n, m - 1) for n, m in zip(given, (lengths[-1], self._most(lengths[-1])), strict=True))
        cut = sum(int((g - k).sum()) for g, k in zip(given, kept, strict=True))
        records = np.arange(len(documents))
        losses = {"truncated": cut} if cut else {}
        if cut and self.parameters.on_long == "reject":
            fits = (given[0] == kept[0]) & (given[1] == kept[1])
            records = np.flatnonzero(fits)
            losses = {"too_long": int((given[0] + given[1])[~fits].sum())}
        tokens = (kept[0] + kept[1])[records]
        one_each = np.arange(len(records) + 1)
        return Examples(
            input_ids=self._with_eos(inputs, records, kept[0][records]),
            lists={"target_ids": self._with_eos(targets, records, kept[1][records])},
            doc_keys=Ragged(documents.keys[records], one_each),
            doc_offsets=Ragged(np.zeros(len(records), np.int64), one_each),
            doc_lengths=Ragged(tokens.astype(np.int32), one_each),
            copy=np.full(len(records), documents.copy, dtype=np.int32),
            losses=losses,
        )

    def _most(self, longest: int) -> int:
        return self.parameters.max_target_length or longest

    def _with_eos(self, texts: Ragged, records: Int64, lengths: Int64) -> Ragged:
        """int32, so many first tokens of each of these records' texts, and EOS."""
        offsets = offsets_of(lengths + 1)
        ids = np.full(int(offsets[-1]), self.eos_id, dtype=np.int32)
        is_text = np.ones(len(ids), dtype=bool)
        is_text[offsets[1:] - 1] = False
        ids[is_text] = texts.slices(texts.offsets[:-1][records], lengths).flat
        return Ragged(ids, offsets)

    def row_lengths(
        self, doc_lengths: Int64, counts: Int64, *, lengths: Sequence[int]
    ) -> tuple[Int64, npt.NDArray[np.float64]]:
        """A guess: only the tokens of input and target together are known, so the input is taken for half of them."""
        rows = (doc_lengths + 1) // 2 + 1
        if self.parameters.on_long == "truncate":
            return np.minimum(rows, lengths[-1]), counts.astype(np.float64)
        fits = rows <= lengths[-1]
        return rows[fits], counts[fits].astype(np.float64)

    @staticmethod
    def measure(rows: Rows, table: pa.Table) -> None:
        """Figures of inputs and targets."""
        parameters = rows.context.parameters
        assert isinstance(parameters, Seq2Seq)
        measure_seq2seq(rows, Ragged.from_arrow(table["target_ids"]), parameters.max_target_length)

    @staticmethod
    def draw(row: Mapping[str, Any], tokenizer: TokenizerRecord) -> Drawing:
        """The target, below the input."""
        return Drawing(target=tuple(row["target_ids"]))
