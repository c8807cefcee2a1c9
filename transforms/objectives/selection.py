"""Selection: which positions of rows are predicted. Not what is shown there instead, nor where rows come from.

Every choice is a function of (seed, row name, column) and of the row itself: a row alone, among others or padded
wider is chosen from alike. Rows come as padded arrays [rows, width], best as tiles of 2**16 to 2**17 positions.

`words`, `ngrams` and `spans` take items one after the other until a budget is used: `transforms.objectives.walk`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from schemas.keys import happens
from transforms.objectives.walk import Maskable, Units, draws, run, walk

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Float64 = npt.NDArray[np.float64]

_NEVER = np.uint32(2**32 - 1)


@dataclass(frozen=True)
class Selection:
    """Positions chosen."""

    chosen: Bool
    """bool [rows, width]."""
    anchor: Int64 | None = None
    """int64 [rows, width]: the column whose draw decides how a chosen position is shown (80/10/10), 0 at others; None
    if each decides for itself. In `spans` the first column of its span."""


def prediction_counts(
    mask_rate: float,
    max_predictions: int | None,
    lengths: npt.NDArray[np.integer],
    candidates: npt.NDArray[np.integer],
    *,
    rounding: Literal["nearest", "up"] = "nearest",
) -> Int64:
    """The number of predictions of rows, or its bound where only whole words are taken.

    `nearest` is BERT's `min(max_predictions, max(1, round(rate * length)))`, half to even (google-research/bert,
    create_pretraining_data.py); `up` is SpanBERT's `ceil(rate * length)` (facebookresearch/SpanBERT, masking.py).

    Args:
      mask_rate: share of a row's tokens.
      max_predictions: of a row, None for no limit.
      lengths: row lengths, special tokens counted, int [rows].
      candidates: positions that may be chosen, int [rows].
      rounding: of the share.

    Returns:
      int64 [rows], at most `candidates`.

    >>> prediction_counts(0.15, None, np.array([128, 130, 512]), np.array([126, 128, 510])).tolist()
    [19, 20, 77]
    >>> prediction_counts(0.15, None, np.array([20, 21]), np.array([18, 19]), rounding="up").tolist()
    [3, 4]
    """
    share = mask_rate * np.asarray(lengths, dtype=np.float64)
    # Floats err by less than 1e-9 here: ceil(.07 * 100 = 7.000000000000001) is meant to be 7.
    whole = np.rint(share) if rounding == "nearest" else np.ceil(share - 1e-9)
    counts = np.maximum(1, whole).astype(np.int64)
    if max_predictions is not None:
        counts = np.minimum(counts, max_predictions)
    return np.minimum(counts, candidates)


def ngram_law(most: int) -> Float64:
    """ALBERT's p(n) ∝ 1/n (arXiv 1909.11942, section 4.1), float64 [most]: element i is P(n = i + 1)."""
    weights = 1 / np.arange(1, most + 1)
    return weights / weights.sum()


def span_length_law(p: float, most: int) -> Float64:
    """SpanBERT's geometric law renormalised on 1..most (arXiv 1907.10529, section 3.1), float64 [most].

    >>> round(float(span_length_law(0.2, 10) @ np.arange(1, 11)), 3)
    3.797
    """
    weights = np.cumprod([p] + [1 - p] * (most - 1))  # products, unlike powers, are the same on every machine
    return weights / weights.sum()


def choose(order: UInt64, candidate: Bool, counts: Int64) -> Bool:
    """Exactly `counts[i]` candidates of row i, every subset equally likely.

    Args:
      order: random bits, uint64 [rows, width].
      candidate: what may be chosen, bool [rows, width].
      counts: how many, int64 [rows], at most the row's candidates.

    Returns:
      bool [rows, width]; the candidates that come first by (bits, column).
    """
    rows, width = order.shape
    if order.size == 0:
        return np.zeros_like(candidate)
    # 32-bit keys sort three times faster than 64-bit ones, and are as good unless the first key left out equals the
    # last one taken: once in some 10**7 rows of 512.
    keys = (order >> np.uint64(32)).astype(np.uint32)
    keys |= candidate.astype(np.uint32) - np.uint32(1)  # _NEVER where not a candidate: 0 - 1 wraps around
    ranked = np.sort(keys, axis=1)
    each = np.arange(rows)
    limit = np.where(counts < width, ranked[each, np.minimum(counts, width - 1)], _NEVER)
    chosen: Bool = keys < limit[:, None]
    for row in np.flatnonzero((counts > 0) & (ranked[each, np.maximum(counts, 1) - 1] == limit)):
        columns = np.flatnonzero(candidate[row])
        chosen[row] = False
        chosen[row, columns[np.argsort(order[row, columns], kind="stable")[: counts[row]]]] = True
    return chosen


