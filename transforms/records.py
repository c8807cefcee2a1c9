"""Records of a range in file order: documents or pairs with their ids, and rejects with their reasons."""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.job import Source
from transforms.lines import EXCERPT_BYTES


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
    texts: list[str] = field(default_factory=list)
    """Documents' texts; of pairs prefix and input as one text."""
    targets: list[str] = field(default_factory=list)
    """One a text where records are pairs, otherwise empty."""
    sizes: list[int] = field(default_factory=list)
    """UTF-8 bytes of each document's text; of a pair: input without prefix, and target."""
    rejects: list[Reject] = field(default_factory=list)
    read_bytes: int = 0
    """Bytes read for this batch, everything counted."""
    text_bytes: int = 0
    """Sum of `sizes`."""
    format_bytes: int = 0
    """Bytes that are neither text nor rejected: syntax, other fields, line ends, blank lines."""

    def accept(self, doc_id: str, offset: int, texts: list[str], text_bytes: int, size_bytes: int) -> None:
        """Add a document whose record takes `size_bytes`; its texts are one or, of a pair, two."""
        self.ids.append(doc_id)
        self.offsets.append(offset)
        self.texts.append(self.source.prefix + texts[0])
        self.targets += texts[1:]
        self.sizes.append(text_bytes)
        self.read_bytes += size_bytes
        self.text_bytes += text_bytes
        self.format_bytes += size_bytes - text_bytes

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
        return (self.texts[row], self.targets[row]) if self.targets else (self.texts[row],)
