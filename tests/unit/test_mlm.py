"""mlm: exact counts, the 80/10/10 law, whole words, rows of every packing, and masks that hang on a name alone."""

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
from unit_helpers import FALSE_ALARM, FIRST_TEXT_ID, SPECIAL_IDS, cases, corpus, fits, lists, vocabulary

import transforms.objectives.masking as masking
from schemas.errors import RequestError
from transforms.objectives.base import Examples
from transforms.objectives.mlm import Mlm
from transforms.objectives.registry import objective_for, schema_of
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

SEEDS = st.integers(0, 3)

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
    ends: list[list[int]] | None = None,
) -> Examples:
    made = corpus(documents, keys=keys, copy=copy, ends=ends)
    return objective_for(parameters, vocab).build(made, lengths=[3, longest], seed=seed)


def rows_of(examples: Examples) -> list[Row]:
    """Rows by column; `key`, `offset` and `tokens` of the first piece, `pieces` of all."""
    columns = {
        "ids": lists(examples.input_ids),
        "pieces": [
            list(zip(*piece, strict=True))
            for piece in zip(
                lists(examples.doc_keys), lists(examples.doc_offsets), lists(examples.doc_lengths), strict=True
            )
        ],
        "positions": lists(examples.lists["mask_positions"]),
        "labels": lists(examples.lists["mask_labels"]),
    }
    assert {len(c) for c in columns.values()} == {len(examples)}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [{**row, **dict(zip(("key", "offset", "tokens"), row["pieces"][0], strict=True))} for row in rows]


def restored(row: Row) -> list[int]:
    """The row with the labels at their positions."""
    ids = list(row["ids"])
    for position, label in zip(row["positions"], row["labels"], strict=True):
        ids[position] = label
    return ids


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
        for position, label in zip(positions, labels, strict=True):
            assert label >= FIRST_TEXT_ID, "a special or unknown token was chosen"
            assert ids[position] == MASK or ids[position] >= FIRST_TEXT_ID, "a special token was put in at random"
        assert len(row["pieces"]) == 1
        piece = documents[row["key"]][row["offset"] : row["offset"] + row["tokens"]]
        assert restored(row) == [CLS, *piece, SEP]
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
        for word in words_of(restored(row)):
            taken = chosen.intersection(word)
            assert taken in (set(), set(word)), "a word was cut"
            assert taken or len(word) > left, "a word that fits was left out"
    room = longest - 2
    assert sorted(pieces) == [
        (key, begin, min(room, len(document) - begin))
        for key, document in enumerate(documents)
        for begin in range(0, len(document), room)
    ]
    assert (examples.losses, examples.gains) == ({}, {})
    objective = objective_for(parameters, WORDS)
    assert examples.to_table(objective.columns, "a").schema == schema_of("mlm")


def test_the_figures_of_bert_are_met() -> None:
    objective = objective_for(Mlm(), WORDS)
    assert [objective.resolve(n)["predictions"] for n in (128, 130, 512)] == [19, 20, 77]  # objectives.md
    assert objective_for(Mlm(max_predictions=20), WORDS).resolve(512)["predictions"] == 20  # BERT's phase 1


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
    with patch.object(masking, "_TILE_POSITIONS", batch):
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
    shown, rows = objective_for(Mlm(), WORDS).row_lengths(
        np.array(list(lengths)), np.array(list(lengths.values())), lengths=[3, longest]
    )
    predicted: Counter[int] = Counter()
    for length, count in zip(shown.tolist(), rows.tolist(), strict=True):
        predicted[length] += count
    built = Counter(len(row["ids"]) for row in rows_of(build(Mlm(), documents, longest=longest)))
    assert +predicted == built


# Rows of several documents.


SENTENCES = st.lists(
    st.lists(st.lists(st.one_of(TOKEN, TOKEN, TOKEN, st.just(UNK)), min_size=1, max_size=9), min_size=1, max_size=6),
    max_size=6,
)
"""Documents of sentences of tokens."""
PACKED = st.builds(
    Mlm,
    pack=st.sampled_from(["document", "sentences", "full"]),
    short_sequence_rate=st.sampled_from([0.0, 0.5]),
    selection=st.sampled_from(["exact", "bernoulli", "ngram", "span"]),
)


def build_sentences(parameters: Mlm, documents: list[list[list[int]]], **options: Any) -> Examples:
    """Rows of documents given as sentences; where they end is told only to an objective that reads it."""
    ends = [np.cumsum([len(sentence) for sentence in d]).tolist() for d in documents]
    texts = [[token for sentence in d for token in sentence] for d in documents]
    return build(parameters, texts, ends=ends if parameters.reads_sentences else None, **options)


@cases(200)
@given(documents=SENTENCES, parameters=PACKED, longest=st.integers(3, 40))
@example(documents=[[[7]]], parameters=Mlm(pack="full", short_sequence_rate=0.5), longest=3)
@example(documents=[[[7], [UNK]], [[UNK]]], parameters=Mlm(pack="sentences"), longest=5)
@example(documents=[], parameters=Mlm(pack="full", short_sequence_rate=0.5), longest=9)
def test_rows_of_every_packing_restore_their_pieces_and_hold_each_token_once(
    documents: list[list[list[int]]], parameters: Mlm, longest: int
) -> None:
    texts = [[token for sentence in d for token in sentence] for d in documents]
    examples = build_sentences(parameters, documents, longest=longest)
    seen: Counter[tuple[int, int]] = Counter()
    for row in rows_of(examples):
        expected = [CLS]
        for key, offset, tokens in row["pieces"]:
            expected += [*texts[key][offset : offset + tokens], SEP]
            seen.update((key, offset + i) for i in range(tokens))
        assert restored(row) == expected
        assert 3 <= len(row["ids"]) <= longest
        candidates = sum(t >= FIRST_TEXT_ID for t in expected)
        if parameters.selection == "exact":
            assert len(row["positions"]) == expected_count(parameters, len(expected), candidates)
        if parameters.pack == "sentences":
            for key, offset, tokens in row["pieces"]:
                stops = np.cumsum([len(sentence) for sentence in documents[key]]).tolist()
                for cut in {offset, offset + tokens} - {0, *stops}:
                    stop = next(s for s in stops if s > cut)
                    assert len(documents[key][stops.index(stop)]) > longest - 2, "a sentence that fits is cut"
    assert seen == Counter((key, i) for key, text in enumerate(texts) for i in range(len(text)))
    assert (examples.losses, examples.gains) == ({}, {})


