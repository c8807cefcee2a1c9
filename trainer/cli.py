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
examples:
  shardmill-train out/bert-small                                  the tiny model for its objective, one epoch
  shardmill-train out/bert-small --recipe bert-base --steps 10K --tokens-per-batch 128K --accumulate 4
  shardmill-train out/gpt --schedule wsd --warmup-share 0.02 --order grow_p2 --eval-every 500 --out runs/gpt
  torchrun --nproc-per-node 4 -m trainer out/gpt --recipe gpt-small --parallel fsdp --compile
  python -m trainer.probe runs/bert/final train.tsv dev.tsv       fine-tune it on a TSV in GLUE's format

recipes: bert, roberta, albert, electra, gpt, llama, prefix-lm, t5, ul2, bart, each as -tiny, -small, -base.

A run's directory has metrics.jsonl, tensorboard/, checkpoints/, samples.txt and, at the end, final/ (the model and
its tokenizer, for from_pretrained). On an object store it is put there at each checkpoint, and final/ is whole once
it holds _SUCCESS. The same command goes on after any stop. Exit codes: 0 good, 1 the data is bad, 2 the request is
bad, 130 or 143 stopped by a signal, at a checkpoint.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        result = _train(options)
    except ShardmillError as error:
        if options.debug:
            raise
        _print_error(error.paragraph())
        return error.exit_code
    except KeyboardInterrupt:
        _print_error("Interrupted before the first step, or twice; the run goes on from its newest checkpoint.")
        return 130
    return 0 if result.finished else 128 + result.stopped_by


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

    given = {k: v for k, v in vars(options).items() if k not in ("debug", "out") and v is not None}
    return train(TrainSettings(out=options.out or f"runs/{Location.of(options.dataset).name}", **given))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="shardmill-train",
        description="Train a model on a finished dataset, alone or under torchrun.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", metavar="DATASET", help="directory of the dataset: a local path, s3:// or gs://")

    add = parser.add_argument_group("what").add_argument
    add("--recipe", metavar="NAME", help="default: the tiny one for the dataset's objective")
    add("--steps", type=_count, metavar="N", help="optimiser steps; default: one epoch")
    add("--epochs", type=float, metavar="X", help="passes over the train split, in place of --steps")
    add("--positions", type=_count, metavar="N", help="of the model; default: the published model's")
    add("--out", metavar="DIR", help="directory of the run, local, s3:// or gs://; default: runs/<dataset name>")
    add("--overwrite", action="store_true", help="replace what is in the run's directory")
    add("--seed", type=int, metavar="N", help="of the order, the weights and dropout; default 0")

    add = parser.add_argument_group("batches").add_argument
    add(
        "--tokens-per-batch",
        type=_count,
        metavar="N",
        help="of a step over all ranks, padding included; default 4096",
    )
    add("--accumulate", type=_count, metavar="N", help="micro-batches a step; changes memory only; default 1")
    add("--order", metavar="NAME", help="natural (default), short_first, grow_linear, grow_p2, competence, two_phase")
    add("--documents", metavar="HOW", help="in packed rows, keep documents apart or together; default: apart")
    add("--on-error", metavar="HOW", help="where a row group cannot be read: fail (default) or skip")
    add("--checksums", action="store_true", help="hash each shard before it is first read")

    add = parser.add_argument_group("optimiser").add_argument
    add("--learning-rate", type=float, metavar="X", help="peak; default: the recipe's")
    add("--schedule", metavar="NAME", help="linear, cosine, inverse_sqrt, wsd or constant; default: the recipe's")
    add("--noam", action="store_true", help="inverse_sqrt with the peak (d_model · warmup)^-0.5")
    add("--warmup-share", type=float, metavar="X", help="share of the steps; default 0.1")
    add("--decay-share", type=float, metavar="X", help="of wsd: share of the steps; default 0.2")
    add("--weight-decay", type=float, metavar="X", help="of matrices; default: the recipe's")
    add("--label-smoothing", type=float, metavar="X", help="of token losses; default 0")
    add("--max-grad-norm", type=float, metavar="X", help="default 1")

    add = parser.add_argument_group("machine").add_argument
    add("--device", metavar="NAME", help="auto (default), cpu or cuda")
    add("--precision", metavar="NAME", help="fp32 or bf16 (autocast); default: bf16 on a GPU")
    add("--compile", action="store_true", help="torch.compile, one graph a length")
    add("--parallel", metavar="HOW", help="under torchrun: ddp (default) or fsdp (FSDP2)")
    add("--peak-tflops", type=float, metavar="X", help="of the device, for MFU; known for some GPUs")

    add = parser.add_argument_group("what is written").add_argument
    add("--log-every", dest="log_every_steps", type=_count, metavar="N", help="steps from line to line; default 10")
    add("--eval-every", dest="eval_every_steps", type=_count, metavar="N", help="steps; default: at the end only")
    add("--eval-batches", type=int, metavar="N", help="validation batches at most; default 20, 0 for none")
    add("--checkpoint-every", dest="checkpoint_every_steps", type=_count, metavar="N", help="steps; default 500")
    add("--keep-checkpoints", type=_count, metavar="N", help="newest ones; default 2")
    add("--no-tensorboard", dest="tensorboard", action="store_const", const=False, help="no event files")
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
