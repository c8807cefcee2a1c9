"""fim: fill in the middle (Bavarian et al. 2022, arXiv 2207.14255), for code.

Documents are cut into pieces that fit a row with four special tokens to spare. Of each piece, with probability
`fim_rate`, two cuts drawn uniformly from its n + 1 boundaries make a prefix, a middle and a suffix, any of which may
be empty. They are ordered

- PSM: `<fim_prefix>` prefix `<fim_suffix>` suffix `<fim_middle>` middle, or
- SPM: `<fim_prefix>` `<fim_suffix>` suffix `<fim_middle>` prefix middle (the variant that shares its form with PSM),

and EOS follows the piece that ends its document, not one that a stage's edge cuts. Pieces are whole when they are
packed, so no token is cut off (Megatron-LM transforms rows that are full already and truncates what the special
tokens push out).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.base import Share
from schemas.errors import RequestError
from schemas.keys import below, draw, happens
from schemas.objectives import ObjectiveParameters
from transforms.gates.fim import fim_gates
from transforms.gates.packed import documents_whole
from transforms.histogram_packing import expected_fills, last_pieces
from transforms.objectives.base import Documents, Examples, Objective, require_length, require_token
from transforms.objectives.causal import cut
from transforms.objectives.drawing import Drawing, Mark, MarkKind
from transforms.objectives.layout import Layout
from transforms.packing import best_fit
from transforms.ragged import Int64, Ragged, offsets_of
from transforms.statistics.fim import FIM_LAWS, SPARE_TOKENS, measure_fim
from transforms.vocabulary import Vocabulary

if TYPE_CHECKING:
    from schemas.manifest import TokenizerRecord
    from transforms.gates.gate import Evidence, Gate
    from transforms.statistics.rows import Rows


class Fim(ObjectiveParameters):
    """Fill in the middle: next-token prediction over documents of which the middle is moved to the end."""

    kind: Literal["fim"] = "fim"
    fim_rate: Share = 0.5
    """Share of pieces that are rearranged; the others stay as they are."""
    spm_rate: Share = 0.5
    """Share of rearranged pieces with the suffix first (SPM); the others have the prefix first (PSM)."""
    pack: Literal["best_fit"] = "best_fit"
    """`best_fit`: documents longer than a row are cut, and the pieces are packed whole by best-fit decreasing."""


@dataclass(frozen=True)
class FimObjective(Objective):
    """Builds rows of pieces, each as it is or rearranged; labels are the inputs shifted by one.

    Law: length = Σ doc_lengths + EOS tokens + 3 for each rearranged piece.
    """

    parameters: Fim
    prefix_id: int
    suffix_id: int
    middle_id: int
    eos_id: int

    parameters_class = Fim
    laws = FIM_LAWS

    @classmethod
    def of(cls, parameters: Any, vocabulary: Vocabulary) -> FimObjective:
        """The objective for a vocabulary with `fim_prefix`, `fim_suffix`, `fim_middle` and `eos`, all different."""
        roles = ("fim_prefix", "fim_suffix", "fim_middle", "eos")
        ids = [require_token(vocabulary, "fim", role) for role in roles]
        if len(set(ids)) < len(ids):
            raise RequestError(
                "One token has two roles in fim",
                where="tokenizer.special_tokens",
                expected=f"different tokens for {', '.join(roles)}",
                got=", ".join(f"{role} {i}" for role, i in zip(roles, ids, strict=True)),
            )
        return cls(parameters, *ids)

    def resolve(self, length: int) -> dict[str, Any]:
        """`piece_tokens`: the most corpus tokens of a piece."""
        require_length("fim", length, SPARE_TOKENS + 1, "for a token, three special tokens and EOS")
        return {"length": length, "piece_tokens": length - SPARE_TOKENS}

    def build(self, documents: Documents, *, lengths: Sequence[int], seed: int) -> Examples:
        """Rows of at most the longest length."""
        doc, begin, count = cut(documents.ids.lengths, lengths[-1] - SPARE_TOKENS)
        ends = (begin + count == documents.ids.lengths[doc]) & documents.ends[doc]
        names = draw(seed, "fim", documents.keys[doc], documents.first_tokens(doc) + begin, documents.copy)
        moved = happens(draw(seed, "fim.move", names), self.parameters.fim_rate)
        row = best_fit(count + ends + 3 * moved, lengths[-1])

        order = np.argsort(row, kind="stable")
        pieces = offsets_of(np.bincount(row)) if len(row) else np.zeros(1, np.int64)
        layout = Layout(doc[order], begin[order], count[order], pieces)
        rows = self._rows(documents, layout, names[order], moved[order], ends[order], seed)
        return Examples(input_ids=rows, **layout.provenance(documents))

    def _rows(
        self,
        documents: Documents,
        layout: Layout,
        names: npt.NDArray[np.uint64],
        moved: npt.NDArray[np.bool_],
        ends: npt.NDArray[np.bool_],
        seed: int,
    ) -> Ragged:
        """int32, the rows' ids; names, which pieces are rearranged, and which EOS follows, [pieces] each."""
        n = layout.length
        cuts = np.sort([below(draw(seed, f"fim.cut.{i}", names), n + 1) for i in range(2)], axis=0)
        low, high = np.where(moved, cuts, [[0], [0]])
        spm = moved & happens(draw(seed, "fim.spm", names), self.parameters.spm_rate)
        # A piece's text in three parts, (first token, tokens): what follows each of the special tokens. Of a piece
        # that stays the last part is all of it.
        starts = np.stack([np.zeros_like(n), high, np.where(spm, 0, low)], axis=1)
        sizes = np.stack([np.where(spm, 0, low), n - high, np.where(spm, high, high - low)], axis=1)
        sizes[~moved] = np.stack([np.zeros_like(n), np.zeros_like(n), n], axis=1)[~moved]
        starts += (documents.ids.offsets[layout.doc] + layout.begin)[:, None]
        filled = sizes > 0
        text = documents.ids.slices(starts[filled], sizes[filled]).flat

        # Each part is preceded by a special token if the piece is rearranged; EOS is a fourth part without text.
        units = np.stack([*(sizes + moved[:, None]).T, ends.astype(np.int64)], axis=1)
        edges = offsets_of(units.ravel())
        at = edges[:-1].reshape(units.shape)
        ids = np.empty(int(edges[-1]), np.int32)
        is_text = np.ones(len(ids), bool)
        special = (self.prefix_id, self.suffix_id, self.middle_id, self.eos_id)
        for column, (token, there) in enumerate(zip(special, (moved, moved, moved, ends), strict=True)):
            ids[at[there, column]] = token
            is_text[at[there, column]] = False
        ids[is_text] = text
        return Ragged(ids, edges[::4][layout.row_offsets])

    def row_lengths(
        self, doc_lengths: Int64, counts: Int64, *, lengths: Sequence[int]
    ) -> tuple[Int64, npt.NDArray[np.float64]]:
        """Rows as packing leaves them, but for the ends of blocks; of each length `fim_rate` is rearranged."""
        longest = lengths[-1] - SPARE_TOKENS
        last, before = last_pieces(doc_lengths, counts, longest)
        sizes = np.append(last + 1, longest)  # EOS follows the last
        n = np.append(counts, before)
        moved = n * self.parameters.fim_rate
        return expected_fills(np.append(sizes, sizes + 3), np.append(n - moved, moved), lengths[-1])

    @staticmethod
    def measure(rows: Rows, table: pa.Table) -> None:
        """Figures of pieces, as they are or rearranged."""
        measure_fim(rows)

    @staticmethod
    def gates(evidence: Evidence) -> list[Gate]:
        """Nothing is missing; how many pieces are rearranged, in which order, and where they are cut."""
        parameters = evidence.context.parameters
        assert isinstance(parameters, Fim)
        return [documents_whole(evidence), *fim_gates(evidence, parameters.fim_rate, parameters.spm_rate)]

    @staticmethod
    def draw(row: Mapping[str, Any], tokenizer: TokenizerRecord) -> Drawing:
        """Suffixes, which were moved here from behind, and what is to be filled in, with SPM behind its prefix."""
        roles = tokenizer.special_ids
        kinds: dict[int | None, MarkKind] = {
            roles.get("fim_suffix"): "rearranged",
            roles.get("fim_middle"): "predicted",
        }
        ids, marks, place = row["input_ids"], [], 0
        for i, (key, offset, count) in enumerate(
            zip(row["doc_keys"], row["doc_offsets"], row["doc_lengths"], strict=False)
        ):
            if i:
                marks.append(Mark("boundary", place, place, note=f"document {key:016x} from token {offset}"))
            stop = place + count + (3 if ids[place : place + 1] == [roles.get("fim_prefix")] else 0)
            found = [p for p in range(max(place, 0), min(stop, len(ids))) if ids[p] in kinds]
            for p, end in pairwise([*found, stop]):
                marks.append(Mark(kinds[ids[p]], p + 1, end))
            place = stop + (ids[stop : stop + 1] == [roles.get("eos")])
        return Drawing(tuple(m for m in marks if m.kind == "boundary" or m.end > m.begin))
