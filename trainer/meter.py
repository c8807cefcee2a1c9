"""Measures a run: loss, speed and waiting, as a line to read and a line of JSON. Reads no clock but its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch

from schemas.counts import format_count
from schemas.errors import RequestError


class Meter:
    """Collects steps and reports them in groups, so that the device is asked for its losses once a group."""

    def __init__(self, steps: int, *, log: Callable[[dict[str, Any]], None], show: Callable[[str], None]) -> None:
        """Start the clock.

        Args:
          steps: of the whole run.
          log: takes the values of a group of steps.
          show: takes the same as a line of text.
        """
        self._steps, self._log, self._show = steps, log, show
        self._pending: list[torch.Tensor] = []
        self._tokens = self._reported_tokens = 0
        self._waited_seconds = 0.0
        self._started = self._reported = time.perf_counter()
        self.losses: list[float] = []
        """Of every reported step, in nats per predicted token."""

    @property
    def tokens(self) -> int:
        """Real tokens so far."""
        return self._tokens

    @property
    def seconds(self) -> float:
        """From the start to the last report."""
        return self._reported - self._started

    def add(self, loss: torch.Tensor, *, tokens: int, waited_seconds: float) -> None:
        """Note a step.

        Args:
          loss: scalar on any device, detached; not looked at before the report.
          tokens: real tokens of the batch.
          waited_seconds: time in which the loop had no batch.
        """
        self._pending.append(loss)
        self._tokens += tokens
        self._waited_seconds += waited_seconds

    def report(self, *, learning_rate: float, grad_norm: float) -> None:
        """Report the steps since the last report.

        Raises:
          RequestError: the loss is no longer a finite number.
        """
        losses = torch.stack(self._pending).tolist()
        self.losses += losses
        step, loss = len(self.losses), sum(losses) / len(losses)
        now = time.perf_counter()
        elapsed = now - self._reported
        speed = (self._tokens - self._reported_tokens) / elapsed
        wait = self._waited_seconds / elapsed
        self._pending, self._reported_tokens, self._waited_seconds, self._reported = [], self._tokens, 0.0, now
        if not math.isfinite(loss):
            raise RequestError(
                "The training has diverged: the loss is no longer a number",
                where=f"between steps {step - len(losses) + 1} and {step}",
                got=f"loss {loss}",
                remedy=f"Give a lower --learning-rate than {learning_rate:.3g}",
            )
        self._log(
            {
                "step": step,
                "loss": loss,
                "learning_rate": learning_rate,
                "grad_norm": grad_norm,
                "tokens": self._tokens,
                "tokens_per_second": speed,
                "data_wait_share": wait,
            }
        )
        width = len(str(self._steps))
        self._show(
            f"step {step:{width}}/{self._steps}   loss {loss:7.4f}   lr {learning_rate:.2e}   "
            f"{format_count(speed):>5} tokens/s   data wait {wait:4.1%}"
        )
