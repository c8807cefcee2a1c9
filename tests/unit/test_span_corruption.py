"""span_corruption: T5's rule, every mask equally likely, and targets that give back what inputs hide."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from math import comb
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit_helpers import SPECIAL_IDS, cases, corpus, fits, lists, vocabulary

import transforms.objectives.sentinels as module
from schemas.errors import RequestError
from transforms.objectives.base import Examples
from transforms.objectives.registry import objective_for, schema_of
from transforms.objectives.sentinels import noise_counts, raw_tokens
from transforms.objectives.span_corruption import SpanCorruption
from transforms.vocabulary import Vocabulary

EOS = SPECIAL_IDS["eos"]
SENTINELS = list(range(1000, 1200))
PARAMETERS = st.builds(SpanCorruption, noise_density=st.floats(0.05, 0.6), mean_noise_span_length=st.floats(1, 8))


def vocab(sentinels: int = 200) -> Vocabulary:
    made = vocabulary(1200)
    made.is_special[SENTINELS] = True
    return replace(made, sentinel_ids=np.array(SENTINELS[:sentinels], dtype=np.int32))


def build(
    parameters: SpanCorruption,
    documents: list[list[int]],
    longest: int,
    *,
    keys: list[int] | None = None,
    seed: int = 1,
) -> Examples:
    objective = objective_for(parameters, vocab())
    made = objective.build(corpus(documents, keys=keys), lengths=[3, longest], seed=seed)
    assert made.to_table(objective.columns, "a").schema == schema_of("span_corruption")
    return made


def raw_of(parameters: SpanCorruption, length: int) -> int:
    return raw_tokens(parameters.noise_density, parameters.mean_noise_span_length, length)


def counts_of(parameters: SpanCorruption, raw: int) -> tuple[int, int]:
    noise, spans = noise_counts(np.array([raw]), parameters.noise_density, parameters.mean_noise_span_length)
    return int(noise[0]), int(spans[0])


def numbered(length: int, at: int = 0) -> list[int]:
    return [200 + (at + i) % 700 for i in range(length)]


def restore(inputs: list[int], target: list[int]) -> list[int]:
    """The piece, put together again the slow and obvious way."""
    assert inputs[-1] == EOS
    assert target[-1] == EOS
    hidden: dict[int, list[int]] = {}
    for token in target[:-1]:
        if token >= 1000:
            hidden[token] = []
        else:
            hidden[list(hidden)[-1]].append(token)
    piece: list[int] = []
    for token in inputs[:-1]:
        piece += hidden[token] if token >= 1000 else [token]
    return piece


@cases(150)
@given(PARAMETERS, st.lists(st.integers(1, 300), min_size=1, max_size=8), st.integers(8, 64))
def test_inputs_and_targets_interleave_back_to_the_documents(
    parameters: SpanCorruption, lengths: list[int], longest: int
) -> None:
    documents = [numbered(n, 13 * i) for i, n in enumerate(lengths)]
    made = build(parameters, documents, longest)
    pieces: dict[int, dict[int, list[int]]] = {}
    for row, (inputs, target) in enumerate(zip(lists(made.input_ids), lists(made.lists["target_ids"]), strict=True)):
        piece = restore(inputs, target)
        n, key, at = len(piece), int(made.doc_keys.flat[row]), int(made.doc_offsets.flat[row])
        pieces.setdefault(key, {})[at] = piece
        assert made.doc_lengths.flat[row] == n
        assert len(inputs) <= longest
        noise = min(max(round(n * parameters.noise_density), 1), n - 1)
        spans = min(max(1, round(noise / parameters.mean_noise_span_length)), noise, n - noise)
        assert len(inputs) == n - noise + spans + 1
        assert len(target) == noise + spans + 1
        assert [t for t in inputs if t >= 1000] == SENTINELS[:spans]
        assert [t for t in target if t >= 1000] == SENTINELS[:spans]
        assert inputs[0] < 1000  # the first token is never noise
        assert inputs[-2] >= 1000  # the last always is
    for key, document in enumerate(documents):
        joined = [t for at in sorted(pieces.get(key, {})) for t in pieces[key][at]]
        assert joined == (document[: len(joined)] if len(document) > 1 else [])
    out = int(made.doc_lengths.flat.sum())
    assert out + sum(made.losses.values()) == sum(lengths)
    assert made.losses.get("one_token_documents", 0) == lengths.count(1)
    assert made.losses.get("one_token_rests", 0) == 0 or raw_of(parameters, longest) == 2


def test_every_mask_of_ten_tokens_with_two_spans_is_equally_likely() -> None:
    parameters = SpanCorruption(noise_density=0.5, mean_noise_span_length=2)
    assert counts_of(parameters, 10) == (5, 2)
    rows = 8000
    made = build(parameters, [numbered(10)] * rows, 9, keys=list(range(rows)))
    assert raw_of(parameters, 9) >= 10
    masks = Counter(tuple(t if t >= 1000 else 0 for t in inputs[:-1]) for inputs in lists(made.input_ids))
    tokens = Counter(tuple(inputs) for inputs in lists(made.input_ids))
    # C(4, 1) ways to cut 5 noise tokens into 2 parts, and as many for the 5 others.
    assert len(tokens) == comb(4, 1) * comb(4, 1)
    assert fits(list(tokens.values()), [rows / 16] * 16)
    assert len(masks) >= 4


def test_span_lengths_follow_the_composition_law() -> None:
    parameters = SpanCorruption()
    raw, rows = 100, 3000
    noise, spans = counts_of(parameters, raw)
    made = build(parameters, [numbered(raw)] * rows, 128, keys=list(range(rows)))
    first: Counter[int] = Counter()
    for target in lists(made.lists["target_ids"]):
        first[target.index(SENTINELS[1]) - 1] += 1
    law = [comb(noise - k - 1, spans - 2) / comb(noise - 1, spans - 1) for k in range(1, noise - spans + 2)]
    assert sum(law) == pytest.approx(1)
    kept = [k for k, p in enumerate(law, 1) if p * rows > 8]
    rare = rows - sum(first[k] for k in kept)
    expected = [law[k - 1] * rows for k in kept]
    assert fits([*(first[k] for k in kept), rare + 10], [*expected, rows - sum(expected) + 10])


def test_resolved_numbers_are_those_of_the_paper_and_of_counting_by_hand() -> None:
    vocabulary_ = vocab()
    resolved = objective_for(SpanCorruption(noise_density=0.2, mean_noise_span_length=2), vocabulary_).resolve(64)
    assert (resolved["raw_tokens"], resolved["target_length"]) == (70, 22)
    resolved = objective_for(SpanCorruption(), vocabulary_).resolve(512)
    assert (resolved["raw_tokens"], resolved["target_length"]) == (568, 114)  # T5's own figures


@cases(80)
@given(PARAMETERS, st.integers(3, 700))
def test_the_raw_length_is_the_largest_whose_inputs_fit(parameters: SpanCorruption, length: int) -> None:
    def inputs(n: int) -> int:
        noise = min(max(round(n * parameters.noise_density), 1), n - 1)
        return n - noise + min(max(1, round(noise / parameters.mean_noise_span_length)), noise, n - noise) + 1

    raw = raw_of(parameters, length)
    assert inputs(raw) <= length
    assert all(inputs(n) > length for n in range(raw + 1, 3 * raw + 40))


def test_a_length_that_needs_more_sentinels_than_there_are_is_refused_with_both_numbers() -> None:
    with pytest.raises(RequestError) as error:
        objective_for(SpanCorruption(), vocab(100)).resolve(2048)
    text = error.value.paragraph()
    assert "at most 100 spans" in text
    assert "114 spans" in text
    assert objective_for(SpanCorruption(), vocab(114)).resolve(2048)["noise_spans"] == 114


def test_a_length_without_room_is_refused() -> None:
    with pytest.raises(RequestError, match="too short"):
        objective_for(SpanCorruption(), vocab()).resolve(2)


def test_masks_do_not_depend_on_neighbours_or_batches() -> None:
    """Fails if a document's spans change with the block it is in."""
    documents = [numbered(n, n) for n in (5, 90, 40, 200, 2, 61)]
    together = build(SpanCorruption(), documents, 64)
    by_place = {
        (int(k), int(o)): (i, t)
        for k, o, i, t in zip(
            together.doc_keys.flat,
            together.doc_offsets.flat,
            lists(together.input_ids),
            lists(together.lists["target_ids"]),
            strict=True,
        )
    }
    for key, document in enumerate(documents):
        alone = build(SpanCorruption(), [document], 64, keys=[key])
        for row, inputs in enumerate(lists(alone.input_ids)):
            place = (key, int(alone.doc_offsets.flat[row]))
            assert by_place[place] == (inputs, lists(alone.lists["target_ids"])[row])
    assert lists(build(SpanCorruption(), documents, 64, seed=2).input_ids) != lists(together.input_ids)


