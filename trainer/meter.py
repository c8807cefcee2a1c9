"""Measures a run: losses, speed and waiting, as a line to read and a line of JSON. Reads no clock but its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil
import torch

from schemas.counts import format_count
from schemas.errors import RequestError
from trainer.models import Family
from trainer.world import World

_PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "V100": 125.0, "T4": 65.0}
"""Dense bf16 (fp16 where there is no bf16) peaks of NVIDIA's data sheets, by a part of the device's name."""


def peak_flops(device: torch.device, given_tflops: float | None) -> float | None:
    """Operations a second of a device at most, None where that is not known."""
    if given_tflops is not None:
        return given_tflops * 1e12
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for part, peak in _PEAK_TFLOPS.items() if part in name), None)


class Meter:
    """Collects steps and reports them in groups, so that the device is asked for its losses once a group."""

    def __init__(
        self,
        family: Family,
        world: World,
        *,
        parts: Sequence[str],
        sources: Sequence[str],
        steps: int,
        tokens: int,
        peak: float | None,
        log: Callable[[dict[str, Any]], None],
        show: Callable[[str], None],
    ) -> None:
        """Start the clock.

        Args:
          family: the model's, for the weights of the parts.
          world: the processes.
          parts: of the loss that this run has.
          sources: names of the sources.
          steps: of the whole run.
          tokens: real tokens before this start of the run.
          peak: operations a second of one device.
          log: takes the values of a group of steps.
          show: takes the same as a line of text.
        """
        self._family, self._world, self._parts, self._sources = family, world, list(parts), list(sources)
        self._steps, self._log, self._show = steps, log, show
        self._flops, self._peak = 0.0, peak
        names = list(family.part_weights)
        self._columns = [names.index(p) for p in self._parts]
        self._sums = torch.zeros(len(names), device=world.device)
        self._counts = torch.zeros(len(names), dtype=torch.float64)
        self._by_source = torch.zeros((max(1, len(self._sources)), 2), device=world.device)
        self.tokens = tokens
        """Real tokens so far, over all processes and starts."""
        self._reported_tokens, self._positions = tokens, 0
        self._waited_seconds = 0.0
        self._started = self._reported = time.perf_counter()

    @property
    def seconds(self) -> float:
        """From the start to the last report."""
        return self._reported - self._started

    def add(
        self,
        sums: torch.Tensor,
        by_source: torch.Tensor,
        counts: torch.Tensor,
        *,
        tokens: int,
        positions: int,
        flops: float,
        waited_seconds: float,
    ) -> None:
        """Note a step.

        Args:
          sums: float32 [parts of the family], losses of this process; not looked at before the report.
          by_source: float32 [sources, 2], sums of losses and labels of this process.
          counts: float64 [parts of the family], labels of all processes; on the processor.
          tokens: real tokens of all processes.
          positions: of the batch over all processes, padding included.
          flops: operations of this process, forwards and backwards, padding counted.
          waited_seconds: time in which this process had no batch.
        """
        self._sums += sums
        self._counts += counts
        self._by_source += by_source
        self.tokens += tokens
        self._positions += positions
        self._flops += flops
        self._waited_seconds += waited_seconds

    def report(self, step: int, *, learning_rate: float, grad_norm: torch.Tensor, skipped_rows: int) -> None:
        """Report the steps since the last report; all processes call it together.

        Raises:
          RequestError: the loss is no longer a finite number.
        """
        sums = self._world.sum(self._sums)
        by_source = self._world.sum(self._by_source)
        means = (sums.double().cpu() / self._counts.clamp(min=1)).tolist()
        now = time.perf_counter()
        elapsed, tokens = now - self._reported, self.tokens - self._reported_tokens
        weights = list(self._family.part_weights.values())
        loss = sum(weights[c] * means[c] for c in self._columns)
        norm = float(grad_norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise RequestError(
                "The training has diverged: the loss is no longer a number",
                where=f"at step {step} or in the few before it",
                got=f"loss {loss}, gradient norm {norm}",
                remedy=f"Give a lower --learning-rate than {learning_rate:.3g}",
            )
        values: dict[str, Any] = {
            "step": step,
            "loss": loss,
            "perplexity": math.exp(min(700.0, means[self._columns[0]])),
            "learning_rate": learning_rate,
            "grad_norm": norm,
            "tokens": self.tokens,
            "tokens_per_second": tokens / elapsed,
            "positions_per_second": self._positions / elapsed,
            "padding": 1 - tokens / max(1, self._positions),
            "data_wait_share": self._waited_seconds / elapsed,
            "memory_bytes": self._memory_bytes(),
        }
        if len(self._columns) > 1:
            values |= {f"loss_{p}": means[c] for p, c in zip(self._parts, self._columns, strict=True)}
        if self._peak:
            values["mfu"] = self._flops / elapsed / self._peak
        if skipped_rows:
            values["skipped_rows"] = skipped_rows
        values["loss_by_source"] = {
            s: total / labels for s, (total, labels) in zip(self._sources, by_source.tolist(), strict=True) if labels
        }
        self._log(values)
        width = len(str(self._steps))
        self._show(
            f"step {step:{width}}/{self._steps}   loss {loss:7.4f}   lr {learning_rate:.2e}   "
            f"{format_count(tokens / elapsed):>5} tokens/s   data wait {values['data_wait_share']:4.1%}"
        )
        for table in (self._sums, self._counts, self._by_source):
            table.zero_()
        self._positions, self._reported_tokens, self._waited_seconds, self._reported = 0, self.tokens, 0.0, now
        self._flops = 0.0

    def _memory_bytes(self) -> int:
        """Of the GPU, the most that was used; of a processor, what the process has."""
        if self._world.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._world.device)
        return int(psutil.Process().memory_info().rss)
