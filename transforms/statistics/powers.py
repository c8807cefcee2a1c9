"""Sums over the rows of a ragged array, and the polynomial behind the hash of a row."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from transforms.ragged import Int64

U64 = npt.NDArray[np.uint64]

BASE = 0x9E3779B97F4A7C15
"""Base of the row hash's polynomial; odd, hence invertible modulo 2**64."""

_Sum = TypeVar("_Sum", np.int64, np.uint64)


def row_sums(values: npt.NDArray[_Sum], offsets: Int64) -> npt.NDArray[_Sum]:
    """Sums of the rows of a ragged array; empty rows give 0, unsigned sums wrap around."""
    running = np.zeros(len(values) + 1, dtype=values.dtype)
    np.cumsum(values, out=running[1:])
    return running[offsets[1:]] - running[offsets[:-1]]


def polynomials(values: U64, offsets: Int64) -> U64:
    """uint64 [rows], Σ value · BASE^position modulo 2**64; the values are overwritten.

    One product a token and no table by position: a row's own power of the base is divided out, so its place among
    the rows is nothing.
    """
    values *= powers(BASE, len(values))
    return row_sums(values, offsets) * places(offsets)


def places(offsets: Int64) -> U64:
    """uint64 [rows], what a row's sum is multiplied with to forget where the row begins."""
    return powers(pow(BASE, -1, 2**64), int(offsets[-1]) + 1)[offsets[:-1]]


_POWERS: dict[int, U64] = {}


def powers(base: int, size: int) -> U64:
    """base**0, base**1, … modulo 2**64; the longest table so far is kept."""
    known = _POWERS.get(base)
    if known is None or len(known) < size:
        factors = np.full(max(size, 2**18), base, dtype=np.uint64)
        factors[0] = 1
        known = _POWERS[base] = np.multiply.accumulate(factors)
    return known[:size]
