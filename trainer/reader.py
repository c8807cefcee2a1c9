"""Reads windows of row groups, one ahead of the consumer. Knows files; knows nothing of batches or order."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import DataError
from schemas.storage import Location
from schemas.tables import read_fingerprint
from trainer.plan import I64, StreamPlan
from trainer.ragged import Ragged

_Key = tuple[int, int, int]
"""A window: (bucket, epoch, index)."""

_MOST_FOOTERS = 256
"""Footers kept in memory, some ten kB each; parsing one takes a tenth of the time of reading a row group."""

_REMEDY = "`shardmill verify` names every bad shard; restore them, or prepare the dataset again"


@dataclass(frozen=True, eq=False, kw_only=True)
class Window:
    """The rows of some row groups of one bucket, in memory."""

    columns: dict[str, Ragged]
    order: I64
    """int64 [rows]: the row of `columns` at each of the window's positions."""


class WindowReader:
    """Reads the windows that a plan names; two threads read the next window of a bucket ahead.

    Holds two windows of each bucket at most. Calls come from one thread, a bucket's windows in ascending order;
    any other order is right too but reads more.
    """

    def __init__(
        self,
        dataset: Location,
        plan: StreamPlan,
        *,
        columns: Sequence[str],
        fingerprint: str,
        vocab_size: int,
        epochs: int | None,
    ) -> None:
        self._dataset, self._plan, self._columns = dataset, plan, list(columns)
        self._fingerprint, self._vocab_size, self._epochs = fingerprint, vocab_size, epochs
        self._footers: dict[int, pq.FileMetaData] = {}
        self._windows: dict[_Key, Window] = {}
        self._loading: dict[_Key, list[Future[list[pa.ListArray]]]] = {}
        # Decoding a row group is most of the work and leaves the interpreter's lock alone.
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="shardmill-read-ahead")
        # An iterator that is still open when the interpreter ends is closed after the modules that shutdown()
        # needs are gone; the finaliser has run by then and does nothing a second time.
        self._stop = weakref.finalize(self, self._threads.shutdown, wait=True, cancel_futures=True)

    def close(self) -> None:
        """Stop reading ahead."""
        self._stop()
        self._loading.clear()
        self._windows.clear()

    def window(self, bucket: int, epoch: int, index: int) -> Window:
        """A window, and start reading the one after it.

        Raises:
          DataError: a shard is missing, damaged, of another dataset, or not what the index of shards says.
        """
        key = (bucket, epoch, index)
        if key not in self._windows:
            following = self._following(key)
            for stale in [k for k in self._loading if k[0] == bucket and k not in (key, following)]:
                for future in self._loading.pop(stale):
                    future.cancel()
            for stale in [k for k in self._windows if k[0] == bucket]:
                del self._windows[stale]
            self._start(key)
            if following is not None:
                self._start(following)
            self._windows[key] = self._finish(key)
        return self._windows[key]

    def _following(self, key: _Key) -> _Key | None:
        bucket, epoch, index = key
        if index + 1 < self._plan.windows(bucket, epoch).count:
            return bucket, epoch, index + 1
        if self._epochs is None or epoch + 1 < self._epochs:
            return bucket, epoch + 1, 0
        return None

    def _start(self, key: _Key) -> None:
        if key in self._loading:
            return
        bucket, epoch, index = key
        b = self._plan.buckets[bucket]
        self._loading[key] = [
            self._threads.submit(self._read, int(b.shard[g]), int(b.row_group[g]), int(b.group_rows[g]), b.length)
            for g in self._plan.windows(bucket, epoch).groups_of(index)
        ]

    def _finish(self, key: _Key) -> Window:
        bucket, epoch, index = key
        parts = [future.result() for future in self._loading.pop(key)]
        widest = self._plan.buckets[bucket].length
        columns = {
            name: Ragged.of([part[i] for part in parts], widest=widest) for i, name in enumerate(self._columns)
        }
        return Window(columns=columns, order=self._plan.row_order(bucket, epoch, index))

    def _read(self, shard: int, row_group: int, rows: int, length: int) -> list[pa.ListArray]:
        """The columns of one row group, checked."""
        place = self._dataset / self._plan.paths[shard]
        where = f"{place}, row group {row_group}"
        try:
            with place.open_input() as source:
                file = pq.ParquetFile(
                    source,
                    metadata=self._footers.get(shard),
                    pre_buffer=not place.is_local,
                    page_checksum_verification=True,
                )
                self._keep_footer(file.metadata, shard, place)
                table = file.read_row_group(row_group, columns=self._columns)
        except FileNotFoundError as error:
            raise DataError("A shard is missing", where=str(place), remedy=_REMEDY) from error
        except (pa.ArrowException, OSError, IndexError) as error:
            raise DataError("A shard cannot be read", where=where, got=str(error), remedy=_REMEDY) from error
        if missing := [c for c in self._columns if c not in table.column_names]:
            raise DataError("A shard lacks a column", where=str(place), expected=", ".join(missing), remedy=_REMEDY)
        if table.num_rows != rows:
            raise DataError(
                "A row group has another number of rows than the index of shards says",
                where=where,
                expected=f"{rows} rows",
                got=f"{table.num_rows} rows",
                remedy=_REMEDY,
            )
        columns = [_one_array(table[name]) for name in self._columns]
        _check_rows(dict(zip(self._columns, columns, strict=True)), length, self._vocab_size, where)
        return columns

    def _keep_footer(self, metadata: pq.FileMetaData, shard: int, place: Location) -> None:
        """Check a shard's footer the first time, and keep it for the shard's other row groups."""
        if shard in self._footers:
            return
        found, rows = read_fingerprint(metadata), self._plan.shard_rows[shard]
        if found != self._fingerprint or metadata.num_rows != rows:
            raise DataError(
                "A shard is not the one that the dataset's index of shards describes",
                where=str(place),
                expected=f"fingerprint {self._fingerprint} and {rows} rows",
                got=f"fingerprint {found} and {metadata.num_rows} rows",
                remedy=_REMEDY,
            )
        if len(self._footers) >= _MOST_FOOTERS:
            self._footers.clear()
        self._footers[shard] = metadata


def _one_array(column: pa.ChunkedArray) -> pa.ListArray:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _check_rows(columns: dict[str, pa.ListArray], length: int, vocab_size: int, where: str) -> None:
    """Refuse what would fail later in a model, far from its cause, as an index out of range."""
    limits = {"input_ids": vocab_size, "mask_labels": vocab_size, "mask_positions": length}
    for name, column in columns.items():
        widths, values = np.diff(column.offsets.to_numpy()), column.flatten().to_numpy()
        least = 1 if name == "input_ids" else 0
        if not (least <= widths.min() and widths.max() <= length):
            raise DataError(
                f"Rows of {name} do not fit into their length bucket",
                where=where,
                expected=f"{least} to {length} elements a row",
                got=f"{widths.min()} to {widths.max()}",
                remedy=_REMEDY,
            )
        if values.size and not (values.min() >= 0 and values.max() < limits[name]):
            raise DataError(
                f"Values of {name} are out of range",
                where=where,
                expected=f"0 to {limits[name] - 1}",
                got=f"{values.min()} to {values.max()}",
                remedy=_REMEDY,
            )
    if "mask_labels" in columns:
        positions, labels = columns["mask_positions"], columns["mask_labels"]
        if not positions.value_lengths().equals(labels.value_lengths()):
            raise DataError(
                "Masked positions and their labels differ in number",
                where=where,
                expected="one element of mask_labels for each of mask_positions",
                remedy=_REMEDY,
            )
