"""Figures of infilled rows: their frame, their masks, and that inputs hold nothing that targets do not.

Which tokens start words is not known here, so the budget of words is held against what tokens tell: a row of n tokens
has at most n words.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from transforms.objectives.base import Law
from transforms.objectives.poisson_spans import draw_moments, mask_budget
from transforms.ragged import Ragged, ranges
from transforms.statistics.hashes import hash_rows
from transforms.statistics.rows import Int64, Rows

FIXED_POINT = 2**10
"""Expected counts are kept as integers of this fraction, so that they add exactly."""

DRAW_MASKS = 3
"""Masks from which on two passes are not expected to hide the same spans."""

_TILE_TOKENS = 2**15
"""Target tokens compared at a time: the working set stays in the processor's cache."""

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
    raw = targets.flat.astype(np.int64, copy=False)
    outside = (raw < 0) | (raw >= rows.context.vocab_size)
    target_row = np.repeat(np.arange(len(rows)), targets.lengths)
    figures["target_id_errors"] = rows.count_at(target_row[outside])
    ids = np.where(outside, rows.context.any_text_id, raw)

    frame = [roles["bos"], roles["eos"]]
    figures["frame_errors"] = _frame_errors(rows, rows.safe_ids, rows.offsets, frame, roles["mask"], 0)
    figures["frame_errors"] += _frame_errors(rows, ids, targets.offsets, frame, roles["mask"], 1)

    mask_at = rows.special_at[rows.safe_ids[rows.special_at] == roles["mask"]]
    mask_row = rows.row_of(mask_at)
    masks = rows.count_at(mask_row)
    text = np.maximum(targets.lengths - 2, 1)
    most = mask_budget(text, ratio)
    beside = (np.diff(mask_at) == 1) & (mask_row[1:] == mask_row[:-1])
    figures["masks"] = masks
    figures["mask_errors"] = rows.count_at(mask_row[1:][beside]) + (
        (masks < 1) | (masks > most) | (rows.lengths > targets.lengths)
    )

    rows.drawn = hash_rows(rows), (masks >= DRAW_MASKS) & (text >= 8 * masks)
    is_mask = np.zeros(len(rows.safe_ids), dtype=bool)
    is_mask[mask_at] = True
    figures["kept_text_errors"] = _surplus(rows, is_mask, ids, targets.offsets)
    if in_order:
        figures["kept_text_errors"] += _displaced(rows, mask_at, masks, ids, targets.offsets)
    _add_amounts(rows, masks, targets.lengths - rows.lengths + masks, text, ratio, mean)


def _frame_errors(
    rows: Rows, ids: npt.NDArray[np.integer], offsets: Int64, frame: list[int], mask: int, masks_count: int
) -> Int64:
    """[rows], ids that break the frame; a mask breaks it if `masks_count` is 1."""
    bos, eos = frame
    filled = np.diff(offsets) >= 2
    first, last = offsets[:-1][filled], offsets[1:][filled] - 1
    errors = (~filled).astype(np.int64)
    errors[filled] = (ids[first] != bos).astype(np.int64) + (ids[last] != eos)
    stray = rows.context.is_special[ids]
    stray[first] = stray[last] = False
    at = np.flatnonzero(stray)
    at = at[np.isin(ids[at], [*frame, mask] if masks_count else frame)]
    return errors + rows.count_at(np.searchsorted(offsets, at, side="right") - 1)


def _surplus(rows: Rows, is_mask: npt.NDArray[np.bool_], ids: npt.NDArray[np.integer], offsets: Int64) -> Int64:
    """[rows], ids that an input has more often than its target, masks left out; each id counted once.

    Args:
      is_mask: bool [tokens], of the inputs.
      ids: of the targets, end to end.
      offsets: where each target starts in `ids`.
    """
    size, found = rows.context.vocab_size, np.zeros(len(rows), dtype=np.int64)
    begin = 0
    while begin < len(rows):
        last = int(np.searchsorted(offsets, offsets[begin] + _TILE_TOKENS, side="right")) - 1
        stop = min(max(begin + 1, last), len(rows))
        inputs, targets = (slice(o[begin], o[stop]) for o in (rows.offsets, offsets))
        input_row, target_row = (
            np.repeat(np.arange(stop - begin), np.diff(o[begin : stop + 1])) for o in (rows.offsets, offsets)
        )
        text = ~is_mask[inputs]
        # One number for each (row, id), the last bit telling input from target; sorted, equal pairs lie together.
        of_inputs = 2 * (input_row[text] * size + rows.safe_ids[inputs][text]) + 1
        pairs = np.concatenate([of_inputs, 2 * (target_row * size + ids[targets])])
        pairs.sort()
        ends = np.flatnonzero(np.append(pairs[1:] >> 1 != pairs[:-1] >> 1, True)[: len(pairs)])
        from_input = np.diff(np.cumsum(pairs & 1)[ends], prepend=0)
        more = 2 * from_input > np.diff(ends, prepend=-1)
        found[begin:stop] = np.bincount((pairs[ends[more]] >> 1) // size, minlength=stop - begin)
        begin = stop
    return found


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
