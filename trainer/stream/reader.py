"""Reads row groups of shards as flat arrays, ahead of the consumer. Knows files, and nothing of batches or order."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import DataError
from schemas.place_errors import reading_errors
from schemas.storage import Location
from schemas.tables import read_fingerprint
from trainer.stream.columns import REMEDY, Limits, Piece, check_pairs, flat
from trainer.stream.plan import StreamPlan
from trainer.stream.pool import DaemonPool

OnError = Literal["fail", "skip"]

_MOST_FOOTERS = 256
"""Footers kept in memory, some ten kB each; parsing one takes a tenth of the time of reading a row group."""

_log = logging.getLogger("shardmill.stream")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A row group that could not be read and was left out."""

    where: str
    rows: int
    reason: str


@dataclass(eq=False, kw_only=True)
class Ticket:
    """Row groups that are being read."""

    bucket: int
    groups: tuple[int, ...]
    put: Callable[[list[Piece | None]], None]
    future: Future[list[Fault]] = field(init=False)
    lock: threading.Lock = field(default_factory=threading.Lock)
    given_up: bool = False
    """True once nobody waits for them any more, and their place may belong to others."""


class RowGroupReader:
    """Reads row groups on a few threads, with retries."""

    def __init__(
        self,
        dataset: Location,
        plan: StreamPlan,
        *,
        fingerprint: str,
        limits: Callable[[int], Mapping[str, Limits]],
        threads: int,
        retries: int,
        backoff_seconds: float,
        timeout_seconds: float,
        on_error: OnError,
        checksums: bool,
        faults: list[Fault],
    ) -> None:
        self._dataset, self._plan, self._fingerprint, self._limits = dataset, plan, fingerprint, limits
        self._retries, self._backoff_seconds, self._timeout_seconds = retries, backoff_seconds, timeout_seconds
        self._on_error, self._checksums = on_error, checksums
        self._footers: dict[int, pq.FileMetaData] = {}
        # Local files are read as fast as processors decode them, and of these the one that makes batches is not to be
        # held up; a remote store is waited for.
        ahead = max(1, threads - 1) if dataset.is_local else threads
        self._pool = DaemonPool(ahead, helpers=threads - ahead)
        self._faults = faults

    def close(self) -> None:
        """Stop reading ahead."""
        self._pool.close()

    def start(self, bucket: int, groups: Sequence[int], put: Callable[[list[Piece | None]], None]) -> Ticket:
        """Begin to read row groups of a bucket; `put` gets their columns, on the thread that has read them."""
        ticket = Ticket(bucket=bucket, groups=tuple(groups), put=put)
        ticket.future = self._pool.submit(lambda: self._serve(ticket))
        return ticket

    def finish(self, ticket: Ticket) -> None:
        """Wait until a ticket's row groups have been put.

        Raises:
          DataError: a shard is missing, damaged, of another dataset, not what the index of shards says, or its
            store does not answer; and errors are not to be skipped.
        """
        try:
            with self._pool.helped():
                faults = ticket.future.result(timeout=self._timeout_seconds)
        except TimeoutError:
            faults = self._give_up(ticket)
        for fault in faults:
            self._faults.append(fault)
            _log.warning("Skipped %s: %s", fault.where, fault.reason)

    def forget(self, ticket: Ticket) -> None:
        """See to it that a ticket's row groups are not put any more, so that their place is free."""
        with ticket.lock:
            ticket.given_up = True

    def _serve(self, ticket: Ticket) -> list[Fault]:
        """Read and put a ticket's row groups; returns those that are skipped."""
        pieces: list[Piece | None] = []
        faults = []
        for group in ticket.groups:
            try:
                pieces.append(self._persist(ticket.bucket, group))
            except DataError as error:
                if self._on_error == "fail":
                    raise
                pieces.append(None)
                faults.append(self._fault(ticket.bucket, group, error))
        with ticket.lock:
            if not ticket.given_up:
                ticket.put(pieces)
        return faults

    def _give_up(self, ticket: Ticket) -> list[Fault]:
        """Leave out row groups that do not arrive."""
        self._pool.add_thread()
        error = DataError(
            "A store does not answer",
            where=self._where(ticket.bucket, ticket.groups[0]),
            expected=f"a row group within {self._timeout_seconds:g} s",
            remedy="Give it more time (read_timeout_seconds), or skip what fails (on_error='skip')",
        )
        if self._on_error == "fail":
            raise error
        with ticket.lock:
            if ticket.future.done():
                return ticket.future.result()  # it came in this very moment
            ticket.given_up = True
            ticket.put([None] * len(ticket.groups))
        return [self._fault(ticket.bucket, group, error) for group in ticket.groups]

    def _fault(self, bucket: int, group: int, error: DataError) -> Fault:
        rows = int(self._plan.buckets[bucket].group_rows[group])
        return Fault(where=self._where(bucket, group), rows=rows, reason=error.paragraph())

    def _where(self, bucket: int, group: int) -> str:
        shard, row_group = self._plan.buckets[bucket].place(group)
        return f"{self._dataset / self._plan.path(shard)}, row group {row_group}"

    def _persist(self, bucket: int, group: int) -> Piece:
        """Read a row group, again after a while if the store fails."""
        for attempt in range(self._retries + 1):
            try:
                return self._read(bucket, group)
            except DataError as error:
                if attempt == self._retries or not isinstance(error.__cause__, (pa.ArrowException, OSError)):
                    raise
                time.sleep(self._backoff_seconds * 2**attempt)
        raise AssertionError("the last attempt either returns or raises")

    def _read(self, bucket: int, group: int) -> Piece:
        """The columns of one row group, checked."""
        b = self._plan.buckets[bucket]
        shard, row_group = b.place(group)
        place, where = self._dataset / self._plan.path(shard), self._where(bucket, group)
        limits = self._limits(bucket)
        try:
            with reading_errors(place), place.open_input() as source:
                if self._checksums and shard not in self._footers:
                    self._check_sha256(source, shard, place)
                file = pq.ParquetFile(
                    source,
                    metadata=self._footers.get(shard),
                    pre_buffer=not place.is_local,
                    page_checksum_verification=True,
                )
                self._keep_footer(file.metadata, shard, place)
                present = [n for n in limits if n in file.schema_arrow.names]
                table = file.read_row_group(row_group, columns=present, use_threads=False)
        except FileNotFoundError as error:
            raise DataError("A shard is missing", where=str(place), remedy=REMEDY) from error
        except (pa.ArrowException, OSError, IndexError) as error:
            raise DataError("A shard cannot be read", where=where, got=str(error), remedy=REMEDY) from error
        if missing := [c for c in limits if c not in present]:
            raise DataError("A shard lacks a column", where=str(place), expected=", ".join(missing), remedy=REMEDY)
        rows = int(b.group_rows[group])
        if table.num_rows != rows:
            raise DataError(
                "A row group has another number of rows than the index of shards says",
                where=where,
                expected=f"{rows} rows",
                got=f"{table.num_rows} rows",
                remedy=REMEDY,
            )
        piece = {name: flat(table[name], name, limit, where) for name, limit in limits.items()}
        check_pairs(piece, where)
        return piece

    def _check_sha256(self, source: pa.NativeFile, shard: int, place: Location) -> None:
        digest = hashlib.sha256()
        while block := source.read(1 << 22):
            digest.update(block)
        source.seek(0)
        if digest.hexdigest() != (expected := self._plan.shards["sha256"][shard].as_py()):
            raise DataError(
                "A shard's checksum differs from the one in the index of shards",
                where=str(place),
                expected=f"sha256 {expected}",
                got=f"sha256 {digest.hexdigest()}",
                remedy=REMEDY,
            )

    def _keep_footer(self, metadata: pq.FileMetaData, shard: int, place: Location) -> None:
        """Check a shard's footer the first time, and keep it for the shard's other row groups."""
        if shard in self._footers:
            return
        found, rows = read_fingerprint(metadata), self._plan.shards["rows"][shard].as_py()
        if found != self._fingerprint or metadata.num_rows != rows:
            raise DataError(
                "A shard is not the one that the dataset's index of shards describes",
                where=str(place),
                expected=f"fingerprint {self._fingerprint} and {rows} rows",
                got=f"fingerprint {found} and {metadata.num_rows} rows",
                remedy=REMEDY,
            )
        if len(self._footers) >= _MOST_FOOTERS:
            self._footers.clear()
        self._footers[shard] = metadata