@cases(100)
@given(
    PARAMETERS,
    st.lists(st.integers(1, 90), max_size=8),
    st.integers(4, 64),
    st.sampled_from(["document", "full"]),
    st.sampled_from([1, 37, 200]),
)
def test_tiles_change_nothing(
    parameters: SpanCorruption, lengths: list[int], longest: int, pack: str, tile: int
) -> None:
    documents = [numbered(n, 13 * i) for i, n in enumerate(lengths)]
    parameters = parameters.model_copy(update={"pack": pack})
    once = build(parameters, documents, longest)
    with patch.object(module, "_TILE_POSITIONS", tile):
        again = build(parameters, documents, longest)
    assert lists(once.input_ids) == lists(again.input_ids)
    assert lists(once.lists["target_ids"]) == lists(again.lists["target_ids"])


@cases(150)
@given(PARAMETERS, st.lists(st.integers(1, 120), max_size=8), st.integers(3, 64))
def test_full_rows_are_the_documents_end_to_end_cut_at_the_raw_length(
    parameters: SpanCorruption, lengths: list[int], longest: int
) -> None:
    """Fails if text is lost or told twice where a row goes on with another document."""
    documents = [numbered(n, 13 * i) for i, n in enumerate(lengths)]
    text = [token for document in documents for token in document]
    place = {(key, i): sum(lengths[:key]) + i for key, n in enumerate(lengths) for i in range(n)}
    made = build(parameters.model_copy(update={"pack": "full"}), documents, longest)
    raw, cuts = raw_of(parameters, longest), []
    columns = (made.input_ids, made.lists["target_ids"], made.doc_keys, made.doc_offsets, made.doc_lengths)
    for inputs, target, *pieces in zip(*map(lists, columns), strict=True):
        piece = restore(inputs, target)
        begins = [place[(key, offset)] for key, offset in zip(pieces[0], pieces[1], strict=True)]
        assert piece == text[begins[0] : begins[0] + len(piece)]
        assert sum(pieces[2]) == len(piece) <= raw
        assert all(b == a + n for (a, b), n in zip(pairwise(begins), pieces[2], strict=False))
        cuts.append((begins[0], len(piece)))
    # A last row of one token could not be corrupted.
    expected = [(at, min(raw, len(text) - at)) for at in range(0, len(text), raw) if len(text) - at > 1]
    assert sorted(cuts) == expected
    assert made.losses == ({"one_token_rests": 1} if len(text) % raw == 1 else {})


@cases(80)
@given(
    PARAMETERS, st.dictionaries(st.integers(1, 300), st.integers(1, 4), min_size=1, max_size=8), st.integers(4, 64)
)
def test_the_preview_predicts_every_input_length_exactly(
    parameters: SpanCorruption, lengths: dict[int, int], longest: int
) -> None:
    documents = [numbered(n) for n, count in lengths.items() for _ in range(count)]
    shown, rows = objective_for(parameters, vocab()).row_lengths(
        np.array(list(lengths)), np.array(list(lengths.values())), lengths=[3, longest]
    )
    predicted: Counter[int] = Counter()
    for length, count in zip(shown.tolist(), rows.tolist(), strict=True):
        predicted[length] += count
    assert +predicted == Counter(map(len, lists(build(parameters, documents, longest).input_ids)))


def test_documents_of_one_token_alone_make_no_row_and_are_counted() -> None:
    made = build(SpanCorruption(), [[300], [301]], 64)
    assert len(made) == 0
    assert made.losses == {"one_token_documents": 2}
