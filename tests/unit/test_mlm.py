"""mlm: exact counts, the 80/10/10 law, whole words, and masks that depend on nothing but their name."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from unit_helpers import FALSE_ALARM, FIRST_TEXT_ID, SPECIAL_IDS, cases, fits, lists, ragged, vocabulary

import transforms.objectives.mlm as mlm
from schemas.errors import RequestError
from schemas.objectives import Mlm
from schemas.tables import EXAMPLES
from transforms.objectives import builder_for
from transforms.objectives.base import Documents, Examples
from transforms.vocabulary import Vocabulary

CLS, SEP, MASK, UNK = (SPECIAL_IDS[r] for r in ("cls", "sep", "mask", "unk"))
SIZE = 60
CONTINUING = tuple(range(30, SIZE))
WORDS = vocabulary(SIZE, continuing=CONTINUING)

TOKEN = st.integers(FIRST_TEXT_ID, SIZE - 1)
DOCUMENT = st.lists(st.one_of(TOKEN, TOKEN, TOKEN, TOKEN, st.just(UNK), st.just(MASK)), min_size=1, max_size=70)
DOCUMENTS = st.lists(DOCUMENT, min_size=1, max_size=8)
PARAMETERS = st.builds(
    Mlm,
    mask_rate=st.floats(0.01, 1),
    max_predictions=st.none() | st.integers(1, 12),
    whole_word=st.booleans(),
    mask_replace_prob=st.sampled_from([0.0, 0.5, 0.8, 1.0]),
    random_replace_prob=st.just(0.0),
) | st.builds(Mlm, mask_rate=st.floats(0.01, 1), whole_word=st.booleans(), random_replace_prob=st.just(0.2))

Row = dict[str, Any]


def build(
    parameters: Mlm,
    documents: list[list[int]],
    *,
    longest: int = 128,
    keys: list[int] | None = None,
    copy: int = 0,
    seed: int = 1,
    vocab: Vocabulary = WORDS,
) -> Examples:
    names = np.array(range(len(documents)) if keys is None else keys, dtype=np.uint64)
    corpus = Documents(ids=ragged(documents), keys=names, copy=copy)
    return builder_for(parameters, vocab).build(corpus, longest=longest, seed=seed)


def rows_of(examples: Examples) -> list[Row]:
    columns = {
        "ids": lists(examples.input_ids),
        "key": [k[0] for k in lists(examples.doc_keys)],
        "offset": [o[0] for o in lists(examples.doc_offsets)],
        "tokens": [n[0] for n in lists(examples.doc_lengths)],
        "positions": lists(examples.lists["mask_positions"]),
        "labels": lists(examples.lists["mask_labels"]),
    }
    assert {len(c) for c in columns.values()} == {len(examples)}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def expected_count(parameters: Mlm, length: int, candidates: int) -> int:
    """BERT's law in Python's own arithmetic."""
    count = max(1, round(parameters.mask_rate * length))
    if parameters.max_predictions is not None:
        count = min(count, parameters.max_predictions)
    return min(count, candidates)


def words_of(row: list[int], continuing: tuple[int, ...] = CONTINUING) -> list[list[int]]:
    """Positions of each word of a restored row: pieces that may be chosen, grouped by where words start."""
    words: list[list[int]] = []
    previous = -2
    for position, token in enumerate(row):
        if token < FIRST_TEXT_ID:
            continue
        if token in continuing and previous == position - 1:
            words[-1].append(position)
        else:
            words.append([position])
        previous = position
    return words


@cases(180)
@given(documents=DOCUMENTS, parameters=PARAMETERS, longest=st.integers(3, 40))
@example(documents=[[UNK]], parameters=Mlm(), longest=3)
@example(documents=[[UNK] * 9, [7]], parameters=Mlm(whole_word=True), longest=4)
@example(documents=[[35, 36, 37], [UNK, 35, UNK, 36]], parameters=Mlm(whole_word=True, mask_rate=1), longest=40)
def test_every_row_restores_its_piece_and_obeys_the_law(
    documents: list[list[int]], parameters: Mlm, longest: int
) -> None:
    examples = build(parameters, documents, longest=longest)
    pieces = []
    for row in rows_of(examples):
        ids, positions, labels = row["ids"], row["positions"], row["labels"]
        assert positions == sorted(set(positions)), "positions ascend without repeats"
        restored = list(ids)
        for position, label in zip(positions, labels, strict=True):
            restored[position] = label
            assert label >= FIRST_TEXT_ID, "a special or unknown token was chosen"
            assert ids[position] == MASK or ids[position] >= FIRST_TEXT_ID, "a special token was put in at random"
        piece = documents[row["key"]][row["offset"] : row["offset"] + row["tokens"]]
        assert restored == [CLS, *piece, SEP]
        assert len(ids) <= longest
        pieces.append((row["key"], row["offset"], row["tokens"]))

        candidates = sum(t >= FIRST_TEXT_ID for t in piece)
        budget = expected_count(parameters, len(ids), candidates)
        if not parameters.whole_word:
            assert len(positions) == budget
            continue
        chosen = set(positions)
        left = budget - len(chosen)
        assert left >= 0, "over the budget"
        for word in words_of(restored):
            taken = chosen.intersection(word)
            assert taken in (set(), set(word)), "a word was cut"
            assert taken or len(word) > left, "a word that fits was left out"
    room = longest - 2
    assert sorted(pieces) == [
        (key, begin, min(room, len(document) - begin))
        for key, document in enumerate(documents)
        for begin in range(0, len(document), room)
    ]
    assert sum(examples.losses.values()) == 0
    assert examples.to_table("mlm", "a").schema == EXAMPLES["mlm"]


@cases(150)
@given(
    rate=st.floats(0.001, 1),
    limit=st.none() | st.integers(1, 100),
    lengths=st.lists(st.integers(3, 5000), min_size=1, max_size=20),
)
def test_counts_round_half_to_even_as_python_does(rate: float, limit: int | None, lengths: list[int]) -> None:
    parameters = Mlm(mask_rate=rate, max_predictions=limit)
    counts = mlm.prediction_counts(parameters, np.array(lengths), np.array(lengths) - 2)
    assert counts.tolist() == [expected_count(parameters, n, n - 2) for n in lengths]


def test_the_figures_of_bert_are_met() -> None:
    builder = builder_for(Mlm(), WORDS)
    assert [builder.resolve(n)["predictions"] for n in (128, 130, 512)] == [19, 20, 77]  # objectives.md
    assert builder_for(Mlm(max_predictions=20), WORDS).resolve(512)["predictions"] == 20  # BERT's phase 1


@cases(100)
@given(
    documents=st.lists(DOCUMENT, min_size=2, max_size=8),
    parameters=PARAMETERS,
    longest=st.integers(3, 40),
    batch=st.sampled_from([1, 37, 200, 2**20]),
    order=st.randoms(use_true_random=False),
)
def test_masks_do_not_depend_on_neighbours_order_or_batches(
    documents: list[list[int]], parameters: Mlm, longest: int, batch: int, order: Any
) -> None:
    def by_name(examples: Examples) -> dict[tuple[int, int], Row]:
        return {(r["key"], r["offset"]): r for r in rows_of(examples)}

    together = by_name(build(parameters, documents, longest=longest))
    alone: dict[tuple[int, int], Row] = {}
    for key, document in enumerate(documents):
        alone.update(by_name(build(parameters, [document], keys=[key], longest=longest)))
    shuffled = list(range(len(documents)))
    order.shuffle(shuffled)
    with patch.object(mlm, "_BATCH_POSITIONS", batch):
        mixed = by_name(build(parameters, [documents[i] for i in shuffled], keys=shuffled, longest=longest))
    assert together == alone == mixed


CORPUS = [[FIRST_TEXT_ID + (i * 7 + j) % (SIZE - FIRST_TEXT_ID) for j in range(126)] for i in range(3000)]


def test_eighty_ten_ten_holds_and_random_tokens_are_uniform() -> None:
    mask = random = kept = 0
    replacements: Counter[int] = Counter()
    text_ids = SIZE - FIRST_TEXT_ID
    for row in rows_of(build(Mlm(), CORPUS, seed=5)):
        for position, label in zip(row["positions"], row["labels"], strict=True):
            shown = row["ids"][position]
            if shown == MASK:
                mask += 1
            elif shown == label:
                kept += 1
            else:
                random += 1
                replacements[(shown - label) % text_ids] += 1
    n = 3000 * 19
    assert mask + random + kept == n
    # A random replacement is drawn from all text ids, the original one too.
    assert fits([mask, random, kept], [0.8 * n, 0.1 * n * (1 - 1 / text_ids), n * (0.1 + 0.1 / text_ids)])
    assert fits([replacements[d] for d in range(1, text_ids)], [random / (text_ids - 1)] * (text_ids - 1))


def test_the_rates_are_parameters_and_extremes_are_exact() -> None:
    for parameters, shown in (
        (Mlm(mask_replace_prob=1, random_replace_prob=0), "mask"),
        (Mlm(mask_replace_prob=0, random_replace_prob=0), "kept"),
    ):
        for row in rows_of(build(parameters, CORPUS[:50])):
            for position, label in zip(row["positions"], row["labels"], strict=True):
                assert row["ids"][position] == (MASK if shown == "mask" else label)


def test_every_position_of_a_row_is_equally_likely_to_be_chosen() -> None:
    counts = Counter(p for row in rows_of(build(Mlm(), CORPUS, seed=9)) for p in row["positions"])
    assert set(counts) <= set(range(1, 127))
    # Draws without replacement vary less than the multinomial that the test assumes, so it errs to the safe side.
    assert fits([counts[p] for p in range(1, 127)], [3000 * 19 / 126] * 126)


@pytest.mark.parametrize("whole_word", [False, True])
def test_every_subset_of_a_small_row_is_equally_likely(whole_word: bool) -> None:
    documents = [[7, 8, 9, 10, 11, 12]] * 15_000
    parameters = Mlm(mask_rate=0.25, whole_word=whole_word)  # round(.25 * 8) = 2
    counts = Counter(tuple(row["positions"]) for row in rows_of(build(parameters, documents, seed=3)))
    subsets = list(combinations(range(1, 7), 2))
    assert set(counts) == set(subsets)
    assert fits([counts[s] for s in subsets], [15_000 / len(subsets)] * len(subsets))


def test_whole_words_in_random_order_hit_the_exact_law_of_a_small_case() -> None:
    # Words of 1, 2 and 3 pieces and a budget of 3. First word drawn 3: alone. 2: then 1 fits, 3 does not. 1: if 2
    # comes before 3, {1, 2}; if 3 comes before, 3 does not fit and 2 does: {1, 2}. So {3} 1/3 and {1, 2} 2/3.
    documents = [[7, 8, 30, 9, 31, 32]] * 9000
    counts = Counter(
        tuple(row["positions"]) for row in rows_of(build(Mlm(mask_rate=0.4, whole_word=True), documents, seed=4))
    )
    assert set(counts) == {(1, 2, 3), (4, 5, 6)}
    assert fits([counts[(4, 5, 6)], counts[(1, 2, 3)]], [3000, 6000])


def test_a_new_copy_gets_new_masks_that_overlap_by_chance_alone() -> None:
    first = {r["key"]: set(r["positions"]) for r in rows_of(build(Mlm(), CORPUS, copy=0))}
    for changes in ({"copy": 1}, {"seed": 2}):
        other = {r["key"]: set(r["positions"]) for r in rows_of(build(Mlm(), CORPUS, **changes))}
        overlaps = [len(first[k] & other[k]) for k in first]
        m, n = 19, 126
        mean = m * m / n
        variance = m * (m / n) * (1 - m / n) * (n - m) / (n - 1)  # hypergeometric
        z = (sum(overlaps) / len(overlaps) - mean) / math.sqrt(variance / len(overlaps))
        assert math.erfc(abs(z) / math.sqrt(2)) > FALSE_ALARM, (changes, z)


def test_pieces_of_one_long_document_do_not_share_their_masks() -> None:
    rows = rows_of(build(Mlm(), [[7] * (126 * 400)]))
    assert len(rows) == 400
    assert len({tuple(r["positions"]) for r in rows}) == 400


@cases(150)
@given(
    lengths=st.dictionaries(st.integers(1, 90), st.integers(1, 4), min_size=1, max_size=8), longest=st.integers(3, 50)
)
def test_the_preview_predicts_every_row_length_exactly(lengths: dict[int, int], longest: int) -> None:
    documents = [[7] * n for n, count in lengths.items() for _ in range(count)]
    shown, rows = builder_for(Mlm(), WORDS).row_lengths(
        np.array(list(lengths)), np.array(list(lengths.values())), longest=longest
    )
    predicted: Counter[int] = Counter()
    for length, count in zip(shown.tolist(), rows.tolist(), strict=True):
        predicted[length] += count
    built = Counter(len(row["ids"]) for row in rows_of(build(Mlm(), documents, longest=longest)))
    assert +predicted == built


def test_a_length_without_room_for_a_token_is_refused() -> None:
    builder = builder_for(Mlm(), WORDS)
    assert builder.resolve(3) == {"length": 3, "predictions": 1}
    with pytest.raises(RequestError, match="at least 3"):
        builder.resolve(2)


@pytest.mark.parametrize("role", ["cls", "sep", "mask"])
def test_a_tokenizer_without_a_needed_token_is_refused_by_name(role: str) -> None:
    roles = {r: i for r, i in SPECIAL_IDS.items() if r != role}
    with pytest.raises(RequestError) as error:
        builder_for(Mlm(), vocabulary(roles=roles))
    assert repr(role) in error.value.paragraph()
    assert "special_tokens" in error.value.paragraph()


def test_whole_words_without_word_starts_are_refused_and_plain_masks_are_not() -> None:
    untold = vocabulary(tells_words=False)
    with pytest.raises(RequestError, match="where words start"):
        builder_for(Mlm(whole_word=True), untold)
    assert len(build(Mlm(), [[7, 8]], vocab=untold)) == 1


def test_a_vocabulary_of_special_tokens_alone_is_refused() -> None:
    with pytest.raises(RequestError, match="stand for text"):
        builder_for(Mlm(), vocabulary(FIRST_TEXT_ID))