@cases(80)
@given(
    documents=SENTENCES, parameters=PACKED, longest=st.integers(3, 40), tile=st.sampled_from([1, 37, 200]), seed=SEEDS
)
def test_masks_of_packed_rows_do_not_depend_on_tiles(
    documents: list[list[list[int]]], parameters: Mlm, longest: int, tile: int, seed: int
) -> None:
    once = rows_of(build_sentences(parameters, documents, longest=longest, seed=seed))
    with patch.object(masking, "_TILE_POSITIONS", tile):
        again = rows_of(build_sentences(parameters, documents, longest=longest, seed=seed))
    assert once == again


PROSE = [[[7 + (5 * i + 3 * j + k) % 50 for k in range(9)] for j in range(40)] for i in range(60)]
"""60 documents of 40 sentences of 9 tokens."""


@pytest.mark.parametrize("pack", ["document", "sentences", "full"])
def test_a_new_copy_gives_the_same_rows_of_every_packing_other_masks(pack: str) -> None:
    """Fails if repeats of the data carry the masks of the first pass (RoBERTa's point)."""
    parameters = Mlm.model_validate({"pack": pack})
    first, second = (rows_of(build_sentences(parameters, PROSE, copy=copy)) for copy in (0, 1))
    assert sorted(r["pieces"] for r in first) == sorted(r["pieces"] for r in second)
    masks = {(r["key"], r["offset"]): r["positions"] for r in first}
    long = [r for r in second if len(r["ids"]) > 60]
    assert len(long) > 100
    assert sum(masks[(r["key"], r["offset"])] == r["positions"] for r in long) == 0


@pytest.mark.parametrize("pack", ["sentences", "full"])
def test_packed_rows_are_nearly_full_and_the_preview_counts_them(pack: str) -> None:
    parameters = Mlm.model_validate({"pack": pack})
    rows = rows_of(build_sentences(parameters, PROSE, longest=128))
    full = [len(r["ids"]) for r in rows[1:]]  # the shortest may be the last of the block
    assert min(full) > 128 - (10 if pack == "sentences" else 3)
    shown, count = objective_for(parameters, WORDS).row_lengths(np.array([360]), np.array([60]), lengths=[64, 128])
    assert shown.tolist() == [128]
    assert abs(count[0] - len(rows)) <= 1 + (0.08 * len(rows) if pack == "sentences" else 0)


@pytest.mark.parametrize("pack", ["document", "sentences", "full"])
def test_so_many_rows_are_short_as_asked_and_of_every_length(pack: str) -> None:
    parameters = Mlm.model_validate({"pack": pack, "short_sequence_rate": 0.1})
    # One long document of sentences of one token, so that a row is as long as its target.
    rows = rows_of(build_sentences(parameters, [[[7]] * 300_000], longest=30))
    counts = Counter(len(r["ids"]) - 2 for r in rows)
    n = len(rows)
    assert set(counts) <= set(range(1, 29))
    # Uniform in [2, 28], the room itself too; the last row is whatever is left.
    expected = [n * (0.1 / 27 + 0.9 * (k == 28)) for k in range(2, 29)]
    assert fits([counts[k] for k in range(2, 29)], expected)


def test_sentences_are_asked_of_the_store_only_where_rows_are_made_of_them() -> None:
    assert Mlm(pack="sentences").reads_sentences
    assert not any(Mlm.model_validate({"pack": pack}).reads_sentences for pack in ("document", "full"))


def test_a_length_without_room_for_a_token_is_refused() -> None:
    objective = objective_for(Mlm(), WORDS)
    assert objective.resolve(3) == {"length": 3, "predictions": 1}
    with pytest.raises(RequestError, match="at least 3"):
        objective.resolve(2)


@pytest.mark.parametrize("role", ["cls", "sep", "mask"])
def test_a_tokenizer_without_a_needed_token_is_refused_by_name(role: str) -> None:
    roles = {r: i for r, i in SPECIAL_IDS.items() if r != role}
    with pytest.raises(RequestError) as error:
        objective_for(Mlm(), vocabulary(roles=roles))
    assert repr(role) in error.value.paragraph()
    assert "special_tokens" in error.value.paragraph()


def test_whole_words_without_word_starts_are_refused_and_plain_masks_are_not() -> None:
    untold = vocabulary(tells_words=False)
    with pytest.raises(RequestError, match="where words start"):
        objective_for(Mlm(whole_word=True), untold)
    assert len(build(Mlm(), [[7, 8]], vocab=untold)) == 1


def test_a_vocabulary_of_special_tokens_alone_is_refused() -> None:
    with pytest.raises(RequestError, match="stand for text"):
        objective_for(Mlm(), vocabulary(FIRST_TEXT_ID))
