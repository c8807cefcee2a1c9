"""causal: the rows laid end to end are the documents, each followed by one end-of-sequence token."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit_helpers import FIRST_TEXT_ID, SPECIAL_IDS, cases, lists, ragged, vocabulary

from schemas.errors import RequestError
from schemas.objectives import Causal
from schemas.tables import EXAMPLES
from transforms.objectives import builder_for
from transforms.objectives.base import Documents, Examples

EOS = SPECIAL_IDS["eos"]
DOCUMENTS = st.lists(st.lists(st.integers(FIRST_TEXT_ID, 59), min_size=1, max_size=30), min_size=1, max_size=12)


def build(documents: list[list[int]], longest: int, copy: int = 0) -> Examples:
    keys = np.arange(len(documents), dtype=np.uint64) + np.uint64(2**63)
    builder = builder_for(Causal(), vocabulary())
    return builder.build(Documents(ids=ragged(documents), keys=keys, copy=copy), longest=longest, seed=1)


@cases(150)
@given(documents=DOCUMENTS, longest=st.integers(2, 40))
def test_rows_end_to_end_rebuild_every_document_and_one_eos_each(documents: list[list[int]], longest: int) -> None:
    rows = lists(build(documents, longest).input_ids)
    assert [t for row in rows for t in row] == [t for d in documents for t in [*d, EOS]]
    assert [len(row) for row in rows[:-1]] == [longest] * (len(rows) - 1)
    assert 1 <= len(rows[-1]) <= longest


@cases(150)
@given(documents=DOCUMENTS, longest=st.integers(2, 40))
def test_each_row_can_be_rebuilt_from_its_provenance_alone(documents: list[list[int]], longest: int) -> None:
    examples = build(documents, longest, copy=3)
    pieces = zip(
        *(lists(c) for c in (examples.doc_keys, examples.doc_offsets, examples.doc_lengths, examples.input_ids)),
        strict=True,
    )
    for keys, offsets, lengths, row in pieces:
        rebuilt: list[int] = []
        for key, offset, length in zip(keys, offsets, lengths, strict=True):
            document = documents[key - 2**63]
            assert 0 <= offset <= len(document)
            rebuilt += document[offset : offset + length]
            if offset + length == len(document) and len(rebuilt) < longest:
                rebuilt.append(EOS)
        assert rebuilt == row
    assert examples.copy.tolist() == [3] * len(examples)


@cases(100)
@given(documents=DOCUMENTS, longest=st.integers(2, 40))
def test_corpus_tokens_are_conserved_and_nothing_is_called_lost(documents: list[list[int]], longest: int) -> None:
    examples = build(documents, longest)
    assert int(examples.doc_lengths.flat.sum()) == sum(map(len, documents))
    assert sum(examples.losses.values()) == 0
    assert examples.to_table("causal", "a").schema == EXAMPLES["causal"]


def test_the_preview_predicts_the_rows_of_a_block() -> None:
    lengths, counts = np.array([1, 5, 30]), np.array([4, 3, 2])
    documents = [[7] * n for n, c in zip(lengths, counts, strict=True) for _ in range(c)]
    shown, rows = builder_for(Causal(), vocabulary()).row_lengths(lengths, counts, longest=16)
    assert shown.tolist() == [16]
    assert float(rows[0]) == pytest.approx(sum(len(d) + 1 for d in documents) / 16)
    assert len(build(documents, 16)) == -(-sum(len(d) + 1 for d in documents) // 16)


def test_a_length_that_predicts_nothing_is_refused() -> None:
    builder = builder_for(Causal(), vocabulary())
    assert builder.resolve(2)["predictions"] == 1
    with pytest.raises(RequestError, match="at least 2"):
        builder.resolve(1)


def test_a_tokenizer_without_eos_is_refused_with_the_way_to_name_one() -> None:
    with pytest.raises(RequestError) as error:
        builder_for(Causal(), vocabulary(roles={"cls": 2}))
    assert "special_tokens" in error.value.paragraph()
    assert "eos" in error.value.paragraph()
