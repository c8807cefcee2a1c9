"""selection: exact counts and laws, whole words, and choices that depend on nothing but their row's name."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import combinations, permutations, product
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from unit_helpers import cases, fits

from schemas.keys import draw, happens
from transforms.objectives import selection, walk
from transforms.objectives.selection import Maskable, Selection, prediction_counts

# A row is a string: w a piece that starts a word, c one that continues it, . a position that may not be predicted.
ROW = st.text("wwwccc.", max_size=40)
ROWS = st.lists(ROW, min_size=1, max_size=7)
Method = Callable[[Maskable, Any, int], Selection]
METHODS: dict[str, Method] = {
    "exact": selection.exact,
    "words": selection.words,
    "bernoulli": lambda rows, counts, seed: selection.bernoulli(rows, 0.3, seed, whole_word=False),
    "bernoulli words": lambda rows, counts, seed: selection.bernoulli(rows, 0.3, seed, whole_word=True),
    "ngrams": lambda rows, counts, seed: selection.ngrams(rows, counts, seed, most=3, whole_word=False),
    "ngrams of words": lambda rows, counts, seed: selection.ngrams(rows, counts, seed, most=4, whole_word=True),
    "spans": lambda rows, counts, seed: selection.spans(rows, counts, seed, p=0.2, most_words=10),
    "short spans": lambda rows, counts, seed: selection.spans(rows, counts, seed, p=0.6, most_words=3),
}


def maskable(rows: list[str], *, names: list[int] | None = None, padding: int = 0) -> Maskable:
    width = max((len(row) for row in rows), default=0) + padding
    cells = np.array([list(row.ljust(width, ".")) for row in rows], dtype="U1").reshape(len(rows), width)
    return Maskable(
        names=np.array(range(len(rows)) if names is None else names, dtype=np.uint64),
        lengths=np.array([len(row) for row in rows], dtype=np.int64),
        candidate=cells != ".",
        starts=cells == "w",
    )


def counts_of(rows: list[str], share: float) -> Any:
    """Budgets of a share of the candidates, from none to all."""
    return np.array([round(share * (len(row) - row.count("."))) for row in rows], dtype=np.int64)


def columns_of(chosen: Any) -> list[list[int]]:
    return [np.flatnonzero(row).tolist() for row in chosen]


def words_of(row: str, whole_word: bool = True) -> list[list[int]]:
    """Columns of each word of a row, or of each token."""
    words: list[list[int]] = []
    for column, cell in enumerate(row):
        if cell == "c" and whole_word and column and row[column - 1] != ".":
            words[-1].append(column)
        elif cell != ".":
            words.append([column])
    return words


def runs_of(words: list[list[int]]) -> list[int]:
    """For each word, how many follow without a gap, itself counted."""
    room = [1] * len(words)
    for i in range(len(words) - 2, -1, -1):
        if words[i + 1][0] == words[i][-1] + 1:
            room[i] = room[i + 1] + 1
    return room


# The definitions, one item after the other: (words, order of words, what n each wants, budget) -> columns chosen.


def take_ngrams(words: list[list[int]], order: list[int], wants: list[int], budget: int) -> set[int]:
    chosen: set[int] = set()
    for i in order:
        n = wants[i]
        while n and sum(map(len, words[i : i + n])) > budget - len(chosen):
            n -= 1
        ngram = {column for word in words[i : i + n] for column in word}
        if not ngram & chosen:
            chosen |= ngram
    return chosen


def take_spans(words: list[list[int]], order: list[int], wants: list[int], budget: int) -> dict[int, int]:
    """Column: first column of its span."""
    chosen: dict[int, int] = {}
    for i in order:
        span = []
        for word in words[i : i + wants[i]]:
            if word[0] in chosen:
                break
            span += word
        for column in span[: budget - len(chosen)]:
            chosen[column] = words[i][0]
    return chosen


def draws_of(name: int, columns: list[int], seed: int, purpose: str = "select") -> list[int]:
    return draw(seed, purpose, np.uint64(name), np.array(columns, dtype=np.int64)).tolist() if columns else []


def wants_of(name: int, words: list[list[int]], law: Any, seed: int, *, renormalise: bool) -> list[int]:
    wants = []
    for bits, room in zip(draws_of(name, [w[0] for w in words], seed, "select.length"), runs_of(words), strict=True):
        fitting = [float(x) for x in law[:room]] if renormalise else [float(x) for x in law]
        point = (bits >> 11) / 2**53 * math.fsum(fitting)
        n = 1
        while n < len(fitting) and point >= math.fsum(fitting[:n]):
            n += 1
        wants.append(min(n, room))
    return wants


def expected(method: str, row: str, name: int, budget: int, seed: int) -> list[int]:
    """Columns that a method's definition chooses in a row."""
    if method in ("exact", "bernoulli"):
        columns = [c for word in words_of(row) for c in word]
        bits = dict(zip(columns, draws_of(name, columns, seed), strict=True))
        if method == "exact":
            return sorted(sorted(columns, key=lambda c: (bits[c], c))[:budget])
        return [c for c in columns if bits[c] >> 11 < round(0.3 * 2**53)]
    words = words_of(row, whole_word=method != "ngrams")
    bits = dict(enumerate(draws_of(name, [w[0] for w in words], seed)))
    if method == "bernoulli words":
        return [c for i, word in enumerate(words) if bits[i] >> 11 < round(0.3 * 2**53) for c in word]
    order = sorted(bits, key=lambda i: bits[i])
    if "spans" in method:
        law = selection.span_length_law(0.2, 10) if method == "spans" else selection.span_length_law(0.6, 3)
        return sorted(take_spans(words, order, wants_of(name, words, law, seed, renormalise=False), budget))
    most = {"words": 1, "ngrams": 3, "ngrams of words": 4}[method]
    wants = wants_of(name, words, selection.ngram_law(most), seed, renormalise=True)
    return sorted(take_ngrams(words, order, wants, budget))


