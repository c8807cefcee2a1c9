r"""Safe cuts of BERT's tokenizer.

The normalizer sees one character at a time (decomposition reorders marks, but never past whitespace, a
punctuation mark or an ideograph), and each whitespace character, punctuation mark and, where the normalizer sets them
apart, ideograph ends a word on both sides. So there may be a cut on either side of each.
"""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer

from transforms.boundaries.cuts import Boundaries, kind_mask, verdict_table
from transforms.boundaries.kinds import IDEOGRAPH, OTHER, SPACE, TAB, UNKNOWN, matched, pairs, plane


def bert_boundaries(tokenizer: Tokenizer) -> Boundaries | None:
    """The safe cuts; None where a space ends no word."""
    kinds = np.full(0x110000, UNKNOWN, dtype=np.uint8)

    def words(text: str) -> list[str]:
        normal = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
        return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]

    for point in matched(r"\s").tolist():
        if words(f"a{chr(point)}a") == ["a", "a"]:
            kinds[point] = TAB
    if kinds[ord(" ")] != TAB:
        return None
    kinds[ord(" ")] = SPACE
    # Between letters, every mark that ends a word stands alone.
    alone = {word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str("a".join(plane())) if len(word) == 1}
    for mark in alone - {"a"}:
        if words(f"a{mark}a") == ["a", mark, "a"]:
            kinds[ord(mark)] = OTHER
    for begin, end in ((0x3400, 0x4DC0), (0x4E00, 0xA000)):
        block = [chr(c) for c in range(begin, end)]
        if words("a" + "a".join(block) + "a") == [w for c in block for w in ("a", c)] + ["a"]:
            kinds[begin:end] = IDEOGRAPH
    blank, apart = (SPACE, TAB), (OTHER, IDEOGRAPH)
    inked = (UNKNOWN, *apart)
    always = pairs(inked, blank) | pairs([TAB], inked) | pairs(inked, apart) | pairs(apart, inked)
    return Boundaries(kinds, verdict_table(always, pairs(blank, [SPACE])), kind_mask(inked))
