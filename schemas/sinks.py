"""Sinks that give a file or an object its name only once it is whole; `schemas.storage` knows which is which."""

from __future__ import annotations

import contextlib
import hashlib
import io
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import IO, Any

import pyarrow.fs as pafs

from schemas.errors import DataError

Check = Callable[[IO[bytes]], None]
"""Called with the written file, open for reading; raises to refuse it."""


class HashingSink(io.RawIOBase):
    """A write-only file object that counts and hashes what passes through it."""

    def __init__(self, inner: Any) -> None:
        self._inner, self._sha256, self.size_bytes = inner, hashlib.sha256(), 0

    def writable(self) -> bool:
        """Always true."""
        return True

    def write(self, data: Any) -> int:
        """Write all of `data`."""
        view = memoryview(data).cast("B")
        self._inner.write(view)
        self._sha256.update(view)
        self.size_bytes += len(view)
        return len(view)

    def tell(self) -> int:
        """Bytes written so far."""
        return self.size_bytes

    @property
    def sha256(self) -> str:
        """Hex digest of the bytes written so far."""
        return self._sha256.hexdigest()


def rename_output(path: str, temporary: str, check: Check | None) -> Iterator[HashingSink]:
    """Write under a temporary name of the same directory, and rename what is whole and on the disk."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        with open(temporary, "wb") as inner:
            yield HashingSink(inner)
            inner.flush()
            os.fsync(inner.fileno())
        if check is not None:
            with open(temporary, "rb") as written:
                check(written)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def put_output(
    fs: pafs.FileSystem, path: str, spool_errors: AbstractContextManager[None], check: Check | None
) -> Iterator[HashingSink]:
    """Collect in an unlinked local file, and put what is whole as one object.

    Args:
      fs: of the object.
      path: of the object, in words of `fs`.
      spool_errors: says what an error of the local file means.
      check: see `Check`.

    A stream of pyarrow cannot be given up: closing it, also by an error, would put what came so far. So the object
    goes out in one call that holds all of it.
    """
    with tempfile.TemporaryFile(prefix=".shardmill-") as spool:
        with spool_errors:
            sink = HashingSink(spool)
            yield sink
            spool.flush()
        if check is not None:
            spool.seek(0)
            check(spool)
        data = mmap.mmap(spool.fileno(), 0, access=mmap.ACCESS_READ) if sink.size_bytes else b""
        try:
            with fs.open_output_stream(path, compression=None) as out:  # pyarrow would choose one by the suffix
                out.write(data)
        except FileNotFoundError as error:  # what Google's client says where nothing but the bucket can be missing
            raise OSError(f"The bucket does not exist: {error}") from error
    found = fs.get_file_info(path)
    if found.type != pafs.FileType.File or found.size != sink.size_bytes:
        raise DataError(
            "An object was not stored whole",
            where=path,
            expected=f"{sink.size_bytes} bytes",
            got=f"{found.size} bytes" if found.type == pafs.FileType.File else "nothing",
            remedy="Run the same command again",
        )
