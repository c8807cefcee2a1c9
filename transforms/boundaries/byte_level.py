r"""Safe cuts of byte-level tokenizers, read off the pattern that divides their texts.

A pattern of a byte-level tokenizer matches from the left, each time the first of its alternatives that fits. Let x|y
be two neighbouring characters, x no whitespace. If no alternative matches any string with x next to y inside, no
match crosses the cut, whatever is around it. Up to the cut the matches are those of the part alone: to each
alternative the coming of y is what the end of the text is, since the one thing that looks ahead, the `(?!\S)` of
`\s+(?!\S)`, stands behind whitespace. After the cut they are as well, since nothing looks back. Which pairs occur
inside an alternative is read off the pattern, kind of character by kind (`Pattern`).

**Inside whitespace**, w y|z with z no whitespace: `\s+(?!\S)` gives one character back and so divides a run of
whitespace w y into w and y; w alone it matches whole, at the end of a text. So the cut before y, the last of the run,
is safe too, and y goes with the word after it. In the newer patterns `\s*[\r\n]+` comes first and takes everything
up to the last line end, in w alone as well if y is no line end; a cut after a line end that no whitespace follows is
where that match ends.

**Numbers set apart before** (`Digits`) end a text for the pattern, so there is no cut before y and a number.
**NFC** joins a mark, or a vowel of Hangul, to what is before it. So there are cuts before ASCII only, which never
joins, and a mark counts as itself, as a letter and as a symbol, which it may become part of.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import normalizers

from transforms.boundaries.cuts import Boundaries, kind_mask, verdict_table
from transforms.boundaries.kinds import (
    APOSTROPHE,
    BLANK,
    LETTER,
    LINE_END,
    MARK,
    NUMBER,
    OTHER,
    SLASH,
    SPACE,
    SYMBOLS,
    TAB,
    UNKNOWN,
    VISIBLE,
    WIDE,
    matched,
    pairs,
    plane,
)


@dataclass(frozen=True)
class Pattern:
    """What of a byte-level tokenizer's pattern decides where to cut."""

    inside: frozenset[tuple[int, int]]
    """Pairs (x, y), x no whitespace, that occur next to each other inside a match."""
    line_ends: bool
    """True where `\\s*[\\r\\n]+` comes before `\\s+(?!\\S)`."""
    digits_first: bool = False
    """True where numbers are set apart before; whitespace before one is then at the end of a text."""


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_RUNS = {(LETTER, LETTER), (NUMBER, NUMBER), (APOSTROPHE, LETTER)} | pairs(SYMBOLS, SYMBOLS)
"""Inside a match of any pattern: runs of one kind, and contractions such as `'ll`."""

_SYMBOL_FIRST = _RUNS | pairs(SYMBOLS, [LETTER, LINE_END])
"""GPT-4's: words take one symbol before them (`[^\\r\\n\\p{L}\\p{N}]?`), symbols take the line ends after them."""

_CASED = (
    _SYMBOL_FIRST
    | pairs([LETTER, MARK], [LETTER, MARK, APOSTROPHE])
    | pairs([SLASH], [LINE_END, SLASH])
    | {(LINE_END, SLASH)}
)
"""GPT-4o's: words hold marks and end with a contraction, symbols take slashes after line ends."""

PATTERNS = {
    GPT2: Pattern(frozenset(_RUNS), line_ends=False),
    CL100K % "{1,3}": Pattern(frozenset(_SYMBOL_FIRST), line_ends=True),
    CL100K % "": Pattern(frozenset(_SYMBOL_FIRST), line_ends=True),
    O200K: Pattern(frozenset(_CASED), line_ends=True),
}


def pattern_of(steps: list[dict[str, Any]]) -> Pattern | None:
    """The pattern of a byte-level pre-tokenizer: its own or that of a `Split` before it, perhaps after `Digits`."""
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    *before, last = steps
    digits_first = bool(before) and before[0]["type"] == "Digits"
    before = before[digits_first:]
    if last["use_regex"]:
        text = GPT2 if not before else None
    elif len(before) == 1 and before[0]["type"] == "Split":
        split = before[0]
        whole = split["behavior"] == "Isolated" and not split["invert"]
        text = split["pattern"].get("Regex") if whole else None
    else:
        text = None
    found = PATTERNS.get(text or "")
    return Pattern(found.inside, found.line_ends, digits_first) if found else None


def byte_level_boundaries(pattern: Pattern, *, composes: bool) -> Boundaries:
    """The safe cuts of a pattern, `composes` where NFC comes before it."""
    known = (*BLANK, *VISIBLE)
    always = pairs(VISIBLE, known)
    last = (SPACE, TAB) if pattern.line_ends else (SPACE, TAB, LINE_END)
    if pattern.line_ends:
        always |= pairs([LINE_END], VISIBLE)
    always -= pattern.inside
    follows = set(VISIBLE) - ({NUMBER} if pattern.digits_first else set())
    if composes:
        # A mark may become part of the letter or the symbol before it.
        always -= {(MARK, y) for y in known if not {(LETTER, y), (OTHER, y)} <= always}
    kinds = _composed_kinds() if composes else _byte_level_kinds()
    table = verdict_table(always, pairs(BLANK, last))
    return Boundaries(kinds, table, kind_mask(follows), only_before_ascii=composes)


@functools.cache
def _byte_level_kinds() -> npt.NDArray[np.uint8]:
    kinds = np.full(0x110000, UNKNOWN, dtype=np.uint8)
    kinds[np.frombuffer(plane().encode("utf-32-le"), dtype=np.uint32)] = OTHER
    for pattern, kind in ((r"\p{L}", LETTER), (r"\p{N}", NUMBER), (r"\p{M}", MARK), (r"\s", WIDE)):
        kinds[matched(pattern)] = kind
    narrow = kinds[:128]
    narrow[narrow == WIDE] = TAB
    for character, kind in ((" ", SPACE), ("\n", LINE_END), ("\r", LINE_END), ("'", APOSTROPHE), ("/", SLASH)):
        kinds[ord(character)] = kind
    return kinds


@functools.cache
def _composed_kinds() -> npt.NDArray[np.uint8]:
    """Kinds where NFC comes first: unknown for what it turns into another kind, such as a letter into two."""
    kinds = _byte_level_kinds().copy()
    characters = plane().replace("\n", "")
    for before, after in zip(
        characters, normalizers.NFC().normalize_str("\n".join(characters)).split("\n"), strict=True
    ):
        if before != after and any(kinds[ord(c)] != kinds[ord(before)] for c in after):
            kinds[ord(before)] = UNKNOWN
    return kinds
