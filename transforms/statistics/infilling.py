"""Figures of infilled rows: their frame, their masks, and that inputs hold nothing that targets do not.

Which tokens start words is not known here, so the budget of words is held against what tokens tell: a row of n tokens
has at most n words.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from transforms.objectives.base import Law
from transforms.objectives.poisson_spans import draw_moments, mask_budget
from transforms.ragged import Ragged, ranges, sequences_at
from transforms.statistics.hashes import hash_rows
from transforms.statistics.marked_ids import MarkedIds
from transforms.statistics.rows import Int64, Rows

FIXED_POINT = 2**10
"""Expected counts are kept as integers of this fraction, so that they add exactly."""

DRAW_MASKS = 3
"""Masks from which on two passes are not expected to hide the same spans."""

_TILE_TOKENS = 2**15
"""Target tokens compared at a time: the working set stays in the processor's cache."""

_MOST_PAIRS = 2**31
"""Pairs of a row and an id that 32 bits can number beside a bit that tells input from target."""

INFILLING_LAWS: dict[str, Law] = {
    "special_tokens": (
        ("frame_errors",),
        "BOS first and EOS last in inputs and targets and nowhere else, and no mask in a target",
    ),
    "targets": (("target_id_errors",), "targets of ids of the vocabulary"),
    "masks": (
        ("mask_errors",),
        "1 to ceil(mask_ratio · tokens) masks in an input, no two side by side, and no input longer than its target",
    ),
    "kept_text": (
        ("kept_text_errors",),
        "an input has no token more often than its target; where sentences keep their order, the text before its "
        "first mask begins the target's and the text behind its last ends it",
    ),
}


def measure_infilling(rows: Rows, targets: Ragged, *, ratio: float, mean: float, in_order: bool) -> None:
    """Add the figures of infilled rows.

    Args:
      rows: where they are added.
      targets: the column `target_ids`.
      ratio: share of words that are masked.
      mean: length of spans in words.
      in_order: sentences keep their order.
    """
    figures, roles = rows.per_row, rows.context.special_ids
    figures["target_tokens"] = targets.lengths
    figures["provenance_mismatch"] = (
        (rows.doc_lengths.lengths == 0) | (targets.lengths != rows.corpus_tokens + 2)
    ).astype(np.int64)
    originals = MarkedIds.of(targets, rows.context)
    figures["target_id_errors"] = rows.count_at(sequences_at(targets.offsets, originals.outside))

    frame, mask = (roles["bos"], roles["eos"]), roles["mask"]
    figures["frame_errors"] = _frame_errors(rows.inputs, frame, frame)
    figures["frame_errors"] += _frame_errors(originals, frame, (*frame, mask))

    mask_at = rows.special_at[rows.inputs.special_ids == mask]
    mask_row = rows.row_of(mask_at)
    masks = rows.count_at(mask_row)
    text = np.maximum(targets.lengths - 2, 1)
    most = mask_budget(text, ratio)
    beside = (np.diff(mask_at) == 1) & (mask_row[1:] == mask_row[:-1])
    figures["masks"] = masks
    figures["mask_errors"] = rows.count_at(mask_row[1:][beside]) + (
        (masks < 1) | (masks > most) | (rows.lengths > targets.lengths)
    )

    rows.drawn = hash_rows(rows)[0], (masks >= DRAW_MASKS) & (text >= 8 * masks)
    figures["kept_text_errors"] = _surplus(rows.inputs, originals, mask_at)
    if in_order:
        figures["kept_text_errors"] += _displaced(rows, mask_at, masks, originals.ids, targets.offsets)
    _add_amounts(rows, masks, targets.lengths - rows.lengths + masks, text, ratio, mean)


def _frame_errors(found: MarkedIds, frame: tuple[int, int], nowhere_else: tuple[int, ...]) -> Int64:
    """[rows], how often a row does not begin and end with its frame, or has one of the others in between."""
    bos, eos = frame
    filled = found.lengths >= 2
    first, last = found.offsets[:-1][filled], found.offsets[1:][filled] - 1
    errors = (~filled).astype(np.int64)
    errors[filled] = (found.ids[first] != bos).astype(np.int64) + (found.ids[last] != eos)
    is_stray = np.isin(found.special_ids, nowhere_else)
    row, at = found.special_row[is_stray], found.special_at[is_stray]
    inner = ~filled[row] | ((at != found.offsets[row]) & (at != found.offsets[row + 1] - 1))
    return errors + np.bincount(row[inner], minlength=len(found))