def exact(rows: Maskable, counts: Int64, seed: int) -> Selection:
    """Exactly `counts[i]` candidates of row i, every subset equally likely; int64 [rows], at most its candidates."""
    chosen = np.empty_like(rows.candidate)
    for block, bits in draws(rows, seed):
        chosen[block] = choose(bits, rows.candidate[block], counts[block])
    return Selection(chosen)


def bernoulli(rows: Maskable, rate: float, seed: int, *, whole_word: bool) -> Selection:
    """Each candidate, or each word, on its own with probability `rate`; a row may end up without any.

    The number of tokens (or words) is Binomial, as in transformers' DataCollatorForLanguageModeling; fairseq's
    mask_tokens_dataset.py draws the same share by a random rounding.
    """
    units = Units.of(rows, whole_word=True) if whole_word else None
    chosen = np.empty_like(rows.candidate)
    for block, bits in draws(rows, seed):
        chosen[block] = happens(bits, rate)
    if units is None:
        return Selection(chosen & rows.candidate)
    word = np.flatnonzero(chosen.reshape(-1)[units.begin])  # a word's first piece decides
    begin = units.begin[word]
    return _selection(rows, begin, units.end[word] - begin)


def words(rows: Maskable, counts: Int64, seed: int) -> Selection:
    """Whole words in a random order; one that exceeds what is left of `counts[i]` (int64 [rows]) is skipped.

    google-research/bert, create_pretraining_data.py, with `do_whole_word_mask`.
    """
    return _selection(rows, *walk(rows, counts, seed, law=np.ones(1), whole_word=True, cut=False))


def ngrams(rows: Maskable, counts: Int64, seed: int, *, most: int, whole_word: bool) -> Selection:
    """n-grams of words, or of tokens, that start at units in a random order: ALBERT's selection.

    p(n) ∝ 1/n over 1..most, renormalised over what fits before the candidates' run ends. An n-gram that exceeds what
    is left of `counts[i]` (int64 [rows]) shrinks unit by unit, and is skipped if one unit is too much; one that then
    overlaps a chosen n-gram is skipped (google-research/albert, create_pretraining_data.py, whose n-grams at the end
    are cut instead, and run on across [SEP]).
    """
    law = ngram_law(most)
    return _selection(rows, *walk(rows, counts, seed, law=law, whole_word=whole_word, cut=False))


def spans(rows: Maskable, counts: Int64, seed: int, *, p: float, most_words: int) -> Selection:
    """Exactly `counts[i]` candidates in spans of words (tokens if `starts` is None): SpanBERT's selection.

    Spans start at words in a random order, unless chosen already, and have `span_length_law(p, most_words)` words,
    fewer where a chosen word, a position that is no candidate or the row's end comes first. The last is cut, within
    a word if need be. Any word may start a span of at least a token, so the count is missed only when candidates run
    out. facebookresearch/SpanBERT, masking.py, starts words in proportion to their tokens and lets spans overlap.
    """
    law, whole_word = span_length_law(p, most_words), rows.starts is not None
    begin, tokens = walk(rows, counts, seed, law=law, whole_word=whole_word, cut=True)
    return _selection(rows, begin, tokens, anchored=True)


def _selection(rows: Maskable, begin: Int64, tokens: Int64, *, anchored: bool = False) -> Selection:
    """The positions `begin[i]:begin[i] + tokens[i]` of the flat array, which do not overlap."""
    where = run(begin, tokens)
    chosen = np.zeros(rows.candidate.shape, dtype=bool)
    chosen.reshape(-1)[where] = True
    if not anchored:
        return Selection(chosen)
    anchor = np.zeros(rows.candidate.shape, dtype=np.int64)
    anchor.reshape(-1)[where] = np.repeat(begin % max(1, rows.candidate.shape[1]), tokens)
    return Selection(chosen, anchor)
