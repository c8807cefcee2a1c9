"""Kinds of characters, as `tokenizers` itself tells them, so that its version of Unicode decides.

Known for the Basic Multilingual Plane; next to any other character there is no cut.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, pre_tokenizers

UNKNOWN, SPACE, TAB, LINE_END, WIDE, LETTER, NUMBER, MARK, APOSTROPHE, SLASH, OTHER, IDEOGRAPH = range(12)
"""Kinds of characters. `TAB` is other whitespace of one byte, `WIDE` of more; the names are those of patterns."""

BLANK = (SPACE, TAB, LINE_END, WIDE)
SYMBOLS = (MARK, APOSTROPHE, SLASH, OTHER)
VISIBLE = (LETTER, NUMBER, *SYMBOLS)

Pairs = set[tuple[int, int]]


def pairs(first: Iterable[int], second: Iterable[int]) -> Pairs:
    """Every kind of the one next to every kind of the other."""
    second = tuple(second)
    return {(x, y) for x in first for y in second}


@functools.cache
def plane() -> str:
    """All characters of the Basic Multilingual Plane."""
    return "".join(chr(c) for c in range(0x10000) if not 0xD800 <= c < 0xE000)


@functools.cache
def matched(pattern: str) -> npt.NDArray[np.uint32]:
    """uint32 code points, of the first plane, that a class of the regular expressions of `tokenizers` holds."""
    found = pre_tokenizers.Split(Regex(f"{pattern}+"), "removed", invert=True).pre_tokenize_str(plane())
    return np.frombuffer("".join(text for text, _ in found).encode("utf-32-le"), dtype=np.uint32)
