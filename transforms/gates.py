"""The audit's gates: each holds measured statistics against one law and says what it found. Pure functions.

Where a law is deterministic the gate is an equality. Where it is random the gate fails only if the deviation is
both improbable (below `FALSE_ALARM` divided by the number of tests) and larger than an effect floor, so that a good
dataset passes at any size and a huge one is not failed for a deviation nobody could care about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from schemas.gates import GATES
from schemas.ledger import Entry
from schemas.manifest import Manifest, TokenizerRecord
from schemas.objectives import Mlm
from transforms.statistics import Accumulator, AuditContext, Group
from transforms.statistics.replacements import mask_position_test, replacement_tests

FALSE_ALARM = 1e-6
"""Probability that any statistical gate fails on a good dataset, all of them together."""

REPLACEMENT_FLOOR = 0.002
"""Least deviation of a replacement share that fails: 0.2 percentage points."""

POSITION_FLOOR = 0.02
"""Least total variation distance of masked positions from uniform that fails."""

REPEATED_ROWS_BOUND = 0.001
"""Most rows that may occur twice with the same document, place, copy and ids: a corpus may hold a record twice."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One line of the audit, like a test."""

    name: str
    passed: bool
    expected: str
    observed: str
    bound: str = "exact"
    """What deviation passes."""
    n: int = 0
    """How many things were judged."""
    effect: float | None = None
    """Size of the deviation, in the unit of the bound; None for equalities without one."""
    worst_shard: str | None = None
    """Path of the shard that deviates most, where one stands out."""
    command: str = ""
    """Shows more; `DATASET` stands for the dataset's place."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What gates judge."""

    found: Accumulator
    manifest: Manifest
    context: AuditContext
    tokenizer: TokenizerRecord | None
    """As read from tokenizer.json; None if it cannot be read."""
    index_shards: int
    """Rows of the index of shards."""

    def worst(self, *figures: str) -> str | None:
        """Path of the shard with the most of these figures."""
        found = [self.found.worst[f] for f in figures if f in self.found.worst]
        return min(found, key=lambda f: (-f[0], f[1]))[1] if found else None


def evaluate(evidence: Evidence) -> list[Gate]:
    """All gates of a dataset, in the order of the report."""
    gates = [gate(evidence) for gate in _GATES]
    gates += [_no_rows_that(evidence, name, figures, law) for name, (figures, law) in _ROW_LAWS.items()]
    if isinstance(evidence.context.parameters, Mlm):
        gates += [_no_rows_that(evidence, name, figures, law) for name, (figures, law) in _MLM_LAWS.items()]
        gates += [_mask_counts(evidence), *_mask_statistics(evidence)]
    else:
        gates += [_no_rows_that(evidence, name, figures, law) for name, (figures, law) in _CAUSAL_LAWS.items()]
    return gates + _user_gates(evidence)


def _not_empty(e: Evidence) -> Gate:
    rows = e.found.total("rows", split="train")
    return Gate(name="not_empty", passed=rows > 0, expected="train rows", observed=f"{rows:,} rows", bound="≥ 1", n=rows)


def _readable(e: Evidence) -> Gate:
    kinds = ("missing", "unreadable", "other_fingerprint")
    bad = {kind: e.found.shards[kind] for kind in kinds if e.found.shards[kind]}
    counts = ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in bad.items())
    first = sorted(p for p in e.found.problems if not p[1].startswith(("row", "token", "corpus")))
    return Gate(
        name="shards_readable",
        passed=not bad and e.found.shards["listed"] == e.index_shards,
        expected=f"all {e.index_shards:,} shards of the index, with fingerprint {e.manifest.fingerprint}",
        observed=f"{counts}; {first[0][0]}: {first[0][1]}" if bad else f"{e.found.shards['read']:,} shards read",
        n=e.found.shards["listed"],
        effect=float(sum(bad.values())),
        worst_shard=e.worst(*kinds),
        command="shardmill verify DATASET",
    )


def _index(e: Evidence) -> Gate:
    differing = e.found.shards["differs_from_index"]
    first = sorted(p for p in e.found.problems if p[0] == e.worst("differs_from_index"))
    return Gate(
        name="shards_match_index",
        passed=not differing,
        expected="rows, tokens and corpus tokens by source as shards.parquet says",
        observed=f"{differing:,} shards differ; {first[0][1]}" if differing else "equal in every shard",
        n=e.found.shards["read"],
        effect=float(differing),
        worst_shard=e.worst("differs_from_index"),
        command="shardmill verify DATASET",
    )


