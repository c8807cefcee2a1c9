"""Figures of rows with sentinels: lengths of inputs and targets, and the order of their sentinels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from transforms.objectives.base import Law
from transforms.ragged import Ragged, ranges, sequences_at
from transforms.statistics.hashes import hash_rows
from transforms.statistics.marked_ids import MarkedIds
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
    answers = MarkedIds.of(targets, rows.context)
    figures["target_id_errors"] = rows.count_at(sequences_at(targets.offsets, answers.outside))

    shown, answered = Sentinels.of(rows.inputs), Sentinels.of(answers)
    figures["sentinel_errors"] = (
        _out_of_order(shown, spans)
        + _out_of_order(answered, spans)
        + _misplaced(shown, lead, first=False, last=True)
        + _misplaced(answered, np.zeros_like(lead), first=True, last=False)
    )
    _count_spans(rows, answered, noise, spans)
    enough = (spans >= DRAW_SPANS) & (noise >= 2 * spans)
    rows.drawn = hash_rows(rows)[0], enough & (raw >= 4 * noise // 3)
    eos = rows.context.special_ids["eos"]
    figures["eos_errors"] = sum(  # type: ignore[assignment]
        (~ids.ends_alone(eos)).astype(np.int64) for ids in (rows.inputs, answers)
    )


@dataclass(frozen=True)
class Sentinels:
    """Where sentinels stand in rows; [sentinels] each."""

    at: Int64
    row: Int64
    number: Numbers
    count: Int64
    """[rows]."""
    offsets: Int64
    """[rows + 1], where each row starts in the ids."""

    @classmethod
    def of(cls, ids: MarkedIds) -> Sentinels:
        """Those among special ids."""
        sentinel_ids = list(ids.context.sentinel_ids)
        number = np.full(ids.context.vocab_size, -1, dtype=np.int16)
        number[sentinel_ids] = np.arange(len(sentinel_ids))
        found = number[ids.special_ids]
        which = np.flatnonzero(found >= 0)
        row = ids.special_row[which]
        return cls(ids.special_at[which], row, found[which], np.bincount(row, minlength=len(ids)), ids.offsets)


def _count_spans(rows: Rows, found: Sentinels, noise: Int64, spans: Int64) -> None:
    """Histogram of the lengths of the targets' spans, and the one that the law expects, by `SPAN_EDGES`.

    Counted in rows of two spans and more whose target has as many sentinels and tokens as the law says.
    """
    row, offsets = found.row, found.offsets
    length = np.diff(np.append(found.at, offsets[-1])) - 1
    last = np.append(row[1:] != row[:-1], True)[: len(row)]
    length[last] = offsets[row[last] + 1] - 2 - found.at[last]  # EOS stands behind the last span
    sound = (spans > 1) & (found.count == spans) & (np.diff(offsets) == noise + spans + 1)
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


def _out_of_order(found: Sentinels, spans: Int64) -> Int64:
    """[rows], 1 where the sentinels are not 0, 1, … up to the law's number of spans."""
    wrong = found.count != spans
    wrong[found.row[found.number != ranges(found.count)]] = True
    return wrong.astype(np.int64)


def _misplaced(found: Sentinels, lead: Int64, *, first: bool, last: bool) -> Int64:
    """[rows], 1 where the first id, or the id before EOS, is a sentinel and should not be, or the reverse."""
    begin, before_end = found.offsets[:-1] + lead, found.offsets[1:] - 2
    opens, closes = np.zeros((2, len(lead)), dtype=bool)
    opens[found.row[found.at == begin[found.row]]] = True
    closes[found.row[found.at == before_end[found.row]]] = True
    return ((np.diff(found.offsets) < 3 + lead) | (opens != first) | (closes != last)).astype(np.int64)
