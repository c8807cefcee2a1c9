"""Where the sentences of a text end, in characters. Where that is in tokens, `transforms.encode` says.

The splitter is sentencex: rules and lists of abbreviations for thirty languages, 60 MB/s. It sees a paragraph at a
time and of a long one a window, since its time is quadratic in the quotes of what it sees.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import sentencex

from schemas.fingerprint import fingerprint, sentence_identity
from schemas.source import Source

_PARAGRAPH_END = re.compile(r"\n\s*\n")

_WINDOW = 2**12
"""Most characters the splitter sees at a time."""

_WIDE_SPACES = tuple(chr(c) for c in range(128, 0x3001) if chr(c).isspace())
"""Whitespace of more than one byte. Before a full stop the splitter (1.0.32) would cut it in two and panic."""


def sentence_fingerprint(source: Source) -> str:
    """What the sentence ends of a source's documents depend on, beside the text."""
    identity: dict[str, Any] = sentence_identity(source)
    if source.sentences == "split":
        identity["sentencex"] = version("sentencex")  # its rules change between versions
    return fingerprint(identity)


def sentence_bounds(text: str, source: Source) -> list[int]:
    """Where the sentences of a text end.

    Returns:
      Places in characters, strictly ascending. All but the last lie between a character that is no whitespace, the
      sentence's last, and whatever follows; the last is `len(text)`.

    >>> sentence_bounds("I saw Mr. Smith. Did you?", Source(name="s", files=["x"]))
    [16, 25]
    """
    found = _line_ends(text) if source.sentences == "lines" else _split_ends(text, source.language)
    return [*list(found)[:-1], len(text)]


def _line_ends(text: str) -> Iterator[int]:
    begin = 0
    for line in text.split("\n"):
        if kept := len(line.rstrip()):
            yield begin + kept
        begin += len(line) + 1


def _split_ends(text: str, language: str) -> Iterator[int]:
    if not text.isascii():
        for space in _WIDE_SPACES:
            text = text.replace(space, " ")
    begin = 0
    for match in _PARAGRAPH_END.finditer(text):
        yield from _paragraph_ends(text, begin, match.start(), language)
        begin = match.end()
    yield from _paragraph_ends(text, begin, len(text), language)


def _paragraph_ends(text: str, begin: int, end: int, language: str) -> Iterator[int]:
    while begin < end:
        stop = min(begin + _WINDOW, end)
        parts = _segment(language, text[begin:stop])
        if stop < end:
            # The last part may go on beyond the window, so the next window begins with it, unless that would be a
            # small step: then the sentence goes on to the first end in the next window.
            last = stop - len(parts.pop())
            stop = last if last - begin >= _WINDOW // 2 else stop
        for part in parts:
            if kept := len(part.rstrip()):
                yield begin + kept
            begin += len(part)
        begin = stop


def _segment(language: str, text: str) -> list[str]:
    """The sentences of a text, which together are the text; one where the splitter fails."""
    try:
        parts: list[str] = sentencex.segment(language, text)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # the splitter is Rust, whose panics are no Exception
            raise
        return [text]
    return parts if sum(map(len, parts)) == len(text) else [text]
