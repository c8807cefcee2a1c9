"""Figures of rows with sentinels: lengths of inputs and targets, and the order of their sentinels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from transforms.objectives.base import Law
from transforms.ragged import Ragged, ranges, sequences_at
from transforms.statistics.hashes import hash_rows
from transforms.statistics.rows import Int64, Rows

Numbers = npt.NDArray[np.int16]

SPAN_EDGES = np.array([*range(1, 13), 16, 20, 24, 32, 40, 48, 64, 96, 128, 192, 256, 512, 1024])
"""Tokens from which on a span falls into each bin of the histogram; the last has all longer ones."""

SHARED_SPANS = 2.0
"""Of two spans the one's length gives the other's, so counts vary by up to twice what lone draws would."""

DRAW_SPANS = 3
"""Spans from which on two passes are not expected to hide the same ones."""

FIXED_POINT = 2**32
"""Expected counts are kept as integers of this fraction, so that they add exactly."""

SENTINEL_LAWS: dict[str, Law] = {
    "sentinels": (
        ("sentinel_errors", "eos_errors"),
        "sentinels 0, 1, … in order in inputs and targets, one a span, EOS last and nowhere else",
    ),
    "targets": (
        ("target_length_errors", "target_id_errors"),
        "targets of noise + spans + 1 ids of the vocabulary",
    ),
}


def measure_sentinels(rows: Rows, targets: Ragged, noise: Int64, spans: Int64, lead: Int64) -> None:
    """Inputs and targets have the lengths that follow from the law, and the same sentinels in order.

    Inputs have a corpus token first, unless a mode token leads, and a sentinel and EOS last; targets start with
    sentinel 0, have a token after every sentinel and end with EOS.

    Args:
      rows: where the figures are added.
      targets: the column `target_ids`.
      noise, spans: of each row by the law, int64 [rows].
      lead: special tokens before the first corpus token of each input, int64 [rows].
    """
    figures, raw = rows.per_row, rows.corpus_tokens
    figures["provenance_mismatch"] = (
        (rows.doc_lengths.lengths == 0) | (raw < 2) | (rows.lengths != lead + raw - noise + spans + 1)
    ).astype(np.int64)
    figures["target_tokens"] = targets.lengths
    figures["noise_tokens"] = targets.lengths - spans - 1
    figures["target_length_errors"] = (targets.lengths != noise + spans + 1).astype(np.int64)
    ids = targets.flat.astype(np.int64, copy=False)
    outside = (ids < 0) | (ids >= rows.context.vocab_size)
    target_row = np.repeat(np.arange(len(rows)), targets.lengths)
    figures["target_id_errors"] = rows.count_at(target_row[outside])
    safe = np.where(outside, rows.context.any_text_id, ids)

    shown, answered = _sentinels(rows, rows.safe_ids), _sentinels(rows, safe)
    figures["sentinel_errors"] = (
        _out_of_order(rows, shown, rows.offsets, spans)
        + _out_of_order(rows, answered, targets.offsets, spans)
        + _misplaced(shown, rows.offsets, lead, first=False, last=True)
        + _misplaced(answered, targets.offsets, np.zeros_like(lead), first=True, last=False)
    )
    _count_spans(rows, answered, targets.offsets, noise, spans)
    enough = (spans >= DRAW_SPANS) & (noise >= 2 * spans)
    rows.drawn = hash_rows(rows), enough & (raw >= 4 * noise // 3)
    eos = rows.context.special_ids["eos"]
    figures["eos_errors"] = _eos_errors(rows, rows.safe_ids, rows.offsets, eos) + _eos_errors(
        rows, safe, targets.offsets, eos
    )


def _count_spans(rows: Rows, number: Numbers, offsets: Int64, noise: Int64, spans: Int64) -> None:
    """Histogram of the lengths of the targets' spans, and the one that the law expects, by `SPAN_EDGES`.

    Counted in rows of two spans and more whose target has as many sentinels and tokens as the law says.
    """
    at = np.flatnonzero(number >= 0)
    row = sequences_at(offsets, at)
    length = np.diff(np.append(at, len(number))) - 1
    last = np.append(row[1:] != row[:-1], True)[: len(row)]
    length[last] = offsets[row[last] + 1] - 2 - at[last]  # EOS stands behind the last span
    sound = (spans > 1) & (rows.count_at(row) == spans) & (np.diff(offsets) == noise + spans + 1)
    sound &= np.bincount(row[length < 1], minlength=len(rows)) == 0
    sound &= np.bincount(row, weights=length, minlength=len(rows)) == noise
    kept = sound[row]
    bins = np.searchsorted(SPAN_EDGES, length[kept], side="right") - 1
    rows.add_histogram("span_length", row[kept], bins, len(SPAN_EDGES))
    judged = np.flatnonzero(sound)
    pairs, which = np.unique(np.stack([noise[judged], spans[judged]], axis=1), axis=0, return_inverse=True)
    rows.add_law("span_length", judged, which.reshape(-1), _span_law(pairs[:, 0], pairs[:, 1]))


def _span_law(noise: Int64, spans: Int64) -> Int64:
    """How many spans of a row lie between neighbouring edges, in units of `FIXED_POINT`; int64 [laws, edges].

    A span of a uniform random composition of `noise` into `spans` parts has at least k tokens with probability
    C(noise − k, spans − 1) / C(noise − 1, spans − 1); the difference of two neighbours is T5's P(k).

    >>> (_span_law(np.array([4]), np.array([2]))[0, :4] / FIXED_POINT).round(6).tolist()
    [0.666667, 0.666667, 0.666667, 0.0]
    """
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, int(noise.max(initial=1)) + 1)))])  # of factorials
    left = noise[:, None] - SPAN_EDGES  # tokens left for the other spans if this one has as many as the edge
    fits = left >= spans[:, None] - 1
    n, k = np.where(fits, left, spans[:, None]), spans[:, None] - 1
    whole = logs[noise - 1] - logs[spans - 1] - logs[noise - spans]
    at_least = np.where(fits, np.exp(logs[n] - logs[k] - logs[n - k] - whole[:, None]), 0.0)
    each = at_least - np.append(at_least[:, 1:], np.zeros((len(noise), 1)), axis=1)
    return np.rint(spans[:, None] * each * FIXED_POINT).astype(np.int64)


def _sentinels(rows: Rows, ids: npt.NDArray[np.integer]) -> Numbers:
    """int16 [tokens], number of the sentinel that stands there, −1 for other ids."""
    number = np.full(rows.context.vocab_size, -1, dtype=np.int16)
    number[list(rows.context.sentinel_ids)] = np.arange(len(rows.context.sentinel_ids))
    return number[ids]


def _out_of_order(rows: Rows, number: Numbers, offsets: Int64, spans: Int64) -> Int64:
    """[rows], 1 where the sentinels are not 0, 1, … up to the law's number of spans."""
    at = np.flatnonzero(number >= 0)
    row = sequences_at(offsets, at)
    count = rows.count_at(row)
    wrong = rows.count_at(row[number[at] != ranges(count)])
    return ((wrong > 0) | (count != spans)).astype(np.int64)


def _misplaced(number: Numbers, offsets: Int64, lead: Int64, *, first: bool, last: bool) -> Int64:
    """[rows], 1 where the first id, or the id before EOS, is a sentinel and should not be, or the reverse."""
    is_sentinel = number >= 0
    long_enough = np.diff(offsets) >= 3 + lead
    errors = (~long_enough).astype(np.int64)
    begin, end = (offsets[:-1] + lead)[long_enough], offsets[1:][long_enough] - 2
    errors[long_enough] = (is_sentinel[begin] != first) | (is_sentinel[end] != last)
    return errors


def _eos_errors(rows: Rows, ids: npt.NDArray[np.integer], offsets: Int64, eos: int) -> Int64:
    """[rows], 1 where EOS is not exactly the last id."""
    filled = np.diff(offsets) > 0
    at = np.flatnonzero(ids == eos)
    errors = rows.count_at(sequences_at(offsets, at)) != 1
    errors[filled] |= ids[offsets[1:][filled] - 1] != eos
    return (errors | ~filled).astype(np.int64)
