"""The mergeable statistics of shards: integers that add, maxima, and bounded samples of hashes.

Merging is associative and commutative to the last bit, so the result does not depend on how a runner bundles the
shards: sums are Python integers, fractions are fixed-point integers, and ties are broken by name. Nothing here
knows what a figure means; `common` and its like measure and `transforms.gates` judges.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transforms.statistics.samples import HashSample

Int64 = npt.NDArray[np.int64]

LENGTH_BINS = 64
"""Bins of the row-length histogram, equal parts of (0, bucket's length]."""

MOST_PROBLEMS = 20
"""Problems of single shards that are kept in words, by kind; all of them are counted."""


class Group(NamedTuple):
    """What the statistics are kept by."""

    split: str
    stage: int
    length: int
    """The bucket's length in tokens."""
    source: str


@dataclass
class Measures:
    """Figures of some rows of one group."""

    sums: Counter[str] = field(default_factory=Counter)
    """Counts that add: rows, tokens, and rows or places that break a law."""
    maxima: dict[str, int] = field(default_factory=dict)
    histograms: dict[str, list[int]] = field(default_factory=dict)
    """Counts that add bin by bin."""
    seen: int = 0
    """Bit i is set where text has id i."""

    def merge(self, other: Measures) -> Measures:
        """The figures of both."""
        maxima = dict(self.maxima)
        for name, value in other.maxima.items():
            maxima[name] = max(value, maxima.get(name, value))
        histograms = dict(self.histograms)
        for name, bins in other.histograms.items():
            mine = histograms.get(name)
            histograms[name] = bins if mine is None else [a + b for a, b in zip(mine, bins, strict=True)]
        return Measures(Counter(self.sums) + Counter(other.sums), maxima, histograms, self.seen | other.seen)


@dataclass
class Accumulator:
    """Everything the audit knows of some shards.

    >>> a, b = Accumulator.create(), Accumulator.create()
    >>> a.add(Group("train", 0, 128, "books"), Measures(Counter(rows=2)))
    >>> b.add(Group("train", 0, 128, "books"), Measures(Counter(rows=3)))
    >>> a.merge(b).total("rows")
    5
    """

    groups: dict[Group, Measures] = field(default_factory=dict)
    shards: Counter[str] = field(default_factory=Counter)
    """Counts over whole files: read, missing, differing from the index."""
    worst: dict[str, tuple[float, str]] = field(default_factory=dict)
    """By figure, the greatest value in one shard and that shard's path; the first path of equals."""
    problems: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """By kind, (path, what) of files that could not be read or differ; the first `MOST_PROBLEMS` by path."""
    samples: dict[str, HashSample] = field(default_factory=dict)
    """Hashes of `rows/<split>`, of `occurrences/<split>` (a row with its provenance), of `documents/<split>`, of
    `texts/<split>` (a row as it was before it was masked), and `passes/train` (`transforms.statistics.passes`)."""
    tokens: dict[tuple[str, str], Int64] = field(default_factory=dict)
    """By (split, source), int64 [vocab_size], how often `input_ids` has each id."""

    @classmethod
    def create(cls) -> Accumulator:
        """The statistics of nothing."""
        return cls()

    def add(self, group: Group, measures: Measures) -> None:
        """Add the figures of some rows of a group."""
        known = self.groups.get(group)
        self.groups[group] = measures if known is None else known.merge(measures)

    def add_hashes(self, name: str, hashes: npt.NDArray[np.uint64]) -> None:
        """Count hashes, uint64 [2, hashes] or [hashes], in the sample of that name."""
        self.samples.setdefault(name, HashSample.create()).add(hashes)

    def add_tokens(self, split: str, source: str, counts: Int64) -> None:
        """Add how often each id occurs; the array is not kept."""
        known = self.tokens.get((split, source))
        self.tokens[(split, source)] = counts.copy() if known is None else known + counts

    def add_worst(self, name: str, value: float, path: str) -> None:
        """Remember a shard's figure if it is the greatest so far."""
        if value <= 0:
            return
        known = self.worst.get(name)
        if known is None or (-value, path) < (-known[0], known[1]):
            self.worst[name] = (value, path)

    def add_problem(self, kind: str, path: str, what: str) -> None:
        """Count a problem of a whole file and keep it in words."""
        self.shards[kind] += 1
        self._keep_problems(kind, ((path, what),))

    def _keep_problems(self, kind: str, problems: tuple[tuple[str, str], ...]) -> None:
        known = self.problems.get(kind, ())
        self.problems[kind] = tuple(sorted({*known, *problems})[:MOST_PROBLEMS])

    def merge(self, other: Accumulator) -> Accumulator:
        """The statistics of both; neither is changed."""
        merged = Accumulator(
            groups=dict(self.groups),
            shards=self.shards + other.shards,
            worst=dict(self.worst),
            problems=dict(self.problems),
            samples=dict(self.samples),
            tokens=dict(self.tokens),
        )
        for (split, source), counts in other.tokens.items():
            merged.add_tokens(split, source, counts)
        for group, measures in other.groups.items():
            merged.add(group, measures)
        for name, (value, path) in other.worst.items():
            merged.add_worst(name, value, path)
        for kind, problems in other.problems.items():
            merged._keep_problems(kind, problems)
        for name, sample in other.samples.items():
            mine = merged.samples.get(name)
            merged.samples[name] = sample if mine is None else mine.merge(sample)
        return merged

    def select(self, **where: str | int) -> Iterator[tuple[Group, Measures]]:
        """Groups whose fields have these values, in order."""
        for group in sorted(self.groups):
            if all(getattr(group, name) == value for name, value in where.items()):
                yield group, self.groups[group]

    def total(self, figure: str, **where: str | int) -> int:
        """Sum of a figure over the groups whose fields have these values."""
        return sum(m.sums[figure] for _, m in self.select(**where))

    def greatest(self, figure: str, **where: str | int) -> int:
        """Maximum of a figure over groups; 0 where no row was seen."""
        return max((m.maxima.get(figure, 0) for _, m in self.select(**where)), default=0)

    def histogram(self, name: str, **where: str | int) -> list[int]:
        """Sum of a histogram over groups; empty where none has it."""
        found = [m.histograms[name] for _, m in self.select(**where) if name in m.histograms]
        return [sum(bins) for bins in zip(*found, strict=True)]

    def token_counts(self, split: str | None = None, source: str | None = None) -> Int64:
        """int64 [vocab_size], how often each id occurs in a split, a source or all; empty where nothing was seen."""
        found = [
            counts
            for (s, name), counts in sorted(self.tokens.items())
            if split in (None, s) and source in (None, name)
        ]
        return np.sum(found, axis=0, dtype=np.int64) if found else np.zeros(0, np.int64)

    def totals_by(self, key: Callable[[Group], Any], figure: str) -> dict[Any, int]:
        """Sums of a figure by a key of the group."""
        sums: Counter[Any] = Counter()
        for group, measures in self.select():
            sums[key(group)] += measures.sums[figure]
        return dict(sums)

    def extract(self) -> dict[str, Any]:
        """What was measured, as plain JSON values in a fixed order; samples without their hashes."""
        return {
            "groups": [
                {
                    **group._asdict(),
                    "sums": {k: v for k, v in sorted(m.sums.items()) if v},
                    "maxima": dict(sorted(m.maxima.items())),
                    "histograms": dict(sorted(m.histograms.items())),
                    "vocabulary": m.seen.bit_count(),
                }
                for group, m in self.select()
            ],
            "shards": {k: v for k, v in sorted(self.shards.items()) if v},
            "worst": {name: list(found) for name, found in sorted(self.worst.items())},
            "problems": {kind: [list(p) for p in found] for kind, found in sorted(self.problems.items())},
            "samples": {name: sample.extract() for name, sample in sorted(self.samples.items())},
        }

    def to_bytes(self) -> bytes:
        """All of it as JSON; equal statistics give equal bytes."""
        whole = {
            **self.extract(),
            "samples": {name: sample.to_json() for name, sample in sorted(self.samples.items())},
            "seen": [f"{m.seen:x}" for _, m in self.select()],
            "tokens": [[*key, *_pack_counts(self.tokens[key])] for key in sorted(self.tokens)],
        }
        return json.dumps(whole, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Accumulator:
        """The inverse of `to_bytes`."""
        raw = json.loads(data)
        return cls(
            groups={
                Group(g["split"], g["stage"], g["length"], g["source"]): Measures(
                    Counter(g["sums"]), g["maxima"], g["histograms"], int(seen, 16)
                )
                for g, seen in zip(raw["groups"], raw["seen"], strict=True)
            },
            shards=Counter(raw["shards"]),
            worst={name: (found[0], found[1]) for name, found in raw["worst"].items()},
            problems={kind: tuple((p, what) for p, what in found) for kind, found in raw["problems"].items()},
            samples={name: HashSample.from_json(s) for name, s in raw["samples"].items()},
            tokens={(split, source): _unpack_counts(*packed) for split, source, *packed in raw["tokens"]},
        )


def _pack_counts(counts: Int64) -> tuple[int, str, str]:
    """(size, ids that occur, their counts), arrays as base64: a shard has few of a vocabulary's ids a source."""
    ids = np.flatnonzero(counts)
    packed = (ids.astype("<u4"), counts[ids].astype("<u8"))
    return len(counts), *(base64.b64encode(array.tobytes()).decode() for array in packed)  # type: ignore[return-value]


def _unpack_counts(size: int, ids: str, counts: str) -> Int64:
    found = np.zeros(size, np.int64)
    at = np.frombuffer(base64.b64decode(ids), dtype="<u4")
    found[at] = np.frombuffer(base64.b64decode(counts), dtype="<u8").astype(np.int64)
    return found
