"""What an error of a disk or an object store means, in words that say where and what to do."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Protocol

import pyarrow as pa

from schemas.errors import RequestError
from schemas.object_store import explained

_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EROFS, errno.EACCES, errno.EPERM}


class Place(Protocol):
    """A file or directory, as `schemas.storage.Location`; its text is how messages name it."""

    @property
    def is_local(self) -> bool:
        """True on a local disk."""
        ...


@contextlib.contextmanager
def reading_errors(place: Place) -> Iterator[None]:
    """Turn an object store's failure into an error that says what to do; local errors stay what they are."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:  # pyarrow has no number of an error for some of a store's
        if not place.is_local and (found := explained(error, str(place))):
            raise found from error
        raise


@contextlib.contextmanager
def place_errors(place: Place) -> Iterator[None]:
    """Turn a full or read-only disk, or an object store's failure, into an error that says where and what to do."""
    try:
        with reading_errors(place):
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
        if error.errno == errno.ENAMETOOLONG:
            raise RequestError("A path is too long for this system", where=f"{str(place)[:100]}…") from error
        if isinstance(error, (NotADirectoryError, FileExistsError)):
            raise RequestError(
                "A file stands where a directory is needed",
                where=str(place),
                got=str(error),
                remedy="Give another directory",
            ) from error
        raise