@pytest.mark.parametrize("method", METHODS)
@cases(150)
@given(
    rows=ROWS,
    share=st.floats(0, 1),
    padding=st.integers(0, 5),
    window=st.sampled_from([1, 2, 8, 1000]),
    block=st.sampled_from([1, 50, 2**15]),
    seed=st.integers(0, 3),
)
@example(rows=[""], share=1, padding=0, window=8, block=2**15, seed=0)
@example(rows=["", "...", "w"], share=1, padding=0, window=8, block=2**15, seed=0)
@example(rows=["ww", "ww", "cc", "", "wc"], share=1, padding=0, window=8, block=2**15, seed=0)
def test_all_rows_at_once_choose_what_the_definition_says_of_each(
    method: str, rows: list[str], share: float, padding: int, window: int, block: int, seed: int
) -> None:
    counts = counts_of(rows, share)
    names = [7 * i + 3 for i in range(len(rows))]
    with patch.object(walk, "_FIRST_WINDOW", window), patch.object(walk, "_BLOCK_POSITIONS", block):
        found = METHODS[method](maskable(rows, names=names, padding=padding), counts, seed)
    assert found.chosen.dtype == bool
    assert columns_of(found.chosen) == [
        expected(method, row, name, int(count), seed) for row, name, count in zip(rows, names, counts, strict=True)
    ]


@pytest.mark.parametrize("method", METHODS)
@cases(40)
@given(rows=st.lists(ROW, min_size=2, max_size=7), share=st.floats(0, 1), order=st.randoms(use_true_random=False))
def test_a_row_is_chosen_from_alike_alone_and_among_others_padded_wider(
    method: str, rows: list[str], share: float, order: Any
) -> None:
    counts = counts_of(rows, share)
    together = METHODS[method](maskable(rows, padding=9), counts, 5)
    shuffled = list(range(len(rows)))
    order.shuffle(shuffled)
    mixed = METHODS[method](maskable([rows[i] for i in shuffled], names=shuffled), counts[shuffled], 5)
    for at, i in enumerate(shuffled):
        alone = METHODS[method](maskable([rows[i]], names=[i]), counts[i : i + 1], 5)
        for field in ("chosen", "anchor"):
            if (one := getattr(alone, field)) is not None:
                width = one.shape[1]
                assert (getattr(together, field)[i, :width] == one[0]).all()
                assert (getattr(mixed, field)[at, :width] == one[0]).all()


def long_rows(count: int = 40, length: int = 300) -> list[str]:
    cells = np.random.default_rng(3).choice(list("wwwcc."), size=(count, length))
    return ["." + "".join(row) + "." for row in cells]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("share", [0.15, 0.5, 1.0])
def test_long_rows_choose_what_the_definition_says(method: str, share: float) -> None:
    rows = long_rows()
    counts = counts_of(rows, share)
    found = columns_of(METHODS[method](maskable(rows), counts, 8).chosen)
    assert found == [expected(method, row, i, int(counts[i]), 8) for i, row in enumerate(rows)]


