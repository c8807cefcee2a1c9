"""Files of a checkpoint for `torch.distributed.checkpoint`, wherever `schemas.storage` reaches.

Nothing that is read back can run code: tensors are loaded as weights only, and the index through an unpickler that
knows descriptions of tensors and no more. No name in an index leads out of the checkpoint's directory. Every file has
a checksum, which is kept elsewhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
from collections.abc import Iterator
from typing import IO, Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemBase, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from schemas.object_store import whole_answer
from schemas.place_errors import place_errors
from schemas.storage import Location, atomic_output

_SAFE_MODULES = {"torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem"}
_SAFE_NAMES = {("torch", "Size"), ("torch.serialization", "_get_layout"), ("pathlib", "PosixPath")}

_BUFFER_BYTES = 8 << 20
"""What one request to an object store reads: most tensors are smaller, and lie one after the other."""


class _Storage(FileSystemBase):
    """What DCP asks of a file system. A file appears whole or not at all."""

    def __init__(self, sums: dict[str, str]) -> None:
        self._sums = sums

    @contextlib.contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        """Open for reading from anywhere, or for writing from the start."""
        place = Location.of(path)
        if mode == "wb":
            with atomic_output(place) as sink:
                try:
                    yield sink
                except RuntimeError as error:  # torch closes its archive, and complains of that instead
                    if isinstance(cause := error.__context__, OSError):
                        raise cause from None
                    raise
            self._sums[place.name] = sink.sha256
        else:
            with place_errors(place), place.open_input() as source:
                yield io.BufferedReader(source, _BUFFER_BYTES)

    def concat_path(self, path: str | os.PathLike[str], suffix: str) -> str:
        """A file of the checkpoint by its name, which an index may have from anywhere."""
        return file_of(Location.of(path), suffix).uri

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        """Give a file another name."""
        old, new = Location.of(path), Location.of(new_path)
        with place_errors(new):
            new.fs.move(old.path, new.path)
        self._sums[new.name] = self._sums.pop(old.name)

    def init_path(self, path: str | os.PathLike[str]) -> str:
        """The path as it is kept."""
        return Location.of(path).uri

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        """Make a directory."""
        Location.of(path).make_directory()

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """True: `schemas.storage` has checked it."""
        return True

    def exists(self, path: str | os.PathLike[str]) -> bool:
        """True for a file."""
        return Location.of(path).info() is not None

    def rm_file(self, path: str | os.PathLike[str]) -> None:
        """Remove a file."""
        Location.of(path).remove()


class Writer(FileSystemWriter):
    """Writes a checkpoint's tensors and index into a directory."""

    def __init__(self, place: Location) -> None:
        super().__init__(place.uri, sync_files=False)  # `atomic_output` sees to it
        self.sums: dict[str, str] = {}
        """sha256 of each file that this process has written."""
        self.fs = _Storage(self.sums)
        self.path = place.uri


class Reader(FileSystemReader):
    """Reads them, and lets the index name no code."""

    def __init__(self, place: Location) -> None:
        super().__init__(place.uri)
        self.fs = _Storage({})
        self.path = place.uri

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index, as the base class has it."""
        content = (Location.of(self.path) / ".metadata").read_bytes()
        try:
            metadata = _SafeUnpickler(io.BytesIO(content)).load()
        except Exception as error:  # a damaged pickle may raise any
            raise ValueError(f"its index is damaged: {error}") from error
        if not isinstance(metadata, Metadata):
            raise ValueError(f"its index holds a {type(metadata).__name__}")
        if getattr(metadata, "storage_meta", None) is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata

    def _slice_file(self, file: Any, sinfo: Any) -> IO[bytes]:
        """A tensor's bytes, in memory: to read them piece by piece would be a request each."""

        def read() -> bytes:
            file.seek(sinfo.offset)
            return bytes(file.read(sinfo.length))

        return io.BytesIO(whole_answer(read))


def file_of(checkpoint: Location, name: str) -> Location:
    """A file of a checkpoint by its name, which may come from anywhere.

    Raises:
      ValueError: the name leads elsewhere.
    """
    if "/" in name or name in ("", ".", ".."):
        raise ValueError(f"the index of a checkpoint must not name the file {name!r}")
    return checkpoint / name


def check_file(place: Location, sha256: str) -> None:
    """Compare a file with its checksum.

    Raises:
      ValueError: it is not as it was written.
    """
    found = hashlib.sha256()
    with place_errors(place), place.open_input() as source:
        while block := source.read(_BUFFER_BYTES):
            found.update(block)
    if found.hexdigest() != sha256:
        raise ValueError(f"{place.name} is not as it was written: its sha256 differs from the one in state.json")


def write_tensor(place: Location, tensor: torch.Tensor) -> str:
    """Write one tensor; returns the file's sha256."""
    content = io.BytesIO()
    torch.save(tensor, content)
    place.write_bytes(content.getvalue())
    return hashlib.sha256(content.getvalue()).hexdigest()


def read_tensor(place: Location) -> torch.Tensor:
    """Read what `write_tensor` wrote.

    Raises:
      ValueError: the file is damaged.
    """
    content = io.BytesIO(place.read_bytes())
    try:
        tensor = torch.load(content, weights_only=True)
    except Exception as error:  # as above; torch's own text goes on to advise reading what may run code
        raise ValueError(f"{place.name} holds no tensor: {type(error).__name__}") from error
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{place.name} holds a {type(tensor).__name__} and no tensor")
    return tensor


class _SafeUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Descriptions of tensors only."""
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or (module, name) in _SAFE_NAMES:
            return super().find_class(module, name)
        if module in _SAFE_MODULES and "." not in name:  # a dotted name would lead to what the module imports
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module:
                return found
        raise pickle.UnpicklingError(f"the index of a checkpoint must not name {module}.{name}")
