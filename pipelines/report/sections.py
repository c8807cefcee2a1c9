"""What the report's tables and charts show, from what the audit found. No layout, and nothing is judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from pipelines.report.charts import Bucket, ShareBar
from pipelines.report.flow_charts import ranks_chart, training_chart, waterfall_chart
from pipelines.report.law_charts import positions_chart, replacement_chart, spans_chart
from pipelines.report.result import AuditResult
from pipelines.show import Example, pick_examples
from pipelines.show.gate import gate_examples
from schemas.errors import RequestError, ShardmillError
from schemas.storage import Location
from transforms.gates import Gate
from transforms.objectives.masking import MaskingParameters
from transforms.statistics import AuditContext
from transforms.statistics.mask_law import expected_shares
from transforms.statistics.mask_positions import FIXED_POINT
from transforms.statistics.sentinels import SPAN_EDGES
from transforms.statistics.summary import summarise
from transforms.surfaces import Surfaces

SAMPLES = ("shortest", "median", "longest")

SAMPLE_TOKENS = 192

MOST_NAMES = 7
"""Sources, lengths or curves that are told apart by colour."""

MOST_TOKENS_NAMED = 8
"""Most common tokens of a source that are named."""

MOST_GATES_SHOWN = 8
"""Failing gates whose rows are shown; the others are listed."""


def share_rows(result: AuditResult) -> list[dict[str, Any]]:
    """One row a stage and source: what the plan gives it and what the shards hold."""
    rows = []
    available = {s.name: s.available_tokens for s in result.manifest.sources}
    caps = {s["name"]: s.get("max_epochs") for s in result.manifest.job.get("sources", ())}
    so_far: Counter[str] = Counter()
    for stage in result.manifest.stages:
        counted = {
            source: result.statistics.total("corpus_tokens", split="train", stage=stage.stage, source=source)
            for source in stage.sources
        }
        so_far.update(counted)
        planned = {source: tokens["planned_tokens"] for source, tokens in stage.sources.items()}
        rows += [
            {
                "stage": stage.name,
                "source": source,
                "planned": planned[source],
                "counted": counted[source],
                "target": planned[source] / max(1, sum(planned.values())),
                "achieved": counted[source] / max(1, sum(counted.values())),
                "epochs": so_far[source] / available[source] if available.get(source) else 0.0,
                "cap": caps.get(source),
            }
            for source in sorted(planned, key=lambda name: (-planned[name], name))
        ]
    return rows


def share_bars(result: AuditResult) -> list[ShareBar]:
    """The bars of the chart of shares."""
    return [ShareBar(f"{r['source']}, {r['stage']}", r["target"], r["achieved"]) for r in share_rows(result)]


def length_rows(result: AuditResult) -> list[dict[str, Any]]:
    """One row a split, stage and bucket, as counted."""
    found = result.statistics
    keys = sorted({(group.split, group.stage, group.length) for group, _ in found.select()})
    names = {s.stage: s.name for s in result.manifest.stages}
    rows = []
    for split, stage, length in keys:
        where: dict[str, str | int] = {"split": split, "stage": stage, "length": length}
        count, tokens = found.total("rows", **where), found.total("tokens", **where)
        rows.append(
            {
                "split": split,
                "stage": stage,
                "name": names.get(stage, str(stage)),
                "length": length,
                "rows": count,
                "tokens": tokens,
                "padding": 1 - tokens / (count * length) if count else 0.0,
                "histogram": found.histogram("length", **where),
            }
        )
    return rows


def buckets(result: AuditResult) -> list[Bucket]:
    """The train split's buckets, as the charts of lengths show them."""
    return [
        Bucket(stage=row["name"], length=row["length"], histogram=row["histogram"], padding=row["padding"])
        for row in length_rows(result)
        if row["split"] == "train"
    ]


def source_rows(result: AuditResult) -> list[dict[str, Any]]:
    """One row a source of the train split: what its rows are like, and `top`, its most common tokens."""
    text_ids = AuditContext.of(result.manifest).text_ids
    rows = summarise(result.statistics, ("split", "source"), text_ids=text_ids)
    name = _token_namer(result.dataset)
    return [{**row, "top": _top(result, row["source"], name)} for row in rows if row["split"] == "train"]


def _top(result: AuditResult, source: str, name: Callable[[int], str]) -> str:
    """The most common tokens of a source that stand for text, with their shares."""
    counts = result.statistics.token_counts("train", source)
    if not len(counts):
        return ""
    text = np.where(AuditContext.of(result.manifest).is_special, 0, counts)
    best = [i for i in np.argsort(-text, kind="stable")[:MOST_TOKENS_NAMED].tolist() if text[i]]
    return ", ".join(f"{name(i)} {text[i] / text.sum():.1%}" for i in best)


def _token_namer(dataset: Location) -> Callable[[int], str]:
    """What ids are called; their numbers where the tokenizer cannot be read, of which its own gate speaks."""
    try:
        return Surfaces.of((dataset / "tokenizer.json").read_bytes()).readable
    except (FileNotFoundError, IsADirectoryError, RequestError):
        return str


