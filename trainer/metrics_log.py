"""Where a run's numbers go: its metrics, and TensorBoard's files beside them. Knows no training."""

from __future__ import annotations

from typing import Any

from schemas.place_errors import place_errors
from schemas.storage import Location
from trainer.run import Run


class MetricsLog:
    """Lines of numbers, which the leading process alone writes."""

    def __init__(self, run: Run, *, leads: bool, tensorboard: bool, begun: int) -> None:
        """Go on with the run's files.

        Args:
          run: whose directory they are in.
          leads: true for the leading process.
          tensorboard: whether TensorBoard's are written too.
          begun: steps done before this process began; what TensorBoard has of later ones is dropped.
        """
        self._run, self._leads, self._writer = run, leads, None
        self._place = Location.of(run.tensorboard)
        if tensorboard and leads:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(run.tensorboard), purge_step=begun + 1 if begun else None)

    def add(self, values: dict[str, Any]) -> None:
        """Add a line; `step` names it."""
        if not self._leads:
            return
        self._run.log(values)
        if self._writer is not None:
            with place_errors(self._place):
                for name, value in values.items():
                    if isinstance(value, (int, float)) and name != "step":
                        self._writer.add_scalar(name, value, values["step"])

    def publish(self) -> None:
        """Put what there is where the run's place is an object store."""
        if not self._leads:
            return
        if self._writer is not None:
            with place_errors(self._place):
                self._writer.flush()
        self._run.publish()

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
