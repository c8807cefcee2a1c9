"""Counts of distinct hashes in bounded memory, the same for any order of merging.

Not a sketch with an error bar while the distinct hashes fit the limit: then it is exact. Beyond it, the sample
keeps the hashes under a threshold that halves until they fit (Gibbons, VLDB 2001, distinct sampling), so every
hash that is kept has its exact count.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]

SAMPLE_HASHES = 2**18
"""Most distinct hashes that a sample keeps: 4 MB with their counts."""


@dataclass
class HashSample:
    """Distinct 64-bit hashes below 2**(64 - level) and how often each occurred.

    A false collision of two of n distinct items has probability below n · 2**18 / 2**65, 1e-5 for 10**9 rows.

    >>> a, b = HashSample.create(), HashSample.create()
    >>> a.add(np.array([5, 7], np.uint64)); b.add(np.array([7], np.uint64))
    >>> a.merge(b).repeated
    1
    """

    limit: int = SAMPLE_HASHES
    level: int = 0
    hashes: U64 = field(default_factory=lambda: np.zeros(0, np.uint64))
    """[distinct], ascending."""
    counts: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    """[distinct], each at least 1."""

    @classmethod
    def create(cls, limit: int = SAMPLE_HASHES) -> HashSample:
        """The empty sample."""
        return cls(limit=limit)

    def add(self, hashes: U64) -> None:
        """Count these hashes, repeats included."""
        distinct, counts = np.unique(self._below_threshold(hashes), return_counts=True)
        self._absorb(distinct, counts.astype(np.int64))

    def merge(self, other: HashSample) -> HashSample:
        """The sample of both."""
        level = max(self.level, other.level)
        merged = HashSample(limit=self.limit, level=level, hashes=self.hashes, counts=self.counts)
        merged._cut()
        kept = merged._below_threshold(other.hashes)
        merged._absorb(kept, other.counts[: len(kept)])  # hashes ascend, so those kept come first
        return merged

    def _absorb(self, hashes: U64, counts: Int64) -> None:
        """Add distinct hashes, ascending, with their counts; arrays that others may hold are not written to."""
        place = np.searchsorted(self.hashes, hashes)
        known = np.zeros(len(hashes), dtype=bool)
        inside = place < len(self.hashes)
        known[inside] = self.hashes[place[inside]] == hashes[inside]
        raised = self.counts.copy()
        raised[place[known]] += counts[known]
        self.hashes = np.insert(self.hashes, place[~known], hashes[~known])
        self.counts = np.insert(raised, place[~known], counts[~known])
        self._cut()
        while len(self.hashes) > self.limit:
            self.level += 1
            self._cut()

    def _below_threshold(self, hashes: U64) -> U64:
        return hashes[hashes < np.uint64(2 ** (64 - self.level))] if self.level else hashes

    def _cut(self) -> None:
        self.hashes = self._below_threshold(self.hashes)
        self.counts = self.counts[: len(self.hashes)]

    @property
    def items(self) -> int:
        """Items in the sample, repeats counted."""
        return int(self.counts.sum())

    @property
    def repeated(self) -> int:
        """Items in the sample that repeat an earlier one."""
        return self.items - len(self.hashes)

    def shared_with(self, other: HashSample) -> int:
        """Distinct hashes that both samples hold, below the lower of their thresholds."""
        return len(np.intersect1d(self.hashes, other.hashes, assume_unique=True))

    def distinct_below(self, level: int) -> int:
        """Distinct hashes below the threshold of this level."""
        return int(np.searchsorted(self.hashes, np.uint64(2 ** (64 - level)))) if level else len(self.hashes)

    def extract(self) -> dict[str, int]:
        """What the sample says, without its hashes."""
        return {"items": self.items, "distinct": len(self.hashes), "repeated": self.repeated, "level": self.level}

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; arrays as base64 of little-endian integers."""
        return {
            "limit": self.limit,
            "level": self.level,
            "hashes": base64.b64encode(self.hashes.astype("<u8").tobytes()).decode(),
            "counts": base64.b64encode(self.counts.astype("<i8").tobytes()).decode(),
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> HashSample:
        """The inverse of `to_json`."""
        return cls(
            limit=raw["limit"],
            level=raw["level"],
            hashes=np.frombuffer(base64.b64decode(raw["hashes"]), dtype="<u8").astype(np.uint64),
            counts=np.frombuffer(base64.b64decode(raw["counts"]), dtype="<i8").astype(np.int64),
        )
