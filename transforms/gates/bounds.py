"""The figures a job file may bound with `gates`, and the gates that come of it."""

from __future__ import annotations

from schemas.errors import did_you_mean
from schemas.gates import GATES
from schemas.manifest import Manifest
from transforms.gates.gate import Evidence, Gate
from transforms.statistics import Accumulator

_WORST = {"padding": "padding_share", "unknown": "unknown_tokens"}


def figures(found: Accumulator, manifest: Manifest) -> dict[str, float]:
    """Every figure of `schemas.gates.GATES`, measured; shares in [0, 1]."""
    records = [x for x in manifest.ledger.entries if (x.unit, x.step) == ("records", "read")]
    read, rejected = sum(x.read for x in records), sum(sum(x.losses.values()) for x in records)
    places = sum(m.sums["rows"] * group.length for group, m in found.select())
    tokens = found.total("tokens")
    rows = [s for name, s in sorted(found.samples.items()) if name.startswith("rows/")]
    items = sum(s.items for s in rows)
    passes = [
        found.total("corpus_tokens", split="train", source=s.name) / s.available_tokens
        for s in manifest.sources
        if s.available_tokens
    ]
    return {
        "padding": 1 - tokens / places if places else 0.0,
        "rejected": rejected / read if read else 0.0,
        "duplicates": sum(s.repeated for s in rows) / items if items else 0.0,
        "unknown": found.total("unknown_tokens") / tokens if tokens else 0.0,
        "rows": float(found.total("rows", split="train")),
        "tokens": float(found.total("corpus_tokens", split="train")),
        "repetition": max(passes, default=0.0),
    }


def job_gates(e: Evidence) -> list[Gate]:
    """One gate for each bound in the job; a name that is no figure fails."""
    measured = figures(e.found, e.manifest)
    gates = []
    for name, bound in sorted(e.manifest.job.get("gates", {}).items()):
        low, high = bound.get("min"), bound.get("max")
        value = measured.get(name)
        limits = [f"{sign} {limit:g}" for sign, limit in (("≥", low), ("≤", high)) if limit is not None]
        gates.append(
            Gate(
                name=f"job.{name}",
                passed=value is not None and (low is None or value >= low) and (high is None or value <= high),
                expected=GATES.get(name, f"a figure of the audit; {did_you_mean(name, GATES)}"),
                observed="there is no such figure" if value is None else f"{value:,.6g}",
                bound=" and ".join(limits),
                n=e.found.total("rows"),
                effect=value,
                worst_shard=e.worst(_WORST.get(name, "")),
            )
        )
    return gates
