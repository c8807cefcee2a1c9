"""What stages become, from histograms of document lengths alone: rows, padding, and lengths chosen to have little.

Pure functions. How documents become rows is each objective's `row_lengths`; nothing here reads a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from schemas.job import Job
from schemas.plan import StagePlan
from transforms.best_lengths import best_lengths
from transforms.buckets import Float64, Padding, padding
from transforms.objectives.base import Objective
from transforms.ragged import Int64

MOST_BUCKETS, BUCKET_MULTIPLE = 8, 8
"""Of `lengths: auto`: each bucket is a shape to compile, and multiples of 8 fill tensor cores."""

_SHORTEST = 64
"""Of `lengths: auto`: where an objective packs what is shorter than the shortest length, it is taken for this."""

_LEAST_SAVING = 1e-4
"""Of `lengths: auto`: a further bucket saves at least this share of all positions."""

Histogram = Mapping[int, int]
"""Documents by their length in tokens."""


@dataclass(frozen=True, kw_only=True)
class KnownSource:
    """What is known of a source's train split."""

    tokens: int
    lengths: Histogram
    """Empty where only `tokens` is known; then rows are taken to be full."""
    estimated: bool = False
    """From a sample of its files."""


@dataclass(frozen=True, kw_only=True)
class StagePrediction:
    """Expected rows of a stage."""

    padding: Padding
    """Of all sources together."""
    sources: dict[str, Float64]
    """Tokens of each source in each bucket, float64 [buckets]."""

    def shares(self, bucket: int) -> dict[str, float]:
        """Each source's share of a bucket's tokens; empty for a bucket without rows."""
        total = sum(float(tokens[bucket]) for tokens in self.sources.values())
        return {n: float(tokens[bucket]) / total for n, tokens in self.sources.items()} if total else {}


def predict_stage(objective: Objective, stage: StagePlan, sources: Mapping[str, KnownSource]) -> StagePrediction:
    """Expected rows of a stage whose lengths are known."""
    lengths = np.array(stage.lengths)
    found = {
        name: padding(*_rows(objective, sources[name], wanted, stage.lengths), stage.lengths)
        for name, wanted in stage.tokens.items()
    }
    rows, tokens = (np.sum([getattr(p, f) for p in found.values()], axis=0) for f in ("rows", "tokens"))
    return StagePrediction(
        padding=Padding(edges=lengths, rows=rows, tokens=tokens), sources={n: p.tokens for n, p in found.items()}
    )


def with_lengths(
    job: Job, objective: Objective, stages: Sequence[StagePlan], sources: Mapping[str, KnownSource]
) -> list[StagePlan]:
    """The stages with lengths in place of `auto`.

    They follow from a stage's exact shares and not from its tokens, so another budget leaves them as they are.
    """
    return [
        replace(stage, lengths=_best_lengths(objective, stage, sources)) if declared.lengths == "auto" else stage
        for declared, stage in zip(job.curriculum, stages, strict=True)
    ]


def _best_lengths(objective: Objective, stage: StagePlan, sources: Mapping[str, KnownSource]) -> tuple[int, ...]:
    """At most 8 multiples of 8 with the least padding, the last no longer than the longest row needs."""
    most = stage.lengths[-1]
    some = (min(_SHORTEST, most), most)
    rows = [_rows(objective, sources[n], float(share), some) for n, share in stage.shares.items()]
    lengths, counts = (np.concatenate([r[i] for r in rows]) for i in range(2))
    lengths, counts = lengths[counts > 0], counts[counts > 0]
    longest = min(most, -(-int(lengths.max(initial=1)) // BUCKET_MULTIPLE) * BUCKET_MULTIPLE)
    layouts = [best_lengths(lengths, counts, longest, k, BUCKET_MULTIPLE) for k in range(1, MOST_BUCKETS + 1)]
    positions = [float(padding(lengths, counts, edges).padded_tokens.sum()) for edges in layouts]
    # What a further bucket saves only falls with their number.
    worth = [before - after > _LEAST_SAVING * before for before, after in pairwise(positions)]
    return tuple(layouts[worth.index(False)] if False in worth else layouts[-1])


def _rows(
    objective: Objective, source: KnownSource, wanted: float, lengths: tuple[int, ...]
) -> tuple[Int64, Float64]:
    """(row lengths, expected rows of each) of so many tokens of a source."""
    room = max(1, lengths[-1] - 2)
    histogram = source.lengths or {room: max(1, source.tokens // room)}
    documents = np.array(sorted(histogram.items()), dtype=np.int64).reshape(-1, 2)
    length, count = objective.row_lengths(documents[:, 0], documents[:, 1], lengths=lengths)
    return length, count * (wanted / max(1, int((documents[:, 0] * documents[:, 1]).sum())))
