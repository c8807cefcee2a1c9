"""The words around a training run: what is about to happen, what happened, what to type next. Text only."""

from __future__ import annotations

import json
import shlex

from rich.markup import escape

from schemas.counts import format_count
from trainer.models import RECIPES
from trainer.settings import TrainResult
from trainer.stream import Stream


def header(stream: Stream, recipe: str, parameters: int, steps: int, device: str) -> str:
    """What is about to happen, as one paragraph of rich markup."""
    about = stream.describe()
    epochs = steps / about["steps_per_epoch"]
    lengths = sorted({b["length"] for b in about["buckets"]})
    data = f"{about['objective']}, {format_count(about['tokens'])} tokens in {about['rows']:,} rows"
    return (
        f"Training [bold]{recipe}[/bold] ({format_count(parameters)} parameters, {device}) on "
        f"[bold]{escape(stream.manifest.name)}[/bold]: {data} of "
        f"{', '.join(map(str, lengths))} tokens; padding {about['padding']:.1%}. "
        f"{steps:,} steps of at most {stream.tokens_per_batch:,} tokens, {epochs:.2g} epochs."
    )


def summary(result: TrainResult) -> str:
    """What happened, as one paragraph of rich markup."""
    score = result.validation
    validation = (
        f"Validation loss {score.loss:.4f}, perplexity {score.perplexity:,.1f} over {score.predicted_tokens:,} "
        "predicted tokens."
        if score is not None
        else "No validation: there are no validation rows, or none were asked for."
    )
    return (
        f"[green]Finished[/green] {result.steps:,} steps, {format_count(result.tokens)} tokens in "
        f"{result.seconds:.1f} s. Loss {result.first_loss:.4f} at first, {result.last_loss:.4f} at last (means of a "
        f"tenth of the steps each). {validation} The model is in {escape(result.model_directory)}. Try it:"
    )


def next_command(result: TrainResult) -> str:
    """A line for the shell that lets the saved model speak."""
    task, prompt = "text-generation", '"The"'
    if RECIPES[result.recipe].objective == "mlm":
        task, prompt = "fill-mask", 'f"The {p.tokenizer.mask_token} of"'
    load = f"p = pipeline({json.dumps(task)}, {json.dumps(result.model_directory)})"
    code = f"from transformers import pipeline; {load}; print(p({prompt}))"
    return f"python -c {shlex.quote(code)}"
