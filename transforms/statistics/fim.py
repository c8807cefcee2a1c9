"""Figures of rows of pieces that are rearranged to fill in the middle, or left as they are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from transforms.objectives.base import Law
from transforms.ragged import Int64, offsets_of, ranges
from transforms.statistics.mask_positions import FIXED_POINT
from transforms.statistics.packed import (
    PACKED_LAWS,
    Pieces,
    count_piece_errors,
    is_multiple,
    longest_lengths,
    measure_pieces,
)
from transforms.statistics.places import count_places
from transforms.statistics.rows import Rows

SPARE_TOKENS = 4
"""A piece leaves room in a row for three special tokens and EOS."""

FIM_LAWS: dict[str, Law] = {
    **PACKED_LAWS,
    "fim_tokens": (
        ("fim_token_errors",),
        "the tokens for prefix, suffix and middle once each in a piece, in this order, the first where it begins; "
        "or none of them",
    ),
}

_ROLES = ("fim_prefix", "fim_suffix", "fim_middle")


def measure_fim(rows: Rows) -> None:
    """Add the figures of pieces, of their special tokens, and of where they were cut."""
    special = rows.safe_ids[rows.special_at]
    role = np.full(len(special), -1)
    for number, name in enumerate(_ROLES):
        role[special == rows.context.special_ids[name]] = number
    frame_at, role = rows.special_at[role >= 0], role[role >= 0]
    pieces = measure_pieces(rows, frame_at)

    frame_row = rows.row_of(frame_at)
    frames = rows.count_at(frame_row)
    errors = rows.count_at(frame_row[role != ranges(frames) % 3]) + (frames % 3 != 0)
    judged = np.zeros(len(rows), bool)
    judged[pieces.row] = pieces.judged
    sound = (judged & (errors == 0))[frame_row]
    triple = frame_at[sound].reshape(-1, 3)  # places of the three tokens of each rearranged piece
    row = frame_row[sound][::3]
    text, ended = _before(rows, pieces, triple, row, frame_at)
    piece = np.minimum(np.searchsorted(pieces.bounds, text[:, 0], side="right") - 1, max(len(pieces.row) - 1, 0))
    begin, stop = pieces.bounds[piece], pieces.bounds[piece + 1] if len(piece) else piece
    ended_before = offsets_of(pieces.ends.astype(np.int64))
    first = rows.doc_lengths.offsets[row]
    wrong = (begin != text[:, 0]) | (stop < text[:, 2]) | (pieces.row[piece] != row)
    # No EOS comes between the three tokens, nor between them and the piece's text.
    wrong |= (ended != (ended_before[piece] - ended_before[first])[:, None]).any(axis=1)
    wrong[1:] |= piece[1:] == piece[:-1]
    rows.per_row["fim_token_errors"] = errors + rows.count_at(row[wrong])

    room = np.maximum(longest_lengths(rows) - SPARE_TOKENS, 1)
    full = (pieces.length[:, None] == room).any(axis=1)
    bad = (pieces.length == 0) | (pieces.length > room.max(initial=0)) | (~pieces.closed & ~full)
    count_piece_errors(rows, pieces, bad | ~is_multiple(pieces.begin, room))
    _count_cuts(rows, pieces, piece[~wrong], np.diff(text, axis=1)[~wrong])


def _before(rows: Rows, pieces: Pieces, at: Int64, row: Int64, frame_at: Int64) -> tuple[Int64, Int64]:
    """(corpus tokens of all rows, EOS tokens of the row) before each of these flat indices, [pieces, 3] each."""
    eos_at = rows.special_at[rows.safe_ids[rows.special_at] == rows.context.special_ids["eos"]]
    starts = rows.offsets[row]
    ended = np.searchsorted(eos_at, at) - np.searchsorted(eos_at, starts)[:, None]
    frames = np.searchsorted(frame_at, at) - np.searchsorted(frame_at, starts)[:, None]
    text = at - starts[:, None] - ended - frames
    return pieces.bounds[rows.doc_lengths.offsets[row]][:, None] + text, ended


def _count_cuts(rows: Rows, pieces: Pieces, piece: Int64, parts: Int64) -> None:
    """How many pieces are rearranged, in which order, and where they were cut.

    Args:
      rows: where the figures are added.
      pieces: all of them.
      piece: which are rearranged, int64 [moved].
      parts: tokens shown of the prefix and of the suffix, int64 [moved, 2].
    """
    row, n = pieces.row[piece], pieces.length[piece]
    prefix, suffix = parts[:, 0], parts[:, 1]
    rows.per_row["fim_pieces"] = rows.count_at(pieces.row[pieces.judged])
    rows.per_row["fim_moved"] = rows.count_at(row)
    # SPM shows no prefix, nor does PSM where the lesser of two cuts is 0, which happens with probability
    # 1 − (n / (n + 1))².
    rows.per_row["fim_no_prefix"] = rows.count_at(row[prefix == 0])
    empty = np.rint((1 - (n / (n + 1)) ** 2) * FIXED_POINT)
    rows.per_row["fim_empty_prefix"] = np.bincount(row, weights=empty, minlength=len(rows)).astype(np.int64)
    count_places(rows, "fim_suffix", row, suffix, n + 1, _lesser_below)
    # A prefix that is shown has at least a token: the lesser cut given that both are above 0.
    shown = prefix > 0
    count_places(rows, "fim_prefix", row[shown], prefix[shown] - 1, n[shown], _lesser_below)


def _lesser_below(edge: Int64, size: Int64) -> npt.NDArray[np.float64]:
    """Probability that the lesser of two uniform draws from 0..size − 1 is below `edge`.

    So far from its end a piece has the greater of two cuts, and so far from its beginning the lesser.
    """
    return 1 - ((size - edge) / size) ** 2
