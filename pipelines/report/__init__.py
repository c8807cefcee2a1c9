"""The audit's report: one self-contained HTML file. It lays out what the audit found and judges nothing."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipelines.report import sections
from pipelines.report.charts import lengths_chart, padding_chart, shares_chart
from pipelines.report.result import AuditResult
from schemas.counts import format_bytes, format_count
from schemas.gates import GATES
from transforms.statistics.summary import FIGURES

MOST_LEDGER_LINES = 300
"""Lines of the ledger in the report, open ones first; manifest.json has all."""

MOST_LENGTH_CHARTS = 6
"""Stages whose lengths are drawn; the table has them all."""


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
    buckets = sections.buckets(result)
    stages = list(dict.fromkeys(bucket.stage for bucket in buckets))[:MOST_LENGTH_CHARTS]
    samples, no_samples = sections.samples(result)
    page = environment.get_template("report.html").render(
        result=result,
        manifest=result.manifest,
        gates=sorted(result.gates, key=lambda gate: gate.passed),
        failing=sections.failing_rows(result),
        figures=[(name, GATES[name], value) for name, value in sorted(result.figures.items())],
        shares=sections.share_rows(result),
        sources=sections.source_rows(result),
        source_figures=FIGURES,
        lengths=sections.length_rows(result),
        ledger=sorted(result.manifest.ledger.entries, key=lambda entry: entry.difference == 0)[:MOST_LEDGER_LINES],
        ledger_lines=len(result.manifest.ledger.entries),
        difference=result.difference,
        charts={
            "shares": Markup(shares_chart(sections.share_bars(result))),
            "lengths": [(stage, Markup(lengths_chart([b for b in buckets if b.stage == stage]))) for stage in stages],
            "padding": Markup(padding_chart(buckets)),
            "waterfall": sections.waterfall(result),
            "training": sections.training_charts(result),
            "ranks": sections.ranks(result),
            "laws": sections.law_charts(result),
        },
        samples=samples,
        no_samples=no_samples,
    )
    return page.encode()


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _share(value: float) -> str:
    return f"{value:.2%}"
