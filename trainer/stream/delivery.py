"""Delivers one rank's batches from a step on, while a step is trained the next ones on a thread. Knows no state."""

from __future__ import annotations

import collections
import functools
import time
from collections.abc import Generator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas.manifest import Manifest
from schemas.storage import Location
from trainer.stream.batches import Batch, BatchKind, BatchRows, assemble, column_limits, target_length
from trainer.stream.columns import Limits
from trainer.stream.feed import Feed
from trainer.stream.plan import StreamPlan
from trainer.stream.pool import DaemonPool
from trainer.stream.reader import Fault, RowGroupReader

_BATCHES_AHEAD = 2
"""Batches that are ready or being made while one is in use."""

_AWAY_SECONDS = 0.001
"""Who takes longer to come back for the next batch trains; who takes less only reads."""


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

    def batches(self, step: int) -> Generator[tuple[Batch, int], None, None]:
        """(batch, how many of its rows could not be read) of each step from the given one on.

        While a step is trained, the batches after it are made on a thread: by its end the caches are cold, and what
        takes 60 µs in a bare loop takes 500. A bare loop comes back at once, and waking a thread would cost it more
        than the batch.

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
        coming: collections.deque[Future[tuple[Batch, int]]] = collections.deque()
        end = float("inf") if self.last_step is None else self.last_step
        away_seconds = 0.0
        try:
            while step < end:
                made = coming.popleft().result() if coming else self._batch(feed, step)
                step += 1
                if away_seconds > _AWAY_SECONDS:
                    for later in range(step + len(coming), int(min(step + _BATCHES_AHEAD, end))):
                        coming.append(maker.submit(functools.partial(self._batch, feed, later)))
                handed_over = time.perf_counter()
                yield made
                away_seconds = time.perf_counter() - handed_over
                del made  # a batch that is no longer in use is not kept while the next one is waited for
        finally:
            maker.close()
            reader.close()

    def _batch(self, feed: Feed, step: int) -> tuple[Batch, int]:
        """This rank's rows of a global batch, and how many of them could not be read."""
        batch = self.plan.batch(step)
        bucket = self.plan.buckets[batch.bucket]
        store, rows, positions = feed.rows(batch)
        padding = -(-bucket.batch_rows // self.world_size) - len(rows)
        if padding:
            rows = np.concatenate([rows, np.full(padding, store.null_row)])
            positions = np.concatenate([positions, np.zeros(padding, dtype=np.int64)])
        some = BatchRows(
            store=store,
            rows=rows,
            positions=positions,
            name=(batch.epoch, bucket.stage, bucket.length),
            length=bucket.length,
            target_length=target_length(self.manifest, bucket.length),
            seed=self.plan.seed,
            special_ids=self.manifest.tokenizer.special_ids,
        )
        skipped_rows = int((store.lengths("input_ids", rows) == 0).sum()) - padding if self.faults else 0
        pad_id = self.manifest.tokenizer.pad_id
        return assemble(self.kind, some, pad_id=pad_id, documents=self.documents, sources=self.sources), skipped_rows

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
