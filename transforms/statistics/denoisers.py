"""Figures of rows that each drew a denoiser: the name, the mode token, and the lengths that follow from it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from transforms.objectives.base import Law
from transforms.objectives.denoisers import MODE_ROLES, Denoisers
from transforms.ragged import Int64, Ragged
from transforms.statistics.rows import Rows
from transforms.statistics.sentinels import SENTINEL_LAWS, measure_sentinels

DENOISER_LAWS: dict[str, Law] = {
    **SENTINEL_LAWS,
    "denoisers": (("denoiser_unknown",), "every row's denoiser is one of the objective's with a rate above zero"),
    "mode_tokens": (
        ("mode_token_errors",),
        "the mode token of the row's denoiser first and nowhere else, or none where rows have none",
    ),
}


def measure_denoisers(rows: Rows, table: pa.Table, denoisers: Denoisers, mode_tokens: str) -> None:
    """Add the figures of rows of a mixture of denoisers.

    Args:
      rows: where they are added.
      table: with `target_ids` and `denoiser`.
      denoisers: of the objective.
      mode_tokens: `auto`, `never` or `always`.
    """
    which, known = _denoiser_of(table, denoisers)
    rows.per_row["denoiser_unknown"] = (~known).astype(np.int64)
    rows.add_histogram("denoiser", np.flatnonzero(known), which[known], len(denoisers.members))
    try:
        lead_ids = denoisers.lead_ids(rows.context.special_ids, mode_tokens)
    except KeyError:  # a manifest whose tokenizer lacks what its objective must have had; its own gate names that
        lead_ids = denoisers.lead_ids({}, "never")
    lead = lead_ids[which]
    noise, spans = denoisers.counts(np.maximum(rows.corpus_tokens, 2), which)
    measure_sentinels(rows, Ragged.from_arrow(table["target_ids"]), noise, spans, (lead >= 0).astype(np.int64))

    roles = rows.context.special_ids
    modes = sorted({roles[role] for role in MODE_ROLES.values() if role in roles})
    is_mode = np.isin(rows.safe_ids[rows.special_at], modes)
    count = rows.count_at(rows.special_row[is_mode])
    first = np.full(len(rows), -1, dtype=np.int64)
    filled = rows.lengths > 0
    first[filled] = rows.ids[rows.offsets[:-1][filled]]
    wrong = (count != (lead >= 0)) | ((lead >= 0) & (first != lead))
    rows.per_row["mode_token_errors"] = wrong.astype(np.int64)


def _denoiser_of(table: pa.Table, denoisers: Denoisers) -> tuple[Int64, np.ndarray]:
    """Index of each row's denoiser, int64 [rows], and whether it is one that is drawn; the first drawn where not."""
    column = table["denoiser"].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
    index = {denoisers.members[i].name: i for i in denoisers.drawn.tolist()}
    by_code = np.array([index.get(name, -1) for name in column.dictionary.to_pylist()], dtype=np.int64)
    which = by_code[np.asarray(column.indices)]
    known = which >= 0
    return np.where(known, which, denoisers.drawn[0]), known
