"""Counts of distinct hashes in bounded memory, the same for any order of merging.

Not a sketch with an error bar while the distinct hashes fit the limit: then it is exact. Beyond it, the sample
keeps the hashes under a threshold that halves until they fit (Gibbons, VLDB 2001, distinct sampling), so every
hash that is kept has its exact count.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]

SAMPLE_HASHES = 2**18
"""Most distinct hashes that a sample keeps: 6 MB with their counts."""


class _Hashes(NamedTuple):
    """Hashes of two words, and how often each occurred; [hashes] each."""

    words: U64
    """By which hashes are sampled and sorted."""
    others: U64
    counts: Int64

    @classmethod
    def once(cls, hashes: U64) -> _Hashes:
        words, others = hashes if hashes.ndim == 2 else (hashes, np.zeros_like(hashes))
        return cls(words, others, np.ones(len(words), np.int64))

    def take(self, which: Int64 | slice) -> _Hashes:
        return _Hashes(self.words[which], self.others[which], self.counts[which])


@dataclass
class HashSample:
    """Distinct hashes whose first word is below 2**(64 - level), and how often each occurred.

    Hashes have 128 bits, or 64 where what is hashed has no more. Of n distinct items of 128 bits two are taken for
    one with a probability below n · 2**18 / 2**129: 4e-24 for 10**10 rows.

    >>> a, b = HashSample.create(), HashSample.create()
    >>> a.add(np.array([5, 7], np.uint64)); b.add(np.array([7], np.uint64))
    >>> a.merge(b).repeated
    1
    """

    limit: int = SAMPLE_HASHES
    kept_level: int = 0
    kept: _Hashes = field(default_factory=lambda: _Hashes.once(np.zeros(0, np.uint64)))
    """Distinct, ascending."""
    waiting: tuple[_Hashes, ...] = ()
    """In no order, yet to be sorted in: sorting many at once is cheaper, and gives the same sample."""
    waiting_hashes: int = 0

    @classmethod
    def create(cls, limit: int = SAMPLE_HASHES) -> HashSample:
        """The empty sample."""
        return cls(limit=limit)

    def add(self, hashes: U64) -> None:
        """Count these hashes, repeats included: uint64 [2, hashes], or [hashes]. The array is kept."""
        self._wait((_Hashes.once(hashes),))

    def merge(self, other: HashSample) -> HashSample:
        """The sample of both."""
        merged = HashSample(self.limit, self.kept_level, self.kept, self.waiting, self.waiting_hashes)
        merged._raise_to(other.kept_level)
        merged._wait((other.kept, *other.waiting))
        return merged

    @property
    def level(self) -> int:
        """The sample has all hashes whose first word is below 2**(64 - level)."""
        self._settle()
        return self.kept_level

    @property
    def hashes(self) -> U64:
        """uint64 [distinct], first words, ascending."""
        self._settle()
        return self.kept.words

    @property
    def others(self) -> U64:
        """uint64 [distinct], second words."""
        self._settle()
        return self.kept.others

    @property
    def counts(self) -> Int64:
        """int64 [distinct], each at least 1."""
        self._settle()
        return self.kept.counts

    def _wait(self, parts: tuple[_Hashes, ...]) -> None:
        parts = tuple(part for part in parts if len(part.words))
        self.waiting += parts
        self.waiting_hashes += sum(len(part.words) for part in parts)
        if self.waiting_hashes > self.limit:
            self._settle()

    def _settle(self) -> None:
        """Sort in what waits, and halve the threshold until the distinct hashes fit."""
        if not self.waiting:
            return
        found = _Hashes(*(np.concatenate(column) for column in zip(self.kept, *self.waiting, strict=True)))
        self.waiting, self.waiting_hashes = (), 0
        if self.kept_level:
            found = found.take(np.flatnonzero(found.words < _threshold(self.kept_level)))
        order = np.argsort(found.words)
        words, others = found.words[order], found.others[order]
        alike, same = words[1:] == words[:-1], others[1:] == others[:-1]
        if (alike & ~same).any():  # once in 2**64 pairs of hashes, unless somebody means it
            order = np.lexsort((found.others, found.words))
            same = found.others[order][1:] == found.others[order][:-1]
        first = np.flatnonzero(np.append(True, ~(alike & same))[: len(order)])
        counts = np.add.reduceat(found.counts[order], first) if len(first) else found.counts
        self.kept = found.take(order[first])._replace(counts=counts)
        while len(self.kept.words) > self.limit:
            self._raise_to(self.kept_level + 1)

    def _raise_to(self, level: int) -> None:
        self.kept_level = max(level, self.kept_level)
        self.kept = self.kept.take(slice(0, self._below(self.kept_level)))

    def _below(self, level: int) -> int:
        """How many of those kept, which ascend, are below the threshold of this level."""
        return int(np.searchsorted(self.kept.words, _threshold(level))) if level else len(self.kept.words)

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
        words, others = self.hashes, self.others
        place, shared = np.searchsorted(other.hashes, words), np.zeros(len(words), bool)
        while len(place):  # once, and once more for each further hash of the same first word
            alike = np.flatnonzero(np.append(other.hashes, 0)[place] == words)
            alike = alike[place[alike] < len(other.hashes)]
            if len(alike) == 0:
                break
            shared[alike] |= other.others[place[alike]] == others[alike]
            place = np.minimum(place + 1, len(other.hashes))
        return int(shared.sum())

    def distinct_below(self, level: int) -> int:
        """Distinct hashes below the threshold of this level."""
        self._settle()
        return self._below(level)

    def extract(self) -> dict[str, int]:
        """What the sample says, without its hashes."""
        return {"items": self.items, "distinct": len(self.hashes), "repeated": self.repeated, "level": self.level}

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; arrays as base64 of little-endian integers."""
        return {
            "limit": self.limit,
            "level": self.level,
            "hashes": base64.b64encode(self.hashes.astype("<u8").tobytes()).decode(),
            "others": base64.b64encode(self.others.astype("<u8").tobytes()).decode() if self.others.any() else "",
            "counts": base64.b64encode(self.counts.astype("<i8").tobytes()).decode(),
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> HashSample:
        """The inverse of `to_json`."""
        words, others, counts = (
            np.frombuffer(base64.b64decode(raw[name]), dtype=f"<{kind}").astype(kind)
            for name, kind in (("hashes", "u8"), ("others", "u8"), ("counts", "i8"))
        )
        kept = _Hashes(words, others if len(others) else np.zeros_like(words), counts)
        return cls(limit=raw["limit"], kept_level=raw["level"], kept=kept)


def _threshold(level: int) -> np.uint64:
    return np.uint64(2 ** (64 - level))
