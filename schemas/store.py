"""The token store's records: input ranges and the sidecars that say a part is done."""

from __future__ import annotations

from typing import Literal

import pyarrow as pa
from pydantic import Field

from schemas.base import Frozen, Integers
from schemas.storage import Location

Split = Literal["train", "validation"]
SPLITS: tuple[Split, Split] = ("train", "validation")

CHUNK_TOKENS = 2**17
"""A chunk is closed once it holds this many tokens, so that chunks have 128k tokens and one document more."""


class InputRange(Frozen):
    """A piece of one input file, the unit of work of `tokenize`; becomes one part of the token store."""

    source: str
    part: int
    """Ordinal within the source, over its files in the order of their relative paths."""
    uri: str
    """Where the file is."""
    file: str
    """Its path relative to the deepest folder that all files of the source share; part of document ids."""
    format: Literal["jsonl", "parquet", "txt", "lines"]
    compression: Literal["gzip", "zstd", "bz2"] | None
    begin: int
    """First byte (line-based) or first row group (Parquet)."""
    end: int
    """One past the last; records belong to the range in which they start."""
    size_bytes: int
    """Size of the whole file."""
    mtime_ns: int
    cost_bytes: int
    """Rough size of the work, for balancing."""


RANGES = pa.schema(
    [
        pa.field(name, pa.int64() if model_field.annotation is int else pa.string())
        for name, model_field in InputRange.model_fields.items()
    ]
)
"""Table of input ranges; workers read their own rows of it."""


class PartSidecar(Frozen):
    """`part-NNNNN.json`: written after the part, says what it holds and from what it was made."""

    fingerprint: str
    """Of the range, the tokenizer and the reading options; another value means the part is stale."""
    sentences: str = ""
    """Fingerprint of how sentences were found; empty where the part has no sentence ends."""
    source: str
    split: Split
    part: int
    file: str
    begin: int
    documents: int
    tokens: int
    """Of pairs: input, prefix included, and target together; so in `chunks` and `lengths`."""
    text_bytes: int
    """UTF-8 bytes of the documents' texts; of pairs: input without prefix, and target."""
    size_bytes: int
    """Bytes of the Parquet file; 0 where the part holds no document and there is no file."""
    sha256: str
    """Of the Parquet file; empty where there is none."""
    chunk_documents: Integers
    """Documents of each row group."""
    chunk_tokens: Integers
    """Tokens of each row group."""
    length_tokens: Integers
    """Histogram of document lengths, ascending: lengths in tokens, long ones rounded down to 3 digits."""
    length_documents: Integers
    """Documents of each of these lengths."""
    range_bytes_read: int = 0
    """Bytes of the range, decompressed; in the train sidecar only, since both splits share one range."""
    range_records: int = 0
    format_bytes: int = 0
    """Bytes that are no text: syntax, other fields, line ends, blank lines."""
    rejected: dict[str, int] = Field(default_factory=dict)
    """Records by reason."""
    rejected_bytes: dict[str, int] = Field(default_factory=dict)

    @property
    def chunks(self) -> list[tuple[int, int]]:
        """(documents, tokens) of each row group."""
        return list(zip(self.chunk_documents, self.chunk_tokens, strict=True))

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """(length in tokens, documents) of the histogram."""
        return list(zip(self.length_tokens, self.length_documents, strict=True))


def part_location(store: Location, source: str, split: Split, part: int) -> Location:
    """Where a part of the token store is."""
    return store / source / f"split={split}" / f"part-{part:05d}.parquet"


def sidecar_location(store: Location, source: str, split: Split, part: int) -> Location:
    """Where the sidecar of a part is."""
    return store / source / f"split={split}" / f"part-{part:05d}.json"


def rejects_location(store: Location, source: str, part: int) -> Location:
    """Where the rejected records of a range are, if there are any."""
    return store / source / "rejects" / f"part-{part:05d}.parquet"
