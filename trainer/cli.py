"""`shardmill-train`: the command line of the trainer. Options and errors only; PyTorch is imported when needed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from schemas.counts import parse_count
from schemas.errors import RequestError, ShardmillError
from schemas.storage import Location

if TYPE_CHECKING:
    from trainer.loop import TrainResult

_EPILOG = """\
example:
  shardmill-train out/bert-small --steps 500 --tokens-per-batch 16K --out runs/first

Writes metrics.jsonl and, at the end, final/ (the model and its tokenizer, for from_pretrained) to the run's
directory. Exit codes: 0 good, 1 the data is bad, 2 the request is bad, 130 interrupted.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        _train(options)
    except ShardmillError as error:
        if options.debug:
            raise
        _print_error(error.paragraph())
        return error.exit_code
    except KeyboardInterrupt:
        _print_error("Interrupted; no model was saved.")
        return 130
    return 0


def _train(options: argparse.Namespace) -> TrainResult:
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ModuleNotFoundError as error:
        raise RequestError(
            "Training needs PyTorch and transformers, which are not installed",
            got=str(error),
            remedy="Install them with: pip install 'shardmill[train]'",
        ) from error
    from trainer.loop import TrainSettings, train

    return train(
        TrainSettings(
            dataset=options.dataset,
            out=options.out or f"runs/{Location.of(options.dataset).name}",
            recipe=options.recipe,
            steps=options.steps,
            tokens_per_batch=options.tokens_per_batch,
            learning_rate=options.learning_rate,
            seed=options.seed,
            device=options.device,
            log_every_steps=options.log_every,
            eval_batches=options.eval_batches,
            overwrite=options.overwrite,
        )
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="shardmill-train",
        description="Train a model on a finished dataset.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("dataset", metavar="DATASET", help="directory of the dataset: a local path, s3:// or gs://")
    add("--recipe", metavar="NAME", help="bert-tiny or gpt-tiny; default: the one for the dataset's objective")
    add("--steps", type=_count, metavar="N", help="optimiser steps; default: one epoch")
    add("--tokens-per-batch", type=_count, default=4096, metavar="N", help="padding included; default 4096")
    add("--learning-rate", type=float, metavar="X", help="peak; default: the recipe's")
    add("--seed", type=int, default=0, metavar="N", help="of the order, the weights and dropout; default 0")
    add("--out", metavar="DIR", help="directory of the run; default: runs/<dataset name>")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: cuda if there is one")
    add("--log-every", type=_count, default=10, metavar="N", help="steps from line to line; default 10")
    add("--eval-batches", type=int, default=20, metavar="N", help="validation batches at most; default 20")
    add("--overwrite", action="store_true", help="replace a finished run")
    add("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _count(text: str) -> int:
    try:
        return parse_count(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _print_error(text: str) -> None:
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        console.print(text, style="red", markup=False, highlight=False)
    else:
        # Never wrapped: a log or another program gets the paragraph as one line.
        print(text, file=sys.stderr)
