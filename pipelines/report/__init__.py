"""The audit's report: one self-contained HTML file. It lays out what the audit found and judges nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipelines.report.charts import (
    Bucket,
    ShareBar,
    lengths_chart,
    padding_chart,
    positions_chart,
    replacement_chart,
    shares_chart,
)
from pipelines.report.result import AuditResult
from pipelines.show import pick_examples
from schemas.counts import format_bytes, format_count
from schemas.errors import ShardmillError
from schemas.gates import GATES
from transforms.objectives.masking import MaskingParameters
from transforms.statistics import AuditContext
from transforms.statistics.mask_law import expected_shares
from transforms.statistics.masks import FIXED_POINT

MOST_LEDGER_LINES = 300
"""Lines of the ledger in the report, open ones first; manifest.json has all."""

MOST_LENGTH_CHARTS = 6
"""Stages whose lengths are drawn; the table has them all."""

SAMPLES = 4
"""Rows shown, from the shortest to the longest."""

SAMPLE_TOKENS = 192


def render_report(result: AuditResult) -> bytes:
    """`report.html`: no scripts, no external files, under 2 MB."""
    environment = Environment(
        loader=PackageLoader("pipelines", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(count=_count, share=_share, short=format_count, size=format_bytes)
    buckets = _buckets(result)
    stages = list(dict.fromkeys(bucket.stage for bucket in buckets))[:MOST_LENGTH_CHARTS]
    page = environment.get_template("report.html").render(
        result=result,
        manifest=result.manifest,
        gates=sorted(result.gates, key=lambda gate: gate.passed),
        figures=[(name, GATES[name], value) for name, value in sorted(result.figures.items())],
        shares=_shares(result),
        lengths=_lengths(result),
        ledger=sorted(result.manifest.ledger.entries, key=lambda entry: entry.difference == 0)[:MOST_LEDGER_LINES],
        ledger_lines=len(result.manifest.ledger.entries),
        charts={
            "shares": Markup(shares_chart(_share_bars(result))),
            "lengths": [(stage, Markup(lengths_chart([b for b in buckets if b.stage == stage]))) for stage in stages],
            "padding": Markup(padding_chart(buckets)),
            **_mask_charts(result),
        },
        **_samples(result),
    )
    return page.encode()


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _share(value: float) -> str:
    return f"{value:.2%}"


def _shares(result: AuditResult) -> list[dict[str, Any]]:
    """One row a stage and source: what the plan gives it and what the shards hold."""
    rows = []
    available = {s.name: s.available_tokens for s in result.manifest.sources}
    for stage in result.manifest.stages:
        counted = {
            source: result.statistics.total("corpus_tokens", split="train", stage=stage.stage, source=source)
            for source in stage.sources
        }
        planned = {source: tokens["planned_tokens"] for source, tokens in stage.sources.items()}
        rows += [
            {
                "stage": stage.name,
                "source": source,
                "planned": planned[source],
                "counted": counted[source],
                "target": planned[source] / max(1, sum(planned.values())),
                "achieved": counted[source] / max(1, sum(counted.values())),
                "epochs": counted[source] / available[source] if available.get(source) else 0.0,
            }
            for source in sorted(planned, key=lambda name: (-planned[name], name))
        ]
    return rows


def _share_bars(result: AuditResult) -> list[ShareBar]:
    return [ShareBar(f"{r['source']}, {r['stage']}", r["target"], r["achieved"]) for r in _shares(result)]


def _lengths(result: AuditResult) -> list[dict[str, Any]]:
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


def _buckets(result: AuditResult) -> list[Bucket]:
    return [
        Bucket(stage=row["name"], length=row["length"], histogram=row["histogram"], padding=row["padding"])
        for row in _lengths(result)
        if row["split"] == "train"
    ]


def _mask_charts(result: AuditResult) -> dict[str, Markup]:
    """Charts of masking, where the objective masks."""
    context, found = AuditContext.of(result.manifest), result.statistics
    if not isinstance(context.parameters, MaskingParameters):
        return {}
    expected = expected_shares(context.parameters, context.text_ids)
    positions = [x / FIXED_POINT for x in found.histogram("mask_position_expected")]
    return {
        "replacement": Markup(replacement_chart(expected, {k: found.total(f"shown_{k}") for k in expected})),
        "positions": Markup(positions_chart(found.histogram("mask_position"), positions)) if positions else Markup(),
    }


def _samples(result: AuditResult) -> dict[str, Any]:
    """A few decoded rows, or why there are none: a damaged dataset still gets its report."""
    samples: Sequence[Any] = ()
    try:
        samples = pick_examples(result.dataset, n=SAMPLES, most_tokens=SAMPLE_TOKENS)
    except ShardmillError as error:
        return {"samples": samples, "no_samples": error.paragraph()}
    return {"samples": samples, "no_samples": ""}
