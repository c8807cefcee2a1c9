"""Learning-rate schedules: pure functions of the step, as shares of the peak. No PyTorch."""

from __future__ import annotations

import math
from typing import Literal, get_args

Schedule = Literal["linear", "cosine", "inverse_sqrt", "wsd", "constant"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)


def learning_rate_factor(
    schedule: Schedule, step: int, *, steps: int, warmup_steps: int, decay_steps: int = 0
) -> float:
    """Share of the peak learning rate at a step, counted from 0; after a linear warm-up

    - `linear`: down in a straight line to 0 after the last step.
    - `cosine`: down half a cosine to 0 after the last step (Loshchilov and Hutter 2016).
    - `inverse_sqrt`: √(warmup / step). With a peak of (d_model · warmup)^-0.5 it is d_model^-0.5 · min(step^-0.5,
      step · warmup^-1.5) of Vaswani et al. 2017, section 5.3, its steps counted from 1.
    - `wsd`: constant, and over the last `decay_steps` down in a straight line (Hu et al. 2024, arXiv 2404.06395).
    - `constant`.

    >>> [round(learning_rate_factor("cosine", s, steps=10, warmup_steps=2), 2) for s in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.04]
    >>> [round(learning_rate_factor("inverse_sqrt", s, steps=99, warmup_steps=4), 2) for s in (0, 3, 15, 63)]
    [0.25, 1.0, 0.5, 0.25]
    >>> [round(learning_rate_factor("wsd", s, steps=10, warmup_steps=1, decay_steps=4), 2) for s in (0, 5, 6, 8, 9)]
    [1.0, 1.0, 1.0, 0.5, 0.25]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    left = max(1, steps - warmup_steps)
    if schedule == "linear":
        return max(0.0, 1 - (step - warmup_steps) / left)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup_steps) / left)))
    if schedule == "inverse_sqrt":
        return math.sqrt(max(1, warmup_steps) / (step + 1))
    if schedule == "wsd" and decay_steps:
        return min(1.0, max(0.0, (steps - step) / decay_steps))
    return 1.0


def noam_peak(hidden: int, warmup_steps: int) -> float:
    """The peak that makes `inverse_sqrt` the schedule of Vaswani et al. 2017: (d_model · warmup)^-0.5.

    >>> round(noam_peak(512, 4000), 6)
    0.000699
    """
    return (hidden * warmup_steps) ** -0.5
