"""Which words of a row are hidden, and where masks are inserted: BART's text infilling (arXiv 1910.13461, 2.2).

Span lengths are Poisson draws taken in turn until the row's budget of words is used; the last is cut to hit it, and
every 0 met on the way inserts a mask. fairseq (fairseq/data/denoising_dataset.py) then lets spans run into each
other, so its rows have fewer words masked than asked for (facebookresearch/fairseq#3486). Here spans and inserted
masks stand at different boundaries of the words that stay, so at least one such word is between any two of them, and
every arrangement is equally likely. Counts and places in words only; no tokens here.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.keys import draw
from transforms.ragged import Int64, Ragged, offsets_of, ranges

_COLUMN = np.uint64(2**24 - 1)
"""The low bits of a boundary's key hold its column; the 40 high ones are random."""

_EXACT_MOMENTS = 4096
"""Budgets up to which moments are found by recursion; from there on they grow by a constant a word."""


@functools.lru_cache(maxsize=16)
def poisson_law(mean: float) -> npt.NDArray[np.float64]:
    """P(k) of a Poisson variable, float64 [k], up to where what is left does not matter in double precision.

    Found from the ratios of neighbours, without `exp`, so it is the same on every machine.

    >>> poisson_law(3.0)[:3].round(4).tolist()
    [0.0498, 0.1494, 0.224]
    """
    weights = [1.0]
    while len(weights) <= mean or weights[-1] > 2.0**-60 * weights[int(mean)]:
        weights.append(weights[-1] * mean / len(weights))
    return np.array(weights) / np.cumsum(weights)[-1]


def mask_budget(words: npt.NDArray[np.integer], ratio: float) -> Int64:
    """Words masked in rows of so many words: ceil(ratio · words), at least 1; int64 of the same shape.

    >>> mask_budget(np.array([1, 10, 11]), 0.3).tolist()
    [1, 3, 4]
    """
    # 0.07 · 100 is 7.000000000000001 in double, which must not become 8.
    return np.maximum(1, np.ceil(ratio * np.asarray(words) - 1e-9)).astype(np.int64)


