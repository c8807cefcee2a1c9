"""Places where files live: one small face over `pyarrow.fs` for local paths, `s3://` and `gs://`.

A finished file appears whole or not at all: locally it is written under a temporary name in the same
directory, flushed to disk and renamed; an object store's put is atomic by itself. Temporary names look like
`.NAME.HOST-PID-START.tmp` (`schemas.temporaries`); the next run removes those of dead processes. What goes to an
object store is first written to an unlinked local file (in `TMPDIR`), so that an error or a kill never leaves half
an object.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from schemas.errors import RequestError
from schemas.object_store import file_system, redact, whole_answer
from schemas.place_errors import place_errors, reading_errors
from schemas.sinks import Check, HashingSink, put_output, rename_output
from schemas.temporaries import is_left_over, temporary_path

_T = TypeVar("_T")
_R = TypeVar("_R")

_REMOTE = re.compile(r"^(s3|gs|gcs)://")

_THREADS = 32
"""Requests to an object store at a time; each mostly waits."""


@functools.cache
def _filesystem(scheme: str, bucket: str) -> pafs.FileSystem:
    return pafs.LocalFileSystem() if scheme == "" else file_system(scheme, bucket)


def for_each_place(is_local: bool, function: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """`function` of every item in order, many at a time where each waits for an object store."""
    if is_local:  # threads would only wait for each other
        return [function(item) for item in items]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, items))


@dataclass(frozen=True, order=True)
class FileInfo:
    """A file as a listing tells it."""

    uri: str
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Location:
    """A file or directory, local or on an object store; small and picklable.

    >>> (Location.of("/data/run") / "manifest.json").uri
    '/data/run/manifest.json'
    """

    uri: str
    """Absolute local path, or `s3://bucket/key`, `gs://bucket/key`."""

    @classmethod
    def of(cls, uri: str | os.PathLike[str] | Location) -> Location:
        """A location from a path or URI; local paths become absolute."""
        if isinstance(uri, Location):
            return uri
        text = os.fspath(uri)
        if "\0" in text:
            raise RequestError("A path holds a NUL character", got=repr(text))
        if _REMOTE.match(text):
            return cls(_checked_remote(text))
        if text.startswith("file://"):
            text = text[len("file://") :]
        elif match := re.match(r"^([a-z][a-z0-9+.-]*)://", text):
            raise RequestError(
                f"Storage of the kind {match.group(1)!r} is not supported",
                where=redact(text),
                expected="a local path, s3:// or gs://",
            )
        return cls(os.path.abspath(os.path.expanduser(text)))

    @property
    def is_local(self) -> bool:
        """True for a path on this machine."""
        return self.uri.startswith("/") or not _REMOTE.match(self.uri)

    @property
    def fs(self) -> pafs.FileSystem:
        """The pyarrow file system of this location."""
        if self.is_local:
            return _filesystem("", "")
        scheme, rest = self.uri.split("://", 1)
        return _filesystem(scheme, rest.split("/", 1)[0])

    @property
    def path(self) -> str:
        """The path as the file system wants it."""
        return self.uri if self.is_local else self.uri.split("://", 1)[1]

    @property
    def root(self) -> Location:
        """The bucket, or the local root directory."""
        return Location("/" if self.is_local else "/".join(self.uri.split("/")[:3]))

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.uri.rsplit("/", 1)[-1]

    @property
    def parent(self) -> Location:
        """The directory that holds it."""
        return Location(self.uri.rsplit("/", 1)[0] or "/")

    def __truediv__(self, part: str) -> Location:
        return Location(f"{self.uri.rstrip('/')}/{part}")

    def __str__(self) -> str:
        return self.uri

    def join(self, path: str) -> Location:
        """`path` relative to this directory; absolute paths and URIs stay themselves."""
        if _REMOTE.match(path) or "://" in path or os.path.isabs(path) or path.startswith("~"):
            return Location.of(path)
        if self.is_local:
            return Location(os.path.normpath(os.path.join(self.uri, path)))
        scheme, rest = self.uri.split("://", 1)
        return Location(f"{scheme}://{os.path.normpath(os.path.join(rest, path))}")

    def info(self) -> FileInfo | None:
        """Size and modification time of a file; None where there is no file."""
        with place_errors(self):
            found = self.fs.get_file_info(self.path)
        return _file_info(self, found) if found.type == pafs.FileType.File else None

    def exists(self) -> bool:
        """True for a file or a directory."""
        with place_errors(self):
            return bool(self.fs.get_file_info(self.path).type != pafs.FileType.NotFound)

    def open_input(self) -> pa.NativeFile:
        """Open for random access.

        Raises:
          FileNotFoundError, IsADirectoryError: no such file.
        """
        if self.is_local and os.path.isdir(self.uri):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self.uri)
        with reading_errors(self):
            return self.fs.open_input_file(self.path)

    def open_stream(self, compression: str | None) -> pa.NativeFile:
        """Open for reading from the start, decompressed (`gzip`, `zstd`, `bz2` or None)."""
        with reading_errors(self):
            return self.fs.open_input_stream(self.path, compression=compression, buffer_size=1 << 20)

    def read_bytes(self) -> bytes:
        """The whole file."""
        if self.is_local:
            with open(self.uri, "rb") as file:
                return file.read()

        def read() -> bytes:
            with self.open_input() as source:
                return bytes(source.read())

        with reading_errors(self):
            return whole_answer(read)

    def files(self, recursive: bool = False) -> list[FileInfo]:
        """Files of this directory, sorted by path; empty where there is no such directory."""
        selector = pafs.FileSelector(self.path, recursive=recursive, allow_not_found=True)
        with place_errors(self):
            found = self.fs.get_file_info(selector)
        return sorted(_file_info(self, f) for f in found if f.type == pafs.FileType.File)

    def directories(self) -> list[str]:
        """Names of the directories in this one, sorted; on an object store those that hold a file."""
        if self.is_local:
            return sorted(e.name for e in os.scandir(self.uri) if e.is_dir()) if os.path.isdir(self.uri) else []
        # A listing of gs:// names only directories for which somebody has put an object.
        below = (f.uri[len(self.uri) + 1 :] for f in self.files(recursive=True))
        return sorted({path.split("/", 1)[0] for path in below if "/" in path})

    def glob(self) -> list[FileInfo]:
        """Files that match this location read as a pattern (`*`, `?`, `[…]`, `**`), sorted by path."""
        found = self.info()
        if found or not any(c in self.uri for c in "*?["):
            return [found] if found else []
        if self.is_local:
            paths = sorted(glob.glob(self.uri, recursive=True))
            return [i for p in paths if (i := Location(p).info())]
        root = re.split(r"[*?\[]", self.uri, maxsplit=1)[0].rsplit("/", 1)[0]
        pattern, rest = re.compile(_glob_regex(self.uri)), self.uri[len(root) + 1 :]
        # A pattern for the last part alone does not need a listing of everything below.
        deep = "/" in rest or "**" in rest
        return [i for i in Location(root).files(recursive=deep) if pattern.fullmatch(i.uri)]

    def remove(self) -> None:
        """Delete the file if it is there."""
        with place_errors(self), contextlib.suppress(FileNotFoundError):
            self.fs.delete_file(self.path)

    def remove_directory(self) -> None:
        """Delete the directory and all that is in it, if it is there."""
        with place_errors(self), contextlib.suppress(FileNotFoundError):
            if self.exists():  # on gs:// what is not there is an error like any other
                self.fs.delete_dir(self.path)

    def make_directory(self) -> None:
        """Create the directory and its parents; nothing to do on an object store."""
        if self.is_local:
            with place_errors(self):
                os.makedirs(self.uri, exist_ok=True)

    def write_bytes(self, data: bytes) -> None:
        """Write the whole file atomically."""
        with atomic_output(self) as sink:
            sink.write(data)

    def remove_temporaries(self) -> int:
        """Delete what killed writers left below this local directory; returns how many files and folders."""
        if not self.is_local:
            return 0
        removed = 0
        for folder, folders, names in os.walk(self.uri):
            for path in (os.path.join(folder, name) for name in [*folders, *names]):
                with contextlib.suppress(FileNotFoundError):  # its writer, of another run, has just renamed it
                    if is_left_over(path):
                        shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
                        removed += 1
        return removed


def _checked_remote(text: str) -> str:
    scheme, rest = text.replace("gcs://", "gs://", 1).split("://", 1)
    bucket = rest.split("/", 1)[0]
    if "@" in bucket or ":" in bucket:
        raise RequestError(
            "A path holds credentials",
            where=f"{scheme}://…{bucket.rsplit('@', 1)[-1] if '@' in bucket else ''}",
            expected=f"{scheme}://bucket/key",
            remedy="Give credentials in the environment, a profile or a role: paths go into manifests and logs",
        )
    if not bucket:
        raise RequestError("A path names no bucket", expected=f"{scheme}://bucket/key", got=text)
    return f"{scheme}://{rest.rstrip('/')}"


def _file_info(place: Location, found: pafs.FileInfo) -> FileInfo:
    scheme = "" if place.is_local else place.uri.split("://", 1)[0] + "://"
    return FileInfo(uri=scheme + found.path, size_bytes=found.size or 0, mtime_ns=found.mtime_ns or 0)


def _glob_regex(pattern: str) -> str:
    parts = re.split(r"(\*\*/?|\*|\?|\[[^\]]*\])", pattern)
    special = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(special.get(p, p if p.startswith("[") and p.endswith("]") else re.escape(p)) for p in parts)


@contextlib.contextmanager
def atomic_output(place: Location, check: Check | None = None) -> Iterator[HashingSink]:
    """A sink whose file appears under its name only when the block ends without an error.

    Args:
      place: the final name.
      check: called with the written file, open for reading, before it gets its name; raises to refuse it.
    """
    with place_errors(place):
        if place.is_local:
            yield from rename_output(place.uri, temporary_path(place.uri), check)
        else:
            yield from put_output(place.fs, place.path, place_errors(Location(tempfile.gettempdir())), check)