def _totals(e: Evidence) -> Gate:
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
    for source in e.manifest.sources:
        counted = e.found.total("corpus_tokens", split="train", source=source.name)
        pairs[f"corpus tokens of {source.name}"] = (source.realised_tokens, counted)
    return _equalities("totals", "totals, lengths and sources as manifest.json says", pairs, "shardmill verify DATASET")


def _ledger(e: Evidence) -> Gate:
    pairs: dict[str, tuple[int, int]] = {}
    for entry in e.manifest.ledger.entries:
        pairs[_entry_name(entry)] = (entry.read, entry.out + sum(entry.losses.values()))
    counted = e.found.totals_by(_split_stage_source, "corpus_tokens")
    stated: Counter[tuple[str, int, str]] = Counter()
    for entry in e.manifest.ledger.entries:
        if entry.step == "materialize" and entry.unit == "tokens":
            stated[(entry.split or "train", entry.stage or 0, entry.source)] += entry.out
    for key in sorted(set(counted) | set(stated)):
        name = f"{key[2]} {key[0]} stage {key[1]} tokens in the shards"
        pairs[name] = (stated[key], counted.get(key, 0))
    return _equalities("ledger", "read = out + losses in every line, and out as counted in the shards", pairs, "")


def _mixture(e: Evidence) -> Gate:
    """Realised tokens of a source in a stage are those of the plan, but for the document cut by the stage's edge."""
    worst, longest_name, differences = 0.0, "", []
    for stage in e.manifest.stages:
        for source, planned in stage.sources.items():
            counted = e.found.total("corpus_tokens", split="train", stage=stage.stage, source=source)
            lost = sum(
                sum(entry.losses.values())
                for entry in e.manifest.ledger.entries
                if (entry.step, entry.unit, entry.split) == ("materialize", "tokens", "train")
                and (entry.stage, entry.source) == (stage.stage, source)
            )
            bound = e.found.greatest("longest_document", source=source) + lost
            difference = abs(counted - planned["planned_tokens"])
            text = f"{source} in stage {stage.name}: planned {planned['planned_tokens']:,}, counted {counted:,}"
            text += f", longest document {bound:,}"
            if difference > bound:
                differences.append(text)
            if difference / max(1, bound) >= worst:
                worst, longest_name = difference / max(1, bound), text
    return Gate(
        name="mixture",
        passed=not differences,
        expected="every source's tokens in every stage as planned",
        observed="; ".join(differences[:3]) if differences else f"largest difference: {longest_name or 'none'}",
        bound="the source's longest document seen, plus its tokens in named losses",
        n=sum(len(s.sources) for s in e.manifest.stages),
        effect=worst,
        command="shardmill show DATASET",
    )


def _splits(e: Evidence) -> Gate:
    wrong = e.found.total("wrong_split")
    train, validation = (e.found.samples.get(f"documents/{s}") for s in ("train", "validation"))
    shared = train.shared_with(validation) if train and validation else 0
    exact = all(sample is None or sample.level == 0 for sample in (train, validation))
    return Gate(
        name="splits_disjoint",
        passed=wrong == 0 and shared == 0,
        expected=f"every document in the split its key belongs to (validation share {e.context.validation_share:g})",
        observed=f"{wrong:,} pieces in the wrong split, {shared:,} documents in both"
        + ("" if exact else " (of a sample of the documents)"),
        n=e.found.total("pieces"),
        effect=float(wrong),
        worst_shard=e.worst("wrong_split"),
        command="shardmill show DATASET --split validation",
    )


def _repeated_rows(e: Evidence) -> Gate:
    samples = [s for name, s in sorted(e.found.samples.items()) if name.startswith("occurrences/")]
    n, repeated = sum(s.items for s in samples), sum(s.repeated for s in samples)
    share = repeated / n if n else 0.0
    sampled = any(s.level for s in samples)
    return Gate(
        name="rows_once",
        passed=share <= REPEATED_ROWS_BOUND,
        expected="no row twice with the same document, place, copy and ids",
        observed=f"{repeated:,} of {n:,} rows{' sampled by hash' if sampled else ''}",
        bound=f"share ≤ {REPEATED_ROWS_BOUND:g}, for records that a corpus holds twice under one id",
        n=n,
        effect=share,
        command="shardmill show DATASET",
    )