def _surplus(inputs: MarkedIds, targets: MarkedIds, mask_at: Int64) -> Int64:
    """[rows], ids that an input has more often than its target, masks left out; each id counted once."""
    size, found = inputs.context.vocab_size, np.zeros(len(inputs), dtype=np.int64)
    begin = 0
    while begin < len(inputs):
        last = int(np.searchsorted(targets.offsets, targets.offsets[begin] + _TILE_TOKENS, side="right")) - 1
        stop = min(max(begin + 1, last), len(inputs), begin + _MOST_PAIRS // size)
        # One number for each (row, id), the last bit telling input from target; sorted, equal pairs lie together.
        pairs = np.concatenate([_pairs(x, begin, stop) for x in (inputs, targets)])
        of_inputs = pairs[: int(inputs.offsets[stop] - inputs.offsets[begin])]
        of_inputs |= 1
        masks = mask_at[slice(*np.searchsorted(mask_at, inputs.offsets[[begin, stop]]))] - inputs.offsets[begin]
        of_inputs[masks] ^= 1  # as if the target had them
        pairs.sort()
        starts = np.append(0, np.flatnonzero((pairs[1:] ^ pairs[:-1]) > 1) + 1)[: len(pairs)]
        count = np.diff(np.append(starts, len(pairs)))
        # Targets come first, so more than half are of the input if the one before the middle, or in it, is.
        more = starts[pairs[starts + (count - 1) // 2] & 1 == 1]
        found[begin:stop] = np.bincount((pairs[more] >> 1) // size, minlength=stop - begin)
        begin = stop
    return found


def _pairs(found: MarkedIds, begin: int, stop: int) -> npt.NDArray[np.uint32]:
    """uint32, twice the number of (row, id) for the ids of some rows."""
    offsets = found.offsets[begin : stop + 1]
    first = np.arange(stop - begin, dtype=np.uint32) * np.uint32(2 * found.context.vocab_size)
    pairs = found.ids[offsets[0] : offsets[-1]].astype(np.uint32)
    pairs += pairs
    pairs += np.repeat(first, np.diff(offsets))
    return pairs


def _displaced(
    rows: Rows, mask_at: Int64, masks: Int64, target_ids: npt.NDArray[np.integer], target_offsets: Int64
) -> Int64:
    """[rows], ids before the first mask, or behind the last, that are not the target's there."""
    has = np.flatnonzero(masks)
    ends = np.cumsum(masks)[has]
    begin, stop = rows.offsets[:-1][has], rows.offsets[1:][has]
    room = np.diff(target_offsets)[has]
    before = np.minimum(mask_at[ends - masks[has]] - begin, room)
    behind = np.minimum(stop - mask_at[ends - 1] - 1, room)
    at = np.concatenate(
        [np.repeat(begin, before) + ranges(before), np.repeat(stop - behind, behind) + ranges(behind)]
    )
    first, last = target_offsets[:-1][has], target_offsets[1:][has]
    of = np.concatenate(
        [np.repeat(first, before) + ranges(before), np.repeat(last - behind, behind) + ranges(behind)]
    )
    row = np.concatenate([np.repeat(has, before), np.repeat(has, behind)])
    return rows.count_at(row[rows.safe_ids[at] != target_ids[of]])


def _add_amounts(rows: Rows, masks: Int64, hidden: Int64, text: Int64, ratio: float, mean: float) -> None:
    """What the gates judge: hidden tokens and masks, and what is expected of them.

    ceil(ratio · w) of w words are hidden, so at least a share `ratio` of the tokens is expected to be. With m masks
    there are more than (m − 1) / ratio words, so the share is expected to be below ratio · m / (m − 1). And since a
    word has a token, there are on average at most as many masks as draws for a budget of ceil(ratio · tokens) words.
    """
    figures = rows.per_row
    expected = ratio * text
    strays = np.clip(hidden - expected, -(2.0**20), 2.0**20)
    figures["hidden_tokens"] = hidden * FIXED_POINT
    figures["hidden_least"] = np.rint(expected * FIXED_POINT).astype(np.int64)
    most = np.where(masks > 1, expected * masks / np.maximum(masks - 1, 1), text)
    figures["hidden_most"] = np.rint(np.minimum(most, text) * FIXED_POINT).astype(np.int64)
    figures["hidden_squares"] = np.rint(strays**2 * FIXED_POINT).astype(np.int64)
    budget = mask_budget(text, ratio)
    longest = max((n for lengths in rows.context.lengths.values() for n in lengths), default=1)
    table, variance = draw_moments(mean, int(mask_budget(np.array([longest]), ratio)[0]))
    budget = np.minimum(budget, len(table) - 1)
    figures["masks_most"] = np.rint(table[budget] * FIXED_POINT).astype(np.int64)
    figures["masks_variance"] = np.rint(variance[budget] * FIXED_POINT).astype(np.int64)
