"""Stateless keyed randomness: every draw is a hash of what it is for, never of what was drawn before.

A draw is named by (seed, purpose, integers…), say (17, "mask", document key, copy, position). The same name
gives the same 64 bits on every machine, in every batch and after every resume; nothing here holds state.

The mixing function is the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, "Fast splittable
pseudorandom number generators"), chained over the parts of the name. Arrays are numpy uint64 and wrap around.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)

_BLOCK = 1 << 15
"""Draws whose intermediate results stay in a processor's cache, and in memory that is used again."""


def text_key(*parts: str) -> int:
    """A stable 64-bit key of a tuple of strings (BLAKE2b, parts separated by NUL)."""
    digest = hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def document_keys(source: str, doc_ids: Iterable[str]) -> U64:
    """Keys of documents, uint64 [documents]: the stable hash of (source, id)."""
    return np.fromiter((text_key("document", source, i) for i in doc_ids), dtype=np.uint64)


def _mix(x: U64) -> U64:
    """SplitMix64's finaliser in place, a bijection on 64 bits; `x` must be owned by the caller."""
    shifted = x >> np.uint64(30)
    x ^= shifted
    x *= _M1
    x ^= np.right_shift(x, np.uint64(27), out=shifted)
    x *= _M2
    x ^= np.right_shift(x, np.uint64(31), out=shifted)
    return x


def draw(seed: int, purpose: str, *parts: npt.ArrayLike) -> U64:
    """64 random bits for each broadcast element of the name (seed, purpose, *parts).

    Args:
      seed: the job's seed.
      purpose: what the draw decides; draws of two purposes are independent.
      *parts: integers or integer arrays that broadcast together.

    Returns:
      uint64 array of the broadcast shape.

    >>> bool((draw(1, "mask", np.arange(3)) == draw(1, "mask", np.arange(3))).all())
    True
    """
    with np.errstate(over="ignore"):
        h = np.full(1, text_key("draw", str(seed), purpose), dtype=np.uint64)
        for part in parts:
            values = np.asarray(part)
            if values.dtype.kind not in "iu":
                raise TypeError(f"a draw is named by integers, got {values.dtype}")
            if values.dtype != np.uint64:
                values = values.astype(np.int64, copy=False).view(np.uint64)
            # Adding before mixing keeps (a, b) and (b, a) apart, since a is already mixed when b comes. Memory that
            # is new to the process costs more than the arithmetic, so a step makes one array and works in it.
            named = np.atleast_1d(values * _GOLDEN)
            in_place = np.broadcast_shapes(h.shape, named.shape) == named.shape
            h = np.bitwise_xor(h, named, out=named if in_place else None)
            h += _GOLDEN
            h = _mix(h)
    return h


def draw_each(seed: int, purpose: str, *parts: int, out: U64) -> U64:
    """`draw(seed, purpose, *parts, np.arange(len(out)))` into an array, without others of that length in between.

    >>> bool((draw_each(1, "mask", 5, out=np.empty(3, np.uint64)) == draw(1, "mask", 5, np.arange(3))).all())
    True
    """
    for begin in range(0, len(out), _BLOCK):
        end = min(begin + _BLOCK, len(out))
        out[begin:end] = draw(seed, purpose, *parts, np.arange(begin, end))
    return out


def below(bits: U64, bound: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Uniform integers in [0, bound) from 64 random bits, bound < 2**31; bias below 2**-32."""
    return (((bits >> np.uint64(32)) * np.asarray(bound).astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


def chance_threshold(probability: float) -> np.uint64:
    """The value under which `bits >> 11` falls with this probability (53-bit exact, integers only)."""
    return np.uint64(round(probability * 2**53))


def happens(bits: U64, probability: float) -> npt.NDArray[np.bool_]:
    """True with the given probability, from 64 random bits."""
    return (bits >> np.uint64(11)) < chance_threshold(probability)


def validation_mask(doc_keys: U64, share: float) -> npt.NDArray[np.bool_]:
    """Which documents belong to the validation split, bool [documents].

    A function of the document key alone, so jobs of different seeds share a token store, and a larger share
    only ever adds documents to the split.
    """
    return happens(draw(0, "split", doc_keys), share)
