"""A small fine-tuning probe: a saved model as a classifier of the sentences, or pairs, of a TSV in GLUE's format.

    python -m trainer.probe runs/bert/final train.tsv dev.tsv

GLUE's files have a header line and tab-separated columns: one or two texts (`sentence`; `sentence1` and `sentence2`;
`question` and `sentence`, …) and a `label`. Not a benchmark harness: a quick look whether pretraining was of use,
best taken beside the same probe of an untrained model (`--from-scratch`).
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import RequestError, ShardmillError

_TEXTS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("#1 String", "#2 String"),
    ("sentence",),
    ("text",),
)
"""Names of the text columns of GLUE's tasks; the first that a file has all of are taken."""

_LABELS = ("label", "gold_label", "is_duplicate", "Quality")


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Texts and labels of a file."""

    texts: list[tuple[str, ...]]
    """One or two texts an example."""
    labels: list[str]


def read_tsv(path: Path, texts: Sequence[str] | None = None, label: str | None = None) -> Examples:
    """The examples of a TSV with a header line.

    Args:
      path: the file.
      texts: its text columns; by default those of a GLUE task.
      label: its column of labels; by default that of a GLUE task.

    Raises:
      RequestError: there is no such file, or it has no such columns or no rows.
    """
    try:
        with path.open(encoding="utf-8", newline="") as source:
            rows = list(csv.DictReader(source, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError("A table of the probe cannot be read", where=str(path), got=str(error)) from error
    if not rows:
        raise RequestError("A table of the probe has no rows", where=str(path), expected="a header line and rows")
    names = [n for n in rows[0] if n is not None]
    wanted = [tuple(texts)] if texts else list(_TEXTS)
    columns = next((c for c in wanted if all(n in names for n in c)), None)
    labels = next((n for n in ([label] if label else _LABELS) if n in names), None)
    if columns is None or labels is None:
        raise RequestError(
            "A table of the probe has not the columns of a GLUE task",
            where=str(path),
            expected="sentence or sentence1 and sentence2, and label",
            got=", ".join(names),
            remedy="Name them: --text COLUMN [COLUMN] --label COLUMN",
        )
    for number, row in enumerate(rows, start=2):
        if any(row[n] is None for n in (*columns, labels)):
            raise RequestError("A row of the probe's table is short", where=f"{path}, line {number}")
    return Examples(texts=[tuple(r[c] for c in columns) for r in rows], labels=[r[labels] for r in rows])


def probe(
    model_directory: str,
    train: Examples,
    dev: Examples,
    *,
    epochs: int = 3,
    batch_size: int = 32,
    learning_rate: float = 5e-4,
    max_length: int = 128,
    seed: int = 0,
    from_scratch: bool = False,
) -> dict[str, Any]:
    """Fine-tune a saved model on `train`, and tell its accuracy on `dev`.

    Args:
      model_directory: for `from_pretrained`, with its tokenizer.
      train: what it is tuned on.
      dev: what it is scored on; other labels than in `train` count as wrong.
      epochs: passes over `train`.
      batch_size: examples a step.
      learning_rate: peak; up over a tenth of the steps, then down in a straight line.
      max_length: tokens of an example at most.
      seed: of the order and the new head.
      from_scratch: take the model's shape and leave its weights.

    Returns:
      `accuracy` and `majority` (the share of dev's most frequent label), `examples`, `steps`, `seconds`.
    """
    import numpy as np
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    from schemas.keys import draw
    from trainer.schedules import learning_rate_factor

    torch.manual_seed(seed)
    names = sorted(set(train.labels))
    ids = {name: i for i, name in enumerate(names)}
    tokenizer = AutoTokenizer.from_pretrained(model_directory)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    config = AutoConfig.from_pretrained(model_directory, num_labels=len(names))
    config.pad_token_id = tokenizer.pad_token_id
    positions = getattr(config, "max_position_embeddings", None) or max_length
    max_length = min(max_length, positions - (config.pad_token_id + 1 if config.model_type == "roberta" else 0))
    if from_scratch:
        model = AutoModelForSequenceClassification.from_config(config)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(model_directory, config=config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)

    def encode(texts: list[tuple[str, ...]]) -> Any:
        columns = [list(c) for c in zip(*texts, strict=True)]
        kept = tokenizer(*columns, truncation=True, max_length=max_length, padding=True, return_tensors="pt")
        return {k: v.to(device) for k, v in kept.items() if k in ("input_ids", "attention_mask", "token_type_ids")}

    per_epoch = -(-len(train.labels) // batch_size)
    steps = epochs * per_epoch
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    began = time.perf_counter()
    model.train()
    for step in range(steps):
        epoch, place = divmod(step, per_epoch)
        order = np.argsort(draw(seed, "probe", epoch, np.arange(len(train.labels))), kind="stable")
        some = order[place * batch_size : (place + 1) * batch_size].tolist()
        labels = torch.tensor([ids[train.labels[i]] for i in some], device=device)
        loss = torch.nn.functional.cross_entropy(model(**encode([train.texts[i] for i in some])).logits, labels)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * learning_rate_factor(
                "linear", step, steps=steps, warmup_steps=max(1, steps // 10)
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    model.eval()
    right = 0
    with torch.no_grad():
        for begin in range(0, len(dev.labels), 2 * batch_size):
            logits = model(**encode(dev.texts[begin : begin + 2 * batch_size])).logits
            found = [names[i] for i in logits.argmax(-1).tolist()]
            right += sum(a == b for a, b in zip(found, dev.labels[begin : begin + 2 * batch_size], strict=True))
    return {
        "accuracy": right / len(dev.labels),
        "majority": max(dev.labels.count(n) for n in set(dev.labels)) / len(dev.labels),
        "examples": len(dev.labels),
        "steps": steps,
        "seconds": time.perf_counter() - began,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.probe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="a run's final/, or any directory for from_pretrained")
    add("train", metavar="TRAIN.tsv", type=Path)
    add("dev", metavar="DEV.tsv", type=Path)
    add("--text", nargs="+", metavar="COLUMN", help="text columns, one or two; default: those of a GLUE task")
    add("--label", metavar="COLUMN", help="column of labels; default: label")
    add("--epochs", type=int, default=3, metavar="N", help="default 3")
    add("--batch-size", type=int, default=32, metavar="N", help="default 32")
    add("--learning-rate", type=float, default=5e-4, metavar="X", help="peak; default 5e-4")
    add("--max-length", type=int, default=128, metavar="N", help="tokens; default 128")
    add("--seed", type=int, default=0, metavar="N")
    add("--from-scratch", action="store_true", help="the same model untrained, for comparison")
    options = parser.parse_args(arguments)
    try:
        if not (Path(options.model) / "config.json").exists():
            raise RequestError(
                "There is no saved model here",
                where=options.model,
                expected="a directory with config.json, as a run's final/",
            )
        columns = {"texts": options.text, "label": options.label}
        score = probe(
            options.model,
            read_tsv(options.train, **columns),
            read_tsv(options.dev, **columns),
            epochs=options.epochs,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            max_length=options.max_length,
            seed=options.seed,
            from_scratch=options.from_scratch,
        )
    except ShardmillError as error:
        print(error.paragraph(), file=sys.stderr)
        return error.exit_code
    print(
        f"accuracy {score['accuracy']:.1%} on {score['examples']:,} examples (the most frequent label: "
        f"{score['majority']:.1%}), after {score['steps']:,} steps in {score['seconds']:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
