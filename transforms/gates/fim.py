"""Gates on the draws of fim: how many pieces are rearranged, in which order, and where they are cut."""

from __future__ import annotations

from transforms.gates.chance import Share, places_gate, share_gate, sources_of
from transforms.gates.gate import Evidence, Gate
from transforms.statistics.mask_positions import FIXED_POINT


def fim_gates(e: Evidence, fim_rate: float, spm_rate: float) -> list[Gate]:
    """`fim_rate`, `fim_order`, `fim_suffix` and `fim_prefix`."""
    sources = ["", *sources_of(e)]
    tests = 2 * len(sources) + 2
    return [
        share_gate("fim_rate", "of pieces rearranged", {s: _moved(e, s, fim_rate) for s in sources}, tests),
        share_gate(
            "fim_order",
            "of rearranged pieces without a prefix in front: those in SPM order, and those in PSM order whose lesser "
            "cut is 0",
            {s: _without_prefix(e, s, spm_rate) for s in sources},
            tests,
        ),
        places_gate(e, "fim_suffix", "fim_suffix", "suffixes that the greater of two uniform cuts leaves", tests),
        places_gate(e, "fim_prefix", "fim_prefix", "prefixes that the lesser of two uniform cuts leaves", tests),
    ]


def _where(source: str) -> dict[str, str | int]:
    return {"source": source} if source else {}


def _moved(e: Evidence, source: str, fim_rate: float) -> Share:
    where = _where(source)
    return Share(e.found.total("fim_moved", **where), e.found.total("fim_pieces", **where), fim_rate)


def _without_prefix(e: Evidence, source: str, spm_rate: float) -> Share:
    where = _where(source)
    moved = e.found.total("fim_moved", **where)
    empty = e.found.total("fim_empty_prefix", **where) / FIXED_POINT / moved if moved else 0.0
    return Share(e.found.total("fim_no_prefix", **where), moved, min(1.0, spm_rate + (1 - spm_rate) * empty))
