"""Places where files live: one small face over `pyarrow.fs` for local paths, `s3://` and `gs://`.

A finished file appears whole or not at all: locally it is written under a temporary name in the same
directory, flushed to disk and renamed; an object store's put is atomic by itself. Temporary names look like
`.NAME.HOST-PID.tmp`; the next run removes those of dead processes.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import hashlib
import io
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from schemas.errors import RequestError

_REMOTE = re.compile(r"^(s3|gs|gcs)://")
_TEMPORARY = re.compile(r"^\..+\.([0-9a-zA-Z]+)-(\d+)\.tmp$")
_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EROFS, errno.EACCES, errno.EPERM}


@functools.cache
def _filesystem(uri_root: str) -> pafs.FileSystem:
    if uri_root == "":
        return pafs.LocalFileSystem()
    return pafs.FileSystem.from_uri(uri_root)[0]


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
            return cls(text.replace("gcs://", "gs://", 1).rstrip("/"))
        if text.startswith("file://"):
            text = text[len("file://") :]
        elif match := re.match(r"^([a-z][a-z0-9+.-]*)://", text):
            raise RequestError(
                f"Storage of the kind {match.group(1)!r} is not supported",
                where=text,
                expected="a local path, s3:// or gs://",
            )
        return cls(os.path.abspath(os.path.expanduser(text)))

    @property
    def is_local(self) -> bool:
        """True for a path on this machine."""
        return not _REMOTE.match(self.uri)

    @property
    def fs(self) -> pafs.FileSystem:
        """The pyarrow file system of this location."""
        return _filesystem("" if self.is_local else "/".join(self.uri.split("/")[:3]))

    @property
    def path(self) -> str:
        """The path as the file system wants it."""
        return self.uri if self.is_local else self.uri.split("://", 1)[1]

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
        found = self.fs.get_file_info(self.path)
        return _file_info(self, found) if found.type == pafs.FileType.File else None

    def exists(self) -> bool:
        """True for a file or a directory."""
        return bool(self.fs.get_file_info(self.path).type != pafs.FileType.NotFound)

    def open_input(self) -> pa.NativeFile:
        """Open for random access.

        Raises:
          FileNotFoundError, IsADirectoryError: no such file.
        """
        if self.is_local and os.path.isdir(self.uri):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self.uri)
        return self.fs.open_input_file(self.path)

    def open_stream(self, compression: str | None) -> pa.NativeFile:
        """Open for reading from the start, decompressed (`gzip`, `zstd`, `bz2` or None)."""
        return self.fs.open_input_stream(self.path, compression=compression, buffer_size=1 << 20)

    def read_bytes(self) -> bytes:
        """The whole file."""
        with self.open_input() as source:
            return bytes(source.read())

    def files(self, recursive: bool = False) -> list[FileInfo]:
        """Files of this directory, sorted by path; empty where there is no such directory."""
        selector = pafs.FileSelector(self.path, recursive=recursive, allow_not_found=True)
        found = self.fs.get_file_info(selector)
        return sorted(_file_info(self, f) for f in found if f.type == pafs.FileType.File)

    def glob(self) -> list[FileInfo]:
        """Files that match this location read as a pattern (`*`, `?`, `[…]`, `**`), sorted by path."""
        found = self.info()
        if found or not any(c in self.uri for c in "*?["):
            return [found] if found else []
        if self.is_local:
            paths = sorted(glob.glob(self.uri, recursive=True))
            return [i for p in paths if (i := Location(p).info())]
        root = re.split(r"[*?\[]", self.uri, maxsplit=1)[0].rsplit("/", 1)[0]
        pattern = re.compile(_glob_regex(self.uri))
        return [i for i in Location(root).files(recursive=True) if pattern.fullmatch(i.uri)]

    def remove(self) -> None:
        """Delete the file if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.delete_file(self.path)

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
        """Delete what killed writers of this machine left below this local directory; returns how many files."""
        if not self.is_local:
            return 0
        removed = 0
        for folder, _, names in os.walk(self.uri):
            for name in names:
                match = _TEMPORARY.match(name)
                if match and match.group(1) == _host() and not _alive(int(match.group(2))):
                    os.unlink(os.path.join(folder, name))
                    removed += 1
        return removed


def _host() -> str:
    return re.sub(r"[^0-9a-zA-Z]", "", socket.gethostname()) or "host"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _file_info(place: Location, found: pafs.FileInfo) -> FileInfo:
    scheme = "" if place.is_local else place.uri.split("://", 1)[0] + "://"
    return FileInfo(uri=scheme + found.path, size_bytes=found.size or 0, mtime_ns=found.mtime_ns or 0)


def _glob_regex(pattern: str) -> str:
    parts = re.split(r"(\*\*/?|\*|\?|\[[^\]]*\])", pattern)
    special = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(special.get(p, p if p.startswith("[") and p.endswith("]") else re.escape(p)) for p in parts)


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


@contextlib.contextmanager
def atomic_output(place: Location, check: Any = None) -> Iterator[HashingSink]:
    """A sink whose file appears under its name only when the block ends without an error.

    Args:
      place: the final name.
      check: called with the location of the written file before it gets its name; raises to refuse it.
    """
    if not place.is_local:
        with place_errors(place), place.fs.open_output_stream(place.path) as inner:
            yield HashingSink(inner)
        return
    temporary = Location(f"{place.parent.uri}/.{place.name}.{_host()}-{os.getpid()}.tmp")
    with place_errors(place):
        os.makedirs(place.parent.uri, exist_ok=True)
        try:
            with open(temporary.uri, "wb") as inner:
                yield HashingSink(inner)
                inner.flush()
                os.fsync(inner.fileno())
            if check is not None:
                check(temporary)
            os.replace(temporary.uri, place.uri)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary.uri)
            raise


@contextlib.contextmanager
def place_errors(place: Location) -> Iterator[None]:
    """Turn a full or read-only disk into an error that says where and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise RequestError(
                "The disk is full",
                where=str(place),
                got=str(error.strerror),
                remedy="Free some space and run the same command again; what is finished is kept and not redone",
            ) from error
        if error.errno in _DENIED:
            raise RequestError(
                "The place cannot be written",
                where=str(place),
                got=str(error.strerror),
                remedy="Give another `output` or `tokens` directory, or the right to write there, and run again",
            ) from error
        if isinstance(error, (NotADirectoryError, FileExistsError)):
            raise RequestError(
                "A file stands where a directory is needed",
                where=str(place),
                got=str(error),
                remedy="Give another directory",
            ) from error
        raise
