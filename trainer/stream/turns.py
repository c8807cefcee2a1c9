"""Whose turn it is: in which order the buckets of a stage give their batches. Pure integer arithmetic.

A curriculum is a list of *segments*, one after the other. Within a segment each bucket has a clock that says when
each of its batches falls due, and batches come in order of their due times. So which batch comes at an index is found
by halving, however late it is, and every batch comes exactly once whatever the curriculum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Order = Literal["natural", "short_first", "grow_linear", "grow_p2", "competence", "two_phase"]
ORDERS: tuple[Order, ...] = ("natural", "short_first", "grow_linear", "grow_p2", "competence", "two_phase")

CLOCK_BITS = 40
"""Resolution of the clocks: phases are in [0, 2**40)."""

GROW_CYCLES = 8
"""Cycles of the grow orders, as in Pouransari et al. 2024 (arXiv 2405.13226)."""

FIRST_COMPETENCE = Fraction(1, 100)
"""c0 of Platanios et al. 2019 (arXiv 1903.09848, section 3)."""

PHASE_ONE_SHARE = 4
"""two_phase: rows of at most a quarter of the longest length come first, as BERT's 128 of 512."""


@dataclass(frozen=True, kw_only=True)
class Clock:
    """When a bucket's batches fall due: batch j at `release + ((j << 40) + phase) * scale // rate`."""

    bucket: int
    """Position of the bucket in its stage, shortest length first."""
    count: int
    """Batches that it gives in the segment."""
    phase: int
    """In [0, 2**40): where within its first interval the first batch falls due."""
    rate: int
    """At least 1."""
    release: int = 0
    scale: int = 1

    def due_before(self, time: int) -> int:
        """How many of its batches are due before a time."""
        if time <= self.release:
            return 0
        limit = -(
            -(time - self.release) * self.rate // self.scale
        )  # batch j is due before if (j << 40) + phase < limit
        return min(self.count, max(0, -((self.phase - limit) >> CLOCK_BITS)))

    @property
    def end(self) -> int:
        """A time before which all of its batches are due."""
        return self.release + (self.count << CLOCK_BITS) * self.scale // self.rate + 1


def counts_before(clocks: Sequence[Clock], index: int) -> list[int]:
    """How many batches each clock has given before `index`, in [0, sum of counts].

    >>> clocks = [Clock(bucket=0, count=4, phase=0, rate=4), Clock(bucket=1, count=2, phase=1 << 39, rate=2)]
    >>> [counts_before(clocks, i) for i in (0, 1, 2, 3, 6)]
    [[0, 0], [1, 0], [2, 0], [2, 1], [4, 2]]
    """
    low, high = 0, max(c.end for c in clocks)
    while high - low > 1:
        middle = (low + high) // 2
        if sum(c.due_before(middle) for c in clocks) <= index:
            low = middle
        else:
            high = middle
    counts = [c.due_before(low) for c in clocks]
    missing = index - sum(counts)
    for i, clock in enumerate(clocks):  # those due at the same time come in the order of the buckets
        if missing and clock.due_before(low + 1) > counts[i]:
            counts[i] += 1
            missing -= 1
    return counts


@dataclass(frozen=True, kw_only=True)
class Turns:
    """The order of one stage in one epoch."""

    segments: tuple[tuple[Clock, ...], ...]
    buckets: int
    """Buckets of the stage."""

    def before(self, index: int) -> list[int]:
        """How many batches each bucket has given before `index`."""
        given = [0] * self.buckets
        for clocks in self.segments:
            total = sum(c.count for c in clocks)
            counts = [c.count for c in clocks] if index >= total else counts_before(clocks, index)
            for clock, count in zip(clocks, counts, strict=True):
                given[clock.bucket] += count
            index -= total
            if index < 0:
                break
        return given

    def run(self, index: int, count: int) -> list[tuple[int, int]]:
        """(bucket, ordinal of the batch within its bucket) of `count` batches from `index` on, fewer at the end."""
        turns: list[tuple[int, int]] = []
        given = self.before(index)
        for clocks in self.segments:
            total = sum(c.count for c in clocks)
            if index >= total:
                index -= total
                continue
            done = counts_before(clocks, index)
            due = [_due(c, n) for c, n in zip(clocks, done, strict=True)]
            while len(turns) < count and index < total:
                _, turn = min((time, i) for i, time in enumerate(due) if time is not None)
                bucket = clocks[turn].bucket
                turns.append((bucket, given[bucket]))
                given[bucket] += 1
                done[turn] += 1
                due[turn] = _due(clocks[turn], done[turn])
                index += 1
            index = 0
            if len(turns) == count:
                break
        return turns


