r"""Where a text can be cut so that its parts, encoded each for itself, have together the ids of the whole.

A tokenizer of `tokenizers` normalizes a text, divides it into words, and looks at one word at a time from then on.
So a cut is safe where it lies between two words and neither the normalizer nor what divides the text sees across it.

**The criterion.** A pattern of a byte-level tokenizer matches from the left, each time the first of its alternatives
that fits. Let x|y be two neighbouring characters, x no whitespace. If no alternative matches any string with x next
to y inside, no match crosses the cut, whatever is around it. Up to the cut the matches are those of the part alone:
to each alternative the coming of y is what the end of the text is, since the one thing that looks ahead, the `(?!\S)`
of `\s+(?!\S)`, stands behind whitespace. After the cut they are as well, since nothing looks back. Which pairs
occur inside an alternative is read off the pattern, kind of character by kind (`_Pattern`).

**Inside whitespace**, w y|z with z no whitespace: `\s+(?!\S)` gives one character back and so divides a run of
whitespace w y into w and y; w alone it matches whole, at the end of a text. So the cut before y, the last of the run,
is safe too, and y goes with the word after it. In the newer patterns `\s*[\r\n]+` comes first and takes everything
up to the last line end, in w alone as well if y is no line end; a cut after a line end that no whitespace follows is
where that match ends.

**Numbers set apart before** (`Digits`) end a text for the pattern, so there is no cut before y and a number.
**NFC** joins a mark, or a vowel of Hangul, to what is before it. So there are cuts before ASCII only, which never
joins, and a mark counts as itself, as a letter and as a symbol, which it may become part of.

**BERT.** The normalizer sees one character at a time (decomposition reorders marks, but never past whitespace, a
punctuation mark or an ideograph), and each whitespace character, punctuation mark and, where the normalizer sets them
apart, ideograph ends a word on both sides. So there may be a cut on either side of each.

**Metaspace** takes a space to the word after it. A cut before a space is safe where what precedes it is visible and
stays so, and what follows is visible or whitespace, in whatever the normalizer makes of it. The rules of
SentencePiece squeeze runs of spaces, which a cut before the run leaves whole. A part that begins with a space gets no
other, and a part that begins without is the first of its text, which gets one as the whole does.

Which character is of which kind is asked of `tokenizers` itself, so that its version of Unicode decides. Kinds are
known for the Basic Multilingual Plane; next to any other character a byte-level text is not cut. Added tokens could
hold anything, so all have to be special and read as plain text.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from transforms.ragged import Int64

_UNKNOWN, _SPACE, _TAB, _LINE_END, _WIDE, _LETTER, _NUMBER, _MARK, _APOSTROPHE, _SLASH, _OTHER, _IDEOGRAPH = range(12)
"""Kinds of characters. `_TAB` is other whitespace of one byte, `_WIDE` of more; the names are those of patterns."""

_NEVER, _ALWAYS, _IF_FOLLOWED = range(3)

_BLANK = (_SPACE, _TAB, _LINE_END, _WIDE)
_SYMBOLS = (_MARK, _APOSTROPHE, _SLASH, _OTHER)
_VISIBLE = (_LETTER, _NUMBER, *_SYMBOLS)

_Pairs = set[tuple[int, int]]


def _pairs(first: Iterable[int], second: Iterable[int]) -> _Pairs:
    second = tuple(second)
    return {(x, y) for x in first for y in second}


@dataclass(frozen=True)
class Boundaries:
    """A tokenizer's safe cuts.

    >>> Boundaries.of(bert).cut(b"Two words, here", np.array([0, 15])).tolist()  # doctest: +SKIP
    [0, 3, 9, 10, 15]
    """

    kinds: npt.NDArray[np.uint8]
    """uint8 [0x110000]: kind of each code point."""
    verdicts: bytes
    """[256]: whether to cut between kinds x and y, at 16 * x + y: never, always, or if y is followed by what
    `follows` says and in the same text."""
    follows: npt.NDArray[np.bool_]
    """bool [16] by kind."""
    only_before_ascii: bool = False
    """True where other characters may be joined with what precedes them."""

    @staticmethod
    def of(tokenizer: Tokenizer) -> Boundaries | None:
        """The safe cuts of a tokenizer; None where none are known."""
        if not all(
            t.special and tokenizer.encode_special_tokens for t in tokenizer.get_added_tokens_decoder().values()
        ):
            return None
        if tokenizer.truncation is not None or tokenizer.padding is not None:
            return None
        spec = json.loads(tokenizer.to_str())
        if (spec["model"] or {}).get("dropout"):
            return None
        normalizer, steps = spec["normalizer"], _steps(spec["pre_tokenizer"], "pretokenizers")
        kinds = [step["type"] for step in steps]
        if kinds == ["BertPreTokenizer"] and (normalizer is None or normalizer["type"] == "BertNormalizer"):
            return _bert(tokenizer)
        if kinds in (["Metaspace"], ["WhitespaceSplit", "Metaspace"]) and steps[-1].get("split", True):
            return _metaspace(tokenizer, _steps(normalizer, "normalizers"), steps[-1]["replacement"])
        pattern = _pattern_of(steps)
        if pattern is None or normalizer not in (None, {"type": "NFC"}):
            return None
        return _byte_level(pattern, composes=normalizer is not None)

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
        inner = verdicts == _ALWAYS
        maybe = np.flatnonzero(verdicts == _IF_FOLLOWED) + 1
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
        return self.kinds[:128].tobytes() + bytes([_UNKNOWN]) * 128

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


def _table(always: _Pairs, if_followed: _Pairs) -> bytes:
    verdicts = bytearray(256)
    for x, y in always:
        verdicts[16 * x + y] = _ALWAYS
    for x, y in if_followed - always:
        verdicts[16 * x + y] = _IF_FOLLOWED
    return bytes(verdicts)


def _kinds_in(kinds: Iterable[int]) -> npt.NDArray[np.bool_]:
    follows = np.zeros(16, dtype=bool)
    follows[list(kinds)] = True
    return follows


def _steps(step: dict[str, Any] | None, parts: str) -> list[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, sequences dissolved."""
    if step is None:
        return []
    if step["type"] != "Sequence":
        return [step]
    return [inner for part in step[parts] for inner in _steps(part, parts)]


