"""The figures a job file may bound with `gates`, and the gates that come of it."""

from __future__ import annotations

from schemas.errors import did_you_mean
from schemas.gates import GATES
from schemas.manifest import Manifest
from transforms.gates.gate import Evidence, Gate
from transforms.statistics import Accumulator

_WORST = {
    "padding": "padding_share",
    "unknown": "unknown_tokens",
    "truncation": "cut_pieces",
    "concatenation": "concatenated_rows",
}
"""Figures by which shards are ranked."""

_SHOWN = {"unknown": "unknown_tokens", "truncation": "cut_pieces", "concatenation": "concatenated_rows"}
"""Figures by which rows are found."""


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
        "overlap": _overlap(found),
        "truncation": _ratio(found.total("cut_pieces"), found.total("pieces")),
        "concatenation": _ratio(found.total("concatenated_rows"), found.total("rows")),
        "bytes_per_token": _ratio(found.total("text_bytes"), found.total("text_tokens")),
        "vocabulary": _vocabulary(found, manifest),
        "unknown": found.total("unknown_tokens") / tokens if tokens else 0.0,
        "rows": float(found.total("rows", split="train")),
        "tokens": float(found.total("corpus_tokens", split="train")),
        "repetition": max(passes, default=0.0),
    }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _overlap(found: Accumulator) -> float:
    """Of the distinct validation rows in the samples, those that train has too."""
    train, validation = (found.samples.get(f"texts/{split}") for split in ("train", "validation"))
    if train is None or validation is None:
        return 0.0
    return _ratio(validation.shared_with(train), validation.distinct_below(max(train.level, validation.level)))


def _vocabulary(found: Accumulator, manifest: Manifest) -> float:
    seen = 0
    for _, measures in found.select():
        seen |= measures.seen
    text_ids = manifest.tokenizer.vocab_size - len(set(manifest.tokenizer.special_token_ids))
    return _ratio(seen.bit_count(), text_ids)


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
                figures=(_SHOWN[name],) if name in _SHOWN else (),
            )
        )
    return gates
