"""Delivers one rank's batches from a step on, while a step is trained the next ones on a thread. Knows no state."""

from __future__ import annotations

import collections
import functools
import time
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from schemas.errors import DataError
from schemas.manifest import Manifest
from schemas.storage import Location
from trainer.stream.batches import Batch, BatchKind, BatchRows, assemble, column_limits, split, target_length
from trainer.stream.columns import Limits
from trainer.stream.feed import Feed
from trainer.stream.plan import GlobalBatch, StreamPlan
from trainer.stream.pool import DaemonPool
from trainer.stream.reader import Fault, RowGroupReader

_BATCHES_AHEAD = 2
"""Batches that are ready or being made while one is in use."""

_RUN_TOKENS = 1 << 19
"""Tokens, padding included, that a rank makes at a time at most, where its batches are smaller. In batches of 2**14 a
causal token took 13.5 ns when each was made by itself, 9.7 in runs of 2**17, 9.1 of 2**19 and 10.4 of 2**20."""

_AWAY_SECONDS = 0.001
"""Who takes longer to come back for the next batch trains; who takes less only reads."""

Delivered = tuple[Batch, int]
"""A batch, and how many of its rows could not be read."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Delivery:
    """What batches are made of, and for whom; the arguments are those of `Stream`."""

    dataset: Location
    manifest: Manifest
    plan: StreamPlan
    kind: BatchKind
    documents: bool
    sources: bool
    rank: int
    world_size: int
    last_step: int | None
    """One past the last step; None for a stream without end."""
    faults: list[Fault]
    """Filled with what could not be read."""
    reading: Mapping[str, Any]
    """How to read: arguments of `RowGroupReader`."""

    def batches(self, step: int) -> Generator[Delivered, None, None]:
        """(batch, how many of its rows could not be read) of each step from the given one on.

        For a loop that only reads, batches are made a run of steps at a time, in which those of one bucket are a
        single gather: what is done once a batch, not once a token, would take half the time. Runs begin with one
        step, so that the first batch comes at once, and double.

        While a step is trained, the batches after it are made on a thread, one by one: by its end the caches are
        cold, and what takes 60 µs in a bare loop takes 500; to free the memory of a run takes 10 ms then. A bare loop
        comes back at once, and waking a thread would cost it more than the batch.

        Raises:
          DataError: a row group cannot be read, and is not to be skipped; after the batches before it.
        """
        reader = RowGroupReader(
            self.dataset,
            self.plan,
            fingerprint=self.manifest.fingerprint,
            limits=self._limits,
            faults=self.faults,
            **self.reading,
        )
        feed = Feed(
            self.plan,
            reader,
            limits=self._limits,
            rank=self.rank,
            world_size=self.world_size,
            last_step=self.last_step,
        )
        maker = DaemonPool(1)
        ready: collections.deque[Delivered] = collections.deque()
        coming: collections.deque[Future[list[Delivered]]] = collections.deque()
        end = float("inf") if self.last_step is None else self.last_step
        most = max(1, _RUN_TOKENS * self.world_size // self._tokens)
        count, away_seconds = 1, 0.0
        try:
            while True:
                if coming and not ready:
                    ready.extend(coming.popleft().result())
                elif not ready:
                    steps = range(step, int(min(step + count, end)))
                    if not steps:
                        return
                    try:
                        ready.extend(self._run(feed, steps))
                    except DataError:
                        if len(steps) == 1:
                            raise
                        most = count = 1  # what the last of these steps lacks, the first ones may have
                        continue
                    step, count = steps.stop, min(2 * count, most)
                if away_seconds > _AWAY_SECONDS:
                    count = 1
                    while len(ready) + len(coming) <= _BATCHES_AHEAD and step < end:
                        coming.append(maker.submit(functools.partial(self._run, feed, range(step, step + 1))))
                        step += 1
                handed_over = time.perf_counter()
                yield ready.popleft()
                away_seconds = time.perf_counter() - handed_over
        finally:
            maker.close()
            reader.close()

    @property
    def _tokens(self) -> int:
        """Of the largest global batch, padding included."""
        return max(b.batch_rows * b.length for b in self.plan.buckets)

    def _run(self, feed: Feed, steps: range) -> list[Delivered]:
        """This rank's rows of some global batches, and how many of each could not be read."""
        some: dict[tuple[int, int], list[GlobalBatch]] = {}
        for batch in map(self.plan.batch, steps):
            some.setdefault((batch.epoch, batch.bucket), []).append(batch)
        made: dict[int, Delivered] = {}
        for batches in some.values():
            made.update(zip([b.step for b in batches], self._together(feed, batches), strict=True))
        return [made[step] for step in steps]

    def _together(self, feed: Feed, batches: list[GlobalBatch]) -> Iterator[Delivered]:
        """As `_run`, of successive batches of one bucket in one epoch."""
        bucket = self.plan.buckets[batches[0].bucket]
        store, rows, positions = feed.rows(batches)
        some = BatchRows(
            store=store,
            rows=rows.ravel(),
            positions=positions.ravel(),
            name=(batches[0].epoch, bucket.stage, bucket.length),
            length=bucket.length,
            target_length=target_length(self.manifest, bucket.length),
            seed=self.plan.seed,
            special_ids=self.manifest.tokenizer.special_ids,
            pad_id=self.manifest.tokenizer.pad_id,
        )
        skipped = [0] * len(batches)
        if self.faults:
            empty = store.lengths("input_ids", rows) == 0
            skipped = (empty & (rows != store.null_row)).sum(axis=1).tolist()
        all_rows = assemble(self.kind, some, documents=self.documents, sources=self.sources)
        return zip(split(all_rows, len(batches)), skipped, strict=True)

    def _limits(self, bucket: int) -> dict[str, Limits]:
        length = self.plan.buckets[bucket].length
        return column_limits(
            self.kind,
            self.manifest,
            length,
            target_length(self.manifest, length),
            documents=self.documents,
            sources=self.sources,
        )
