"""The plan of a job as tables for people; the figures are those of `pipelines.plan.preview`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from schemas.counts import format_bytes, format_count

_BAR_CELLS = 12
_MOST_SHARES = 3
"""Sources named beside a bucket; the others are counted."""

_MOST_STAGES = 4
"""With more stages their tokens of each source are in the JSON only."""


def show_preview(report: dict[str, Any], console: Console) -> None:
    """Print the preview."""
    console.print(_sources(report))
    console.print(_stages(report))
    for stage in report["stages"]:
        if len(stage["lengths"]) > 1:
            saving = f"{stage['speed_up']:.2f} times fewer positions than if all rows were padded to the longest"
            console.print(f"[dim]buckets of {escape(stage['stage'])}: {saving}[/]", highlight=False)
    numbers = {k: v for k, v in report["objective"].items() if k not in ("kind", "resolved") and v is not None}
    console.print(f"\n[bold]{report['objective']['kind']}[/] {escape(_words(numbers))}", highlight=False)
    for row in report["objective"]["resolved"]:
        rest = _words({k: v for k, v in row.items() if k != "length"})
        console.print(f"  length {row['length']}: {escape(rest)}", highlight=False)
    console.print(
        f"\n{report['blocks']:,} blocks of {format_count(report['block_tokens'])} tokens → about "
        f"{report['shards']:,} shards, {format_bytes(report['bytes'])}; a worker holds one block at a time, about "
        f"{format_bytes(report['worker_memory_bytes'])}",
        highlight=False,
    )
    for problem in report["declared"]:
        console.print(f"[red]does not add up:[/] {escape(problem['problem'])}", highlight=False)
    for warning in report["warnings"]:
        console.print(f"[yellow]note[/] {escape(warning)}", highlight=False)


def _table(title: str, columns: Iterable[tuple[str, bool]]) -> Table:
    """A table of these columns, those with numbers flush right."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading, is_number in columns:
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=heading != "sources")
    return table


def _sources(report: dict[str, Any]) -> Table:
    stages = report["stages"] if 1 < len(report["stages"]) <= _MOST_STAGES else []
    numbers = ["available", "share", *(escape(s["stage"]) for s in stages), "tokens", "passes", "worth", "cap"]
    table = _table("Sources", [("source", False), *((heading, True) for heading in numbers), ("", False)])
    for row in report["sources"]:
        cap = "" if row["cap_tokens"] is None else format_count(row["cap_tokens"])
        table.add_row(
            escape(row["name"]),
            "~" * row["estimated"] + format_count(row["available_tokens"]),
            f"{row['weight']:.1%}",
            *(format_count(s["sources"].get(row["name"], 0)) for s in stages),
            format_count(row["tokens"]),
            f"{row['epochs']:.2f}×",
            format_count(row["effective_tokens"]),
            f"[yellow]{cap} reached[/]" if row["cap_reached"] else cap,
            f"[cyan]{_bar(row['weight'])}[/]",
        )
    table.add_row(
        "all",
        format_count(sum(row["available_tokens"] for row in report["sources"])),
        "",
        *(format_count(s["tokens"]) for s in stages),
        format_count(report["total_tokens"]),
        "",
        format_count(sum(row["effective_tokens"] for row in report["sources"])),
        style="bold",
    )
    return table


def _stages(report: dict[str, Any]) -> Table:
    numbers = [(heading, True) for heading in ("tokens", "length", "rows", "share", "padding")]
    table = _table("\nStages", [("stage", False), *numbers, ("sources", False)])
    for stage in report["stages"]:
        for i, row in enumerate(stage["lengths"]):
            first = (escape(stage["stage"]), format_count(stage["tokens"])) if i == 0 else ("", "")
            figures = (str(row["length"]), f"{row['rows']:,}", f"{row['share']:.1%}", f"{row['padding']:.1%}")
            table.add_row(*first, *figures, f"[dim]{_shares(row['sources'])}[/]")
        if len(stage["lengths"]) > 1:
            rows = sum(row["rows"] for row in stage["lengths"])
            mixed = {n: t / max(1, stage["tokens"]) for n, t in stage["sources"].items()}
            table.add_row("", "", "all", f"{rows:,}", "", f"{stage['padding']:.1%}", _shares(mixed), style="bold")
    return table


def _shares(shares: dict[str, float]) -> str:
    """The largest shares by name, and how many others there are."""
    largest = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    named = " ".join(f"{escape(n)} {share:.0%}" for n, share in largest[:_MOST_SHARES])
    return named + (f" +{len(largest) - _MOST_SHARES}" if len(largest) > _MOST_SHARES else "")


def _bar(share: float) -> str:
    """A bar of eighths of a cell."""
    eighths = round(share * _BAR_CELLS * 8)
    return "█" * (eighths // 8) + ("▏▎▍▌▋▊▉"[eighths % 8 - 1] if eighths % 8 else "")


def _words(value: Any) -> str:
    """A parameter or a resolved number for people; of several things, one a line."""
    if isinstance(value, (list, tuple)):
        return "".join(f"\n    {_words(item)}" for item in value)
    if isinstance(value, dict):
        items = sorted(value.items(), key=lambda item: isinstance(item[1], (list, tuple)))  # lists last
        return ", ".join(f"{k} {_words(v)}" for k, v in items if v is not None)
    return str(value)
