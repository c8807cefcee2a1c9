"""Figures of rows that are pairs of segments: what they are made of, and their labels against their chunks' coins.

A coin is named by where its chunk begins, which a row shows only if the segment that comes first in the document was
not cut in front. A segment that was cut has at least half of the tokens that fit (`pairing.Pairs.cut`), so a shorter
one was not, nor was any in a row that is not full. Coins of other rows cannot be told and are not judged.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.keys import draw
from transforms.objectives.base import Law
from transforms.objectives.layout import short_targets
from transforms.objectives.pairing import chunk_coins, chunk_names
from transforms.statistics.rows import Int64, Rows

Bool = npt.NDArray[np.bool_]
UInt64 = npt.NDArray[np.uint64]

_FRAME = 3
"""[CLS] and two [SEP]."""

PAIR_LAWS: dict[str, Law] = {
    "segments": (("segment_errors",), "two pieces of at least one token, segment_a_length = the first's + 2"),
    "pair_labels": (
        ("pair_label_errors",),
        "is_next if and only if B lies behind A in the same document, next to it unless the row is full; if not, "
        "B is from another document (nsp) or before A (sop)",
    ),
    "pair_coins": (
        ("pair_coin_errors",),
        "as far as it can be told: no B follows A where the chunk's coin is against it (nsp), and segments are "
        "swapped where the coin says so and nowhere else (sop)",
    ),
}


def measure_pairs(
    rows: Rows, table: pa.Table, task: Literal["nsp", "sop"], *, coin_prob: float, short_rate: float
) -> tuple[UInt64, Bool]:
    """Add the figures of pairs.

    Args:
      rows: where they are added.
      table: with `segment_a_length` and `is_next`.
      task: of the objective.
      coin_prob: chance of the coin.
      short_rate: share of rows with a shorter target.

    Returns:
      The names of the chunks, uint64 [rows], and which of them are sure, bool [rows].
    """
    label = np.asarray(table["is_next"].combine_chunks()).astype(bool)
    segment_a = np.asarray(table["segment_a_length"].combine_chunks()).astype(np.int64)
    good = np.logical_and.reduce([p.lengths == 2 for p in (rows.doc_keys, rows.doc_offsets, rows.doc_lengths)])
    key, begin, tokens = _columns(rows, good)
    good &= (tokens > 0).all(axis=0)
    figures = rows.per_row
    figures["segment_errors"] = (~good | (segment_a != tokens[0] + 2)).astype(np.int64)

    end = begin + tokens
    same = key[0] == key[1]
    gap = begin[1] - end[0]
    longest = np.array([max(lengths) for lengths in rows.context.lengths.values() if lengths])
    follows = same & ((gap == 0) | ((gap > 0) & np.isin(rows.lengths, longest)))
    before = same & ((begin[0] == end[1]) | ((begin[0] > end[1]) & np.isin(rows.lengths, longest)))
    right = np.where(label, follows, ~same if task == "nsp" else before)
    figures["pair_label_errors"] = (good & ~right).astype(np.int64)
    figures["pairs_not_next"] = (good & ~label).astype(np.int64)

    # Of a bucket it is not known here which stage it is of, so a full row is one of the stage with the shortest.
    room = int(longest.min(initial=np.iinfo(np.int64).max)) - _FRAME
    first = (begin[1] < begin[0]).astype(np.int64) if task == "sop" else np.zeros(len(rows), np.int64)
    each = np.arange(len(rows))
    chunk = chunk_names(rows.context.seed, key[first, each], begin[first, each], rows.copy)
    coin = chunk_coins(rows.context.seed, chunk, coin_prob)
    short = tokens[first, each] < (room // 2 if task == "sop" else (room + 1) // 2)
    told = good & right & (short | (tokens.sum(axis=0) < room))  # a wrong label is counted already
    if short_rate:
        # All sentences but the last have less than the target, and the last is not A's.
        target = short_targets(chunk, rows.longest - _FRAME, short_rate)
        split = told & label if task == "nsp" else told
        figures["short_targets_told"] = split.astype(np.int64)
        figures["short_target_errors"] = (split & (tokens[first, each] >= target)).astype(np.int64)
    if task == "sop":
        figures["pair_coin_errors"] = (told & (label == coin)).astype(np.int64)
        return chunk, told
    document, has_others = _neighbours(rows, key, good)
    figures["pair_coin_errors"] = (told & label & coin & has_others).astype(np.int64)
    figures["pairs_alone"] = (good & ~has_others).astype(np.int64)
    # Whether A is short does not depend on the coin, so the coins of these rows are a fair sample.
    figures["pair_coins"] = (good & short).astype(np.int64)
    figures["pair_coins_random"] = (good & short & coin).astype(np.int64)
    # Random against the coin is a chunk of one sentence: it filled the target, or was the document's last.
    reach = np.zeros(int(document.max(initial=-1)) + 1, np.int64)
    np.maximum.at(reach, document[:, good], end[:, good])
    goes_on = reach[document[0]] > end[0]
    targets = [short_targets(chunk, int(n) - _FRAME, short_rate) for n in np.unique(longest[longest > _FRAME])]
    unfilled = tokens[0] < np.min(targets, axis=0, initial=np.iinfo(np.int64).max)
    figures["pairs_forced"] = (told & ~label & ~coin).astype(np.int64)
    figures["pairs_forced_errors"] = (told & ~label & ~coin & goes_on & unfilled).astype(np.int64)
    return chunk, told


def _columns(rows: Rows, good: Bool) -> tuple[UInt64, Int64, Int64]:
    """Keys, first tokens and tokens of the two pieces, [2, rows] each; zeros where a row has not two."""
    key, begin, tokens = np.zeros((2, len(rows)), np.uint64), *np.zeros((2, 2, len(rows)), np.int64)
    for out, pieces in ((key, rows.doc_keys), (begin, rows.doc_offsets), (tokens, rows.doc_lengths)):
        out[:, good] = pieces.flat[pieces.offsets[:-1][good] + np.arange(2)[:, None]]
    return key, begin, tokens


def _neighbours(rows: Rows, key: UInt64, good: Bool) -> tuple[Int64, Bool]:
    """A number for each piece's document and pass, [2, rows], and whether a row's source and pass have another one.

    All rows of a row group are of one block, so documents seen here were there for B to be chosen from.
    """
    pools = draw(0, "audit.pool", rows.code, rows.copy)
    _, document = np.unique(draw(0, "audit.document_of_pool", pools, key), return_inverse=True)
    document = document.reshape(key.shape)
    _, pool = np.unique(pools, return_inverse=True)
    least, most = (np.full(len(rows), value) for value in (np.iinfo(np.int64).max, -1))
    for piece in document:
        np.minimum.at(least, pool[good], piece[good])
        np.maximum.at(most, pool[good], piece[good])
    return document, (least < most)[pool]
