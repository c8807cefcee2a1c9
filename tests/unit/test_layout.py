"""Layout: every token in one piece and in order, no row beyond its room, and short rows as often as asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from unit_helpers import cases, corpus, fits, lists

from transforms.objectives.base import Documents
from transforms.objectives.layout import (
    Layout,
    document_rows,
    full_rows,
    sentence_rows,
    sentences_of,
    short_targets,
)

Piece = tuple[int, int, int]
"""(document, first token, tokens)."""

SENTENCES = st.lists(st.integers(1, 12), min_size=1, max_size=8)
"""Lengths of a document's sentences."""
DOCUMENTS = st.lists(SENTENCES, max_size=8)
ROOM = st.integers(1, 15)
RATE = st.sampled_from([0.0, 0.3, 1.0])
MAKERS: dict[str, Callable[..., Layout]] = {"document": document_rows, "full": full_rows, "sentences": sentence_rows}


def of_sentences(sentences: list[list[int]], **options: Any) -> Documents:
    """Documents whose sentences have these lengths; document i is of the ids 1000 * i and on."""
    texts = [[1000 * i + j for j in range(sum(lengths))] for i, lengths in enumerate(sentences)]
    ends = [[sum(lengths[: j + 1]) for j in range(len(lengths))] for lengths in sentences]
    return corpus(texts, ends=ends, **options)


def rows_of(layout: Layout) -> list[list[Piece]]:
    assert {a.dtype for a in (layout.doc, layout.begin, layout.length, layout.row_offsets)} == {np.dtype(np.int64)}
    assert layout.row_offsets[0] == 0
    assert layout.row_offsets[-1] == len(layout.doc) == len(layout.begin) == len(layout.length)
    pieces = list(zip(layout.doc.tolist(), layout.begin.tolist(), layout.length.tolist(), strict=True))
    return [pieces[a:b] for a, b in pairwise(layout.row_offsets.tolist())]


def units(row: list[Piece], separators: int = 1) -> int:
    """Tokens of a row and the separators between its pieces."""
    return sum(n for _, _, n in row) + separators * (len(row) - 1)


def cover_in_order(rows: list[list[Piece]], lengths: list[int]) -> None:
    """Every token is in one piece; pieces follow each other as the documents do."""
    expected = [(doc, token) for doc, n in enumerate(lengths) for token in range(n)]
    assert [(doc, begin + i) for row in rows for doc, begin, n in row for i in range(n)] == expected
    assert all(row for row in rows), "a row without a piece"
    for row in rows:
        assert all(n >= 1 for _, _, n in row)
        assert all(a[0] != b[0] for a, b in pairwise(row)), "one document's text in two pieces of a row"


@cases(150)
@given(sentences=DOCUMENTS, room=ROOM, rate=RATE, pack=st.sampled_from(sorted(MAKERS)))
@example(sentences=[[1]], room=1, rate=1.0, pack="full")
@example(sentences=[[1], [1], [1]], room=1, rate=0.3, pack="full")
@example(sentences=[], room=5, rate=1.0, pack="full")
@example(sentences=[], room=5, rate=0.3, pack="sentences")
@example(sentences=[], room=5, rate=0.3, pack="document")
def test_every_token_is_in_exactly_one_piece_and_no_row_is_beyond_its_room(
    sentences: list[list[int]], room: int, rate: float, pack: str
) -> None:
    rows = rows_of(MAKERS[pack](of_sentences(sentences), room, short_rate=rate, seed=3))
    cover_in_order(rows, [sum(lengths) for lengths in sentences])
    assert all(units(row) <= room for row in rows)
    if pack == "document":
        assert all(len(row) == 1 for row in rows)


@cases(100)
@given(sentences=DOCUMENTS, room=ROOM)
def test_document_rows_cut_a_document_every_so_many_tokens(sentences: list[list[int]], room: int) -> None:
    lengths = [sum(s) for s in sentences]
    assert rows_of(document_rows(of_sentences(sentences), room)) == [
        [(doc, begin, min(room, n - begin))] for doc, n in enumerate(lengths) for begin in range(0, n, room)
    ]


