"""Memory for a plan's tables, which have an entry a row group: millions where a dataset has 100,000 shards."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

_LARGE_BYTES = 1 << 20


def allocate(count: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array of so many values, to be filled, [count].

    NumPy asks for huge pages from 4 MB on, and where the kernel has to make room for them first, that took longer
    than all of a plan's arithmetic. Here a table gets its pages at once, of the usual size.
    """
    kind = np.dtype(dtype)
    size = count * kind.itemsize
    if size < _LARGE_BYTES or not hasattr(mmap, "MAP_POPULATE"):
        return np.empty(count, dtype=kind)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    return np.frombuffer(mmap.mmap(-1, size, flags=flags), dtype=kind, count=count)