def law_charts(result: AuditResult) -> dict[str, Markup]:
    """Charts of draws beside their laws, of what the objective draws."""
    context, found = AuditContext.of(result.manifest), result.statistics
    charts = {}
    if isinstance(context.parameters, MaskingParameters):
        expected = expected_shares(context.parameters, context.text_ids)
        charts["replacement"] = Markup(replacement_chart(expected, {k: found.total(f"shown_{k}") for k in expected}))
        places = [x / FIXED_POINT for x in found.histogram("mask_position_expected")]
        if places:
            charts["positions"] = Markup(positions_chart(found.histogram("mask_position"), places))
    if sum(spans := found.histogram("span_length")):
        law = [x / FIXED_POINT for x in found.histogram("span_length_expected")]
        charts["spans"] = Markup(spans_chart(SPAN_EDGES.tolist(), spans, law))
    return charts


def waterfall(result: AuditResult) -> Markup:
    """The train split's tokens from the token store to the shards, by the ledger's reasons."""
    steps = [e for e in result.manifest.ledger.entries if e.unit == "tokens" and e.split in (None, "train")]
    levels: list[tuple[str, int, bool]] = []
    for step, begins, ends in (
        ("plan", "in the token store", "planned"),
        ("materialize", "planned", "in the shards"),
    ):
        entries = [e for e in steps if e.step == step]
        if not entries:
            continue
        if not levels:
            levels.append((begins, sum(e.read for e in entries), True))
        changes: Counter[str] = Counter()
        for entry in entries:
            changes.update(entry.gains)
            changes.subtract(entry.losses)
        levels += [(name.replace("_", " "), n, False) for name, n in sorted(changes.items()) if n]
        levels.append((ends, sum(e.out for e in entries), True))
    return Markup(waterfall_chart(levels)) if levels else Markup()


def training_charts(result: AuditResult) -> list[tuple[str, Markup]]:
    """(caption, chart) of sources and of lengths through training, by the index, which was held against the rows."""
    names = {s.stage: s.name for s in result.manifest.stages}
    sources: dict[tuple[int, int], Counter[str]] = {}
    lengths: dict[tuple[int, int], Counter[str]] = {}
    edges: dict[str, int] = {}
    rows = [r for r in result.index.to_pylist() if r["split"] == "train"]
    rows.sort(key=_training_order)
    for row in rows:
        place = _training_order(row)
        block = sources.setdefault(place, Counter())
        edges.setdefault(names.get(row["stage"], str(row["stage"])), len(sources) - 1)
        block.update(dict(row["source_tokens"]))
        lengths.setdefault(place, Counter())[f"{row['length']:,}"] += row["tokens"]
    charts = []
    for caption, counted in (("corpus tokens by source", sources), ("ids by length", lengths)):
        blocks = [counted[place] for place in sorted(counted)]
        totals: Counter[str] = Counter()
        for block in blocks:
            totals.update(block)
        top = [name for name, _ in sorted(totals.items(), key=_most_first)[:MOST_NAMES]]
        if top:
            charts.append((caption, Markup(training_chart(blocks, top, edges))))
    return charts


def _training_order(row: dict[str, Any]) -> tuple[int, int]:
    return row["stage"], row["block"]


def _most_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def ranks(result: AuditResult) -> Markup:
    """Rank and frequency of tokens that stand for text, of all train rows and of the largest sources."""
    context, found = AuditContext.of(result.manifest), result.statistics
    sizes = {s.name: found.total("corpus_tokens", split="train", source=s.name) for s in result.manifest.sources}
    largest = [name for name, n in sorted(sizes.items(), key=_most_first) if n][: MOST_NAMES - 1]
    curves = {}
    for name in ("all sources", *(largest if len(sizes) > 1 else ())):
        counts = found.token_counts("train", None if name == "all sources" else name)
        if len(counts):
            text = counts[~context.is_special]
            curves[name] = sorted(text[text > 0].tolist(), reverse=True)
    return Markup(ranks_chart(curves)) if any(curves.values()) else Markup()


def samples(result: AuditResult) -> tuple[list[tuple[str, Example]], str]:
    """The shortest, the median and the longest rows, or why there are none: a damaged dataset still has a report."""
    try:
        examples = pick_examples(result.dataset, n=len(SAMPLES), most_tokens=SAMPLE_TOKENS)
    except ShardmillError as error:
        return [], error.paragraph()
    return list(zip(SAMPLES, examples, strict=False)), ""


def failing_rows(result: AuditResult) -> list[tuple[Gate, str, Sequence[Example]]]:
    """(gate, what is shown, rows) of each failing gate that judges rows."""
    shown: list[tuple[Gate, str, Sequence[Example]]] = []
    for gate in result.failed:
        what = ""
        examples: Sequence[Example] = ()
        if "--gate" in gate.command and len(shown) < MOST_GATES_SHOWN:
            try:
                found = gate_examples(result.dataset, gate, n=2, most_tokens=SAMPLE_TOKENS, found=result.statistics)
                what, examples = found.what, found.examples
            except ShardmillError as error:
                what = error.paragraph()
        shown.append((gate, what, examples))
    return shown
