"""span_corruption: T5's rule, every mask equally likely, and targets that give back what inputs hide."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit_helpers import SPECIAL_IDS, cases, fits, lists, ragged, vocabulary

from schemas.errors import RequestError
from schemas.objectives import SpanCorruption
from transforms.objectives import builder_for
from transforms.objectives.base import Documents, Examples
from transforms.objectives.span_corruption import noise_counts, raw_tokens
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
    names = np.array(range(len(documents)) if keys is None else keys, dtype=np.uint64)
    corpus = Documents(ids=ragged(documents), keys=names, copy=0)
    return builder_for(parameters, vocab()).build(corpus, longest=longest, seed=seed)


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
    assert made.losses.get("one_token_rests", 0) == 0 or raw_tokens(parameters, longest) == 2


def test_every_mask_of_ten_tokens_with_two_spans_is_equally_likely() -> None:
    parameters = SpanCorruption(noise_density=0.5, mean_noise_span_length=2)
    assert [int(c[0]) for c in noise_counts(parameters, np.array([10]))] == [5, 2]
    rows = 8000
    made = build(parameters, [numbered(10)] * rows, 9, keys=list(range(rows)))
    assert raw_tokens(parameters, 9) >= 10
    masks = Counter(tuple(t if t >= 1000 else 0 for t in inputs[:-1]) for inputs in lists(made.input_ids))
    tokens = Counter(tuple(inputs) for inputs in lists(made.input_ids))
    # C(4, 1) ways to cut 5 noise tokens into 2 parts, and as many for the 5 others.
    assert len(tokens) == comb(4, 1) * comb(4, 1)
    assert fits(list(tokens.values()), [rows / 16] * 16)
    assert len(masks) >= 4


def test_span_lengths_follow_the_composition_law() -> None:
    parameters = SpanCorruption()
    raw, rows = 100, 3000
    noise, spans = (int(c[0]) for c in noise_counts(parameters, np.array([raw])))
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
    resolved = builder_for(SpanCorruption(noise_density=0.2, mean_noise_span_length=2), vocabulary_).resolve(64)
    assert (resolved["raw_tokens"], resolved["target_length"]) == (70, 22)
    resolved = builder_for(SpanCorruption(), vocabulary_).resolve(512)
    assert (resolved["raw_tokens"], resolved["target_length"]) == (568, 114)  # T5's own figures


@cases(80)
@given(PARAMETERS, st.integers(3, 700))
def test_the_raw_length_is_the_largest_whose_inputs_fit(parameters: SpanCorruption, length: int) -> None:
    def inputs(n: int) -> int:
        noise = min(max(round(n * parameters.noise_density), 1), n - 1)
        return n - noise + min(max(1, round(noise / parameters.mean_noise_span_length)), noise, n - noise) + 1

    raw = raw_tokens(parameters, length)
    assert inputs(raw) <= length
    assert all(inputs(n) > length for n in range(raw + 1, 3 * raw + 40))


def test_a_length_that_needs_more_sentinels_than_there_are_is_refused_with_both_numbers() -> None:
    with pytest.raises(RequestError) as error:
        builder_for(SpanCorruption(), vocab(100)).resolve(2048)
    text = error.value.paragraph()
    assert "at most 100 spans" in text
    assert "114 spans" in text
    assert builder_for(SpanCorruption(), vocab(114)).resolve(2048)["noise_spans"] == 114


def test_a_length_without_room_is_refused() -> None:
    with pytest.raises(RequestError, match="too short"):
        builder_for(SpanCorruption(), vocab()).resolve(2)


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


def test_documents_of_one_token_alone_make_no_row_and_are_counted() -> None:
    made = build(SpanCorruption(), [[300], [301]], 64)
    assert len(made) == 0
    assert made.losses == {"one_token_documents": 2}