def _tokenizer(e: Evidence) -> Gate:
    stated = e.manifest.tokenizer
    different = (
        ["tokenizer.json cannot be read"]
        if e.tokenizer is None
        else [
            f"{name} {getattr(e.tokenizer, name)}, the manifest says {getattr(stated, name)}"
            for name in TokenizerRecord.model_fields
            if getattr(e.tokenizer, name) != getattr(stated, name)
        ]
    )
    return Gate(
        name="tokenizer",
        passed=not different,
        expected=f"tokenizer.json with sha256 {stated.sha256[:16]}… and {stated.vocab_size:,} ids",
        observed="; ".join(different)[:500] or "equal",
        n=stated.vocab_size,
        command="shardmill verify DATASET",
    )


_GATES: Sequence[Callable[[Evidence], Gate]] = (
    *(_not_empty, _readable, _index, _totals, _ledger, _mixture),
    *(_splits, _repeated_rows, _tokenizer),
)

_ROW_LAWS: dict[str, tuple[tuple[str, ...], str]] = {
    "sources_known": (("source_unknown",), "every row's source is one of the manifest's"),
    "lengths": (
        ("length_mismatch", "length_outside_bucket"),
        "`length` = len(input_ids), at most the bucket's and above the next shorter bucket's",
    ),
    "id_range": (("id_out_of_range",), "every id at least 0 and below the vocabulary's size"),
    "no_padding": (("padding_inside",), "no padding id inside a row"),
    "provenance": (
        ("provenance_mismatch", "provenance_ragged"),
        "the row's length follows from doc_lengths by the objective's law",
    ),
}
"""Laws of rows of every objective: the figures that count what breaks them, and the law in words."""

_MLM_LAWS: dict[str, tuple[tuple[str, ...], str]] = {
    "special_tokens": (("frame_errors",), "[CLS] first, [SEP] last, and none of them nor an unlabelled mask between"),
    "mask_positions": (("mask_position_errors",), "positions inside the row, ascending, one label each"),
    "mask_labels": (("mask_label_errors",), "no label is a special token or outside the vocabulary"),
    "random_replacements": (("random_is_special",), "random replacements stand for text"),
}

_CAUSAL_LAWS: dict[str, tuple[tuple[str, ...], str]] = {
    "document_boundaries": (
        ("boundary_errors",),
        "an end-of-sequence token after each document, and later pieces of a row start their document",
    ),
}


def _no_rows_that(e: Evidence, name: str, figures: tuple[str, ...], law: str) -> Gate:
    counts = {figure: e.found.total(figure) for figure in figures}
    worst = max(sorted(e.found.groups), key=lambda g: sum(e.found.groups[g].sums[f] for f in figures), default=None)
    broken = ", ".join(f"{n:,} × {figure.replace('_', ' ')}" for figure, n in counts.items() if n)
    return Gate(
        name=name,
        passed=not any(counts.values()),
        expected=law,
        observed=broken or "no exception",
        bound="0 exceptions",
        n=e.found.total("rows"),
        effect=float(sum(counts.values())),
        worst_shard=e.worst(*figures),
        command=_show(worst),
    )


def _mask_counts(e: Evidence) -> Gate:
    parameters = e.context.parameters
    assert isinstance(parameters, Mlm)
    wrong, masked, law = (e.found.total(f) for f in ("mask_count_errors", "masked", "mask_law"))
    upper = parameters.whole_word
    nothing = law > 0 and masked == 0
    return Gate(
        name="mask_counts",
        passed=wrong == 0 and not nothing,
        expected=f"{'at most ' if upper else ''}min(max_predictions, max(1, round({parameters.mask_rate:g} · length)))"
        f" masked places a row{', whole words' if upper else ''}, {law:,} in all",
        observed=f"{masked:,} masked, {wrong:,} rows {'above' if upper else 'off'} the law",
        bound="upper bound" if upper else "exact",
        n=e.found.total("rows"),
        effect=float(wrong),
        worst_shard=e.worst("mask_count_errors"),
        command=_show(next(iter(sorted(e.found.groups)), None)),
    )


