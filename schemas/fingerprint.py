"""Fingerprints: what a thing was made from, as 32 hex digits.

Two fingerprints name a dataset. `dataset_fingerprint` covers what its rows are made of and how (seed, tokenizer,
sources, objective, splits); every shard carries it. `plan_fingerprint` adds what decides how much of each source
goes where (weights, budget, curriculum). They are apart so that a later stage can change without changing a
byte of the earlier ones. Neither depends on where files lie or when they were written.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from schemas.job import Job
from schemas.source import Source
from schemas.tables import FORMAT_VERSION


def fingerprint(value: Any) -> str:
    """32 hex digits of the canonical JSON of a value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def dataset_fingerprint(job: Job, tokenizer: dict[str, Any], inputs: dict[str, list[tuple[str, int]]]) -> str:
    """What the rows of the job's dataset are made of.

    Args:
      job: the job.
      tokenizer: `{"sha256": …}` of an existing file, or the description of the one to train.
      inputs: by source, the (relative path, size in bytes) of each input file.
    """
    return fingerprint(
        {
            "format_version": FORMAT_VERSION,
            "seed": job.seed,
            "tokenizer": tokenizer,
            "splits": job.splits.model_dump(),
            "objective": job.objective.model_dump(),
            "max_record_bytes": job.limits.max_record_bytes,
            "range_bytes": job.limits.range_bytes,
            "sources": {
                s.name: {
                    "format": s.format,
                    **text_identity(s),
                    **(sentence_identity(s) if job.objective.reads_sentences else {}),
                    "id": s.id,
                    "files": sorted(inputs.get(s.name, [])),
                }
                for s in job.sources
            },
        }
    )


def text_identity(source: Source) -> dict[str, Any]:
    """Where the texts of a source's records are, and what goes before them."""
    fields: dict[str, Any] = dict(source.text_fields)
    return {**fields, "prefix": source.prefix} if source.holds_pairs else fields


def sentence_identity(source: Source) -> dict[str, Any]:
    """How the sentences of a source are found."""
    return {"sentences": source.sentences, **({"language": source.language} if source.sentences == "split" else {})}


def plan_fingerprint(job: Job, dataset: str) -> str:
    """What decides how much of each source goes into which stage and length; no number that is only checked."""
    job = job.in_effect
    return fingerprint(
        {
            "dataset": dataset,
            "mixture": job.mixture.model_dump(),
            "budget": job.budget.model_dump(),
            "block_tokens": job.limits.block_tokens,
            "sources": {s.name: [s.weight, s.max_epochs, s.epochs] for s in job.sources},
            "curriculum": [s.model_dump() for s in job.curriculum],
        }
    )
