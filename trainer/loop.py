"""The training loop: AdamW, linear warm-up and cosine decay, metrics, and a saved model at the end.

One process, one device. Not a framework: to train something larger, take `Stream` into a loop of your own.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from schemas.errors import DataError, RequestError
from trainer.evaluation import evaluate, to_device
from trainer.meter import Meter
from trainer.models import choose_recipe, loss_sum
from trainer.report import header, next_command, summary
from trainer.run import Run
from trainer.settings import TrainResult, TrainSettings
from trainer.stream import Stream

__all__ = ["TrainResult", "TrainSettings", "learning_rate_factor", "train"]


def learning_rate_factor(step: int, *, steps: int, warmup_steps: int) -> float:
    """Share of the peak learning rate at a step: up linearly, then down a half cosine to 0 after the last step.

    >>> [round(learning_rate_factor(s, steps=10, warmup_steps=2), 2) for s in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))


def train(settings: TrainSettings, *, console: Console | None = None) -> TrainResult:
    """Train a model on a dataset and save it.

    Prints a header, a line every `log_every_steps` steps, and a summary.

    Raises:
      RequestError: there is no such dataset, it does not fit the recipe or the batch, an option is out of range,
        the run is already finished, or the training diverges.
      DataError: a shard is missing or damaged.
    """
    console = console or Console()
    settings.check()
    device = _device(settings.device)
    stream = Stream(settings.dataset, tokens_per_batch=settings.tokens_per_batch, seed=settings.seed)
    recipe = choose_recipe(settings.recipe, stream.objective)
    steps = settings.steps or stream.plan.steps_per_epoch
    _check_surroundings(stream)
    validation = _validation_stream(settings, stream)
    run = Run.start(settings.out, overwrite=settings.overwrite)

    torch.manual_seed(settings.seed)
    model = recipe.build(stream.manifest.tokenizer, stream.longest_row).to(device).train()
    peak = recipe.learning_rate if settings.learning_rate is None else settings.learning_rate
    optimizer = _optimizer(model, peak, settings.weight_decay)
    warmup_steps = max(1, round(settings.warmup_share * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, steps=steps, warmup_steps=warmup_steps)
    )
    parameters = sum(p.numel() for p in model.parameters())
    console.print(header(stream, recipe.name, parameters, steps, device.type), highlight=False)

    meter = Meter(steps, log=run.log, show=lambda line: console.print(line, highlight=False))
    with _progress(console) as progress, contextlib.closing(iter(stream)) as batches:
        bar = progress.add_task("", total=steps)
        for step in range(1, steps + 1):
            asked = time.perf_counter()
            batch = next(batches)
            waited_seconds = time.perf_counter() - asked
            tokens = int((batch["attention_mask"].sum(1) * batch["row_weight"]).sum())

            loss_total, labels = loss_sum(recipe, model, to_device(batch, device))
            loss = loss_total / labels.clamp(min=1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            learning_rate = schedule.get_last_lr()[0]
            optimizer.step()
            schedule.step()

            meter.add(loss.detach(), tokens=tokens, waited_seconds=waited_seconds)
            progress.advance(bar)
            if step % settings.log_every_steps == 0 or step == steps:
                meter.report(learning_rate=learning_rate, grad_norm=float(grad_norm))

    score = None
    if validation is not None:
        score = evaluate(recipe, model, validation, batches=settings.eval_batches, device=device)
        run.log({"step": steps, "validation_loss": score.loss, "validation_perplexity": score.perplexity})
    run.save(model, stream.dataset, stream.manifest.tokenizer)
    tenth = max(1, steps // 10)
    result = TrainResult(
        recipe=recipe.name,
        steps=steps,
        tokens=meter.tokens,
        seconds=meter.seconds,
        first_loss=sum(meter.losses[:tenth]) / tenth,
        last_loss=sum(meter.losses[-tenth:]) / tenth,
        validation=score,
        model_directory=str(run.final),
    )
    console.print(summary(result), highlight=False)
    # Not wrapped: this line is there to be copied.
    console.print(f"  {next_command(result)}", highlight=False, markup=False, soft_wrap=True)
    return result


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise RequestError("There is no such device", expected="auto, cpu or cuda", got=name)
    if name == "cuda" and not torch.cuda.is_available():
        raise RequestError(
            "PyTorch sees no CUDA device here",
            got="--device cuda",
            remedy="Use --device cpu, or install a build of PyTorch that fits the driver",
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _check_surroundings(stream: Stream) -> None:
    """Refuse what would fail later, or train something else than was meant."""
    if not (stream.dataset / "tokenizer.json").exists():
        raise DataError(
            "The dataset lacks its tokenizer, and the model would be saved without one",
            where=str(stream.dataset / "tokenizer.json"),
            remedy="Restore it, or prepare the dataset again",
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RequestError(
            "This trainer runs in one process",
            expected="no torchrun, or one process",
            got=f"WORLD_SIZE {os.environ['WORLD_SIZE']}",
            remedy="Give each process a Stream(rank=…, world_size=…) in a loop of your own",
        )


def _validation_stream(settings: TrainSettings, stream: Stream) -> Stream | None:
    """The stream to evaluate on: always the same batches, whatever the seed of the run."""
    if "validation" not in stream.splits or settings.eval_batches == 0:
        return None
    return Stream(stream.dataset, split="validation", tokens_per_batch=settings.tokens_per_batch, epochs=1)


def _optimizer(model: Any, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("step {task.completed}/{task.total}"),
        BarColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
