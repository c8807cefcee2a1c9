"""The audit's gates: each holds what was measured against one law and says what it found. Pure functions."""

from __future__ import annotations

from schemas.objectives import Mlm
from transforms.gates import accounts, laws, masks
from transforms.gates.bounds import figures, job_gates
from transforms.gates.gate import Evidence, Gate
from transforms.gates.masks import expected_shares


def evaluate(evidence: Evidence) -> list[Gate]:
    """All gates of a dataset: bookkeeping, laws of rows, chance, and the job's own bounds."""
    gates = [
        accounts.not_empty(evidence),
        accounts.shards_readable(evidence),
        accounts.shards_match_index(evidence),
        accounts.totals(evidence),
        accounts.ledger(evidence),
        accounts.mixture(evidence),
        accounts.tokenizer(evidence),
        laws.splits_disjoint(evidence),
        laws.rows_once(evidence),
        *laws.row_laws(evidence),
    ]
    if isinstance(evidence.context.parameters, Mlm):
        gates += [laws.mask_counts(evidence), *masks.mask_gates(evidence)]
    return [*gates, *job_gates(evidence)]


__all__ = ["Evidence", "Gate", "evaluate", "expected_shares", "figures"]
