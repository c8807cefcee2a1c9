"""Records of a range in file order: documents or pairs with their ids, and rejects with their reasons."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from schemas.job import Source
from transforms.lines import EXCERPT_BYTES
from transforms.ragged import Ragged
from transforms.texts import strings


@dataclass(frozen=True)
class Reject:
    """A record that is no document."""

    offset: int
    """Byte in the decompressed file, or row of a Parquet file."""
    reason: str
    """invalid_utf8, invalid_json, too_long, no_tokens, damaged_file; missing_text, text_not_string, empty; of pairs
    missing_input, input_not_string, empty_input and the same of the target."""
    detail: str
    size_bytes: int
    excerpt: str


@dataclass
class Records:
    """A batch of records in file order."""

    source: Source
    ids: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    """UTF-8 bytes of each document's text; of a pair: input without prefix, and target."""
    rejects: list[Reject] = field(default_factory=list)
    read_bytes: int = 0
    """Bytes read for this batch, everything counted."""
    text_bytes: int = 0
    """Sum of `sizes`."""
    format_bytes: int = 0
    """Bytes that are neither text nor rejected: syntax, other fields, line ends, blank lines."""
    _texts: _Joined = field(default_factory=lambda: _Joined())
    _targets: _Joined = field(default_factory=lambda: _Joined())

    @property
    def texts_utf8(self) -> Ragged:
        """uint8 [bytes] by document: their texts; of pairs prefix and input as one text."""
        return self._texts.joined()

    @property
    def targets_utf8(self) -> Ragged:
        """uint8 [bytes] by document: the targets where records are pairs, otherwise nothing."""
        return self._targets.joined()

    @property
    def texts(self) -> list[str]:
        """`texts_utf8` as strings, made at every call."""
        return strings(self.texts_utf8)

    @property
    def targets(self) -> list[str]:
        """`targets_utf8` as strings, made at every call."""
        return strings(self.targets_utf8)

    def accept(self, doc_id: str, offset: int, texts: list[bytes], size_bytes: int) -> None:
        """Add a document whose record takes `size_bytes`; its texts are one or, of a pair, two."""
        text_bytes = sum(map(len, texts))
        self.ids.append(doc_id)
        self.offsets.append(offset)
        self.sizes.append(text_bytes)
        self._texts.add(self.source.prefix.encode() + texts[0] if self.source.prefix else texts[0])
        for target in texts[1:]:
            self._targets.add(target)
        self.read_bytes += size_bytes
        self.text_bytes += text_bytes
        self.format_bytes += size_bytes - text_bytes

    def accept_all(self, doc_ids: list[str], offsets: list[int], texts: Ragged) -> None:
        """Add documents of one text each, which are all that their records take."""
        size = len(texts.flat)
        self.ids += doc_ids
        self.offsets += offsets
        self.sizes += texts.lengths.tolist()
        self._texts.add_all(texts)
        self.read_bytes += size
        self.text_bytes += size

    def reject(self, offset: int, reason: str, detail: str, raw: bytes, size_bytes: int) -> None:
        """Add a reject whose record takes `size_bytes`."""
        excerpt = raw[:EXCERPT_BYTES].decode("utf-8", "replace")
        self.rejects.append(Reject(offset, reason, detail, size_bytes, excerpt))
        self.read_bytes += size_bytes

    def skip(self, size_bytes: int) -> None:
        """Count bytes that hold no record, such as a blank line."""
        self.read_bytes += size_bytes
        self.format_bytes += size_bytes

    def texts_of(self, row: int) -> tuple[str, ...]:
        """All texts of a document."""
        return tuple(t.text(row) for t in (self._texts, self._targets) if t.parts)


@dataclass
class _Joined:
    """Texts collected one by one or many at a time, joined once."""

    parts: list[bytes] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    whole: Ragged | None = None

    def add(self, text: bytes) -> None:
        self.parts.append(text)
        self.lengths.append(len(text))
        self.whole = None

    def add_all(self, texts: Ragged) -> None:
        self.parts.append(texts.flat.tobytes())
        self.lengths += texts.lengths.tolist()
        self.whole = None

    def joined(self) -> Ragged:
        if self.whole is None:
            data = np.frombuffer(b"".join(self.parts), dtype=np.uint8)
            self.whole = Ragged.from_lengths(data, np.array(self.lengths, dtype=np.int64))
        return self.whole

    def text(self, row: int) -> str:
        whole = self.joined()
        return whole.flat[whole.offsets[row] : whole.offsets[row + 1]].tobytes().decode()
