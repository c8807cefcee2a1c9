"""Signals that end a run in good order. Knows no training."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any


@dataclass(eq=False)
class Stop:
    """Whether a signal has asked for the end."""

    number: int = 0
    """Of the signal, 0 before there is one."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Remember a signal; a second one ends the process as usual."""
        if self.number:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            signal.raise_signal(number)
        self.number = number


@contextlib.contextmanager
def stopped_by_signals(stop: Stop) -> Iterator[None]:
    """Let SIGTERM and the first Ctrl-C end the run after the step that is being done, at a checkpoint."""
    before: dict[int, Callable[..., Any] | int | None] = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, stop)
    except ValueError:  # not in the main thread, where signals are somebody else's
        pass
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
