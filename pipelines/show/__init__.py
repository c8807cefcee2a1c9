"""`shardmill show`: prints decoded, coloured examples."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from pipelines.show.decode import Example, Span
from pipelines.show.examples import pick_examples
from schemas.storage import Location

_STYLES = {
    "text": "",
    "special": "dim",
    "boundary": "dim italic",
    "mask": "bold red",
    "random": "bold yellow",
    "kept": "bold green",
    "sentinel": "bold cyan",
    "rest": "dim italic",
    "predicted": "green",
    "second": "cyan",
    "rearranged": "magenta",
    "gap": "bold red",
}

_LEGEND = {
    "mask": "[MASK=x] masked, x is the label",
    "random": "[x→y] x is the label, y is shown",
    "kept": "[kept x] predicted, shown as it is",
    "sentinel": "[<extra_id_0>=x] a sentinel stands for x, the target gives x back",
    "predicted": "predicted",
    "second": "second segment",
    "rearranged": "moved here from further back",
    "gap": "a mask that stands for any number of words, none included",
}
"""What a kind of span means, for those that are shown."""


def show(
    dataset: Location,
    n: int = 3,
    split: str = "train",
    stage: int | str | None = None,
    length: int | None = None,
    console: Console | None = None,
) -> None:
    """Print examples, the same ones every time, spread over shards, sources and lengths.

    Args:
      dataset: the dataset's directory.
      n: how many.
      split: `train` or `validation`.
      stage: number or name; all stages by default.
      length: bucket; all by default.
      console: where to print.

    Raises:
      RequestError: there is no such split, stage or length, or no dataset.
      DataError: a shard cannot be read.
    """
    console = console or Console(soft_wrap=True)
    print_examples(pick_examples(dataset, n=n, split=split, stage=stage, length=length), console)


def print_examples(examples: Sequence[Example], console: Console) -> None:
    """Print examples, and what their colours mean."""
    for example in examples:
        console.print(Text(example.header(), style="bold"))
        console.print(Text(f"{example.path}, row {example.row}", style="dim"))
        console.print(Text.assemble(*((span.text, _STYLES[span.kind]) for span in example.spans)))
        console.print()
    kinds = {span.kind for example in examples for span in example.spans}
    legend = Text(" · ").join(Text(text, style=_STYLES[kind]) for kind, text in _LEGEND.items() if kind in kinds)
    if legend:
        console.print(legend)


__all__ = ["Example", "Span", "pick_examples", "print_examples", "show"]
