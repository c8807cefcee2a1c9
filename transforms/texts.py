"""Texts as arrays: the UTF-8 of many end to end, and where each begins."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.ragged import Int64, Ragged


def utf8(texts: list[str]) -> Ragged:
    """Texts as uint8 sequences, their UTF-8."""
    whole = "".join(texts)
    data = whole.encode()
    sizes = map(len, texts) if len(data) == len(whole) else (len(text.encode()) for text in texts)
    lengths = np.fromiter(sizes, dtype=np.int64, count=len(texts))
    return Ragged.from_lengths(np.frombuffer(data, dtype=np.uint8), lengths)


def strings(texts: Ragged) -> list[str]:
    """Texts as strings again."""
    data, edges = texts.flat.tobytes(), texts.offsets.tolist()
    return [data[a:b].decode() for a, b in pairwise(edges)]


def is_utf8(texts: Ragged) -> bool:
    """Whether each of the texts is valid UTF-8."""
    try:
        texts.flat.tobytes().decode()
    except UnicodeDecodeError:
        return False
    # All together may be valid where one ends, and the next begins, inside a character.
    begins = texts.offsets[:-1][texts.lengths > 0]
    return not ((texts.flat.view(np.uint8)[begins] & 0xC0) == 0x80).any()


def from_binary(column: pa.Array) -> Ragged:
    """A `large_binary` column without nulls, not copied."""
    if not len(column):
        return utf8([])
    _, edges, data = column.buffers()
    offsets: Int64 = np.frombuffer(edges, dtype=np.int64, count=len(column) + 1, offset=8 * column.offset)
    flat = np.frombuffer(data or b"", dtype=np.uint8)[offsets[0] : offsets[-1]]
    return Ragged(flat, offsets - offsets[0])


def is_visible(texts: Ragged) -> npt.NDArray[np.bool_]:
    """bool [texts]: False for those of whitespace only, as `str.strip` knows it."""
    visible = texts.lengths > 0
    first = texts.flat.view(np.uint8)[texts.offsets[:-1][visible]]
    # Any other ASCII character is no whitespace; the rest are looked at one by one, and are few.
    sure = visible.copy()
    sure[visible] = (first > 0x20) & (first < 0x7F)
    for i in np.flatnonzero(visible & ~sure).tolist():
        visible[i] = bool(texts.flat[texts.offsets[i] : texts.offsets[i + 1]].tobytes().decode().strip())
    return visible