def _mask_statistics(e: Evidence) -> list[Gate]:
    parameters = e.context.parameters
    assert isinstance(parameters, Mlm)
    sources = sorted({g.source for g in e.found.groups})
    tests = 3 * (len(sources) + 1) + 1
    level = FALSE_ALARM / tests
    replacements = [
        test
        for source in (None, *sources)
        for test in replacement_tests(e.found, parameters, e.context.text_ids, source, level)
    ]
    failing = [t for t in replacements if t.tail < level and t.effect > REPLACEMENT_FLOOR]
    shown = failing or replacements[:3]
    positions = mask_position_test(e.found, whole_word=parameters.whole_word)
    return [
        Gate(
            name="mask_replacement",
            passed=not failing,
            expected=", ".join(f"{t.expected:.4%} {t.name}" for t in replacements[:3]),
            observed=", ".join(f"{t.observed:.4%} {t.name}" for t in shown),
            bound=f"binomial tail ≥ {level:.1g} or deviation ≤ {REPLACEMENT_FLOOR:.1%}; "
            f"detectable here: {max(t.detectable for t in replacements[:3]):.2%}",
            n=e.found.total("masked"),
            effect=max(t.effect for t in shown),
            worst_shard=e.worst("replacement_deviation"),
            command="shardmill show DATASET",
        ),
        Gate(
            name="mask_uniformity",
            passed=positions.tail >= level or positions.effect <= POSITION_FLOOR,
            expected="masked places spread over a row like the places that may be masked",
            observed=f"chi-square {positions.statistic:.1f} with {positions.degrees} degrees, "
            f"distance {positions.effect:.2%}",
            bound=f"tail ≥ {level:.1g} or distance ≤ {POSITION_FLOOR:.0%}; detectable here: "
            f"{positions.detectable(level):.2%}",
            n=positions.n,
            effect=positions.effect,
            command="shardmill show DATASET",
        ),
    ]


def figures(found: Accumulator, manifest: Manifest) -> dict[str, float]:
    """The figures a job's `gates` may bound, by name in `schemas.gates.GATES`."""
    records = [x for x in manifest.ledger.entries if (x.unit, x.step) == ("records", "read")]
    read, rejected = sum(x.read for x in records), sum(sum(x.losses.values()) for x in records)
    places = sum(m.sums["rows"] * g.length for g, m in found.select())
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


def _user_gates(e: Evidence) -> list[Gate]:
    measured = figures(e.found, e.manifest)
    gates = []
    for name, bound in sorted(e.manifest.job.get("gates", {}).items()):
        low, high = bound.get("min"), bound.get("max")
        value = measured.get(name)
        gates.append(
            Gate(
                name=f"job.{name}",
                passed=value is not None and (low is None or value >= low) and (high is None or value <= high),
                expected=GATES.get(name, f"a figure of the audit: {', '.join(sorted(GATES))}"),
                observed="there is no such figure" if value is None else f"{value:,.6g}",
                bound=" and ".join([f"≥ {low:g}"] * (low is not None) + [f"≤ {high:g}"] * (high is not None)),
                n=e.found.total("rows"),
                effect=value,
                worst_shard=e.worst({"padding": "padding_share", "unknown": "unknown_tokens"}.get(name, "")),
                command="shardmill show DATASET",
            )
        )
    return gates


def _equalities(name: str, law: str, pairs: dict[str, tuple[int, int]], command: str) -> Gate:
    different = [f"{what}: {stated:,} stated, {counted:,} found" for what, (stated, counted) in pairs.items()
                 if stated != counted]
    return Gate(
        name=name,
        passed=not different,
        expected=law,
        observed=f"{len(different)} differ; " + "; ".join(different[:3]) if different else "all equal",
        n=len(pairs),
        effect=float(len(different)),
        command=command,
    )


def _entry_name(entry: Entry) -> str:
    stage = "" if entry.stage is None else f" stage {entry.stage}"
    return f"{entry.step} {entry.unit} of {entry.source}{f' {entry.split}' if entry.split else ''}{stage}"


def _bucket(group: Group) -> tuple[str, int, int]:
    return group.split, group.stage, group.length


def _split_stage_source(group: Group) -> tuple[str, int, str]:
    return group.split, group.stage, group.source


def _show(group: Group | None) -> str:
    if group is None:
        return "shardmill show DATASET"
    return f"shardmill show DATASET --split {group.split} --stage {group.stage} --length {group.length}"
