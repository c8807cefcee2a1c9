"""Gates of bookkeeping: what was counted in the shards against the index, the manifest, the ledger and the plan."""

from __future__ import annotations

from collections import Counter

from schemas.ledger import Entry
from schemas.manifest import TokenizerRecord
from transforms.gates.gate import Evidence, Gate, equalities
from transforms.statistics import Group

_VERIFY = "shardmill verify DATASET"


def not_empty(e: Evidence) -> Gate:
    """An empty dataset fails."""
    rows = e.found.total("rows", split="train")
    return Gate(name="not_empty", passed=rows > 0, expected="train rows", observed=f"{rows:,}", bound="≥ 1", n=rows)


def shards_readable(e: Evidence) -> Gate:
    """Every shard of the index is there, can be read whole and carries the dataset's fingerprint."""
    kinds = ("missing", "unreadable", "other_fingerprint")
    bad = {kind: e.found.shards[kind] for kind in kinds if e.found.shards[kind]}
    counts = ", ".join(f"{n:,} {kind.replace('_', ' ')}" for kind, n in bad.items())
    return Gate(
        name="shards_readable",
        passed=not bad and e.found.shards["listed"] == e.index_shards,
        expected=f"all {e.index_shards:,} shards of the index, with fingerprint {e.manifest.fingerprint}",
        observed=f"{counts}; {e.first_problem(*kinds)}" if bad else f"{e.found.shards['read']:,} shards read",
        n=e.found.shards["listed"],
        effect=float(sum(bad.values())),
        worst_shard=e.worst(*kinds),
        command=_VERIFY,
    )


def shards_match_index(e: Evidence) -> Gate:
    """Every shard that was read holds what shards.parquet says."""
    differing = e.found.shards["differs_from_index"]
    return Gate(
        name="shards_match_index",
        passed=not differing,
        expected="rows, tokens, row groups and corpus tokens by source as shards.parquet says",
        observed=f"{differing:,} differences; {e.first_problem('differs_from_index')}" if differing else "all equal",
        n=e.found.shards["read"],
        effect=float(differing),
        worst_shard=e.worst("differs_from_index"),
        command=_VERIFY,
    )


def totals(e: Evidence) -> Gate:
    """The manifest's totals, lengths and sources are what was counted."""
    law = "totals, lengths and sources as manifest.json says"
    if gone := _unread(e):
        return _not_judged("totals", law, gone)
    pairs: dict[str, tuple[int, int]] = {
        figure: (getattr(e.manifest.totals, figure), e.found.total(figure))
        for figure in ("rows", "tokens", "corpus_tokens")
    }
    pairs["shards"] = (e.manifest.totals.shards, e.found.shards["listed"])
    rows, tokens = (e.found.totals_by(_bucket, figure) for figure in ("rows", "tokens"))
    stated = {(r.split, r.stage, r.length): r for r in e.manifest.lengths}
    for key in sorted(set(rows) | set(stated)):
        record = stated.get(key)
        name = f"{key[0]} stage {key[1]} length {key[2]}"
        pairs[f"rows of {name}"] = (record.rows if record else 0, rows.get(key, 0))
        pairs[f"tokens of {name}"] = (record.tokens if record else 0, tokens.get(key, 0))
    for source in e.manifest.sources if not e.found.total("source_unknown") else ():
        counted = e.found.total("corpus_tokens", split="train", source=source.name)
        pairs[f"train tokens of {source.name}"] = (source.realised_tokens, counted)
    return equalities("totals", law, pairs, _VERIFY)


def ledger(e: Evidence) -> Gate:
    """Every line of the ledger closes, and what materialize put out is what the shards hold."""
    entries = e.manifest.ledger.entries
    pairs = {_entry_name(x): (x.read + sum(x.gains.values()), x.out + sum(x.losses.values())) for x in entries}
    stated: Counter[tuple[str, int, str]] = Counter()
    for x in entries:
        if x.step == "materialize" and x.unit == "tokens":
            stated[(x.split or "train", x.stage or 0, x.source)] += x.out
    counted = Counter(e.found.totals_by(_split_stage_source, "corpus_tokens"))
    if e.found.total("source_unknown"):  # a gate of their own names them; here only stages can be judged
        stated, counted = _all_sources(stated), _all_sources(counted)
    for key in sorted(set(counted) | set(stated)) if not _unread(e) else ():
        pairs[f"tokens of {key[2]} in {key[0]} stage {key[1]}"] = (stated[key], counted[key])
    law = "read + gains = out + losses in every line, and tokens out as counted in the shards"
    return equalities("ledger", law, pairs, _VERIFY)


