"""The running check that pieces have the ids that the tokenizer gives: a sample of documents is encoded whole.

The proof in `transforms.boundaries` is of the tokenizers that were looked at. This is what stops a job if a tokenizer
or a later version of `tokenizers` is not what the proof takes it for.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from schemas.errors import DataError
from schemas.keys import draw, happens
from transforms.encode import Encoder, encode_batch
from transforms.ragged import Int64, Ragged
from transforms.texts import strings

CHECKED_SHARE = 1 / 128
"""Of the documents, drawn by their keys, so that every run checks the same ones."""

CHECKED_BYTES = 2**16
"""Of a longer document only the beginning is checked, encoded once more for that."""

_SHOWN_TOKENS = 4


def check_ids(
    encoder: Encoder, texts: Ragged, ids: Ragged, keys: npt.NDArray[np.uint64], doc_ids: list[str], where: str
) -> None:
    """Compare the ids of a keyed sample of documents with those of the tokenizer.

    Args:
      encoder: what encoded the texts.
      texts: uint8, the UTF-8 of each document.
      ids: int32, the documents' ids.
      keys: uint64 [documents].
      doc_ids: their names.
      where: what to call their origin in a message.

    Raises:
      DataError: a document's ids differ.
    """
    if encoder.boundaries is None:
        return
    rows = np.flatnonzero(happens(draw(0, "self-check", keys), CHECKED_SHARE))
    long = texts.lengths[rows] > CHECKED_BYTES
    whole, begun = rows[~long], rows[long]
    heads = texts.slices(texts.offsets[begun], _head_bytes(texts, begun))
    for documents, found, sample in (
        (whole, ids.take(whole), texts.take(whole)),
        (begun, encoder.encode(heads), heads),
    ):
        expected = encode_batch(encoder.tokenizer, strings(sample))
        if np.array_equal(expected.offsets, found.offsets) and np.array_equal(expected.flat, found.flat):
            continue
        for i, row in enumerate(documents.tolist()):
            _compare(encoder, expected, found, i, f"{where}, document {doc_ids[row]!r}")


def _head_bytes(texts: Ragged, rows: Int64) -> Int64:
    """How many bytes of each text, longer than `CHECKED_BYTES`, to check: whole characters."""
    sizes = np.full(len(rows), CHECKED_BYTES, dtype=np.int64)
    for _ in range(3):
        sizes -= (texts.flat[texts.offsets[rows] + sizes] & 0xC0) == 0x80
    return sizes


def _compare(encoder: Encoder, expected: Ragged, found: Ragged, i: int, where: str) -> None:
    whole, pieces = (r.flat[r.offsets[i] : r.offsets[i + 1]] for r in (expected, found))
    shared = min(len(whole), len(pieces))
    differ = np.flatnonzero(whole[:shared] != pieces[:shared])
    if not len(differ) and len(whole) == len(pieces):
        return
    at = int(differ[0]) if len(differ) else shared

    def shown(row: npt.NDArray[np.generic]) -> str:
        tokens = [encoder.tokenizer.id_to_token(int(t)) for t in row[at : at + _SHOWN_TOKENS]]
        return f"{len(row)} tokens, from token {at} on {tokens}"

    raise DataError(
        "Token ids of pieces differ from those of the whole text",
        where=where,
        expected=shown(whole),
        got=shown(pieces),
        remedy="Install the version of `tokenizers` in deploy/constraints.txt; if it is that one, this is a fault of "
        "shardmill: please report it with the tokenizer file and this document",
    )
