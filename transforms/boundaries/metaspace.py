"""Safe cuts of tokenizers with Metaspace, such as those of SentencePiece.

Metaspace takes a space to the word after it. A cut before a space is safe where what precedes it is visible and
stays so, and what follows is visible or whitespace, in whatever the normalizer makes of it. The rules of
SentencePiece squeeze runs of spaces, which a cut before the run leaves whole. A part that begins with a space gets no
other, and a part that begins without is the first of its text, which gets one as the whole does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tokenizers import Tokenizer

from transforms.boundaries.cuts import Boundaries, kind_mask, verdict_table
from transforms.boundaries.kinds import LINE_END, OTHER, SPACE, TAB, UNKNOWN, pairs

_LOCAL = {"Nmt", "NFC", "NFD", "NFKC", "NFKD", "StripAccents", "Lowercase", "Precompiled"}
"""Normalizers that see a character and the marks on it."""


def metaspace_boundaries(tokenizer: Tokenizer, steps: list[dict[str, Any]], replacement: str) -> Boundaries | None:
    """The safe cuts, for the steps of its normalizer; None where one of them could see across a cut."""
    if not all(_keeps_words(step, replacement) for step in steps):
        return None
    normal = tokenizer.normalizer.normalize_str if tokenizer.normalizer else str
    blank = (" ", replacement)
    if not all(normal(text).startswith(blank) for text in (" a", "  a", " \ta", " \na", " \ra")):
        return None
    kinds = np.full(0x110000, UNKNOWN, dtype=np.uint8)
    kinds[ord(" ")] = SPACE
    for character in "\t\n\r":
        # Where it becomes a space it begins a word as one does.
        kinds[ord(character)] = TAB if normal(f"{character}a").startswith(blank) else LINE_END
    for point in range(0x21, 0x530):  # Latin, Greek and Cyrillic
        c = chr(point)
        seen = normal(c)
        if c.isprintable() and seen and not any(s.isspace() or s == replacement for s in seen):
            kinds[point] = OTHER if normal(f"a{c} a") == normal(f"a{c}") + normal(" a") else UNKNOWN
    begins = pairs([OTHER], [SPACE, TAB])
    return Boundaries(kinds, verdict_table(set(), begins), kind_mask((OTHER, SPACE, TAB, LINE_END)))


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
