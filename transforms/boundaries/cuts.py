"""A tokenizer's safe cuts, as a table over pairs of kinds of characters, and how a text is cut by it."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from transforms.boundaries.kinds import UNKNOWN, Pairs
from transforms.ragged import Int64

NEVER, ALWAYS, IF_FOLLOWED = range(3)


@dataclass(frozen=True)
class Boundaries:
    """A tokenizer's safe cuts. BERT's, of `Two words, here`, are before the bytes 3, 9 and 10."""

    kinds: npt.NDArray[np.uint8]
    """uint8 [0x110000]: kind of each code point."""
    verdicts: bytes
    """[256]: whether to cut between kinds x and y, at 16 * x + y: never, always, or if y is followed by what
    `follows` says and in the same text."""
    follows: npt.NDArray[np.bool_]
    """bool [16] by kind."""
    only_before_ascii: bool = False
    """True where other characters may be joined with what precedes them."""

    def cut(self, data: bytes, offsets: Int64) -> Int64:
        """Where the parts of texts begin.

        Args:
          data: UTF-8 of the texts end to end.
          offsets: int64 [texts + 1]: first byte of each text, and the end.

        Returns:
          int64 [parts + 1], ascending strictly: first byte of each part, and the end. Every text begins a part.
        """
        begins = np.zeros(len(data) + 1, dtype=bool)
        begins[offsets] = True
        if not data:
            return np.zeros(1, np.int64)
        kinds = np.frombuffer(bytearray(data.translate(self._of_byte)), dtype=np.uint8)
        wide = () if data.isascii() else self._fill_wide(np.frombuffer(data, dtype=np.uint8), kinds)
        verdicts = np.frombuffer(((kinds[:-1] << 4) | kinds[1:]).tobytes().translate(self.verdicts), dtype=np.uint8)
        inner = verdicts == ALWAYS
        maybe = np.flatnonzero(verdicts == IF_FOLLOWED) + 1
        maybe = maybe[: np.searchsorted(maybe, len(data) - 1)]
        maybe = maybe[self.follows[kinds[maybe + 1]] & ~begins[maybe + 1]]
        inner[maybe - 1] = True
        for places in wide:
            inner[places] = False
        begins[1:-1] |= inner
        return np.flatnonzero(begins)

    @functools.cached_property
    def _of_byte(self) -> bytes:
        """[256]: kind of each character of one byte; of a byte of a longer one, unknown."""
        return self.kinds[:128].tobytes() + bytes([UNKNOWN]) * 128

    def _fill_wide(self, raw: npt.NDArray[np.uint8], kinds: npt.NDArray[np.uint8]) -> tuple[Int64, ...]:
        """Give every byte of a longer character its kind; returns the bytes after which there is no cut.

        A character of four bytes is of no known kind.
        """
        lead = np.flatnonzero(raw >= 0xC0)
        first = raw[lead]
        two, three = lead[first < 0xE0], lead[(first >= 0xE0) & (first < 0xF0)]
        points = ((raw[two] & 0x1F).astype(np.int32) << 6) | (raw[two + 1] & 0x3F)
        kinds[two] = kinds[two + 1] = self.kinds[points]
        points = (raw[three] & 0x0F).astype(np.int32) << 12
        points |= (raw[three + 1] & 0x3F).astype(np.int32) << 6
        points |= raw[three + 2] & 0x3F
        kinds[three] = kinds[three + 1] = kinds[three + 2] = self.kinds[points]
        before = (lead[lead > 0] - 1,) if self.only_before_ascii else ()
        return (two, three, three + 1, *before)


def verdict_table(always: Pairs, if_followed: Pairs) -> bytes:
    """Verdicts by pair of kinds as `Boundaries` has them; a pair in neither set is never cut."""
    verdicts = bytearray(256)
    for x, y in always:
        verdicts[16 * x + y] = ALWAYS
    for x, y in if_followed - always:
        verdicts[16 * x + y] = IF_FOLLOWED
    return bytes(verdicts)


def kind_mask(kinds: Iterable[int]) -> npt.NDArray[np.bool_]:
    """bool [16]: true for these kinds."""
    follows = np.zeros(16, dtype=bool)
    follows[list(kinds)] = True
    return follows
