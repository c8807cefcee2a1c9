"""Masking of rows: the law of every selection, labels that restore, and masks that hang on a row's name alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations, pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError
from unit_helpers import FIRST_TEXT_ID, SPECIAL_IDS, cases, fits, lists, ragged, vocabulary

import transforms.objectives.masking as masking
from schemas.errors import RequestError
from transforms.objectives.masking import Masker, MaskingParameters, prediction_law

CLS, SEP, MASK, UNK = (SPECIAL_IDS[r] for r in ("cls", "sep", "mask", "unk"))
SIZE = 60
TEXT_IDS = SIZE - FIRST_TEXT_ID
CONTINUING = tuple(range(30, SIZE))
WORDS = vocabulary(SIZE, continuing=CONTINUING)

Row = tuple[list[int], list[int], list[int]]
"""Ids as shown, positions, labels."""

SELECTIONS: dict[str, dict[str, Any]] = {
    "exact": {"selection": "exact"},
    "exact words": {"selection": "exact", "whole_word": True},
    "bernoulli": {"selection": "bernoulli"},
    "bernoulli words": {"selection": "bernoulli", "whole_word": True},
    "ngram": {"selection": "ngram"},
    "ngram words": {"selection": "ngram", "whole_word": True},
    "span": {"selection": "span"},
    "span words": {"selection": "span", "whole_word": True},
}

TOKEN = st.integers(FIRST_TEXT_ID, SIZE - 1)
PIECE = st.lists(st.one_of(TOKEN, TOKEN, TOKEN, TOKEN, st.just(UNK), st.just(MASK)), max_size=40)


@st.composite
def rows_of_pieces(draw: st.DrawFn) -> list[list[int]]:
    """Rows as the objectives make them: [CLS] piece [SEP] piece [SEP] …, pieces empty ones too."""
    pieces = draw(st.lists(st.lists(PIECE, min_size=1, max_size=3), max_size=8))
    return [[CLS, *(token for piece in row for token in [*piece, SEP])] for row in pieces]


@st.composite
def parameters(draw: st.DrawFn) -> MaskingParameters:
    chosen: dict[str, Any] = dict(draw(st.sampled_from(list(SELECTIONS.values()))))
    if chosen["selection"] != "bernoulli":
        chosen["max_predictions"] = draw(st.none() | st.integers(1, 12))
    # Decimals, as people write them, so that the law can be computed in fractions.
    chosen["mask_rate"] = draw(st.integers(1, 100)) / 100
    chosen["mask_replace_prob"], chosen["random_replace_prob"] = draw(
        st.sampled_from([(0.8, 0.1), (0.0, 0.0), (0.5, 0.5), (1.0, 0.0), (0.0, 1.0)])
    )
    return MaskingParameters(kind="mlm", **chosen)


def of(selection: str, **changes: Any) -> MaskingParameters:
    return MaskingParameters(kind="mlm", **{**SELECTIONS[selection], **changes})


def mask(
    parameters: MaskingParameters, rows: list[list[int]], *, names: list[int] | None = None, seed: int = 1
) -> list[Row]:
    named = np.array(range(len(rows)) if names is None else names, dtype=np.uint64)
    given_ = ragged(rows)
    before = given_.flat.copy()
    made = Masker.of(parameters, WORDS).mask(given_, named, seed)
    assert (given_.flat == before).all(), "the rows given were written to"
    assert made.input_ids.flat.dtype == made.positions.flat.dtype == made.labels.flat.dtype == np.int32
    columns = [lists(made.input_ids), lists(made.positions), lists(made.labels)]
    assert {len(c) for c in columns} == {len(rows)}
    return list(zip(*columns, strict=True))


def words_of(row: list[int]) -> list[list[int]]:
    """Positions of each word that may be predicted, by where words start."""
    words: list[list[int]] = []
    for position, token in enumerate(row):
        if token >= FIRST_TEXT_ID:
            if token in CONTINUING and words and words[-1][-1] == position - 1:
                words[-1].append(position)
            else:
                words.append([position])
    return words


def law_of(parameters: MaskingParameters, row: list[int]) -> int:
    """The number of predictions in exact arithmetic; a bound where whole words or n-grams are taken."""
    share = Fraction(str(parameters.mask_rate)) * len(row)
    count = math.ceil(share) if parameters.selection == "span" else round(float(share))
    count = max(1, count)
    if parameters.max_predictions is not None:
        count = min(count, parameters.max_predictions)
    return min(count, sum(token >= FIRST_TEXT_ID for token in row))


# One row at a time.


@cases(300)
@given(rows=rows_of_pieces(), parameters=parameters())
@example(rows=[], parameters=of("span"))
@example(rows=[[CLS, SEP]], parameters=of("ngram words"))
@example(rows=[[CLS, UNK, SEP], [CLS, 7, SEP]], parameters=of("span", mask_rate=1))
def test_labels_restore_the_rows_and_nothing_special_is_predicted_or_put_in(
    rows: list[list[int]], parameters: MaskingParameters
) -> None:
    for row, (shown, positions, labels) in zip(rows, mask(parameters, rows), strict=True):
        assert positions == sorted(set(positions)), "positions ascend without repeats"
        assert len(labels) == len(positions)
        restored = list(shown)
        for position, label in zip(positions, labels, strict=True):
            restored[position] = label
            assert label >= FIRST_TEXT_ID, "a special or unknown token is predicted"
            assert shown[position] == MASK or shown[position] >= FIRST_TEXT_ID, "a special token was put in"
        assert restored == row


@cases(300)
@given(rows=rows_of_pieces(), parameters=parameters())
@example(rows=[[CLS, *[7] * 98, SEP]], parameters=of("span", mask_rate=0.07))
def test_every_selection_obeys_its_law(rows: list[list[int]], parameters: MaskingParameters) -> None:
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    candidates = np.array([sum(t >= FIRST_TEXT_ID for t in row) for row in rows], dtype=np.int64)
    law = prediction_law(parameters, lengths, candidates).tolist()
    assert law == [law_of(parameters, row) for row in rows]
    for row, budget, (_, positions, _) in zip(rows, law, mask(parameters, rows), strict=True):
        chosen = set(positions)
        if parameters.exact_count:
            assert len(chosen) == budget
        elif parameters.selection != "bernoulli":
            assert len(chosen) <= budget
        if not parameters.whole_word or parameters.selection == "span":
            continue
        for word in words_of(row):
            taken = chosen.intersection(word)
            assert taken in (set(), set(word)), "a word was cut"
            if parameters.selection == "exact":
                assert taken or len(word) > budget - len(chosen), "a word that fits was left out"


@pytest.mark.parametrize(
    ("selection", "lone", "long"),
    [
        ("ngram", {"max_ngram": 1}, {"max_ngram": 4}),
        ("ngram words", {"max_ngram": 1}, {"max_ngram": 4}),
        ("span", {"max_span_words": 1}, {"max_span_words": 4}),
        ("span", {"span_geometric_p": 1 - 1e-12}, {"span_geometric_p": 0.1}),
    ],
)
def test_the_lengths_of_runs_are_those_asked_for(
    selection: str, lone: dict[str, float], long: dict[str, float]
) -> None:
    """Fails if a parameter of length does not reach the selection; the laws themselves are tested there."""
    rows, subsets = [[CLS, *range(6, 12), SEP]] * 6000, list(combinations(range(1, 7), 2))
    counts = Counter(tuple(positions) for _, positions, _ in mask(of(selection, mask_rate=0.25, **lone), rows))
    assert set(counts) == set(subsets)
    assert fits([counts[s] for s in subsets], [6000 / len(subsets)] * len(subsets))
    together = sum(b == a + 1 for _, (a, b), _ in mask(of(selection, mask_rate=0.25, **long), rows))
    assert together > 6000 * 1 / 2  # of lone places a third are neighbours


def test_bernoulli_predicts_each_place_on_its_own() -> None:
    rows = [[CLS, *[7] * 40, SEP]] * 4000
    counts = Counter(len(positions) for _, positions, _ in mask(of("bernoulli", mask_rate=0.15), rows))
    law = [math.comb(40, k) * 0.15**k * 0.85 ** (40 - k) for k in range(41)]
    common = [k for k in range(41) if 4000 * law[k] > 10]
    rest = 4000 - sum(counts[k] for k in common)
    expected = [4000 * law[k] for k in common]
    assert fits([*(counts[k] for k in common), rest + 10], [*expected, 4000 - sum(expected) + 10])


# How places are shown.


RATES = [(0.8, 0.1), (0.85, 0.0), (0.0, 1.0), (0.4, 0.6), (1.0, 0.0), (0.0, 0.0)]


@pytest.mark.parametrize("rates", RATES, ids=lambda r: f"{r[0]:g}/{r[1]:g}")
@pytest.mark.parametrize("selection", ["exact", "bernoulli words", "ngram"])
def test_the_rates_of_showing_are_the_parameters(selection: str, rates: tuple[float, float]) -> None:
    masked, random = rates
    rows = [[CLS, *[FIRST_TEXT_ID + (i * 7 + j) % TEXT_IDS for j in range(60)], SEP] for i in range(2000)]
    found, steps = Counter[str](), Counter[int]()
    changed = of(selection, mask_replace_prob=masked, random_replace_prob=random)
    for shown, positions, labels in mask(changed, rows, seed=8):
        for position, label in zip(positions, labels, strict=True):
            token = shown[position]
            found["mask" if token == MASK else "kept" if token == label else "random"] += 1
            if token not in (MASK, label):
                steps[(token - label) % TEXT_IDS] += 1
    n = sum(found.values())
    assert n > 10_000
    # A random token is drawn from all that stand for text, the original one too.
    law = {"mask": masked, "random": random * (1 - 1 / TEXT_IDS), "kept": 1 - masked - random + random / TEXT_IDS}
    possible = [k for k, p in law.items() if p > 1e-9]
    assert set(found) == set(possible)
    if len(possible) > 1:
        assert fits([found[k] for k in possible], [n * law[k] for k in possible])
    if random:
        each = found["random"] / (TEXT_IDS - 1)
        assert fits([steps[d] for d in range(1, TEXT_IDS)], [each] * (TEXT_IDS - 1))


def lone_words(count: int) -> list[list[int]]:
    """Rows of words of three pieces with unknown tokens between them, so that a run of places is one span."""
    word = [7, 30, 31]
    return [[CLS, *(t for _ in range(10) for t in [*word, UNK]), SEP]] * count


def runs_of(shown: list[int], positions: list[int], labels: list[int]) -> Iterator[list[tuple[int, int]]]:
    """(shown, label) of the places of each run."""
    run: list[tuple[int, int]] = []
    for i, (position, label) in enumerate(zip(positions, labels, strict=True)):
        if run and position != positions[i - 1] + 1:
            yield run
            run = []
        run.append((shown[position], label))
    if run:
        yield run


def fate(shown: int, label: int) -> str:
    return "mask" if shown == MASK else "kept" if shown == label else "random"


def test_a_span_is_shown_alike_throughout_and_spans_by_the_rates() -> None:
    """SpanBERT draws 80/10/10 once a span; fails if each place is drawn for itself, or all spans of a row at once."""
    fates: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    alike = 0
    # Of the 42 places 6 are predicted, two words of three: no span is cut.
    parameters = of("span", mask_rate=0.14, mask_replace_prob=0.5, random_replace_prob=0.25)
    for row in mask(parameters, lone_words(4000), seed=2):
        of_row = []
        for run in runs_of(*row):
            kinds = {fate(shown, label) for shown, label in run}
            # A random token may be the original by chance, one in 54.
            assert len(kinds) == 1 or kinds == {"random", "kept"}
            of_row.append("random" if "random" in kinds else kinds.pop())
            replaced = [shown for shown, label in run if of_row[-1] == "random"]
            alike += len(replaced) == 3 and len(set(replaced)) == 1
        fates.update(of_row)
        pairs.update(pairwise(of_row))
    assert sum(fates.values()) == 8000
    assert fits([fates[k] for k in ("mask", "random", "kept")], [4000, 2000, 2000])
    share = {"mask": 0.5, "random": 0.25, "kept": 0.25}
    law = {(a, b): 4000 * share[a] * share[b] for a in share for b in share}
    assert fits([pairs[p] for p in law], list(law.values()))
    assert alike < fates["random"] / 20, "the places of a span got one random token"


def test_places_that_are_not_of_a_span_are_shown_each_for_itself() -> None:
    for selection in ("exact words", "bernoulli words", "ngram words"):
        parameters = of(selection, mask_rate=0.3, mask_replace_prob=0.5, random_replace_prob=0)
        kinds = Counter(
            tuple(fate(shown, label) for shown, label in run)
            for row in mask(parameters, lone_words(1500))
            for run in runs_of(*row)
        )
        n = sum(kinds.values())
        assert fits([kinds[k] for k in sorted(kinds)], [n / 8] * 8), selection


# Names decide, and nothing else.


@cases(120)
@given(
    rows=rows_of_pieces(),
    parameters=parameters(),
    tile=st.sampled_from([1, 37, 200, 2**16]),
    data=st.data(),
)
def test_masks_do_not_depend_on_neighbours_order_or_tiles(
    rows: list[list[int]], parameters: MaskingParameters, tile: int, data: st.DataObject
) -> None:
    together = mask(parameters, rows)
    order = data.draw(st.permutations(range(len(rows))))
    with patch.object(masking, "_TILE_POSITIONS", tile):
        mixed = mask(parameters, [rows[i] for i in order], names=list(order))
    assert mixed == [together[i] for i in order]
    assert [mask(parameters, [row], names=[i])[0] for i, row in enumerate(rows)] == together


@pytest.mark.parametrize("selection", sorted(SELECTIONS))
def test_a_row_is_masked_alike_alone_and_among_a_thousand_others(selection: str) -> None:
    """Fails if a mask changes with the width of a tile, or with the place of a row in it."""
    draw = np.random.default_rng(4)
    lengths = draw.integers(1, 200, 1001).tolist()
    rows = [[CLS, *draw.integers(FIRST_TEXT_ID, SIZE, n).tolist(), SEP] for n in lengths]
    names = draw.integers(0, 2**63, 1001).tolist()
    together = mask(of(selection), rows, names=names)
    with patch.object(masking, "_TILE_POSITIONS", 777):
        assert mask(of(selection), rows, names=names) == together
    for i in range(0, 1001, 143):
        assert mask(of(selection), [rows[i]], names=[names[i]]) == [together[i]]


@pytest.mark.parametrize("selection", sorted(SELECTIONS))
def test_another_name_or_seed_gives_other_masks_and_other_tokens(selection: str) -> None:
    row = [CLS, *range(6, 30), *range(6, 30), SEP]
    found = [
        mask(of(selection, random_replace_prob=1, mask_replace_prob=0), [row], names=[name], seed=seed)[0]
        for name, seed in ((1, 1), (2, 1), (1, 2))
    ]
    assert len({tuple(positions) for _, positions, _ in found}) == 3
    assert len({tuple(shown) for shown, _, _ in found}) == 3


# What is refused.


def test_rates_and_selections_that_contradict_each_other_are_refused() -> None:
    for wrong, what in (
        ({"mask_rate": 0}, "mask_rate must be above 0"),
        ({"mask_rate": 1.1}, "less than or equal to 1"),
        ({"mask_replace_prob": 0.8, "random_replace_prob": 0.3}, "must not exceed 1"),
        ({"selection": "bernoulli", "max_predictions": 20}, "max_predictions cannot bound it"),
        ({"max_ngram": 0}, "greater than or equal to 1"),
        ({"span_geometric_p": 1}, "less than 1"),
    ):
        with pytest.raises(ValidationError, match=what):
            MaskingParameters(kind="mlm", **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("selection", sorted(SELECTIONS))
def test_words_are_needed_exactly_where_words_are_masked(selection: str) -> None:
    untold = vocabulary(SIZE, tells_words=False)
    if "words" in selection or selection == "span":
        with pytest.raises(RequestError, match="where words start"):
            Masker.of(of(selection), untold)
    else:
        assert Masker.of(of(selection), untold).mask_id == MASK


def test_a_vocabulary_of_special_tokens_alone_is_refused_where_random_tokens_are_drawn() -> None:
    with pytest.raises(RequestError, match="stand for text"):
        Masker.of(of("exact"), vocabulary(FIRST_TEXT_ID))
    with pytest.raises(RequestError, match="'mask'"):
        Masker.of(of("exact"), vocabulary(roles={r: i for r, i in SPECIAL_IDS.items() if r != "mask"}))
