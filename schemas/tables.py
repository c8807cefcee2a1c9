"""Arrow schemas of everything on disk, and how it is encoded as Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

FORMAT_VERSION = 1
"""Version of the token store and dataset layout; a reader refuses another one."""

FINGERPRINT_KEY = b"shardmill.fingerprint"
"""Key of the fingerprint in a Parquet file's key-value metadata."""

ROW_GROUP_TOKENS = 2**18
"""Least tokens of a shard's row group, where the shard has them."""


def token_store_schema(*, sentences: bool, pairs: bool) -> pa.Schema:
    """The schema of a part of the token store; one row a document, ids without special tokens.

    Args:
      sentences: with `sentence_ends`, offsets into `ids`, strictly ascending, the last is len(ids).
      pairs: with `target_ids`; `ids` are the input's.
    """
    names = ["ids", *(["sentence_ends"] if sentences else []), *(["target_ids"] if pairs else [])]
    return pa.schema(
        [
            pa.field("doc_key", pa.uint64(), nullable=False),
            pa.field("doc_id", pa.string(), nullable=False),
            *(pa.field(name, pa.list_(pa.int32()), nullable=False) for name in names),
        ]
    )


REJECTS = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("excerpt", pa.string(), nullable=False),
    ]
)
"""A rejected record. `offset` is the byte in the decompressed file, or the row of a Parquet file."""

PLAN = pa.schema(
    [
        pa.field("block", pa.int32(), nullable=False),
        pa.field("split", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("stage", pa.int32(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("source", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("part", pa.int32(), nullable=False),
        pa.field("row_group", pa.int32(), nullable=False),
        pa.field("copy", pa.int32(), nullable=False),
        pa.field("token_begin", pa.int64(), nullable=False),
        pa.field("token_end", pa.int64(), nullable=False),
        pa.field("resumes", pa.bool_(), nullable=False),
        pa.field("cut_at", pa.int64()),
    ]
)
"""plan.parquet: one row a slice of a chunk that goes into a block, in the order of the blocks.

`block`, and within its split and stage `shard`, number the unit of work. `source`, `part` and `row_group` name the
chunk, `copy` the pass over the source. Tokens are counted within the chunk: a slice takes the documents whose first
token is in [token_begin, token_end). Two columns make stages exact to the token. Where `resumes`, a stage begins,
and of a document that began before token_begin the slice takes the rest. `cut_at` is where the stage ends, if that
may be inside a document of this slice: none goes on beyond it.
"""

SHARDS = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("stage", pa.int32(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("block", pa.int32(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("row_group_rows", pa.int32(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
        pa.field("corpus_tokens", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("source_tokens", pa.map_(pa.string(), pa.int64()), nullable=False),
    ]
)
"""The index of shards. `tokens` counts `input_ids`; `corpus_tokens` and `source_tokens` leave special tokens
out. Every row group has `row_group_rows` rows but the last, which has what remains."""


class Column(NamedTuple):
    """A column of the examples."""

    name: str
    type: pa.DataType
    meaning: str
    """For the dataset card."""


PROVENANCE = (
    Column("input_ids", pa.list_(pa.int32()), "the model's input, special tokens included, never padding"),
    Column("length", pa.int32(), "number of input ids"),
    Column("source", pa.dictionary(pa.int32(), pa.string()), "the corpus the example comes from"),
    Column("doc_keys", pa.list_(pa.uint64()), "document key of each piece"),
    Column("doc_offsets", pa.list_(pa.int64()), "first token of each piece within its document"),
    Column("doc_lengths", pa.list_(pa.int32()), "corpus tokens of each piece"),
    Column("copy", pa.int32(), "which pass over the source"),
)
"""Columns of every example, whatever the objective."""

MASKS = (
    Column("mask_positions", pa.list_(pa.int32()), "positions that are predicted, ascending"),
    Column("mask_labels", pa.list_(pa.int32()), "the original ids at them"),
)
TARGET = (Column("target_ids", pa.list_(pa.int32()), "what the decoder gives, special tokens included"),)


def example_schema(columns: Sequence[Column]) -> pa.Schema:
    """The schema of shards whose objective has these columns beside those of every example."""
    return pa.schema([pa.field(c.name, c.type, nullable=False) for c in (*PROVENANCE, *columns)])


def parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """Keyword arguments of `pq.ParquetWriter` for token data of this schema.

    Token ids are BYTE_STREAM_SPLIT under zstd: the high bytes of small integers are almost constant, which
    makes them smaller and faster to read than plain or dictionary pages.
    """
    lists = [f.name for f in schema if pa.types.is_list(f.type)]
    scalars = [f.name for f in schema if f.name not in lists]
    texts = [f.name for f in schema if pa.types.is_dictionary(f.type) or pa.types.is_string(f.type)]
    return {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": [n for n in texts if n != "doc_id"],
        "use_byte_stream_split": [f"{n}.list.element" for n in lists],
        "write_statistics": scalars,
        "write_page_checksum": True,
        "data_page_size": 1 << 20,
        "version": "2.6",
    }


def read_fingerprint(metadata: pq.FileMetaData) -> str | None:
    """The fingerprint in a Parquet footer, None where there is none."""
    value = (metadata.metadata or {}).get(FINGERPRINT_KEY)
    return value.decode("utf-8", "replace") if value is not None else None
