"""The plan step, and what `shardmill plan` says before it; `pipelines.plan_table` prints that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
from rich.markup import escape

from pipelines.run import Run
from pipelines.tokenize import Sidecars, finished_sidecars
from pipelines.tokenizer import known_tokenizer, known_vocabulary
from schemas.counts import format_count
from schemas.objectives import ObjectiveParameters
from schemas.plan import Plan, StagePlan
from transforms.blocks import block_tokens_for
from transforms.caps import epoch_cap
from transforms.declared import declared_problems
from transforms.estimate import estimate_source
from transforms.mixture import effective_tokens, mix
from transforms.objectives.base import known_objective
from transforms.objectives.registry import objective_for
from transforms.planner import chunks_of, make_plan
from transforms.prediction import KnownSource, StagePrediction, predict_stage, with_lengths
from transforms.vocabulary import Vocabulary, future_vocabulary

_INPUT_BITS_A_TOKEN, _OTHER_BITS_A_TOKEN = 10.5, 4.5
"""Measured on English and code: `input_ids` under BYTE_STREAM_SPLIT and zstd; places and labels, or targets."""

_WORKER_BYTES, _WORKER_BYTES_A_TOKEN = 250 * 2**20, 24
"""Measured: what a worker takes before it has a block, and for each token of the block."""


def make(run: Run, sidecars: Sidecars, vocabulary: Vocabulary) -> Plan:
    """The plan of a job whose token store is complete.

    Raises:
      RequestError, DataError: the budget cannot be met, or a source is empty.
    """
    train = {name: chunks_of(name, by_split["train"]) for name, by_split in sidecars.items()}
    validation = {name: chunks_of(name, by_split["validation"]) for name, by_split in sidecars.items()}
    made = make_plan(run.job, train, validation)
    known = {
        name: KnownSource(tokens=chunks.available_tokens, lengths=chunks.lengths) for name, chunks in train.items()
    }
    objective = objective_for(run.job.objective, vocabulary)
    return replace(made, stages=tuple(with_lengths(run.job, objective, made.stages, known)))


def say(run: Run, made: Plan) -> None:
    """A line for the person at the terminal, and the plan's warnings."""
    for warning in made.warnings:
        run.say(f"  [yellow]note[/] {escape(warning)}")
    sources = ", ".join(f"{n} {made.epochs(n):.2f}×" for n in sorted(made.available_tokens))
    run.say(
        f"[bold]plan[/]         {format_count(sum(s.total_tokens for s in made.stages))} tokens in "
        f"{made.blocks} blocks of {format_count(made.block_tokens)}  [dim]passes: {sources}[/]"
    )


