"""A gate on rows of pieces of documents: the pieces of every document are all there."""

from __future__ import annotations

from collections import Counter

from transforms.gates.gate import Evidence, Gate, equalities


def documents_whole(e: Evidence) -> Gate:
    """As many documents begin as end in a stage, and those that end have as many tokens as there are.

    Holds where no token is lost, since a document is in one stage and pass as a whole. It finds what no row shows:
    an EOS that is missing at the end of a full row, or a piece that is missing or comes twice. Not judged where rows
    contradict themselves, which is for their own gates to say.
    """
    figures = ("documents_begun", "documents_ended", "ended_tokens", "corpus_tokens")
    counts: dict[tuple[str, int, str], Counter[str]] = {}
    for group, measures in e.found.select():
        known = counts.setdefault((group.split, group.stage, group.source), Counter())
        known.update({figure: measures.sums[figure] for figure in figures})
    damaged = sum(e.found.total(f) for f in ("provenance_mismatch", "boundary_errors", "piece_errors"))
    damaged += sum(e.found.shards[kind] for kind in ("missing", "unreadable")) + e.found.total("source_unknown")
    pairs = {}
    for (split, stage, source), c in sorted(counts.items()) if not damaged else ():
        where = f"of {source} in {split} stage {stage}"
        pairs[f"documents {where}"] = (c["documents_begun"], c["documents_ended"])
        pairs[f"tokens {where}"] = (c["ended_tokens"], c["corpus_tokens"])
    law = "as many documents end as begin in every stage, with as many tokens as there are"
    return equalities("documents_whole", law, pairs)
