"""Where documents begin in packed rows: attention, positions and labels stop there. Arrays only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.stream.lanes import I64
from trainer.stream.rows import Bool, Values


def document_ids(
    input_ids: Values,
    present: Bool | None,
    pieces: tuple[I64, Values],
    *,
    extra_ids: Sequence[int],
    opening_ids: Sequence[int],
) -> I64:
    """Which document of its row each place belongs to.

    `doc_lengths` counts corpus tokens; the tokens that an objective adds are known by their ids, which stand for
    nothing else. One that ends or parts a document (EOS, `<fim_suffix>`, `<fim_middle>`) belongs to the token before
    it, one that opens a document (`<fim_prefix>`) to the token behind it.

    Args:
      input_ids: [N, L].
      present: bool [N, L], true on tokens; None where all are.
      pieces: (row of each piece, its corpus tokens), both [pieces], row by row in order.
      extra_ids: ids that an objective adds, the opening ones left out.
      opening_ids: ids that open a document.

    Returns:
      int64 [N, L], 0 for the first document; beyond a row's end that of its last one.

    >>> ids = np.array([[5, 6, 2, 7, 2]], dtype=np.int32)
    >>> document_ids(ids, None, (np.array([0, 0]), np.array([2, 1])), extra_ids=[2], opening_ids=[]).tolist()
    [[0, 0, 0, 1, 1]]
    """
    rows, length = input_ids.shape
    opens = np.isin(input_ids, opening_ids)
    corpus = ~(np.isin(input_ids, extra_ids) | opens)
    if present is not None:
        corpus &= present
        opens &= present
    before: I64 = np.cumsum(corpus, axis=1) - corpus  # corpus tokens of the row before each place
    owner, count = pieces
    # begins[r, t]: how many pieces begin with the row's corpus token t, the row's first piece left out
    count = count.astype(np.int64)
    ends = np.cumsum(count)
    first_piece = np.searchsorted(owner, np.arange(rows))
    row_start = np.concatenate([[0], ends])[first_piece]
    begin = ends - count - row_start[owner]
    later = np.ones(len(owner), dtype=bool)
    later[first_piece[first_piece < len(owner)]] = False
    later &= begin <= length
    begins = np.bincount(owner[later] * (length + 1) + begin[later], minlength=rows * (length + 1))
    piece_of = np.cumsum(begins.reshape(rows, length + 1), axis=1)
    own = np.where(corpus | opens, np.take_along_axis(piece_of, before, axis=1), 0)
    return np.maximum.accumulate(own, axis=1)


def position_ids(documents: I64) -> I64:
    """The place of each token within its document, int64 [N, L].

    >>> position_ids(np.array([[0, 0, 0, 1, 1]])).tolist()
    [[0, 1, 2, 0, 1]]
    """
    places = np.broadcast_to(np.arange(documents.shape[1]), documents.shape)
    starts = np.zeros_like(documents)
    starts[:, 1:] = np.where(documents[:, 1:] != documents[:, :-1], places[:, 1:], 0)
    return places - np.maximum.accumulate(starts, axis=1)
