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
    kept_level: int = 0
    kept_hashes: U64 = field(default_factory=lambda: np.zeros(0, np.uint64))
    kept_counts: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    waiting: tuple[tuple[U64, Int64 | None], ...] = ()
    """Hashes in no order with their counts, None where each counts once, that are yet to be sorted in: sorting many
    at once is several times cheaper, and gives the same sample."""

    @classmethod
    def create(cls, limit: int = SAMPLE_HASHES) -> HashSample:
        """The empty sample."""
        return cls(limit=limit)

    def add(self, hashes: U64) -> None:
        """Count these hashes, repeats included; the array is kept and must not change."""
        self._wait(((hashes, None),))

    def merge(self, other: HashSample) -> HashSample:
        """The sample of both."""
        merged = HashSample(self.limit, self.kept_level, self.kept_hashes, self.kept_counts, self.waiting)
        merged._raise_to(other.kept_level)
        merged._wait(((other.kept_hashes, other.kept_counts), *other.waiting))
        return merged

    @property
    def level(self) -> int:
        """The sample has all hashes below 2**(64 - level)."""
        self._settle()
        return self.kept_level

    @property
    def hashes(self) -> U64:
        """uint64 [distinct], ascending."""
        self._settle()
        return self.kept_hashes

    @property
    def counts(self) -> Int64:
        """int64 [distinct], each at least 1."""
        self._settle()
        return self.kept_counts

    def _wait(self, parts: tuple[tuple[U64, Int64 | None], ...]) -> None:
        self.waiting = (*self.waiting, *(part for part in parts if len(part[0])))
        if sum(len(hashes) for hashes, _ in self.waiting) > self.limit:
            self._settle()

    def _settle(self) -> None:
        """Sort in what waits, and halve the threshold until the distinct hashes fit."""
        if not self.waiting:
            return
        parts: list[tuple[U64, Int64 | None]] = [(self.kept_hashes, self.kept_counts), *self.waiting]
        self.waiting = ()
        hashes = np.concatenate([h for h, _ in parts])
        if all(counts is None or (counts == 1).all() for _, counts in parts):
            hashes = np.sort(self._below_threshold(hashes))  # three times faster than an order to sort counts by
            counts = np.ones(len(hashes), np.int64)
        else:
            counts = np.concatenate([np.ones(len(h), np.int64) if c is None else c for h, c in parts])
            order = np.argsort(hashes)
            hashes = hashes[order]
            below = len(self._below_threshold(hashes))
            hashes, counts = hashes[:below], counts[order[:below]]
        first = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)])
        self.kept_hashes = hashes[first]
        self.kept_counts = np.add.reduceat(counts, first) if len(first) else counts
        while len(self.kept_hashes) > self.limit:
            self._raise_to(self.kept_level + 1)

    def _raise_to(self, level: int) -> None:
        self.kept_level = max(level, self.kept_level)
        self.kept_hashes = self._below_threshold(self.kept_hashes)  # they ascend, so those kept come first
        self.kept_counts = self.kept_counts[: len(self.kept_hashes)]

    def _below_threshold(self, hashes: U64) -> U64:
        return hashes[hashes < np.uint64(2 ** (64 - self.kept_level))] if self.kept_level else hashes

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
            kept_level=raw["level"],
            kept_hashes=np.frombuffer(base64.b64decode(raw["hashes"]), dtype="<u8").astype(np.uint64),
            kept_counts=np.frombuffer(base64.b64decode(raw["counts"]), dtype="<i8").astype(np.int64),
        )