def mixture(e: Evidence) -> Gate:
    """Tokens of each source in each stage are the plan's; pairs, which are never cut, may cross a stage's edge."""
    if gone := _unread(e):
        return _not_judged("mixture", "tokens of every source in every stage as planned", gone)
    worst, largest, beyond, n = -1.0, "none planned", [], 0
    whole = e.context.parameters.reads_pairs
    for stage in e.manifest.stages:
        groups = list(e.found.select(split="train", stage=stage.stage))
        strange = sum(m.sums["corpus_tokens"] for _, m in groups if m.sums["source_unknown"])
        seen = {group.source for group, m in groups if not m.sums["source_unknown"]}
        for source in sorted(seen | set(stage.sources)):
            planned = stage.sources.get(source, {}).get("planned_tokens", 0)
            counted = e.found.total("corpus_tokens", split="train", stage=stage.stage, source=source)
            # A stage that plans nothing of a source has no edge that could run through one of its pairs.
            longest = e.found.greatest("longest_document", source=source) if planned and whole else 0
            # What rows of unknown sources hold is missing elsewhere; their own gate names them.
            bound = longest + _lost(e, stage.stage, source) + strange
            text = f"{source} in {stage.name}: planned {planned:,}, counted {counted:,}, bound {bound:,}"
            if abs(counted - planned) > bound:
                beyond.append(text)
            if (share := abs(counted - planned) / max(1, planned)) > worst:
                worst, largest = share, text
            n += 1
    return Gate(
        name="mixture",
        passed=not beyond,
        expected="tokens of every source in every stage as planned",
        observed="; ".join(beyond[:3]) if beyond else f"largest difference: {largest}",
        bound="the source's named losses and gains" + ", plus its longest pair" * whole,
        n=n,
        effect=max(worst, 0.0),
    )


def tokenizer(e: Evidence) -> Gate:
    """tokenizer.json is the one the manifest describes."""
    stated = e.manifest.tokenizer
    different = ["tokenizer.json cannot be read"]
    if e.tokenizer is not None:
        different = [
            f"{name} {getattr(e.tokenizer, name)}, the manifest says {getattr(stated, name)}"
            for name in TokenizerRecord.model_fields
            if getattr(e.tokenizer, name) != getattr(stated, name)
        ]
    return Gate(
        name="tokenizer",
        passed=not different,
        expected=f"tokenizer.json with sha256 {stated.sha256[:16]}… and {stated.vocab_size:,} ids",
        observed="; ".join(different)[:400] or "equal",
        n=stated.vocab_size,
        command=_VERIFY,
    )


def _unread(e: Evidence) -> int:
    """Shards that could not be read, whose rows are in no count."""
    return e.found.shards["missing"] + e.found.shards["unreadable"]


def _not_judged(name: str, law: str, shards: int) -> Gate:
    """A gate that says nothing while shards are missing, which is for `shards_readable` to fail."""
    observed = f"not judged while {shards:,} shards cannot be read"
    return Gate(name=name, passed=True, expected=law, observed=observed, command=_VERIFY)


def _all_sources(tokens: Counter[tuple[str, int, str]]) -> Counter[tuple[str, int, str]]:
    found: Counter[tuple[str, int, str]] = Counter()
    for (split, stage, _), count in tokens.items():
        found[(split, stage, "all sources")] += count
    return found


def _lost(e: Evidence, stage: int, source: str) -> int:
    """Tokens of a source that materialize lost, or repeated, by name in a train stage."""
    return sum(
        sum(x.losses.values()) + sum(x.gains.values())
        for x in e.manifest.ledger.entries
        if (x.step, x.unit, x.split, x.stage, x.source) == ("materialize", "tokens", "train", stage, source)
    )


def _entry_name(entry: Entry) -> str:
    place = "".join(f" {p}" for p in (entry.split, None if entry.stage is None else f"stage {entry.stage}") if p)
    return f"{entry.step} {entry.unit} of {entry.source}{place}"


def _bucket(group: Group) -> tuple[str, int, int]:
    return group.split, group.stage, group.length


def _split_stage_source(group: Group) -> tuple[str, int, str]:
    return group.split, group.stage, group.source
