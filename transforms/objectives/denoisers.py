"""A mixture of denoisers (UL2, Tay et al. 2022, arXiv 2205.05131): which of them a row draws, and its numbers.

R and X denoisers are span corruption with short spans and little noise, or with long spans or much noise. The S
denoiser is a prefix language model: one span. Parts of noise and of text take turns, text first, so one span is all
that follows the prefix, and the same code serves all of them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from schemas.base import Frozen
from schemas.keys import chance_threshold, draw
from transforms.objectives.sentinels import noise_counts, raw_tokens
from transforms.ragged import Int64

Mode = Literal["R", "S", "X"]

MODE_ROLES: dict[Mode, str] = {"R": "nlu", "S": "s2s", "X": "nlg"}
"""The role of each mode's token: [NLU], [S2S], [NLG] in the released checkpoints, [R], [S], [X] in the paper."""


class Denoiser(Frozen):
    """One way to corrupt a row."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    """In the column `denoiser`."""
    mode: Mode
    """Which mode token leads the row: `R` regular, `S` sequential, `X` extreme."""
    mean_noise_span_length: Annotated[float, Field(ge=1)] | None = None
    """Noise tokens a span on average; none: one span, which is the row's end (a prefix language model)."""
    noise_density: Annotated[float, Field(gt=0, lt=1)]
    """Share of a row's tokens that are noise."""
    rate: Annotated[float, Field(ge=0)] = 1.0
    """Share of the rows that draw it; the rates of all are normalised."""


def default_denoisers() -> tuple[Denoiser, ...]:
    """The seven of table 1 (arXiv 2205.05131, section 3.1), at equal rates.

    >>> [d.name for d in default_denoisers()][:3]
    ['R-3-0.15', 'R-8-0.15', 'S-0.25']
    """
    table: tuple[tuple[Mode, float | None, float], ...] = (
        *(("R", mean, 0.15) for mean in (3.0, 8.0)),
        ("S", None, 0.25),
        *(("X", mean, density) for mean, density in ((3.0, 0.5), (8.0, 0.5), (64.0, 0.15), (64.0, 0.5))),
    )
    return tuple(
        Denoiser(
            name="-".join([mode, *([] if mean is None else [f"{mean:g}"]), f"{density:g}"]),
            mode=mode,
            mean_noise_span_length=mean,
            noise_density=density,
        )
        for mode, mean, density in table
    )


@dataclass(frozen=True)
class Denoisers:
    """The denoisers of a mixture as arrays, for the rows that draw them and for the audit."""

    members: tuple[Denoiser, ...]

    @functools.cached_property
    def shares(self) -> npt.NDArray[np.float64]:
        """[denoisers], probability of each."""
        rates = np.array([d.rate for d in self.members])
        return rates / np.cumsum(rates)[-1]

    @functools.cached_property
    def drawn(self) -> Int64:
        """Indices of the denoisers that are drawn at all."""
        return np.flatnonzero(self.shares)

    @functools.cached_property
    def densities(self) -> npt.NDArray[np.float64]:
        """[denoisers]."""
        return np.array([d.noise_density for d in self.members])

    @functools.cached_property
    def means(self) -> npt.NDArray[np.float64]:
        """[denoisers], noise tokens a span; infinity where there is one span."""
        return np.array([d.mean_noise_span_length or np.inf for d in self.members])

    @property
    def modes(self) -> list[Mode]:
        """Modes of the denoisers that are drawn, each once."""
        return sorted({self.members[i].mode for i in self.drawn})

    def lead_ids(self, special_ids: dict[str, int], mode_tokens: str) -> npt.NDArray[np.int32]:
        """The mode token of each denoiser, int32 [denoisers]; all −1 if rows are led by none.

        Args:
          special_ids: of the vocabulary, by role.
          mode_tokens: `auto`: if the vocabulary has one for each mode that is drawn. `never`, `always`.

        Raises:
          KeyError: `always`, and the vocabulary lacks one; names the role.
        """
        has_all = all(MODE_ROLES[mode] in special_ids for mode in self.modes)
        if mode_tokens == "never" or (mode_tokens == "auto" and not has_all):
            return np.full(len(self.members), -1, dtype=np.int32)
        of_mode = {mode: special_ids[MODE_ROLES[mode]] for mode in self.modes}
        return np.array([of_mode.get(d.mode, -1) for d in self.members], dtype=np.int32)

    def draw(self, names: npt.NDArray[np.uint64], seed: int) -> Int64:
        """The denoiser of each row, int64 [rows], by the row's name."""
        limits = np.cumsum(self.shares)
        thresholds = np.array([chance_threshold(min(1.0, float(p))) for p in limits], dtype=np.uint64)
        thresholds[self.drawn[-1] :] = np.uint64(2**53)  # the sum of the shares may miss 1 by a rounding
        return np.searchsorted(thresholds, draw(seed, "denoiser", names) >> np.uint64(11), side="right")

    def counts(self, raw: npt.NDArray[np.integer], which: npt.NDArray[np.integer]) -> tuple[Int64, Int64]:
        """(noise tokens, spans) of rows of `raw` corpus tokens, at least 2, by their denoisers; int64 [rows]."""
        return noise_counts(raw, self.densities[which], self.means[which])

    def raw_tokens(self, length: int) -> int:
        """The most corpus tokens whose inputs fit into `length`, at least 3, for every denoiser that is drawn.

        Inputs never get shorter as the row gets longer, so a row of fewer tokens fits too.
        """
        return min(raw_tokens(float(self.densities[i]), float(self.means[i]), length) for i in self.drawn)
