"""sentence_pair: two segments and whether they belong in this order, over the masks of mlm.

A row is `[CLS] A [SEP] B [SEP]`. Next sentence prediction (`nsp`: BERT, Devlin et al. 2019, section 3.1): B follows
A, or is from another document of the same source. Sentence order prediction (`sop`: ALBERT, Lan et al. 2020, section
3.1): A and B follow each other, or are swapped. `transforms.objectives.pairing` decides what A and B are.

Three departures from google-research/bert, create_pretraining_data.py: the target of a short row is drawn for each
row, not for each document, which floods short rows from one document; B labelled random is never from A's document;
and a chunk of one sentence, which has no second segment, is no pair for `sop` (google-research/albert#234).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import model_validator

from schemas.base import Share
from schemas.tables import MASKS, Column
from transforms.gates.masks import mask_gates
from transforms.gates.pairs import pair_gates
from transforms.gates.short_rows import short_rows
from transforms.objectives.base import Documents, Examples, Law, Objective, require_length, require_token
from transforms.objectives.drawing import Drawing, Mark, document_boundaries, masked_places, merge_marks
from transforms.objectives.masking import Masker, MaskingParameters
from transforms.objectives.pairing import Walk
from transforms.ragged import Int64
from transforms.statistics.masks import MASK_LAWS, measure_drawn_masks, measure_masks
from transforms.statistics.pairs import PAIR_LAWS, measure_pairs
from transforms.vocabulary import Vocabulary

if TYPE_CHECKING:
    from schemas.manifest import TokenizerRecord
    from transforms.gates.gate import Evidence, Gate
    from transforms.statistics.rows import Rows

_SPECIALS = 3
"""[CLS] and two [SEP]."""


class SentencePair(MaskingParameters):
    """Next sentence prediction (BERT) or sentence order prediction (ALBERT), with masks."""

    kind: Literal["sentence_pair"] = "sentence_pair"
    task: Literal["nsp", "sop"] = "nsp"
    """`nsp`: does B follow A, or is it from another document? `sop`: are A and B in order, or swapped?"""
    random_next_prob: Share = 0.5
    """`nsp`: chance of a B from another document; beyond it, a chunk of one sentence always has one."""
    swap_prob: Share = 0.5
    """`sop`: chance that the segments are swapped."""
    short_sequence_rate: Share = 0.1
    """Share of rows with a target length drawn uniformly below the longest (BERT: 0.1)."""

    @model_validator(mode="after")
    def _of_this_task(self) -> SentencePair:
        other, task = ("swap_prob", "sop") if self.task == "nsp" else ("random_next_prob", "nsp")
        if getattr(self, other) != type(self).model_fields[other].default:
            raise ValueError(f"{other} is for task: {task}, got task: {self.task}")
        return self

    @property
    def reads_sentences(self) -> bool:
        """Segments are whole sentences."""
        return True

    @property
    def coin_prob(self) -> float:
        """Chance of the coin that each pair tosses."""
        return self.random_next_prob if self.task == "nsp" else self.swap_prob


@dataclass(frozen=True)
class SentencePairObjective(Objective):
    """Builds pre-masked pairs of segments."""

    parameters: SentencePair
    masker: Masker
    cls_id: int
    sep_id: int

    parameters_class = SentencePair
    columns = (
        *MASKS,
        Column("segment_a_length", pa.int32(), "places of the first segment, with [CLS] and the first [SEP]"),
        Column("is_next", pa.bool_(), "nsp: B follows A; sop: A and B are in order"),
    )
    laws: ClassVar[Mapping[str, Law]] = {**MASK_LAWS, **PAIR_LAWS}

    @classmethod
    def of(cls, parameters: Any, vocabulary: Vocabulary) -> SentencePairObjective:
        """The objective for a vocabulary, which must have `cls`, `sep` and `mask` tokens."""
        cls_id, sep_id = (require_token(vocabulary, parameters.kind, role) for role in ("cls", "sep"))
        return cls(parameters, Masker.of(parameters, vocabulary), cls_id, sep_id)

    def resolve(self, length: int) -> dict[str, Any]:
        """`predictions` of a full row and `pair_tokens`, the most tokens that A and B have together."""
        require_length(self.parameters.kind, length, 5, "for [CLS], two [SEP] and a token of each segment")
        pair_tokens = length - _SPECIALS
        return {"length": length, **self.masker.resolve(length, specials=_SPECIALS), "pair_tokens": pair_tokens}

    def build(self, documents: Documents, *, lengths: Sequence[int], seed: int) -> Examples:
        """Rows of at most the longest length.

        Where chunks begin and end, what A is and whether B is to be random depend on the document alone. Which
        document a random B is from depends on which there are to choose from: the block's, of the same source and
        pass. The order of the documents never matters. Places of masks are drawn by the name of the chunk.
        """
        p, most = self.parameters, lengths[-1] - _SPECIALS
        walk = Walk(documents, most, p.short_sequence_rate, p.coin_prob, seed)
        drawn, losses = walk.next_sentence() if p.task == "nsp" else walk.sentence_order()
        pairs = drawn.cut(most, seed)
        # A random B is read where it belongs; here it is gained, and what is cut of it was never in a row.
        gained = ~pairs.is_next if p.task == "nsp" else np.zeros(len(pairs.is_next), bool)
        cut = drawn.length - pairs.length
        counts = {"truncated": int(cut.sum() - cut[1, gained].sum()), **losses}
        gains = {"random_next": int(pairs.length[1, gained].sum())}

        order = np.argsort(pairs.length.sum(axis=0), kind="stable")  # so that tiles of rows waste little padding
        layout = pairs.layout(documents).take(order)
        rows = layout.tokens(documents, first=self.cls_id, after=self.sep_id)
        masked = self.masker.mask(rows, pairs.name[order], seed)
        return Examples(
            input_ids=masked.input_ids,
            lists=masked.lists,
            scalars={
                "segment_a_length": (pairs.length[0, order] + 2).astype(np.int32),
                "is_next": pairs.is_next[order],
            },
            losses={reason: n for reason, n in counts.items() if n},
            gains={reason: n for reason, n in gains.items() if n},
            **layout.provenance(documents),
        )

    def row_lengths(
        self, doc_lengths: Int64, counts: Int64, *, lengths: Sequence[int]
    ) -> tuple[Int64, npt.NDArray[np.float64]]:
        """An approximation, since the lengths of sentences are not known here.

        A chunk uses up its target, or half of it if its B is random, which then fills the row. So documents of n
        tokens become n / (room · (1 − p / 2)) full rows if they have as many tokens as fit, else one row of their
        own length for each that is used up as a whole. Short rows are left out, and so is what is cut.
        """
        room = lengths[-1] - _SPECIALS
        p = self.parameters.random_next_prob if self.parameters.task == "nsp" else 0.0
        long = doc_lengths >= room
        full = float((doc_lengths * counts)[long].sum()) / (room * (1 - p / 2))
        # A short document's chunks are halved while the coin says random: p/(1 − p) random ones on average, but no
        # more than some log2(n) of them.
        halvings = np.log2(np.maximum(doc_lengths[~long], 1))
        random = np.minimum(p / (1 - p), halvings) if p < 1 else halvings
        full += float((random * counts[~long]).sum())
        return np.append(doc_lengths[~long] + _SPECIALS, lengths[-1]), np.append(counts[~long], full)

    @staticmethod
    def measure(rows: Rows, table: pa.Table) -> None:
        """Figures of masked rows and of their pairs."""
        p = rows.context.parameters
        assert isinstance(p, SentencePair)
        places = measure_masks(rows, table)
        names, known = measure_pairs(rows, table, p.task, coin_prob=p.coin_prob, short_rate=p.short_sequence_rate)
        measure_drawn_masks(rows, places, names, known)

    @staticmethod
    def gates(evidence: Evidence) -> list[Gate]:
        """How places are masked, and how often segments follow each other."""
        p = evidence.context.parameters
        assert isinstance(p, SentencePair)
        return [
            *mask_gates(evidence),
            *pair_gates(evidence, p.task, p.coin_prob),
            *short_rows(evidence, p.short_sequence_rate, "pairs"),
        ]

    @staticmethod
    def draw(row: Mapping[str, Any], tokenizer: TokenizerRecord) -> Drawing:
        """Masked places, the second segment between them, and the label in words."""
        masks = masked_places(row, tokenizer)
        keys, begin, end = row["doc_keys"], row["segment_a_length"], len(row["input_ids"]) - 1
        edges = [begin, *(m.begin for m in masks if begin <= m.begin < end), end]
        opens = [begin, *(edge + 1 for edge in edges[1:-1])]
        second = [Mark("second", a, b) for a, b in zip(opens, edges[1:], strict=True) if a < b]
        same = len(set(keys)) == 1
        boundary = [] if same else document_boundaries(row, first=1)
        label = ("B follows A" if row["is_next"] else "swapped") if same else "B is from another document"
        return Drawing(merge_marks(masks, second, boundary), notes=(label,))
