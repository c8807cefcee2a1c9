"""The words around a training run: what is about to happen, what happened, what to type next."""

from __future__ import annotations

import json
import shlex

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from schemas.counts import format_count
from trainer.evaluation import ACCURACIES
from trainer.models import RECIPES
from trainer.settings import TrainResult
from trainer.stream import Stream
from trainer.world import World


def header(stream: Stream, recipe: str, parameters: int, steps: int, world: World, begun: int) -> str:
    """What is about to happen, as one paragraph of rich markup."""
    about = stream.describe()
    epochs = steps / about["steps_per_epoch"]
    lengths = sorted({b["length"] for b in about["buckets"]})
    where = world.device.type + (f", {world.size} processes" if world.size > 1 else "")
    data = f"{about['objective']}, {format_count(about['tokens'])} tokens in {about['rows']:,} rows"
    again = f" Going on from the checkpoint of step {begun:,}." if begun else ""
    return (
        f"Training [bold]{recipe}[/bold] ({format_count(parameters)} parameters, {where}) on "
        f"[bold]{escape(stream.manifest.name)}[/bold]: {data} of "
        f"{', '.join(map(str, lengths))} tokens; padding {about['padding']:.1%}. "
        f"{steps:,} steps of at most {stream.tokens_per_batch:,} tokens, {epochs:.2g} epochs.{again}"
    )


def summary(result: TrainResult) -> str:
    """What happened, as one paragraph of rich markup."""
    score = result.validation
    validation = "No validation: there are no validation rows with anything to predict, or none were asked for."
    if score is not None:
        accuracies = ", ".join(
            f"{ACCURACIES[part].replace('_', ' ')} {s.accuracy:.1%}" for part, s in score.parts.items()
        )
        validation = (
            f"Validation loss {score.loss:.4f}, perplexity {score.perplexity:,.1f}, {accuracies}, over "
            f"{score.predicted_tokens:,} predicted tokens."
        )
    return (
        f"[green]Finished[/green] {result.steps:,} steps, {format_count(result.tokens)} tokens in "
        f"{result.seconds:.1f} s. Loss {result.first_loss:.4f} at first, {result.last_loss:.4f} at last (means of a "
        f"tenth of the lines each). {validation} The model is in {escape(result.model_directory)}. Try it:"
    )


def next_command(result: TrainResult) -> str:
    """A line for the shell that lets the saved model speak; from an object store it is fetched first."""
    family = RECIPES[result.recipe].family
    directory, fetch = result.model_directory, ""
    if "://" in directory:
        copy = "aws s3 cp --recursive" if directory.startswith("s3://") else "gcloud storage cp --recursive"
        fetch = f"{copy} {shlex.quote(directory + ('' if directory.startswith('s3://') else '/*'))} final && "
        directory = "final"
    where = json.dumps(directory)
    if family.causal:
        code = f'from transformers import pipeline; p = pipeline("text-generation", {where}); print(p("The"))'
    elif "mlm" in family.part_weights:
        model = where if "rtd" not in family.part_weights else json.dumps(f"{directory}/generator")
        code = (
            f'from transformers import pipeline; p = pipeline("fill-mask", {model}); '
            'print(p(f"The {p.tokenizer.mask_token} of"))'
        )
    else:
        code = (
            "from transformers import AutoModelForSeq2SeqLM as M, AutoTokenizer as T; "
            f"t, m = T.from_pretrained({where}), M.from_pretrained({where}); "
            'print(t.decode(m.generate(**t("The", return_tensors="pt"))[0]))'
        )
    return f"{fetch}python -c {shlex.quote(code)}"


def progress_bar(console: Console) -> Progress:
    """Steps done, on a terminal; nothing elsewhere."""
    return Progress(
        TextColumn("step {task.completed}/{task.total}"),
        BarColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
