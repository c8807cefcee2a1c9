"""Keeps freed memory in the process, where numpy's temporaries find it again."""

from __future__ import annotations

import functools

import numpy as np

_LARGEST_BYTES = 31 * 2**20
"""Just under glibc's greatest automatic threshold of 32 MiB."""


@functools.cache
def keep_freed_memory() -> None:
    """Let the C library reuse freed arrays of up to 31 MiB; once a process, harmless where there is no glibc.

    glibc maps every array above a threshold afresh and gives it back when it is freed, so each temporary is faulted
    in page by page: 10 ns a draw in place of 4. The threshold rises to the size of the largest block that was ever
    mapped and freed (mallopt(3), M_MMAP_THRESHOLD), so mapping and freeing one is all it takes.
    """
    np.empty(_LARGEST_BYTES, np.uint8)