@cases(150)
@given(
    rate=st.floats(0.001, 1),
    limit=st.none() | st.integers(1, 100),
    lengths=st.lists(st.integers(3, 5000), min_size=1, max_size=20),
)
def test_counts_round_half_to_even_as_python_does(rate: float, limit: int | None, lengths: list[int]) -> None:
    counts = prediction_counts(rate, limit, np.array(lengths), np.array(lengths) - 2)
    bound = math.inf if limit is None else limit
    assert counts.tolist() == [min(bound, max(1, round(rate * n)), n - 2) for n in lengths]


def test_counts_rounded_up_do_not_follow_float_noise() -> None:
    lengths = np.arange(3, 2100)
    for percent in range(1, 101):
        counts = prediction_counts(percent / 100, None, lengths, lengths, rounding="up")
        assert counts.tolist() == [math.ceil(Fraction(percent, 100) * n) for n in lengths.tolist()]


def test_no_row_gets_more_predictions_than_it_has_candidates() -> None:
    assert prediction_counts(0.15, 4, np.array([2, 3, 40, 400]), np.array([0, 1, 2, 398])).tolist() == [0, 1, 2, 4]


@cases(200)
@given(
    order=st.lists(st.integers(0, 3).map(lambda i: (0, 1, 2**40, 2**64 - 1)[i]), min_size=1, max_size=12),
    data=st.data(),
)
def test_choose_counts_exactly_even_when_all_bits_tie(order: list[int], data: st.DataObject) -> None:
    candidate = np.array([data.draw(st.lists(st.booleans(), min_size=len(order), max_size=len(order)))])
    count = data.draw(st.integers(0, int(candidate.sum())))
    chosen = selection.choose(np.array([order], dtype=np.uint64), candidate, np.array([count]))
    columns = np.flatnonzero(candidate[0]).tolist()
    assert columns_of(chosen) == [sorted(sorted(columns, key=lambda c: (order[c], c))[:count])]


@pytest.mark.parametrize("method", METHODS)
def test_rows_without_candidates_and_tiles_without_rows_are_left_alone(method: str) -> None:
    for rows in (maskable([]), maskable([""]), maskable(["", ""], padding=3), maskable(["...."])):
        found = METHODS[method](rows, np.zeros(len(rows.names), dtype=np.int64), 1)
        assert found.chosen.shape == rows.candidate.shape
        assert not found.chosen.any()


