"""Gates on rows that hold without exception: ids, lengths, provenance, splits, and what an objective adds.

The figures count what breaks a law, row by row (`transforms.statistics`); a gate passes if its figures are zero.
"""

from __future__ import annotations

from collections.abc import Mapping

from transforms.gates.gate import Evidence, Gate
from transforms.objectives.base import Law

REPEATED_ROWS_BOUND = 0.001
"""Largest share of rows that may occur twice with the same document, place, copy and ids.

Not zero, since a corpus may hold the same record twice under one id; a shard written twice is far above it.
"""

_EVERY_ROW: dict[str, Law] = {
    "sources_known": (("source_unknown",), "every row's source is one of the manifest's"),
    "lengths": (
        ("length_mismatch", "length_outside_bucket"),
        "`length` = len(input_ids), at most the bucket's and above the next shorter bucket's",
    ),
    "id_range": (("id_out_of_range",), "every id at least 0 and below the vocabulary's size"),
    "no_padding": (("padding_inside",), "no padding id inside a row"),
    "provenance": (
        ("provenance_mismatch", "provenance_ragged"),
        "the length of a row follows from doc_lengths by the objective's law",
    ),
}
"""Laws of rows of every objective: the figures that count what breaks them, and the law in words."""


def row_laws(e: Evidence, more: Mapping[str, Law]) -> list[Gate]:
    """One gate a law: those of every objective, then those given."""
    return [_no_exception(e, name, figures, law) for name, (figures, law) in {**_EVERY_ROW, **more}.items()]


def _no_exception(e: Evidence, name: str, figures: tuple[str, ...], law: str) -> Gate:
    counts = {figure: e.found.total(figure) for figure in figures}
    return Gate(
        name=name,
        passed=not any(counts.values()),
        expected=law,
        observed=", ".join(f"{n:,} × {f.replace('_', ' ')}" for f, n in counts.items() if n) or "no exception",
        bound="0 exceptions",
        n=e.found.total("rows"),
        effect=float(sum(counts.values())),
        worst_shard=e.worst(*figures),
        figures=figures,
    )


def splits_disjoint(e: Evidence) -> Gate:
    """Every document is in the split its key belongs to, and no document is in both."""
    wrong = e.found.total("wrong_split")
    train, validation = (e.found.samples.get(f"documents/{split}") for split in ("train", "validation"))
    shared = train.shared_with(validation) if train and validation else 0
    sampled = " among those sampled by hash" if any(s and s.level for s in (train, validation)) else ""
    return Gate(
        name="splits_disjoint",
        passed=wrong == 0 and shared == 0,
        expected=f"documents in the split of their key (validation {e.context.validation_share:g}), none in both",
        observed=f"{wrong:,} pieces in the wrong split, {shared:,} documents in both{sampled}",
        bound="0 exceptions",
        n=e.found.total("pieces"),
        effect=float(wrong + shared),
        worst_shard=e.worst("wrong_split"),
        figures=("wrong_split",),
    )


def rows_once(e: Evidence) -> Gate:
    """No row was written twice."""
    samples = [s for name, s in sorted(e.found.samples.items()) if name.startswith("occurrences/")]
    n, repeated = sum(s.items for s in samples), sum(s.repeated for s in samples)
    share = repeated / n if n else 0.0
    return Gate(
        name="rows_once",
        passed=share <= REPEATED_ROWS_BOUND,
        expected="no row twice with the same document, place, copy and ids",
        observed=f"{repeated:,} of {n:,} rows{' sampled by hash' if any(s.level for s in samples) else ''}",
        bound=f"share ≤ {REPEATED_ROWS_BOUND:g}, since a corpus may hold a record twice under one id",
        n=n,
        effect=share,
    )