def _due(clock: Clock, batch: int) -> int | None:
    if batch == clock.count:
        return None
    return clock.release + ((batch << CLOCK_BITS) + clock.phase) * clock.scale // clock.rate


def curriculum(
    order: Order, lengths: Sequence[int], counts: Sequence[int], phases: Sequence[int], *, cycles: int = GROW_CYCLES
) -> Turns:
    """The turns of a stage's buckets.

    - `natural`: buckets take turns in proportion to their batches, so all end together.
    - `short_first`: one after the other, shortest first.
    - `grow_linear`, `grow_p2` (Pouransari et al. 2024, arXiv 2405.13226, section 3.3): batches are dealt into cycles;
      within one, buckets are drawn at odds … 3:2:1 or … 4:2:1 in favour of the short ones until they are used up, so
      that the mean length grows within each cycle.
    - `competence` (Platanios et al. 2019, arXiv 1903.09848, equation 7): length is difficulty. A bucket is released
      when √(t (1 − c0²) + c0²), t the share of the stage that is done, reaches the share of batches shorter than
      its own, and spreads its batches from there to the end.
    - `two_phase` (Devlin et al. 2018, appendix A.2, 128 then 512): lengths of up to a quarter of the longest, then
      the others, natural within each phase.

    Args:
      order: its name.
      lengths: of the buckets in tokens, ascending.
      counts: batches of each bucket, each at least 1.
      phases: of each bucket, in [0, 2**40).
      cycles: of the grow orders.
    """
    buckets = range(len(counts))

    def natural(some: Sequence[int]) -> tuple[Clock, ...]:
        return tuple(Clock(bucket=b, count=counts[b], phase=phases[b], rate=counts[b]) for b in some)

    segments: list[tuple[Clock, ...]]
    if order == "natural":
        segments = [natural(buckets)]
    elif order == "short_first":
        segments = [natural([b]) for b in buckets]
    elif order == "two_phase":
        short = [b for b in buckets if lengths[b] * PHASE_ONE_SHARE <= lengths[-1]]
        segments = [natural(some) for some in (short, [b for b in buckets if b not in short]) if some]
    elif order == "competence":
        segments = [_competence(counts, phases)]
    else:
        odds = [2 ** (len(counts) - 1 - b) if order == "grow_p2" else len(counts) - b for b in buckets]
        segments = []
        for cycle in range(cycles):
            share = [n * (cycle + 1) // cycles - n * cycle // cycles for n in counts]
            clocks = [Clock(bucket=b, count=share[b], phase=phases[b], rate=odds[b]) for b in buckets if share[b]]
            segments += [tuple(clocks)] if clocks else []
    return Turns(segments=tuple(segments), buckets=len(counts))


def _competence(counts: Sequence[int], phases: Sequence[int]) -> tuple[Clock, ...]:
    clocks, shorter, total, start = [], 0, sum(counts), FIRST_COMPETENCE**2
    for bucket, count in enumerate(counts):
        # √(t (1 − c0²) + c0²) = F at t = (F² − c0²) / (1 − c0²), F the share of batches that are shorter
        share = max(Fraction(0), (Fraction(shorter, total) ** 2 - start) / (1 - start))
        release = int(share * 2**CLOCK_BITS)
        clocks.append(
            Clock(
                bucket=bucket,
                count=count,
                phase=phases[bucket],
                rate=count << CLOCK_BITS,
                release=release,
                scale=(1 << CLOCK_BITS) - release,
            )
        )
        shorter += count
    return tuple(clocks)
