"""Figures of rows that are an input and a target, each with EOS behind it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from transforms.objectives.base import Law
from transforms.ragged import Ragged
from transforms.statistics.packed import longest_lengths
from transforms.statistics.rows import Int64, Rows

SEQ2SEQ_LAWS: dict[str, Law] = {
    "pairs": (("eos_errors", "empty_inputs", "piece_errors"), "a whole input with text, EOS last and nowhere else"),
    "targets": (
        ("target_eos_errors", "target_length_errors", "target_id_errors"),
        "targets of ids of the vocabulary, not longer than allowed, EOS last and nowhere else",
    ),
}


def measure_seq2seq(rows: Rows, targets: Ragged, most: int | None) -> None:
    """Add the figures of pairs.

    Args:
      rows: where they are added.
      targets: the column `target_ids`.
      most: ids of the longest target allowed; by default those of the longest bucket.
    """
    figures, context = rows.per_row, rows.context
    one_piece = (rows.doc_lengths.lengths == 1) & (rows.corpus_tokens >= 0)
    fits = one_piece & (rows.lengths + targets.lengths == rows.corpus_tokens + 2)
    figures["provenance_mismatch"] = (~fits).astype(np.int64)
    begun = np.repeat(np.arange(len(rows)), rows.doc_offsets.lengths)[rows.doc_offsets.flat != 0]
    figures["piece_errors"] = rows.count_at(begun)
    figures["empty_inputs"] = (rows.lengths < 2).astype(np.int64)
    figures["eos_errors"] = _eos_errors(rows.safe_ids, rows.offsets, context.special_ids["eos"])

    ids = targets.flat.astype(np.int64, copy=False)
    outside = np.flatnonzero((ids < 0) | (ids >= context.vocab_size))
    figures["target_tokens"] = targets.lengths
    figures["target_id_errors"] = rows.count_at(np.searchsorted(targets.offsets, outside, side="right") - 1)
    figures["target_eos_errors"] = _eos_errors(ids, targets.offsets, context.special_ids["eos"])
    bound = most if most is not None else int(longest_lengths(rows).max(initial=0))
    figures["target_length_errors"] = (targets.lengths > bound).astype(np.int64)


def _eos_errors(ids: npt.NDArray[np.integer], offsets: Int64, eos: int) -> Int64:
    """[rows], 1 where EOS is not exactly the last id."""
    at = np.flatnonzero(ids == eos)
    row = np.searchsorted(offsets, at, side="right") - 1
    last = np.bincount(row[at == offsets[row + 1] - 1], minlength=len(offsets) - 1)
    return ((last != 1) | (np.bincount(row, minlength=len(offsets) - 1) != 1)).astype(np.int64)
