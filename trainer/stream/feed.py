"""Feeds batches with rows: which windows a rank holds, which it reads next. Knows order and memory, no objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from trainer.stream.columns import Limits, Piece
from trainer.stream.lanes import I64, Lanes
from trainer.stream.plan import GlobalBatch, StreamPlan
from trainer.stream.reader import RowGroupReader, Ticket
from trainer.stream.rows import Bool, RowStore

_STEPS_AHEAD = 512
"""How many steps before its first batch a bucket, or the next epoch of it, is begun to be read."""


_BLOCK = 4096
"""Positions that are located together."""

_EMPTY = np.empty(0, dtype=np.int64)


@dataclass(eq=False, kw_only=True)
class _Pass:
    """One bucket in one epoch, as far as this rank reads it."""

    lanes: Lanes
    rank: int
    world_size: int
    first_row: npt.NDArray[np.int64]
    """int64 [windows]: where a window's rows begin in the store, −1 for windows that are not there."""
    loading: dict[int, tuple[Ticket, int]] = field(default_factory=dict)
    """By window, what is being read and the first row of the slot that it is put into."""
    held: dict[int, int] = field(default_factory=dict)
    """By lane, the window that is in the store."""
    next: list[int] = field(default_factory=list)
    """Windows to be read as soon as there is room, the soonest first."""
    block: tuple[int, I64, I64] = field(default_factory=lambda: (0, _EMPTY, _EMPTY))
    """The first of a run of this rank's positions, and where they are."""

    def located(self, begin: int, end: int) -> tuple[I64, I64]:
        """(window, place within it) of this rank's positions `begin` to `end`, the k-th being rank + k · world_size.

        Found for many batches at a time: one costs almost as much as a hundred.
        """
        first, windows, places = self.block
        if not (first <= begin and end <= first + len(windows)):
            last = min(max(end, begin + _BLOCK), -((self.rank - self.lanes.rows) // self.world_size))
            first, (windows, places) = (
                begin,
                self.lanes.locate(np.arange(begin, last) * self.world_size + self.rank),
            )
            self.block = first, windows, places
        return windows[begin - first : end - first], places[begin - first : end - first]


class Feed:
    """The rows of one rank's batches. Steps come in ascending order, from one thread."""

    def __init__(
        self,
        plan: StreamPlan,
        reader: RowGroupReader,
        *,
        limits: Callable[[int], Mapping[str, Limits]],
        rank: int,
        world_size: int,
        last_step: int | None,
    ) -> None:
        self._plan, self._reader, self._limits = plan, reader, limits
        self._rank, self._world_size, self._last_step = rank, world_size, last_step
        self._passes: dict[tuple[int, int], _Pass] = {}
        self._stores: dict[int, RowStore] = {}
        self._coming: list[tuple[int, int, int]] = []
        """(first step, bucket, epoch) of passes that are not begun, in order."""
        self._begun = False
        self._now = (-1, -1)
        """Epoch and stage of the last batch."""

    def rows(self, batches: Sequence[GlobalBatch]) -> tuple[RowStore, I64, I64]:
        """A rank's rows of some batches, in memory.

        Args:
          batches: successive ones of one bucket in one epoch.

        Returns:
          (where they are, int64 [batches, N] which rows of it, int64 [batches, N] their positions in the bucket's
          stream); where a batch has fewer than N rows for this rank, the null row at position 0 stands behind them.

        Raises:
          DataError: a row group cannot be read, and is not to be skipped.
        """
        batch = batches[0]
        if not self._begun:
            self._begun, self._coming = True, self._plan.beginnings(batch.epoch)
        if self._now != (now := (batch.epoch, self._plan.buckets[batch.bucket].stage)):
            self._now = now
            self._forget(batch)
        current = self._pass(batch.bucket, batch.epoch)
        self._read_ahead()
        # The k-th of this rank's positions is rank + k · world_size.
        edges = np.array([*(b.begin for b in batches), batches[-1].end])
        edges = -((self._rank - edges) // self._world_size)
        begin, end = int(edges[0]), int(edges[-1])
        windows, places = current.located(begin, end)
        outdated: list[int] = []
        first_rows = current.first_row[windows]
        if len(windows) and first_rows.min() < 0:
            needed = np.unique(windows[first_rows < 0]).tolist()
            for window in needed:
                if not self._start(batch.bucket, current, window):
                    self._make_room(batch.bucket)
                    self._start(batch.bucket, current, window)
            self._look_ahead(batch)
            for window in needed:
                outdated += self._load(current, window)
            first_rows = current.first_row[windows]
        else:
            self._look_ahead(batch)
        store = self._store(batch.bucket, current.lanes)
        rows, positions = first_rows + places, np.arange(begin, end) * self._world_size + self._rank
        for window in outdated:
            # What is put there is begun to be read by the next call, and by then these batches are made.
            store.release(int(current.first_row[window]))
            current.first_row[window] = -1
        most = -(-self._plan.buckets[batch.bucket].batch_rows // self._world_size)
        there = np.arange(most) < np.diff(edges)[:, None]
        return store, _spread(rows, there, store.null_row), _spread(positions, there, 0)

    def _pass(self, bucket: int, epoch: int) -> _Pass:
        if (bucket, epoch) not in self._passes:
            lanes = self._plan.lanes(bucket, epoch)
            self._passes[bucket, epoch] = _Pass(
                lanes=lanes,
                rank=self._rank,
                world_size=self._world_size,
                first_row=np.full(lanes.windows, -1, dtype=np.int64),
            )
        return self._passes[bucket, epoch]

    def _forget(self, batch: GlobalBatch) -> None:
        """Free what is over: earlier epochs and earlier stages."""
        for bucket, epoch in list(self._passes):
            if (epoch, self._plan.buckets[bucket].stage) < self._now:
                over = self._passes.pop((bucket, epoch))
                # A rank may have begun to read a lane's last window of which the other ranks take all rows.
                for ticket, _ in over.loading.values():
                    self._reader.forget(ticket)
                first_rows = [first for _, first in over.loading.values()]
                first_rows += [int(over.first_row[window]) for window in over.held.values()]
                for first in first_rows:
                    self._stores[bucket].release(first)
        kept = {bucket for bucket, _ in self._passes} | {batch.bucket}
        for bucket in [b for b in self._stores if b not in kept]:
            del self._stores[bucket]

    def _store(self, bucket: int, lanes: Lanes) -> RowStore:
        if bucket not in self._stores:
            self._stores[bucket] = RowStore(
                self._limits(bucket),
                slot_rows=lanes.window_row_groups * int(lanes.group_rows.max()),
                slots=2 * min(lanes.windows, lanes.count),
            )
        return self._stores[bucket]

    def _start(self, bucket: int, current: _Pass, window: int) -> bool:
        """Begin to read a window, if it is not there or coming; False if there is no room for it."""
        if window in current.loading or current.first_row[window] >= 0:
            return True
        lanes, store = current.lanes, self._store(bucket, current.lanes)
        first = store.take()
        if first is None:
            return False
        groups = lanes.window_groups(window)
        rows = lanes.group_rows[groups].tolist()

        def put(pieces: list[Piece | None]) -> None:
            store.put(first, pieces, rows, lanes.row_order(window))

        current.loading[window] = self._reader.start(bucket, groups.tolist(), put), first
        return True

    def _make_room(self, bucket: int) -> None:
        """Double a store, once nobody writes to it; for row groups so small that a batch holds many of a lane."""
        for (some, _), current in self._passes.items():
            for ticket, _ in current.loading.values() if some == bucket else ():
                wait([ticket.future])
        self._stores[bucket].grow(2 * self._stores[bucket].slots)

    def _load(self, current: _Pass, window: int) -> list[int]:
        """Wait for a window, note the one after it; returns the window of its lane that is over by then."""
        lanes = current.lanes
        if (following := lanes.next_window(window)) is not None:
            current.next.append(following)
        if window in current.next:  # there was no room before it was needed
            current.next.remove(window)
        ticket, first = current.loading.pop(window)
        self._reader.finish(ticket)
        current.first_row[window] = first
        lane = lanes.lane_of(window)
        over = [current.held[lane]] if lane in current.held else []
        current.held[lane] = window
        return over

    def _read_ahead(self) -> None:
        """Begin to read what comes next, as far as there is room: of this epoch before the next one."""
        for (bucket, _), some in sorted(self._passes.items(), key=lambda item: item[0][1]):
            while some.next and self._start(bucket, some, some.next[0]):
                some.next.pop(0)

    def _look_ahead(self, batch: GlobalBatch) -> None:
        """Begin to read the first windows of what is soon to come, up to the next epoch."""
        while self._coming and self._coming[0][0] <= batch.step + _STEPS_AHEAD:
            step, bucket, epoch = self._coming.pop(0)
            if not self._coming and (self._last_step is None or step < self._last_step):
                self._coming = self._plan.beginnings(epoch + 1)
            if step <= batch.step or (self._last_step is not None and step >= self._last_step):
                continue
            if epoch > batch.epoch + 1:
                self._coming.insert(0, (step, bucket, epoch))
                break
            if (bucket, epoch) not in self._passes:
                first = self._pass(bucket, epoch)
                # Each lane gives one row in turn, so these positions touch the first window of every lane.
                first.next = np.unique(first.located(0, -(-first.lanes.count // self._world_size))[0]).tolist()


def _spread(values: I64, there: Bool, otherwise: int) -> I64:
    """Values one after the other in the places that are there, int64 of the shape of `there`."""
    spread = np.full(there.shape, otherwise, dtype=np.int64)
    spread[there] = values
    return spread
