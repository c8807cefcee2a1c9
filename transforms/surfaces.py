"""What tokens look like in running text, one by one or in stretches that start anywhere.

A tokenizer's own decoder works on whole texts: it drops the space before a first piece and cannot show part of a
character. Here each id has its own bytes, so stretches of a row can be shown apart and still read as one text.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from transforms.vocabulary import load_tokenizer

_BYTE_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class Surfaces:
    """Tokens' bytes, by id.

    A WordPiece that starts a word begins with a space; byte-level and Metaspace pieces carry their own.
    """

    names: dict[int, str]
    """Tokens as the vocabulary writes them."""
    style: str
    """`wordpiece`, `bytes` or `metaspace`."""
    continuing_prefix: str

    @classmethod
    def of(cls, data: bytes) -> Surfaces:
        """From the bytes of a `tokenizer.json`.

        Raises:
          RequestError: the bytes are no tokenizer.
        """
        vocabulary = load_tokenizer(data).get_vocab(with_added_tokens=True)
        spec = json.loads(data)
        model = spec.get("model") or {}
        around = json.dumps([spec.get("pre_tokenizer"), spec.get("decoder")])
        is_wordpiece = model.get("type") in ("WordPiece", "WordLevel")
        style = "wordpiece" if is_wordpiece else "bytes" if '"ByteLevel"' in around else "metaspace"
        prefix = model.get("continuing_subword_prefix") or "##"
        return cls({i: t for t, i in vocabulary.items()}, style, prefix)

    def name(self, token: int) -> str:
        """The token as the vocabulary writes it; its number where it has no name."""
        return self.names.get(token, f"<{token}>")

    def readable(self, token: int) -> str:
        """A token as text without the space before it, its name where nothing is left."""
        return self.text([token]).strip() or self.name(token)

    def text(self, tokens: list[int]) -> str:
        """These tokens as text; a cut character shows as �."""
        return b"".join(self._bytes(self.name(t)) for t in tokens).decode("utf-8", "replace")

    def byte_lengths(self, size: int) -> npt.NDArray[np.uint16]:
        """uint16 [size], bytes of each id's text, a WordPiece's space before a word included."""
        found = np.zeros(size, np.uint16)
        known = [(token, name) for token, name in self.names.items() if token < size]
        if known:
            lengths = [min(self._byte_length(name), 2**16 - 1) for _, name in known]
            found[[token for token, _ in known]] = lengths
        return found

    def _byte_length(self, name: str) -> int:
        """Length of `_bytes`, without making them where the letters tell."""
        if self.style == "bytes" and _LETTERS.issuperset(name):
            return len(name)
        return len(self._bytes(name))

    def _bytes(self, name: str) -> bytes:
        if self.style == "wordpiece":
            continues = name.startswith(self.continuing_prefix) and name != self.continuing_prefix
            return (name[len(self.continuing_prefix) :] if continues else f" {name}").encode()
        if self.style == "bytes":
            letters = [_LETTER_BYTES.get(letter) for letter in name]
            return name.encode() if None in letters else bytes(b for b in letters if b is not None)
        fallback = _BYTE_FALLBACK.fullmatch(name)
        return bytes([int(fallback.group(1), 16)]) if fallback else name.replace("▁", " ").encode()


def _letter_bytes() -> dict[str, int]:
    """Which byte a letter of a byte-level vocabulary stands for (GPT-2, encoder.py, bytes_to_unicode)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


_LETTER_BYTES = _letter_bytes()
_LETTERS = frozenset(_LETTER_BYTES)
