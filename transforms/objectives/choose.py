"""Exact draws without replacement, one a row: the primitive under masks and random compositions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

NEVER = np.uint64(2**64 - 1)


def choose(
    order: npt.NDArray[np.uint64], candidate: npt.NDArray[np.bool_], counts: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Exactly `counts[i]` candidates of row i, every subset equally likely.

    Args:
      order: random bits, uint64 [rows, width].
      candidate: what may be chosen, bool [rows, width].
      counts: how many, int64 [rows], at most the row's candidates.

    Returns:
      bool [rows, width]; the candidates that come first in the random order.
    """
    if order.shape[1] == 0:
        return np.zeros_like(candidate)
    # The low bits are the column, so no two keys of a row are equal and the count is exact.
    bits = np.uint64(max(1, (order.shape[1] - 1).bit_length()))
    keys = (order >> bits << bits) | np.arange(order.shape[1], dtype=np.uint64)
    keys[~candidate] = NEVER
    last = np.sort(keys, axis=1)[np.arange(len(keys)), np.maximum(counts, 1) - 1]
    return (keys <= last[:, None]) & candidate & (counts > 0)[:, None]