@pytest.mark.parametrize("method", [m for m in METHODS if "bernoulli" not in m])
def test_a_lone_candidate_is_chosen_wherever_it_stands(method: str) -> None:
    rows = ["." * i + cell + "." * (5 - i) for i in range(6) for cell in "wc"]
    found = METHODS[method](maskable(rows), np.ones(12, dtype=np.int64), 1)
    assert columns_of(found.chosen) == [[i // 2] for i in range(12)]


@cases(150)
@given(rows=ROWS, share=st.floats(0, 1), most=st.integers(1, 12), seed=st.integers(0, 9))
def test_words_are_never_split_and_the_budget_is_used_as_far_as_words_fit(
    rows: list[str], share: float, most: int, seed: int
) -> None:
    counts = counts_of(rows, share)
    for found in (
        selection.words(maskable(rows), counts, seed),
        selection.ngrams(maskable(rows), counts, seed, most=most, whole_word=True),
    ):
        for row, columns, count in zip(rows, columns_of(found.chosen), counts, strict=True):
            for word in words_of(row):
                assert set(word) <= set(columns) or not set(word) & set(columns), "a word was cut"
            assert len(columns) <= count
    found = selection.words(maskable(rows), counts, seed)
    for row, columns, count in zip(rows, columns_of(found.chosen), counts, strict=True):
        left = count - len(columns)
        assert all(len(word) > left for word in words_of(row) if word[0] not in columns), "a word that fits was left"


@pytest.mark.parametrize("rate", [0.15, 0.5, 1.0])
def test_spans_hit_the_budget_at_every_length(rate: float) -> None:
    rows = [("." + "wwcwccw" * 30)[: n - 1] + "." for n in range(1, 201)]
    rows += [row.replace("cc", "c.") for row in rows]
    tile = maskable(rows)
    counts = prediction_counts(rate, None, tile.lengths, tile.candidate.sum(axis=1), rounding="up")
    for seed in range(3):
        found = selection.spans(tile, counts, seed, p=0.2, most_words=10)
        assert found.chosen.sum(axis=1).tolist() == counts.tolist()
        assert not (found.chosen & ~tile.candidate).any()


@cases(150)
@given(rows=ROWS, share=st.floats(0, 1), starts=st.booleans(), most=st.integers(1, 4))
def test_spans_run_from_the_word_start_that_anchors_them(
    rows: list[str], share: float, starts: bool, most: int
) -> None:
    tile = maskable(rows)
    if not starts:
        tile = Maskable(tile.names, tile.lengths, tile.candidate)
    counts = counts_of(rows, share)
    found = selection.spans(tile, counts, 2, p=0.3, most_words=most)
    assert found.anchor is not None
    assert found.anchor.dtype == np.int64
    assert found.chosen.sum(axis=1).tolist() == counts.tolist()
    for row, columns, anchors in zip(rows, columns_of(found.chosen), found.anchor.tolist(), strict=True):
        words = words_of(row, whole_word=starts)
        for anchor in {anchors[c] for c in columns}:
            span = [c for c in columns if anchors[c] == anchor]
            assert span == list(range(anchor, anchor + len(span))), "a span is not one piece"
            touched = [word for word in words if set(word) & set(span)]
            assert touched[0][0] == anchor
            assert len(touched) <= most


def test_whole_words_without_word_starts_are_refused() -> None:
    tile = maskable(["ww"])
    untold = Maskable(tile.names, tile.lengths, tile.candidate)
    one = np.ones(1, dtype=np.int64)
    for choose in (METHODS["words"], METHODS["bernoulli words"], METHODS["ngrams of words"]):
        with pytest.raises(ValueError, match="where words start"):
            choose(untold, one, 1)
    assert selection.ngrams(untold, one, 1, most=2, whole_word=False).chosen.sum() == 1


def test_a_tile_of_more_positions_than_its_keys_can_name_is_refused() -> None:
    with (
        patch.object(walk, "_POSITION", np.uint64(3)),
        pytest.raises(ValueError, match="at most 3 positions, got 4"),
    ):
        selection.words(maskable(["wwww"]), np.ones(1, dtype=np.int64), 1)


# Laws, at a chance of `FALSE_ALARM` each.


def copies(row: str, count: int, budget: int) -> tuple[Maskable, Any]:
    return maskable([row] * count), np.full(count, budget)


@pytest.mark.parametrize("method", ["exact", "words"])
@pytest.mark.parametrize("budget", [1, 2, 5])
def test_every_subset_of_a_small_row_is_equally_likely(method: str, budget: int) -> None:
    row = "..ww.wwww."
    found = Counter(map(tuple, columns_of(METHODS[method](*copies(row, 15_000, budget), 3).chosen)))
    subsets = list(combinations([c for c, cell in enumerate(row) if cell == "w"], budget))
    assert set(found) == set(subsets)
    assert fits([found[s] for s in subsets], [15_000 / len(subsets)] * len(subsets))


def outcomes(row: str, law: Any, budget: int, take: Callable[..., Any], *, renormalise: bool) -> dict[Any, float]:
    """The exact law of a small row: all orders of its words, and all lengths they may want."""
    words = words_of(row)
    choices = []
    for room in runs_of(words):
        shares = law[:room] / law[:room].sum() if renormalise else law
        choices.append([(min(n, room), share) for n, share in enumerate(shares.tolist(), start=1)])
    laws: Counter[Any] = Counter()
    for wants in product(*choices):
        chance = math.prod(share for _, share in wants) / math.factorial(len(words))
        for order in permutations(range(len(words))):
            taken = take(words, list(order), [n for n, _ in wants], budget)
            laws[tuple(sorted(taken.items() if isinstance(taken, dict) else taken))] += chance
    assert math.isclose(sum(laws.values()), 1)
    return dict(laws)


def follows(found: Counter[Any], laws: dict[Any, float]) -> bool:
    """Rare outcomes are counted together."""
    draws = sum(found.values())
    assert set(found) <= set(laws)
    common = [outcome for outcome, chance in laws.items() if chance * draws > 20]
    observed, shares = [found[o] for o in common], [laws[o] * draws for o in common]
    if (rest := draws - sum(shares)) > 5:
        observed, shares = [*observed, draws - sum(observed)], [*shares, rest]
    return fits(observed, shares)


@pytest.mark.parametrize(("row", "budget"), [("wwwww", 3), ("wcwwcc.w", 4), ("wwcw.ww", 3), ("wwww", 4)])
def test_ngrams_follow_the_exact_law_of_small_rows(row: str, budget: int) -> None:
    found = selection.ngrams(*copies(row, 20_000, budget), 6, most=3, whole_word=True)
    laws = outcomes(row, selection.ngram_law(3), budget, take_ngrams, renormalise=True)
    assert follows(Counter(map(tuple, columns_of(found.chosen))), laws)


@pytest.mark.parametrize(("row", "budget"), [("wwwww", 3), ("wcwwcc.w", 4), ("wwcw.ww", 3), ("wwww", 4)])
def test_spans_and_their_anchors_follow_the_exact_law_of_small_rows(row: str, budget: int) -> None:
    found = selection.spans(*copies(row, 20_000, budget), 6, p=0.4, most_words=3)
    laws = outcomes(row, selection.span_length_law(0.4, 3), budget, take_spans, renormalise=False)
    assert found.anchor is not None
    chosen = zip(columns_of(found.chosen), found.anchor.tolist(), strict=True)
    assert follows(Counter(tuple((c, anchors[c]) for c in columns) for columns, anchors in chosen), laws)


def lengths_of_first(find: Method, budget: int) -> Iterator[int]:
    """In long rows, how many tokens are chosen from the position on that comes first in the random order."""
    width, margin = 1000, 12
    for seed in range(4):
        tile, counts = copies("w" * width, 1500, budget)
        found = find(tile, counts, seed)
        first = draw(seed, "select", tile.names[:, None], np.arange(width)).argmin(axis=1)
        for row in np.flatnonzero(first < width - margin):
            begin = first[row]
            same = found.chosen[row, begin : begin + margin]
            if found.anchor is not None:
                same &= found.anchor[row, begin : begin + margin] == begin
            yield int(np.argmin(same))


def test_ngrams_have_their_length_law_where_nothing_binds() -> None:
    assert selection.ngram_law(3) == pytest.approx([6 / 11, 3 / 11, 2 / 11])
    # The budget never binds the first; another follows on it by chance in a row of some 500.
    found = Counter(lengths_of_first(METHODS["ngrams"], 3))
    assert fits([found[n] for n in (1, 2, 3)], [sum(found.values()) * share for share in selection.ngram_law(3)])


def test_spans_have_their_length_law_where_nothing_binds() -> None:
    law = selection.span_length_law(0.2, 10)
    assert law == pytest.approx([0.2 * 0.8**i / (1 - 0.8**10) for i in range(10)])
    found = Counter(lengths_of_first(METHODS["spans"], 40))
    assert fits([found[n] for n in range(1, 11)], [sum(found.values()) * share for share in law])


@pytest.mark.parametrize("method", ["bernoulli", "bernoulli words"])
def test_bernoulli_counts_are_binomial(method: str) -> None:
    tile = maskable([".wcwcwcwcwc."] * 20_000)
    chosen = METHODS[method](tile, None, 4).chosen
    units, n = (chosen[:, 1::2], 5) if method == "bernoulli words" else (chosen, 10)
    if method == "bernoulli words":
        assert (chosen[:, 1:11:2] == chosen[:, 2:12:2]).all()
        units = chosen[:, 1:11:2]
    found = Counter(units.sum(axis=1).tolist())
    common = range(6 if n == 5 else 8)
    law = [math.comb(n, k) * 0.3**k * 0.7 ** (n - k) for k in common]
    observed = [found[k] for k in common]
    if n == 10:
        observed, law = [*observed, 20_000 - sum(observed)], [*law, 1 - sum(law)]
    assert fits(observed, [20_000 * share for share in law])


def test_bernoulli_of_rate_none_or_all_is_exact() -> None:
    tile = maskable(["w.cwc", ".w..."])
    for whole_word in (False, True):
        assert not selection.bernoulli(tile, 0.0, 1, whole_word=whole_word).chosen.any()
        assert (selection.bernoulli(tile, 1.0, 1, whole_word=whole_word).chosen == tile.candidate).all()
    bits = draw(1, "select", tile.names[:, None], np.arange(5))
    assert (selection.bernoulli(tile, 0.5, 1, whole_word=False).chosen == happens(bits, 0.5) & tile.candidate).all()
