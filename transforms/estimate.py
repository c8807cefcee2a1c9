"""Estimates a source's tokens from a sample of its files, for a plan before any data moves."""

from __future__ import annotations

import contextlib

import numpy as np
import pyarrow as pa

from schemas.job import Job, Source
from schemas.storage import Location
from schemas.store import InputRange
from transforms.encode import encode_batch
from transforms.read import read_records
from transforms.vocabulary import load_tokenizer

_SAMPLE_BYTES = 2**18
_PREFIX_BYTES = 2**22
_BYTES_A_TOKEN = 4.0


def estimate_source(
    job: Job, source: Source, ranges: list[InputRange], tokenizer: bytes | None
) -> tuple[int, dict[int, int]]:
    """(tokens of the train split, histogram of document lengths in tokens), from a few ranges' beginnings.

    Args:
      job: the job.
      source: the source.
      ranges: its input ranges.
      tokenizer: `tokenizer.json`, or None to take four bytes a token.
    """
    documents: list[tuple[str, ...]] = []
    read_bytes = 0
    for piece in [ranges[i] for i in sorted({0, len(ranges) // 2, len(ranges) - 1})]:
        for records in read_records(piece, source, job.limits.max_record_bytes):
            documents += map(records.texts_of, range(len(records.ids)))
            read_bytes += records.read_bytes
            if read_bytes >= _SAMPLE_BYTES:
                break
    stored: dict[str, float] = {}
    for piece in ranges:
        size = float(piece.end - piece.begin) if piece.format != "parquet" else float(piece.cost_bytes)
        stored[piece.uri] = stored.get(piece.uri, 0.0) + size * (_expansion(piece) if piece.compression else 1.0)
    if tokenizer is not None:
        loaded = load_tokenizer(tokenizer)
        sides = [encode_batch(loaded, list(side)).lengths for side in zip(*documents, strict=True)]
        lengths = np.sum([*sides, np.zeros(len(documents), np.int64)], axis=0)
    else:
        sizes = [sum(len(text.encode()) for text in texts) for texts in documents]
        lengths = np.array([round(size / _BYTES_A_TOKEN) for size in sizes], dtype=np.int64)
    scale = sum(stored.values()) / max(1, read_bytes) * (1 - job.splits.validation)
    values, counts = np.unique(lengths[lengths > 0], return_counts=True)
    return int(lengths.sum() * scale), dict(zip(values.tolist(), counts.tolist(), strict=True))


def _expansion(piece: InputRange) -> float:
    """Decompressed bytes a stored byte, measured on the file's beginning."""
    with Location(piece.uri).open_input() as file:
        prefix = file.read(_PREFIX_BYTES)
    total = 0
    # A prefix ends in the middle of the stream, which the decompressor rightly calls an error.
    with (
        contextlib.suppress(OSError),
        pa.CompressedInputStream(pa.BufferReader(prefix), piece.compression) as stream,
    ):
        while data := stream.read(2**20):
            total += len(data)
    return total / max(1, len(prefix))
