"""replaced_token: ELECTRA's rates on the rows of mlm, from which generator and discriminator can be fed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from unit_helpers import FIRST_TEXT_ID, SPECIAL_IDS, cases, corpus, fits, lists, vocabulary

from schemas.objectives import parse_objective
from transforms.objectives.base import Examples
from transforms.objectives.masking import MaskingParameters
from transforms.objectives.mlm import Mlm
from transforms.objectives.registry import objective_for, schema_of
from transforms.objectives.replaced_token import ReplacedToken

CLS, SEP, MASK = (SPECIAL_IDS[r] for r in ("cls", "sep", "mask"))
SIZE = 60
DOCUMENTS = st.lists(st.lists(st.integers(1, SIZE - 1), min_size=1, max_size=70), max_size=6)


def build(
    parameters: MaskingParameters, documents: list[list[int]], *, longest: int = 128, copy: int = 0
) -> Examples:
    made = corpus(documents, copy=copy, ends=[[len(d)] for d in documents])
    return objective_for(parameters, vocabulary(SIZE)).build(made, lengths=[longest], seed=1)


def test_the_defaults_are_electras() -> None:
    """Clark et al. 2020: 15 % of the places, 85 % of them masked, none replaced by the data."""
    parameters = parse_objective({"kind": "replaced_token"})
    assert isinstance(parameters, ReplacedToken)
    assert (parameters.mask_rate, parameters.mask_replace_prob, parameters.random_replace_prob) == (0.15, 0.85, 0)
    assert schema_of("replaced_token") == schema_of("mlm")


def test_fifteen_percent_are_predicted_of_which_eighty_five_are_masked_and_the_rest_kept() -> None:
    documents = [[FIRST_TEXT_ID + (i * 7 + j) % (SIZE - FIRST_TEXT_ID) for j in range(126)] for i in range(2500)]
    made = build(ReplacedToken(), documents)
    shown = Counter[str]()
    for ids, positions, labels in zip(
        lists(made.input_ids), *(lists(made.lists[c]) for c in ("mask_positions", "mask_labels")), strict=True
    ):
        assert len(positions) == 19
        shown.update("mask" if ids[p] == MASK else "kept" for p in positions)
        # What is not masked is the original: a discriminator's label of it is 'original' without a look elsewhere.
        assert all(ids[p] in (MASK, label) for p, label in zip(positions, labels, strict=True))
    n = 2500 * 19
    assert fits([shown["mask"], shown["kept"]], [n * 0.85, n * 0.15])


@cases(100)
@given(documents=DOCUMENTS, longest=st.integers(3, 40), pack=st.sampled_from(["document", "sentences", "full"]))
def test_replacements_of_a_generator_can_be_labelled_for_every_token(
    documents: list[list[int]], longest: int, pack: str
) -> None:
    """Fails if the shard does not hold what a discriminator's labels follow from."""
    made = build(ReplacedToken.model_validate({"pack": pack, "short_sequence_rate": 0.3}), documents, longest=longest)
    draw = np.random.default_rng(0)
    for row, (ids, positions, labels) in enumerate(
        zip(
            lists(made.input_ids),
            lists(made.lists["mask_positions"]),
            lists(made.lists["mask_labels"]),
            strict=True,
        )
    ):
        original = [CLS]
        for key, offset, tokens in zip(
            *(lists(c)[row] for c in (made.doc_keys, made.doc_offsets, made.doc_lengths)), strict=True
        ):
            original += [*documents[key][offset : offset + tokens], SEP]
        filled, restored = list(ids), list(ids)
        for position, label in zip(positions, labels, strict=True):
            if ids[position] == MASK:  # the generator's sample, at times the original itself
                filled[position] = int(draw.integers(FIRST_TEXT_ID, SIZE))
            restored[position] = label
        assert restored == original
        is_replaced = [a != b for a, b in zip(filled, restored, strict=True)]
        assert all(p in positions for p, replaced in enumerate(is_replaced) if replaced)


@cases(60)
@given(documents=DOCUMENTS, whole_word=st.booleans(), copy=st.integers(0, 1))
def test_rows_are_those_of_mlm_at_the_same_rates(documents: list[list[int]], whole_word: bool, copy: int) -> None:
    electra = build(ReplacedToken(whole_word=whole_word), documents, longest=40, copy=copy)
    rates = Mlm(whole_word=whole_word, mask_replace_prob=0.85, random_replace_prob=0)
    same = build(rates, documents, longest=40, copy=copy)
    assert lists(electra.input_ids) == lists(same.input_ids)
    assert {c: lists(r) for c, r in electra.lists.items()} == {c: lists(r) for c, r in same.lists.items()}
    assert (electra.losses, electra.gains) == ({}, {})


def test_a_kind_that_is_given_and_rates_beyond_one_are_refused() -> None:
    with pytest.raises(ValidationError, match="must not exceed 1"):
        ReplacedToken(random_replace_prob=0.3)
    with pytest.raises(ValidationError):
        ReplacedToken.model_validate({"kind": "mlm"})
