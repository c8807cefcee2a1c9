"""`shardmill audit`: runs the audit, says what it found, and compares with another dataset if one is given."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console
from rich.markup import escape

from pipelines.audit import audit_dataset, where_to_run, write_audit
from pipelines.difference import difference, show_difference
from pipelines.engine import Engine
from pipelines.progress import progress as show_progress
from pipelines.report.result import AuditResult
from schemas.manifest import read_manifest, read_shards
from schemas.storage import Location


def audit_command(
    dataset: str,
    console: Console,
    engine: Engine | None = None,
    *,
    against: str | None = None,
    html: str | None = None,
    json: str | None = None,
    junit: str | None = None,
) -> int:
    """Audit, write the reports and say what was found; 0 if every gate passed, else 1.

    Args:
      dataset: its place.
      console: where to say it.
      engine: where to run; by default in this process.
      against: place of a dataset to compare with, say last week's.
      html, json, junit: other places for the reports.
    """
    place = Location.of(dataset)
    other = Location.of(against) if against else None
    if other is not None:
        read_manifest(other)  # before the work on the first
    result = _audited(place, console, engine or Engine())
    if other is not None:
        result = replace(result, difference=difference(result, _audited(other, console, engine or Engine())))
    written = write_audit(
        result,
        html=Location.of(html) if html else None,
        json=Location.of(json) if json else None,
        junit=Location.of(junit) if junit else None,
    )
    for gate in result.gates:
        mark = "[green]pass[/]" if gate.passed else "[bold red]FAIL[/]"
        console.print(f"{mark} {gate.name:<22} {escape(gate.observed)}", highlight=False)
        if not gate.passed:
            details = [("expected", gate.expected), ("bound", gate.bound), ("worst shard", gate.worst_shard)]
            details.append(("look", gate.command.replace("DATASET", str(place))))
            for label, text in details:
                if text:
                    console.print(f"       {label}: {escape(text)}", highlight=False)
    colour = "green" if result.passed else "red"
    console.print(f"[bold {colour}]{escape(result.verdict())}[/]", highlight=False)
    if result.difference is not None:
        show_difference(result.difference, console)
    console.print(f"report: {written['html']}", highlight=False)
    return 0 if result.passed else 1


def _audited(place: Location, console: Console, engine: Engine) -> AuditResult:
    """The audit of a dataset under a bar, or a status where workers elsewhere do not tell how far they are."""
    done = 0

    def count(finished: int, _: int) -> None:
        nonlocal done
        done = finished

    read_manifest(place)  # what is wrong with the place is said before a bar is shown
    shards = read_shards(place).num_rows
    map_reduce = where_to_run(engine, place)
    if map_reduce is not None:
        with console.status(f"  auditing {shards:,} shards"):
            return audit_dataset(place, map_reduce=map_reduce)
    with show_progress(console, "audit", "shards", shards, lambda: done):
        return audit_dataset(place, progress=count)
