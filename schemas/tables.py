"""Arrow schemas of everything on disk, and how it is encoded as Parquet."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FORMAT_VERSION = 1
"""Version of the token store and dataset layout; a reader refuses another one."""

FINGERPRINT_KEY = b"shardmill.fingerprint"
"""Key of the fingerprint in a Parquet file's key-value metadata."""

ROW_GROUP_TOKENS = 2**18
"""Least tokens of a shard's row group, where the shard has them."""

TOKEN_STORE = pa.schema(
    [
        pa.field("doc_key", pa.uint64(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("ids", pa.list_(pa.int32()), nullable=False),
    ]
)
"""A part of the token store; one row a document, ids without special tokens."""

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
        pa.field("split", pa.string(), nullable=False),
        pa.field("stage", pa.int32(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("part", pa.int32(), nullable=False),
        pa.field("row_group", pa.int32(), nullable=False),
        pa.field("copy", pa.int32(), nullable=False),
        pa.field("token_begin", pa.int64(), nullable=False),
        pa.field("token_end", pa.int64(), nullable=False),
    ]
)
"""One row a slice of a chunk that goes into a block.

A slice takes the documents whose first token, counted within the chunk, is in [token_begin, token_end).
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

_PROVENANCE = [
    pa.field("input_ids", pa.list_(pa.int32()), nullable=False),
    pa.field("length", pa.int32(), nullable=False),
    pa.field("source", pa.dictionary(pa.int32(), pa.string()), nullable=False),
    pa.field("doc_keys", pa.list_(pa.uint64()), nullable=False),
    pa.field("doc_offsets", pa.list_(pa.int64()), nullable=False),
    pa.field("doc_lengths", pa.list_(pa.int32()), nullable=False),
    pa.field("copy", pa.int32(), nullable=False),
]

_MASKS = [
    pa.field("mask_positions", pa.list_(pa.int32()), nullable=False),
    pa.field("mask_labels", pa.list_(pa.int32()), nullable=False),
]

_TARGET = [pa.field("target_ids", pa.list_(pa.int32()), nullable=False)]

EXAMPLES: dict[str, pa.Schema] = {
    "causal": pa.schema(_PROVENANCE),
    "mlm": pa.schema(_PROVENANCE + _MASKS),
    "span_corruption": pa.schema(_PROVENANCE + _TARGET),
}
"""Columns of a shard by kind of objective."""


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
    return value.decode() if value is not None else None
