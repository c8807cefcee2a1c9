"""Token ids of pieces of text seen before, so that each is encoded once; of bounded size."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from itertools import repeat

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.ragged import Int64, Ragged, concatenate

MEMO_BYTES = 2**28
"""A memo that has grown beyond this forgets."""

_ENTRY_BYTES = 160
"""Of a piece beside its text and ids: its place in the dictionary, which doubles when it is full, and its row."""

_LONGEST = 256
"""Characters of a piece beyond which it is not kept, since it will hardly come again."""


class Memo:
    """The ids of pieces, each encoded when it comes first.

    A full memo forgets the half of its pieces that were used longest ago. What it holds decides about speed alone.
    Threads may share one, as those of a runner's worker do; they take turns.
    """

    def __init__(self, encode: Callable[[list[str]], Ragged], limit_bytes: int = MEMO_BYTES):
        """With the function that gives the int32 ids of pieces it does not hold."""
        self._encode = encode
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._calls = 0
        self.held_bytes = 0
        """Memory that it takes, estimated from above."""
        self._row_of: dict[str, int] = {}
        self._ids = concatenate([], np.int32)
        """By row."""
        self._last_call = np.zeros(0, np.int32)
        """int32 [rows]: the last call that used it."""

    def __len__(self) -> int:
        return len(self._row_of)

    def ids_of(self, pieces: list[str], order: npt.NDArray[np.integer]) -> Ragged:
        """The ids of `pieces[order[i]]` for every i, int32.

        Args:
          pieces: distinct.
          order: int [any number], indices of them.
        """
        with self._lock:
            return self._ids_of(pieces, order)

    def _ids_of(self, pieces: list[str], order: npt.NDArray[np.integer]) -> Ragged:
        self._calls += 1
        rows = np.fromiter(map(self._row_of.get, pieces, repeat(-1)), dtype=np.int64, count=len(pieces))
        self._last_call[rows[rows >= 0]] = self._calls
        known = self._ids
        if len(new := np.flatnonzero(rows < 0)):
            known = self._learn(pieces, rows, new)
        taken = _take(known, rows.astype(np.int32)[order])
        while self.held_bytes > self._limit_bytes:
            self._forget()
        return taken

    def _learn(self, pieces: list[str], rows: Int64, new: Int64) -> Ragged:
        """Encode new pieces and give them rows; returns all ids, also of the last rows, which are not kept."""
        sizes = np.fromiter((len(pieces[i]) for i in new.tolist()), dtype=np.int64, count=len(new))
        new = np.concatenate([new[sizes <= _LONGEST], new[sizes > _LONGEST]])
        texts = [pieces[i] for i in new.tolist()]
        found = self._encode(texts)
        count, first = int((sizes <= _LONGEST).sum()), len(self._ids)
        rows[new] = np.arange(first, first + len(new))
        known = concatenate([self._ids, found], np.int32)
        # The names come last: should memory end before, a runner that tries again finds no name without its ids.
        kept = first + count
        self._last_call = np.append(self._last_call[:first], np.full(count, self._calls, np.int32))
        self._ids = Ragged(known.flat[: known.offsets[kept]], known.offsets[: kept + 1])
        self.held_bytes += (
            sum(map(sys.getsizeof, texts[:count])) + count * _ENTRY_BYTES + 4 * int(found.offsets[count])
        )
        self._row_of.update(zip(texts[:count], range(first, kept), strict=True))
        return known

    def _forget(self) -> None:
        texts = list(self._row_of)
        rows = np.fromiter(self._row_of.values(), dtype=np.int64, count=len(texts))
        newest = np.sort(np.argsort(-self._last_call[rows], kind="stable")[: len(texts) // 2])
        chosen = [texts[i] for i in newest.tolist()]
        self._ids, self._last_call = self._ids.take(rows[newest]), self._last_call[rows[newest]]
        self._row_of = dict(zip(chosen, range(len(chosen)), strict=True))
        self.held_bytes = sum(map(sys.getsizeof, chosen)) + len(chosen) * _ENTRY_BYTES + self._ids.flat.nbytes


def _take(ids: Ragged, rows: npt.NDArray[np.int32]) -> Ragged:
    """Rows of ids, most of one or two: to Arrow they are byte strings, and it copies them fastest."""
    edges = (ids.offsets * ids.flat.itemsize).astype(np.int32)
    strings = pa.BinaryArray.from_buffers(pa.binary(), len(ids), [None, pa.py_buffer(edges), pa.py_buffer(ids.flat)])
    _, places, data = strings.take(pa.array(rows)).buffers()
    offsets = np.frombuffer(places, dtype=np.int32, count=len(rows) + 1).astype(np.int64) // ids.flat.itemsize
    return Ragged(np.frombuffer(data or b"", dtype=ids.flat.dtype, count=offsets[-1]), offsets)
