"""What the statistics say of some groups, as one flat row of plain numbers; for tables, cards and comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from transforms.statistics.accumulator import LENGTH_BINS, Accumulator, Group, Measures

FIGURES = {
    "rows": "rows",
    "tokens": "ids of all rows, special ones included",
    "corpus_tokens": "tokens of documents, by the rows' provenance",
    "documents_cut": "share of pieces that begin inside a document, which an earlier piece cut (truncation)",
    "rows_concatenated": "share of rows that hold more than one document (concatenation)",
    "padding": "share of padding when every row is padded to its bucket's length",
    "mean_length": "ids of a row on average",
    "median_length": "ids of a row in the middle, to 1/64 of the bucket's length",
    "unknown": "share of ids that are the unknown token",
    "special": "share of ids that are special tokens",
    "bytes_per_token": "bytes of text a token that is not special; none where the tokenizer is not known",
    "vocabulary": "share of the ids that stand for text which occur",
    "masked": "share of ids that are predicted; none where the objective masks none",
    "target_tokens": "ids of targets",
    "copies": "passes over the source that rows are of, most",
}
"""Columns of a summary beside those it is by, with what each is."""

BY = ("split", "stage", "length", "source")


def summarise(found: Accumulator, by: Sequence[str] = BY, *, text_ids: int) -> list[dict[str, Any]]:
    """One row for each combination of these fields, in order; the fields first, then `FIGURES`.

    Args:
      found: what was measured.
      by: fields of a group; none for one row of all.
      text_ids: ids of the vocabulary that stand for text.
    """
    parts: dict[tuple[Any, ...], list[tuple[Group, Measures]]] = {}
    for group, measures in found.select():
        parts.setdefault(tuple(getattr(group, field) for field in by), []).append((group, measures))
    return [dict(zip(by, key, strict=True)) | _figures(parts[key], text_ids) for key in sorted(parts)]


def _figures(groups: Sequence[tuple[Group, Measures]], text_ids: int) -> dict[str, Any]:
    def total(figure: str) -> int:
        return sum(m.sums[figure] for _, m in groups)

    rows, tokens, pieces = total("rows"), total("tokens"), total("pieces")
    text_tokens, text_bytes = total("text_tokens"), total("text_bytes")
    seen = 0
    for _, measures in groups:
        seen |= measures.seen
    return {
        "rows": rows,
        "tokens": tokens,
        "corpus_tokens": total("corpus_tokens"),
        "documents_cut": _share(total("cut_pieces"), pieces),
        "rows_concatenated": _share(total("concatenated_rows"), rows),
        "padding": 1 - _share(tokens, sum(m.sums["rows"] * group.length for group, m in groups)) if rows else 0.0,
        "mean_length": _share(tokens, rows),
        "median_length": median_length(groups),
        "unknown": _share(total("unknown_tokens"), tokens),
        "special": _share(total("special_tokens"), tokens),
        "bytes_per_token": text_bytes / text_tokens if text_bytes else None,
        "vocabulary": _share(seen.bit_count(), text_ids),
        "masked": _share(total("masked"), tokens) if total("mask_candidates") else None,
        "target_tokens": total("target_tokens"),
        "copies": 1 + max((m.maxima.get("copy", 0) for _, m in groups), default=0),
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def length_counts(groups: Iterable[tuple[Group, Measures]]) -> dict[float, int]:
    """Rows by the upper edge of their bin of lengths, ascending."""
    counts: dict[float, int] = {}
    for group, measures in groups:
        for j, rows in enumerate(measures.histograms.get("length", ())):
            if rows:
                edge = group.length * (j + 1) / LENGTH_BINS
                counts[edge] = counts.get(edge, 0) + rows
    return dict(sorted(counts.items()))


def median_length(groups: Iterable[tuple[Group, Measures]]) -> float:
    """The length that half of the rows do not exceed; 0 of no rows."""
    counts = length_counts(groups)
    if not counts:
        return 0.0
    so_far = np.cumsum(list(counts.values()))
    return float(list(counts)[int(np.searchsorted(so_far, so_far[-1] / 2))])
