"""All gates of a dataset, in order."""

from __future__ import annotations

from transforms.gates import accounts, laws
from transforms.gates.bounds import job_gates
from transforms.gates.gate import Evidence, Gate
from transforms.objectives.registry import known_objective


def evaluate(evidence: Evidence) -> list[Gate]:
    """All gates of a dataset: bookkeeping, laws of rows, chance, and the job's own bounds."""
    objective = known_objective(evidence.context.kind)
    return [
        accounts.not_empty(evidence),
        accounts.shards_readable(evidence),
        accounts.shards_match_index(evidence),
        accounts.totals(evidence),
        accounts.ledger(evidence),
        accounts.mixture(evidence),
        accounts.tokenizer(evidence),
        laws.splits_disjoint(evidence),
        laws.rows_once(evidence),
        *laws.row_laws(evidence, objective.laws),
        *objective.gates(evidence),
        *job_gates(evidence),
    ]
