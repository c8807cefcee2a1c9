"""`shardmill show --gate`: what a gate found, and rows that show it."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from pipelines.audit import find_gate
from pipelines.show import print_examples
from pipelines.show.gate import gate_examples
from schemas.storage import Location


def show_gate(dataset: Location, name: str, *, n: int = 3, console: Console | None = None) -> None:
    """Print a gate and rows that show what it judges.

    Args:
      dataset: the dataset's directory.
      name: of the gate.
      n: how many rows.
      console: where to print.

    Raises:
      RequestError: there is no such gate, or no dataset.
      DataError: no shard can be read.
    """
    console = console or Console(soft_wrap=True)
    gate, found = find_gate(dataset, name)
    shown = gate_examples(dataset, gate, n=n, found=found)
    mark = "[green]pass[/]" if gate.passed else "[bold red]FAIL[/]"
    console.print(f"{mark} [bold]{escape(gate.name)}[/]", highlight=False)
    for label, text in (("expected", gate.expected), ("observed", gate.observed), ("bound", gate.bound)):
        console.print(f"  {label}: {escape(text)}", highlight=False)
    console.print(f"[dim]{escape(shown.what)}[/]\n", highlight=False)
    print_examples(shown.examples, console)
