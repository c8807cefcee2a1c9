"""The plan step, and `shardmill plan`: what a job will produce, as a table and as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.run import Run
from pipelines.tokenize import Sidecars, finished_sidecars
from schemas.counts import format_count
from schemas.plan import Plan, StagePlan, write_plan
from transforms.buckets import Padding, padding
from transforms.estimate import estimate_source
from transforms.mixture import effective_tokens, mix
from transforms.objectives.base import Objective
from transforms.objectives.registry import objective_for
from transforms.planner import block_tokens_for, chunks_of, make_plan
from transforms.vocabulary import Vocabulary, future_vocabulary, read_vocabulary


def plan(run: Run, sidecars: Sidecars) -> Plan:
    """Make the plan from the token store's sidecars and write plan.parquet.

    Raises:
      RequestError, DataError: the budget cannot be met, or a source is empty.
    """
    train = {name: chunks_of(name, by_split["train"]) for name, by_split in sidecars.items()}
    validation = {name: chunks_of(name, by_split["validation"]) for name, by_split in sidecars.items()}
    made = make_plan(run.job, train, validation)
    write_plan(run.output / "plan.parquet", made.table)
    for warning in made.warnings:
        run.say(f"  [yellow]note[/] {escape(warning)}")
    sources = ", ".join(f"{n} {made.epochs(n):.2f}×" for n in sorted(made.available_tokens))
    run.say(
        f"[bold]plan[/]         {format_count(sum(s.total_tokens for s in made.stages))} tokens in "
        f"{made.blocks} blocks of {format_count(made.block_tokens)}  [dim]passes: {sources}[/]"
    )
    return made


@dataclass(frozen=True)
class _Available:
    """What is known of one source before or after it is tokenized."""

    tokens: int
    lengths: dict[int, int] | None
    """Histogram of document lengths; None where the job only gives a token count."""
    estimated: bool


def preview(run: Run) -> dict[str, Any]:
    """What the job will produce, as the JSON of `shardmill plan --json`.

    Exact where the token store is complete; otherwise estimated from a sample of each source, and said so.

    Raises:
      RequestError, DataError: the job cannot be planned.
    """
    vocabulary = _best_vocabulary(run)
    objective = objective_for(run.job.objective, vocabulary)
    resolved = run.resolved_objective(vocabulary)
    available, warnings = _available(run, vocabulary)
    stages, notes = mix(run.job, {name: a.tokens for name, a in available.items()})
    block_tokens = block_tokens_for(run.job, sum(a.tokens for a in available.values()))
    total = sum(stage.total_tokens for stage in stages)
    blocks = sum(max(1, -(-stage.total_tokens // block_tokens)) for stage in stages)
    sources = []
    for source in run.job.sources:
        tokens = sum(stage.tokens.get(source.name, 0) for stage in stages)
        count = available[source.name].tokens
        sources.append(
            {
                "name": source.name,
                "available_tokens": count,
                "weight": tokens / total if total else 0.0,
                "tokens": tokens,
                "epochs": tokens / count if count else 0.0,
                "effective_tokens": effective_tokens(tokens, count),
                "estimated": available[source.name].estimated,
            }
        )
    return {
        "sources": sources,
        "stages": [
            {
                "stage": stage.name,
                "tokens": stage.total_tokens,
                "sources": stage.tokens,
                "lengths": _bucket_lines(predicted),
                "padding": predicted.share,
                "speed_up": predicted.speed_up,
            }
            for stage, predicted in ((s, _predict_lengths(objective, s, available)) for s in stages)
        ],
        "objective": resolved,
        "total_tokens": total,
        "blocks": blocks,
        "block_tokens": block_tokens,
        "warnings": [*warnings, *notes],
    }


def _best_vocabulary(run: Run) -> Vocabulary:
    names = {str(role): token for role, token in run.job.tokenizer.special_tokens.items()}
    if run.tokenizer_file is not None:
        return read_vocabulary(run.tokenizer_file, names, where=str(run.job.tokenizer.file))
    trained = run.store / "tokenizer.json"
    if trained.info():
        return read_vocabulary(trained.read_bytes(), names, where=str(trained))
    assert run.job.tokenizer.train is not None
    return future_vocabulary(run.job.tokenizer.train.vocab_size)


def _available(run: Run, vocabulary: Vocabulary) -> tuple[dict[str, _Available], list[str]]:
    by_hand = {s.name: _Available(s.tokens, None, False) for s in run.job.sources if s.tokens is not None}
    if run.job.planned_without_data:
        rest = [s for s in run.job.sources if s.tokens is None]
        found, warnings = dict(by_hand), list[str]()
        if rest:
            part = Run(run.uri, run.job.model_copy(update={"sources": rest}), run.engine, run.console)
            more, warnings = _available(part, vocabulary)
            found.update(more)
        return {s.name: found[s.name] for s in run.job.sources}, warnings
    _, todo, sidecars = finished_sidecars(run, vocabulary.sha256)
    unfinished = {r.source for r in todo}
    trained = read_tokenizer(run)
    result = {}
    for source in run.job.sources:
        if source.name not in unfinished:
            chunks = chunks_of(source.name, sidecars[source.name]["train"])
            result[source.name] = _Available(chunks.available_tokens, chunks.lengths, False)
        else:
            tokens, lengths = estimate_source(run.job, source, run.ranges[source.name], trained)
            result[source.name] = _Available(tokens, lengths, True)
    warnings = []
    if unfinished:
        how = "with the tokenizer" if trained else "at 4 bytes a token, since the tokenizer is not trained yet"
        warnings.append(
            f"tokens of {', '.join(sorted(unfinished))} are estimated from a sample {how}; "
            "they are exact after `shardmill tokenize`"
        )
    return result, warnings


def read_tokenizer(run: Run) -> bytes | None:
    """The job's tokenizer if it exists already."""
    if run.tokenizer_file is not None:
        return run.tokenizer_file
    place = run.store / "tokenizer.json"
    return place.read_bytes() if place.info() else None