def preview(run: Run) -> dict[str, Any]:
    """What the job will produce, as the JSON of `shardmill plan --json`.

    Exact where the token store is complete; otherwise estimated from a sample of each source, and said so.

    Raises:
      RequestError, DataError: the job cannot be planned.
    """
    vocabulary = _vocabulary(run)
    objective = objective_for(run.job.objective, vocabulary)
    run.resolved_objective(vocabulary)  # a length too short is an error before files are looked for
    known, warnings = _known(run, vocabulary)
    available = {name: source.tokens for name, source in known.items()}
    counted = {name: source.tokens for name, source in known.items() if not source.estimated}
    mixed, notes = mix(run.job, available)
    stages = with_lengths(run.job, objective, mixed, known)
    block_tokens = block_tokens_for(run.job, sum(available.values()))
    total = sum(stage.total_tokens for stage in stages)
    blocks = [max(1, -(-stage.total_tokens // block_tokens)) for stage in stages]
    predicted = [predict_stage(objective, stage, known) for stage in stages]
    return {
        "sources": [_source_line(run, name, source, stages, total) for name, source in known.items()],
        "stages": [_stage_line(stage, rows) for stage, rows in zip(stages, predicted, strict=True)],
        "objective": run.resolved_objective(vocabulary, [s.lengths for s in stages]),
        "total_tokens": total,
        "blocks": sum(blocks),
        "block_tokens": block_tokens,
        "shards": sum(n * int((p.padding.rows > 0).sum()) for n, p in zip(blocks, predicted, strict=True)),
        "bytes": round(sum(float(p.padding.tokens.sum()) for p in predicted) * _bytes_a_token(run.job.objective)),
        "worker_memory_bytes": _WORKER_BYTES + _WORKER_BYTES_A_TOKEN * min(total, block_tokens),
        "declared": [
            {"sources": list(problem.rows), "problem": problem.message}
            for problem in declared_problems(run.job, counted)
        ],
        "warnings": [*warnings, *notes],
    }


def _source_line(run: Run, name: str, source: KnownSource, stages: list[StagePlan], total: int) -> dict[str, Any]:
    tokens = sum(stage.tokens.get(name, 0) for stage in stages)
    cap = epoch_cap(run.job, name, source.tokens)
    return {
        "name": name,
        "available_tokens": source.tokens,
        "weight": tokens / total if total else 0.0,
        "tokens": tokens,
        "epochs": tokens / source.tokens if source.tokens else 0.0,
        "effective_tokens": effective_tokens(tokens, source.tokens),
        "cap_tokens": cap,
        "cap_reached": cap is not None and tokens >= cap,
        "estimated": source.estimated,
    }


def _stage_line(stage: StagePlan, predicted: StagePrediction) -> dict[str, Any]:
    rows = predicted.padding
    tokens = max(1.0, float(rows.tokens.sum()))
    return {
        "stage": stage.name,
        "tokens": stage.total_tokens,
        "sources": stage.tokens,
        "lengths": [
            {
                "length": length,
                "rows": round(float(rows.rows[i])),
                "padding": float(rows.shares[i]),
                "share": float(rows.tokens[i]) / tokens,
                "sources": predicted.shares(i),
            }
            for i, length in enumerate(rows.edges.tolist())
        ],
        "padding": rows.share,
        "speed_up": rows.speed_up,
    }


def _bytes_a_token(objective: ObjectiveParameters) -> float:
    columns = known_objective(objective.kind).columns
    return (_INPUT_BITS_A_TOKEN + _OTHER_BITS_A_TOKEN * any(pa.types.is_list(c.type) for c in columns)) / 8


def _vocabulary(run: Run) -> Vocabulary:
    known = known_vocabulary(run)
    if known is not None:
        return known
    assert run.job.tokenizer.train is not None
    return future_vocabulary(run.job.tokenizer.train.vocab_size)


def _known(run: Run, vocabulary: Vocabulary) -> tuple[dict[str, KnownSource], list[str]]:
    """What is known of every source, in the order of the job file, and warnings."""
    by_hand = {s.name: KnownSource(tokens=s.tokens, lengths={}) for s in run.job.sources if s.tokens is not None}
    if run.job.planned_without_data:
        rest = [s for s in run.job.sources if s.tokens is None]
        found, warnings = dict(by_hand), list[str]()
        if rest:
            part = Run(run.uri, run.job.model_copy(update={"sources": rest}), run.engine, run.console)
            more, warnings = _known(part, vocabulary)
            found.update(more)
        return {s.name: found[s.name] for s in run.job.sources}, warnings
    _, todo, sidecars = finished_sidecars(run, vocabulary.sha256)
    unfinished = {r.source for r in todo}
    trained = known_tokenizer(run)
    result = {}
    for source in run.job.sources:
        if source.name not in unfinished:
            chunks = chunks_of(source.name, sidecars[source.name]["train"])
            result[source.name] = KnownSource(tokens=chunks.available_tokens, lengths=chunks.lengths)
        else:
            tokens, lengths = estimate_source(run.job, source, run.ranges[source.name], trained)
            result[source.name] = KnownSource(tokens=tokens, lengths=lengths, estimated=True)
    warnings = []
    if unfinished:
        how = "with the tokenizer" if trained else "at 4 bytes a token, since the tokenizer is not trained yet"
        warnings.append(
            f"tokens of {', '.join(sorted(unfinished))} are estimated from a sample {how}; "
            "they are exact after `shardmill tokenize`"
        )
    return result, warnings
