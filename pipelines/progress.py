"""Progress of long work: committed files counted against the plan's total, on any runner."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from schemas.errors import ShardmillError


@contextlib.contextmanager
def progress(console: Console, label: str, unit: str, total: int, done: Callable[[], int]) -> Iterator[None]:
    """Show a bar while the block runs; a line every 30 seconds where the output is no terminal.

    Args:
      console: where to show it.
      label: what is being done.
      unit: of what is counted, plural.
      total: how many there are.
      done: counts the finished ones; called about once a second, less often where that takes long.
    """
    stop = threading.Event()
    began = time.monotonic()

    count_seconds, finished = 0.0, 0

    def count() -> int:
        """The number of finished ones, the last known one where a storage does not answer just now."""
        nonlocal count_seconds, finished
        before = time.monotonic()
        with contextlib.suppress(ShardmillError, OSError):
            finished = done()
        count_seconds = time.monotonic() - before
        return finished

    def watch_terminal() -> None:
        columns = (
            TextColumn(f"  {label}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(label, total=total)
            while not stop.wait(max(0.5, 10 * count_seconds)):
                bar.update(task, completed=count())
            bar.update(task, completed=count())

    def watch_log() -> None:
        while not stop.wait(30):
            seconds = time.monotonic() - began
            console.print(f"  {label}: {count()} of {total} {unit}, {seconds:.0f} s", highlight=False)

    watcher = threading.Thread(target=watch_terminal if console.is_terminal else watch_log, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