def _predict_lengths(objective: Objective, stage: StagePlan, available: dict[str, _Available]) -> Padding:
    """Expected rows and padding of a stage's buckets, from the histograms of document lengths."""
    lengths, counts = [], []
    for name, wanted in stage.tokens.items():
        have = available[name]
        histogram = have.lengths or {stage.lengths[-1] - 2: max(1, have.tokens // max(1, stage.lengths[-1] - 2))}
        documents = np.array(sorted(histogram.items()), dtype=np.int64).reshape(-1, 2)
        length, count = objective.row_lengths(documents[:, 0], documents[:, 1], lengths=stage.lengths)
        lengths.append(length)
        counts.append(count * (wanted / max(1, int((documents[:, 0] * documents[:, 1]).sum()))))
    return padding(np.concatenate(lengths), np.concatenate(counts), stage.lengths)


def _bucket_lines(predicted: Padding) -> list[dict[str, Any]]:
    return [
        {"length": length, "rows": round(rows), "padding": share}
        for length, rows, share in zip(
            predicted.edges.tolist(), predicted.rows.tolist(), predicted.shares.tolist(), strict=True
        )
    ]


def show_preview(report: dict[str, Any], console: Console) -> None:
    """The preview as tables for people."""
    table = Table(title="Sources", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading in ("source", "available", "share", "tokens", "passes", "worth"):
        table.add_column(heading, justify="left" if heading == "source" else "right")
    for row in report["sources"]:
        about = "~" if row["estimated"] else ""
        table.add_row(
            escape(row["name"]),
            about + format_count(row["available_tokens"]),
            f"{row['weight']:.1%}",
            format_count(row["tokens"]),
            f"{row['epochs']:.2f}×",
            format_count(row["effective_tokens"]),
        )
    table.add_row("all", "", "", format_count(report["total_tokens"]), "", "", style="bold")
    console.print(table)
    stages = Table(title="\nStages", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading in ("stage", "tokens", "length", "rows", "padding", ""):
        stages.add_column(heading, justify="left" if heading in ("stage", "") else "right")
    for stage in report["stages"]:
        for i, row in enumerate(stage["lengths"]):
            first = (escape(stage["stage"]), format_count(stage["tokens"])) if i == 0 else ("", "")
            stages.add_row(*first, str(row["length"]), f"{row['rows']:,}", f"{row['padding']:.1%}", "")
        if len(stage["lengths"]) > 1:
            rows, saving = (
                sum(row["rows"] for row in stage["lengths"]),
                f"[dim]{stage['speed_up']:.2f}× one bucket[/]",
            )
            stages.add_row("", "", "all", f"{rows:,}", f"{stage['padding']:.1%}", saving)
    console.print(stages)
    numbers = {k: v for k, v in report["objective"].items() if k not in ("kind", "resolved") and v is not None}
    console.print(f"\n[bold]{report['objective']['kind']}[/] {escape(_words(numbers))}", highlight=False)
    for row in report["objective"]["resolved"]:
        rest = _words({k: v for k, v in row.items() if k != "length"})
        console.print(f"  length {row['length']}: {rest}", highlight=False)
    console.print(
        f"\n{report['blocks']} blocks of {format_count(report['block_tokens'])} tokens; "
        "work and memory of a worker are one block at a time",
        highlight=False,
    )
    for warning in report["warnings"]:
        console.print(f"[yellow]note[/] {escape(warning)}", highlight=False)


def _words(value: Any) -> str:
    """A parameter or a resolved number for people; of several things, one a line."""
    if isinstance(value, (list, tuple)):
        return "".join(f"\n    {_words(item)}" for item in value)
    if isinstance(value, dict):
        items = sorted(value.items(), key=lambda item: isinstance(item[1], (list, tuple)))  # lists last
        return ", ".join(f"{k} {_words(v)}" for k, v in items if v is not None)
    return str(value)


def to_json(report: dict[str, Any]) -> str:
    """The preview as JSON text."""
    return json.dumps(report, indent=2, ensure_ascii=False)