def naive_full(lengths: list[int], room: int, separators: int) -> list[list[Piece]]:
    """Unit by unit: a row takes tokens and separators until it is full."""
    rows: list[list[Piece]] = [[]]
    left = room
    for doc, n in enumerate(lengths):
        for token in range(n + separators):
            if left == 0:
                rows.append([])
                left = room
            left -= 1
            if token == n:
                continue
            if rows[-1] and rows[-1][-1][0] == doc:
                rows[-1][-1] = (doc, rows[-1][-1][1], rows[-1][-1][2] + 1)
            else:
                rows[-1].append((doc, token, 1))
    return [row for row in rows if row]


@cases(150)
@given(sentences=DOCUMENTS, room=ROOM, separators=st.integers(0, 1))
def test_full_rows_are_those_of_taking_unit_by_unit(sentences: list[list[int]], room: int, separators: int) -> None:
    lengths = [sum(s) for s in sentences]
    rows = rows_of(full_rows(of_sentences(sentences), room, separators=separators))
    assert rows == naive_full(lengths, room, separators)
    # A row may lack two units, for the separator of the row before at its begin and one of its own at its end.
    assert all(units(row, separators) >= room - 2 * separators for row in rows[:-1])


def naive_sentences(sentences: list[list[int]], room: int) -> list[list[Piece]]:
    """Sentence by sentence: a row takes the next one if it fits, with a separator if it opens a document."""
    rows: list[list[Piece]] = []
    for doc, lengths in enumerate(sentences):
        begin = 0
        for whole in lengths:
            for n in [room] * (whole // room) + [whole % room] * (whole % room > 0):
                last = rows[-1][-1] if rows else None
                opens = last is None or last[0] != doc
                if last is None or units(rows[-1]) + opens + n > room:
                    rows.append([(doc, begin, n)])
                elif opens:
                    rows[-1].append((doc, begin, n))
                else:
                    rows[-1][-1] = (doc, last[1], last[2] + n)
                begin += n
    return rows


@cases(250)
@given(sentences=DOCUMENTS, room=ROOM)
@example(sentences=[[1]], room=1)
@example(sentences=[[12], [12]], room=12)
@example(sentences=[[3, 3], [3]], room=9)
def test_sentence_rows_take_the_next_sentence_whenever_it_fits(sentences: list[list[int]], room: int) -> None:
    assert rows_of(sentence_rows(of_sentences(sentences), room)) == naive_sentences(sentences, room)


@cases(150)
@given(sentences=DOCUMENTS, room=ROOM, rate=RATE)
def test_no_row_splits_a_sentence_that_fits_even_where_its_target_is_short(
    sentences: list[list[int]], room: int, rate: float
) -> None:
    rows = rows_of(sentence_rows(of_sentences(sentences), room, short_rate=rate, seed=1))
    for doc, lengths in enumerate(sentences):
        ends = np.cumsum(lengths).tolist()
        cuts = {begin for row in rows for d, begin, _ in row if d == doc} - {0, *ends}
        long = [(end - n, n) for end, n in zip(ends, lengths, strict=True) if n > room]
        assert cuts <= {begin + i for begin, n in long for i in range(room, n, room)}


@cases(100)
@given(sentences=DOCUMENTS, room=ROOM, rate=RATE, seed=st.integers(0, 3), data=st.data())
def test_rows_of_a_document_do_not_depend_on_its_neighbours(
    sentences: list[list[int]], room: int, rate: float, seed: int, data: st.DataObject
) -> None:
    """Fails if a document is cut otherwise in another block, batch or order."""
    order = data.draw(st.permutations(range(len(sentences))))
    together = rows_of(
        document_rows(of_sentences([sentences[i] for i in order], keys=order), room, short_rate=rate, seed=seed)
    )
    for place, i in enumerate(order):
        alone = rows_of(document_rows(of_sentences([sentences[i]], keys=[i]), room, short_rate=rate, seed=seed))
        assert [(b, n) for row in together for d, b, n in row if d == place] == [(b, n) for ((_, b, n),) in alone]


@cases(100)
@given(sentences=DOCUMENTS, most=ROOM)
def test_sentences_are_those_given_and_long_ones_are_cut_into_full_pieces_and_a_rest(
    sentences: list[list[int]], most: int
) -> None:
    doc, begin, length = sentences_of(of_sentences(sentences), most=most)
    expected = []
    for i, lengths in enumerate(sentences):
        at = 0
        for n in lengths:
            expected += [(i, at + cut, min(most, n - cut)) for cut in range(0, n, most)]
            at += n
    assert list(zip(doc.tolist(), begin.tolist(), length.tolist(), strict=True)) == expected


# Short rows.


def short_law(room: int, rate: float) -> list[float]:
    """P(target = k) for k in 2..room."""
    return [rate / (room - 1) + (1 - rate) * (k == room) for k in range(2, room + 1)]


ROOMS = 12
DRAWS = 60_000


def targets_of_rows(pack: str, rate: float, seed: int = 5) -> list[list[int]]:
    """Rows' targets in order, one list a document: of text that can be cut at every token, so that a row is as long
    as its target."""
    if pack == "document":  # the last pieces of a document are left out: a rest need not have its target's length
        layout = document_rows(corpus([[7] * (ROOMS * 101)] * (DRAWS // 100)), ROOMS, short_rate=rate, seed=seed)
        found = np.split(layout.length, np.flatnonzero(layout.begin == 0)[1:])
        return [pieces[:100].tolist() for pieces in found]
    text = [[7] * (DRAWS * ROOMS)]
    ends = [range(1, DRAWS * ROOMS + 1)] if pack == "sentences" else None
    layout = MAKERS[pack](corpus(text, ends=ends), ROOMS, short_rate=rate, seed=seed)
    return [layout.length[:DRAWS].tolist()]


@pytest.mark.parametrize("pack", sorted(MAKERS))
@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0])
def test_short_targets_are_uniform_from_two_to_the_room_and_as_many_as_asked(pack: str, rate: float) -> None:
    counts = Counter(n for targets in targets_of_rows(pack, rate) for n in targets)
    assert sum(counts.values()) == DRAWS
    assert set(counts) <= set(range(2, ROOMS + 1))
    assert fits([counts[k] for k in range(2, ROOMS + 1)], [DRAWS * p for p in short_law(ROOMS, rate)])


@pytest.mark.parametrize("pack", sorted(MAKERS))
def test_each_row_has_its_own_target_and_not_one_a_document(pack: str) -> None:
    """google-research/bert draws one a document, so a long document with a short target floods the short rows."""
    short = [[n < ROOMS for n in targets] for targets in targets_of_rows(pack, 0.5)]
    pairs = Counter(pair for row in short for pair in pairwise(row))
    n = sum(pairs.values())
    p = 0.5 * (ROOMS - 2) / (ROOMS - 1)  # a short target may be the room itself
    law = {(a, b): (p if a else 1 - p) * (p if b else 1 - p) for a in (True, False) for b in (True, False)}
    assert fits([pairs[pair] for pair in law], [n * q for q in law.values()])
    assert all(0 < sum(row) < len(row) for row in short)


def test_a_new_seed_and_a_new_copy_give_new_targets() -> None:
    text, found = [[7] * 4000], set()
    for pack, make in MAKERS.items():
        for copy, seed in ((0, 0), (1, 0), (0, 1)):
            documents = corpus(text, copy=copy, ends=[range(1, 4001)])
            layout = make(documents, 20, short_rate=0.5, seed=seed)
            found.add((pack, tuple(layout.length.tolist())))
    assert len(found) == 9


@pytest.mark.parametrize("room", [1, 2, 3])
def test_the_smallest_rooms_have_targets_within_them(room: int) -> None:
    names = np.arange(2000, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert set(short_targets(names, room, 1.0).tolist()) == set(range(min(2, room), room + 1))


# The rows' tokens and names.


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Documents, Layout, list[bool]]:
    """Any pieces of any documents in any order, with those that a separator follows; an empty one always has it."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    rows: list[list[Piece]] = []
    followed: list[bool] = []
    for _ in range(draw(st.integers(0, 5))):
        row = []
        for _ in range(draw(st.integers(1, 4))):
            doc = draw(st.integers(0, len(lengths) - 1))
            begin = draw(st.integers(0, lengths[doc]))
            length = draw(st.integers(0, lengths[doc] - begin))
            row.append((doc, begin, length))
            followed.append(length == 0 or draw(st.booleans()))
        rows.append(row)
    pieces = np.array([piece for row in rows for piece in row], dtype=np.int64).reshape(-1, 3)
    offsets = np.cumsum([0, *(len(row) for row in rows)])
    documents = corpus(
        [[1000 * i + j for j in range(n)] for i, n in enumerate(lengths)], copy=draw(st.integers(0, 1))
    )
    return documents, Layout(pieces[:, 0], pieces[:, 1], pieces[:, 2], offsets), followed


@cases(200)
@given(case=layouts(), first=st.sampled_from([None, -2]), every=st.booleans())
def test_tokens_are_those_of_putting_the_pieces_down_one_by_one(
    case: tuple[Documents, Layout, list[bool]], first: int | None, every: bool
) -> None:
    documents, layout, marks = case
    texts = lists(documents.ids)
    followed = [True] * len(marks) if every else marks
    expected, number = [], 0
    for row in rows_of(layout):
        ids = [] if first is None else [first]
        for doc, begin, n in row:
            ids += texts[doc][begin : begin + n] + [-1] * followed[number]
            number += 1
        expected.append(ids)
    made = layout.tokens(documents, first=first, after=-1, followed=None if every else np.array(followed, dtype=bool))
    assert lists(made) == expected
    assert made.flat.dtype == np.int32
    assert lists(layout.text(documents)) == [texts[d][b : b + n] for row in rows_of(layout) for d, b, n in row]


@cases(100)
@given(case=layouts())
def test_sorting_by_length_keeps_every_row_whole(case: tuple[Documents, Layout, list[bool]]) -> None:
    documents, layout, _ = case
    rows, sorted_ = rows_of(layout), layout.by_length()
    tokens = [sum(n for _, _, n in row) for row in rows]
    assert layout.row_tokens.tolist() == tokens
    assert layout.row_of_piece.tolist() == [i for i, row in enumerate(rows) for _ in row]
    # Stable, so that rows of one length keep the order of the block.
    assert rows_of(sorted_) == [rows[i] for i in sorted(range(len(rows)), key=lambda i: tokens[i])]
    found = sorted_.provenance(documents)
    assert lists(found["doc_keys"]) == [[d for d, _, _ in row] for row in rows_of(sorted_)]
    assert lists(found["doc_offsets"]) == [[b for _, b, _ in row] for row in rows_of(sorted_)]
    assert lists(found["doc_lengths"]) == [[n for _, _, n in row] for row in rows_of(sorted_)]
    assert found["copy"].tolist() == [documents.copy] * len(rows)


@cases(150)
@given(case=layouts(), other=layouts(), seed=st.integers(0, 1))
def test_rows_have_one_name_exactly_if_they_begin_at_one_token_of_one_copy(
    case: tuple[Documents, Layout, list[bool]], other: tuple[Documents, Layout, list[bool]], seed: int
) -> None:
    """Fails if a name hangs on a row's length, its place in the block or its later pieces."""
    named: dict[tuple[int, int, int, int], set[int]] = {}
    for documents, layout, _ in (case, other):
        for row, name in zip(rows_of(layout), layout.names(documents, seed).tolist(), strict=True):
            key = int(documents.keys[row[0][0]])
            named.setdefault((key, row[0][1], documents.copy, seed), set()).add(name)
    assert all(len(names) == 1 for names in named.values())
    assert len({name for names in named.values() for name in names}) == len(named)
