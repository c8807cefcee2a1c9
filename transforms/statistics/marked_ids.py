"""Ids of rows end to end, with the places of those that are special: what laws of frames and sentinels look at.

Rows are mostly text, so they are searched for special ids once, tile by tile in the processor's cache; all else is
decided at the few places that were found.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from transforms.ragged import Int64, Ragged, sequences_at
from transforms.statistics.context import AuditContext

_TILE_IDS = 2**15
"""Ids looked up at a time: 256 KB of indices."""


@dataclass(frozen=True)
class MarkedIds:
    """Sequences of ids of the vocabulary."""

    context: AuditContext
    ids: npt.NDArray[np.int32]
    """[ids], those outside the vocabulary replaced by one of text, so that tables can be indexed."""
    offsets: Int64
    """[rows + 1], where each row starts."""
    outside: Int64
    """Places of ids outside the vocabulary, ascending."""

    @classmethod
    def of(cls, stored: Ragged, context: AuditContext) -> MarkedIds:
        """From a list column of ids."""
        ids = stored.flat.astype(np.int32, copy=False)
        if len(ids) == 0 or (ids.min() >= 0 and ids.max() < context.vocab_size):
            return cls(context, ids, stored.offsets, np.zeros(0, np.int64))
        outside = np.flatnonzero((ids < 0) | (ids >= context.vocab_size))
        safe = ids.copy()
        safe[outside] = context.any_text_id
        return cls(context, safe, stored.offsets, outside)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @functools.cached_property
    def lengths(self) -> Int64:
        """[rows]."""
        return np.diff(self.offsets)

    @functools.cached_property
    def special_at(self) -> Int64:
        """[specials], places of special ids, ascending."""
        found = [
            begin + self.context.special_places(self.ids[begin : begin + _TILE_IDS])
            for begin in range(0, len(self.ids), _TILE_IDS)
        ]
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    @functools.cached_property
    def special_row(self) -> Int64:
        """[specials], their rows."""
        return sequences_at(self.offsets, self.special_at)

    @functools.cached_property
    def special_ids(self) -> npt.NDArray[np.int32]:
        """[specials]."""
        return self.ids[self.special_at]

    def ends_alone(self, special: int) -> npt.NDArray[np.bool_]:
        """[rows], whether a special id is a row's last and occurs nowhere else in it."""
        which = np.flatnonzero(self.special_ids == special)
        row = self.special_row[which]
        alone = np.bincount(row, minlength=len(self)) == 1
        last = np.zeros(len(self), dtype=bool)
        last[row[self.special_at[which] == self.offsets[row + 1] - 1]] = True
        return alone & last