@functools.cache
def _plane() -> str:
    """All characters of the Basic Multilingual Plane."""
    return "".join(chr(c) for c in range(0x10000) if not 0xD800 <= c < 0xE000)


@functools.cache
def _matched(pattern: str) -> npt.NDArray[np.uint32]:
    """uint32 code points, of the first plane, that a class of the regular expressions of `tokenizers` holds."""
    found = pre_tokenizers.Split(Regex(f"{pattern}+"), "removed", invert=True).pre_tokenize_str(_plane())
    return np.frombuffer("".join(text for text, _ in found).encode("utf-32-le"), dtype=np.uint32)


# Byte-level tokenizers.


@dataclass(frozen=True)
class _Pattern:
    """What of a byte-level tokenizer's pattern decides where to cut."""

    inside: frozenset[tuple[int, int]]
    """Pairs (x, y), x no whitespace, that occur next to each other inside a match."""
    line_ends: bool
    """True where `\\s*[\\r\\n]+` comes before `\\s+(?!\\S)`."""
    digits_first: bool = False
    """True where numbers are set apart before; whitespace before one is then at the end of a text."""


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
_O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_RUNS = {(_LETTER, _LETTER), (_NUMBER, _NUMBER), (_APOSTROPHE, _LETTER)} | _pairs(_SYMBOLS, _SYMBOLS)
"""Inside a match of any pattern: runs of one kind, and contractions such as `'ll`."""

_SYMBOL_FIRST = _RUNS | _pairs(_SYMBOLS, [_LETTER, _LINE_END])
"""GPT-4's: words take one symbol before them (`[^\\r\\n\\p{L}\\p{N}]?`), symbols take the line ends after them."""

_CASED = (
    _SYMBOL_FIRST
    | _pairs([_LETTER, _MARK], [_LETTER, _MARK, _APOSTROPHE])
    | _pairs([_SLASH], [_LINE_END, _SLASH])
    | {(_LINE_END, _SLASH)}
)
"""GPT-4o's: words hold marks and end with a contraction, symbols take slashes after line ends."""

_PATTERNS = {
    _GPT2: _Pattern(frozenset(_RUNS), line_ends=False),
    _CL100K % "{1,3}": _Pattern(frozenset(_SYMBOL_FIRST), line_ends=True),
    _CL100K % "": _Pattern(frozenset(_SYMBOL_FIRST), line_ends=True),
    _O200K: _Pattern(frozenset(_CASED), line_ends=True),
}


def _pattern_of(steps: list[dict[str, Any]]) -> _Pattern | None:
    """The pattern of a byte-level pre-tokenizer: its own or that of a `Split` before it, perhaps after `Digits`."""
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    *before, last = steps
    digits_first = bool(before) and before[0]["type"] == "Digits"
    before = before[digits_first:]
    if last["use_regex"]:
        text = _GPT2 if not before else None
    elif len(before) == 1 and before[0]["type"] == "Split":
        split = before[0]
        whole = split["behavior"] == "Isolated" and not split["invert"]
        text = split["pattern"].get("Regex") if whole else None
    else:
        text = None
    found = _PATTERNS.get(text or "")
    return _Pattern(found.inside, found.line_ends, digits_first) if found else None


def _byte_level(pattern: _Pattern, *, composes: bool) -> Boundaries:
    known = (*_BLANK, *_VISIBLE)
    always = _pairs(_VISIBLE, known)
    last = (_SPACE, _TAB) if pattern.line_ends else (_SPACE, _TAB, _LINE_END)
    if pattern.line_ends:
        always |= _pairs([_LINE_END], _VISIBLE)
    always -= pattern.inside
    follows = set(_VISIBLE) - ({_NUMBER} if pattern.digits_first else set())
    if composes:
        # A mark may become part of the letter or the symbol before it.
        always -= {(_MARK, y) for y in known if not {(_LETTER, y), (_OTHER, y)} <= always}
    kinds = _composed_kinds() if composes else _byte_level_kinds()
    return Boundaries(kinds, _table(always, _pairs(_BLANK, last)), _kinds_in(follows), only_before_ascii=composes)