@functools.lru_cache(maxsize=16)
def draw_moments(mean: float, most: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(mean, variance) of the number of draws, zeros counted, that a budget of words takes; float64 [most + 1] each.

    With K(m) draws for m words, K(m) = 1 + K(m − X) for X Poisson and K(≤ 0) = 0. An upper bound of the mean number
    of masks, since few words may join spans and drop inserted masks.

    >>> float(draw_moments(3.0, 10)[0][1].round(4))  # 1 / (1 − e⁻³)
    1.0524
    """
    size = min(most, _EXACT_MOMENTS)
    law = poisson_law(mean)
    first, second = np.zeros(size + 1), np.zeros(size + 1)
    for m in range(1, size + 1):
        k = np.arange(1, min(len(law), m))
        later = float(law[k] @ first[m - k])
        first[m] = (1 + later) / (1 - law[0])
        second[m] = (1 + 2 * (later + law[0] * first[m]) + float(law[k] @ second[m - k])) / (1 - law[0])
    variance = second - first**2
    rest = np.arange(1, most - size + 1)
    return tuple(np.append(x, x[-1] + rest * (x[-1] - x[size // 2]) / (size - size // 2)) for x in (first, variance))  # type: ignore[return-value]


def drawn_lengths(names: npt.NDArray[np.uint64], budgets: Int64, mean: float, seed: int) -> Ragged:
    """Lengths drawn until each row's budget is used, the last cut to hit it; zeros are kept.

    Args:
      names: uint64 [rows], under which draws are made.
      budgets: words to be masked, int64 [rows], at least 1.
      mean: of the Poisson law.
      seed: the job's.

    Returns:
      int64, in the order drawn; row i sums to `budgets[i]` and ends above 0.
    """
    below = np.cumsum(poisson_law(mean))
    left, at = budgets.astype(np.int64), np.zeros(len(budgets), dtype=np.int64)
    row = np.arange(len(budgets))
    parts: list[tuple[Int64, Int64]] = []
    while len(row):
        # A few more than are used on average; draws are named by their ordinals, so the window changes nothing.
        size = (left[row] * (1.25 / mean)).astype(np.int64) + 6
        which, first = np.repeat(row, size), offsets_of(size)[:-1]
        uniform = (draw(seed, "infilling.length", names[which], at[which] + ranges(size)) >> np.uint64(11)) * 2.0**-53
        length = np.minimum(np.searchsorted(below, uniform * below[-1], side="right"), len(below) - 1)
        before = np.cumsum(length) - length
        room = np.repeat(left[row] + before[first], size) - before
        taken = room > 0
        parts.append((which[taken], np.minimum(length, room)[taken]))
        left[row] -= np.add.reduceat(length, first)
        at[row] += size
        row = row[left[row] > 0]
    which, length = (np.concatenate(x) for x in zip(*parts, strict=True)) if parts else (row, row)
    if len(parts) > 1:
        order = np.argsort(which, kind="stable")  # later turns hold later draws
        which, length = which[order], length[order]
    return Ragged.from_lengths(length, np.bincount(which, minlength=len(budgets)))


def fitted(drawn: Ragged, words: Int64, budgets: Int64) -> Ragged:
    """The drawn lengths as far as there is room for them, spans first and then the zeros.

    Words that stay have words − budget + 1 boundaries, and each holds one mask: where there are more spans than that,
    the last ones are joined. Inserted masks are dropped beyond the boundaries left, and beyond the words that spans
    hide for more than their own masks, so that no row gets longer.

    Args:
      drawn: of `drawn_lengths`.
      words: of each row, int64 [rows].
      budgets: words to be masked, int64 [rows].

    Returns:
      int64, row i still sums to `budgets[i]`.
    """
    drawn_flat = drawn.flat.astype(np.int64, copy=False)
    is_span = drawn_flat > 0
    row = np.repeat(np.arange(len(words)), drawn.lengths)
    span_row = row[is_span]
    spans = np.bincount(span_row, minlength=len(words))
    boundaries = words - budgets + 1
    kept = np.minimum(spans, boundaries)
    inserted = np.minimum(drawn.lengths - spans, np.minimum(budgets, boundaries) - kept)
    offsets = offsets_of(kept + inserted)
    at = offsets[span_row] + np.minimum(ranges(spans), kept[span_row] - 1)
    lengths = np.bincount(at, weights=drawn_flat[is_span], minlength=int(offsets[-1]))
    return Ragged(lengths.astype(np.int64), offsets)


@dataclass(frozen=True)
class Masks:
    """Masks of rows in the order of the text; arrays have one entry a mask."""

    row: Int64
    word: Int64
    """First word hidden, or for an inserted mask the word behind it, counted in the row."""
    words: Int64
    """Words hidden, 0 for an inserted mask."""


def place(lengths: Ragged, words: Int64, names: npt.NDArray[np.uint64], seed: int) -> Masks:
    """Masks that hide so many words each, at boundaries of the words that stay; rows should be of like length.

    Each goes to the next of its row's boundaries in a random order, so every arrangement is equally likely.

    Args:
      lengths: of `fitted`, int64.
      words: of each row, int64 [rows].
      names: uint64 [rows], under which draws are made.
      seed: the job's.
    """
    count, lengths_flat = lengths.lengths, lengths.flat.astype(np.int64, copy=False)
    row = np.repeat(np.arange(len(words)), count)
    hidden = np.bincount(row, weights=lengths_flat, minlength=len(words)).astype(np.int64)
    boundaries = words - hidden + 1
    width = int(boundaries.max(initial=1))
    columns = np.arange(width, dtype=np.uint64)
    order = draw(seed, "infilling.place", names[:, None], columns)
    order &= ~_COLUMN
    order |= columns
    order[columns >= boundaries[:, None].astype(np.uint64)] = np.uint64(2**64 - 1)
    order.sort(axis=1)
    boundary = (order[row, ranges(count)] & _COLUMN).astype(np.int64)

    base = offsets_of(boundaries)
    at_boundary = np.full(int(base[-1]), -1, dtype=np.int64)
    at_boundary[base[row] + boundary] = lengths_flat
    at = np.flatnonzero(at_boundary >= 0)
    hides = at_boundary[at]
    before = np.cumsum(hides) - hides
    first = before[lengths.offsets[:-1][count > 0]]
    before -= np.repeat(first, count[count > 0])
    return Masks(row, at - base[row] + before, hides)