@functools.cache
def _byte_level_kinds() -> npt.NDArray[np.uint8]:
    kinds = np.full(0x110000, _UNKNOWN, dtype=np.uint8)
    kinds[np.frombuffer(_plane().encode("utf-32-le"), dtype=np.uint32)] = _OTHER
    for pattern, kind in ((r"\p{L}", _LETTER), (r"\p{N}", _NUMBER), (r"\p{M}", _MARK), (r"\s", _WIDE)):
        kinds[_matched(pattern)] = kind
    narrow = kinds[:128]
    narrow[narrow == _WIDE] = _TAB
    for character, kind in ((" ", _SPACE), ("\n", _LINE_END), ("\r", _LINE_END), ("'", _APOSTROPHE), ("/", _SLASH)):
        kinds[ord(character)] = kind
    return kinds


@functools.cache
def _composed_kinds() -> npt.NDArray[np.uint8]:
    """Kinds where NFC comes first: unknown for what it turns into another kind, such as a letter into two."""
    kinds = _byte_level_kinds().copy()
    characters = _plane().replace("\n", "")
    for before, after in zip(
        characters, normalizers.NFC().normalize_str("\n".join(characters)).split("\n"), strict=True
    ):
        if before != after and any(kinds[ord(c)] != kinds[ord(before)] for c in after):
            kinds[ord(before)] = _UNKNOWN
    return kinds


# BERT.


def _bert(tokenizer: Tokenizer) -> Boundaries | None:
    kinds = np.full(0x110000, _UNKNOWN, dtype=np.uint8)

    def words(text: str) -> list[str]:
        normal = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
        return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]

    for point in _matched(r"\s").tolist():
        if words(f"a{chr(point)}a") == ["a", "a"]:
            kinds[point] = _TAB
    if kinds[ord(" ")] != _TAB:
        return None
    kinds[ord(" ")] = _SPACE
    # Between letters, every mark that ends a word stands alone.
    alone = {word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str("a".join(_plane())) if len(word) == 1}
    for mark in alone - {"a"}:
        if words(f"a{mark}a") == ["a", mark, "a"]:
            kinds[ord(mark)] = _OTHER
    for begin, end in ((0x3400, 0x4DC0), (0x4E00, 0xA000)):
        block = [chr(c) for c in range(begin, end)]
        if words("a" + "a".join(block) + "a") == [w for c in block for w in ("a", c)] + ["a"]:
            kinds[begin:end] = _IDEOGRAPH
    blank, apart = (_SPACE, _TAB), (_OTHER, _IDEOGRAPH)
    inked = (_UNKNOWN, *apart)
    always = _pairs(inked, blank) | _pairs([_TAB], inked) | _pairs(inked, apart) | _pairs(apart, inked)
    return Boundaries(kinds, _table(always, _pairs(blank, [_SPACE])), _kinds_in(inked))


# Metaspace.

_LOCAL = {"Nmt", "NFC", "NFD", "NFKC", "NFKD", "StripAccents", "Lowercase", "Precompiled"}
"""Normalizers that see a character and the marks on it."""


def _metaspace(tokenizer: Tokenizer, steps: list[dict[str, Any]], replacement: str) -> Boundaries | None:
    if not all(_keeps_words(step, replacement) for step in steps):
        return None
    normal = tokenizer.normalizer.normalize_str if tokenizer.normalizer else str
    blank = (" ", replacement)
    if not all(normal(text).startswith(blank) for text in (" a", "  a", " \ta", " \na", " \ra")):
        return None
    kinds = np.full(0x110000, _UNKNOWN, dtype=np.uint8)
    kinds[ord(" ")] = _SPACE
    for character in "\t\n\r":
        # Where it becomes a space it begins a word as one does.
        kinds[ord(character)] = _TAB if normal(f"{character}a").startswith(blank) else _LINE_END
    for point in range(0x21, 0x530):  # Latin, Greek and Cyrillic
        c = chr(point)
        seen = normal(c)
        if c.isprintable() and seen and not any(s.isspace() or s == replacement for s in seen):
            kinds[point] = _OTHER if normal(f"a{c} a") == normal(f"a{c}") + normal(" a") else _UNKNOWN
    begins = _pairs([_OTHER], [_SPACE, _TAB])
    return Boundaries(kinds, _table(set(), begins), _kinds_in((_OTHER, _SPACE, _TAB, _LINE_END)))


def _keeps_words(step: dict[str, Any], replacement: str) -> bool:
    """Whether a normalizer leaves words words, given that it leaves each character so."""
    if step["type"] == "Replace":
        if step["pattern"] == {"Regex": " {2,}"}:
            return step["content"] in (" ", replacement)
        text = (step["pattern"].get("String") or " ") + (step["content"] or " ")
        return not any(c.isspace() or c == replacement for c in text)
    if step["type"] == "Strip":
        return not step["strip_left"]
    return step["type"] in _LOCAL
