"""Texts that are good and unlike what laws of large numbers expect: many tiny documents, or only one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_dataset
from tiny_dataset import Vocabulary, make_dataset

from pipelines.audit import audit_dataset
from schemas.objectives import ObjectiveParameters
from transforms.objectives.base import Documents
from transforms.objectives.causal import Causal
from transforms.objectives.mlm import Mlm
from transforms.objectives.sentence_pair import SentencePair
from transforms.ragged import Ragged

make_documents = tiny_dataset.make_documents


def tiny(source: str, vocabulary: Vocabulary, seed: int, count: int, *, pairs: bool = False) -> Documents:
    """Documents of two to four tokens, twenty times as many."""
    made = make_documents(source, vocabulary, seed, 20 * count, pairs=pairs)
    lengths = 2 + np.arange(len(made.ids)) % 3
    lengths = np.minimum(lengths, made.ids.lengths)
    ids = made.ids.slices(made.ids.offsets[:-1], lengths)
    ends = Ragged.from_lengths(lengths.astype(np.int32), np.ones(len(lengths), np.int64))
    return Documents(ids=ids, keys=made.keys, copy=0, sentence_ends=ends, targets=made.targets)


def single(source: str, vocabulary: Vocabulary, seed: int, count: int, *, pairs: bool = False) -> Documents:
    """All texts in as many documents as there are blocks, so that none has another beside it."""
    made = make_documents(source, vocabulary, seed, count, pairs=pairs)
    assert made.sentence_ends is not None
    size = len(made.ids.flat)
    first = np.repeat(made.ids.offsets[:-1], made.sentence_ends.lengths)
    ends = (made.sentence_ends.flat + first).astype(np.int32)
    return Documents(
        ids=Ragged.from_lengths(made.ids.flat, np.array([size])),
        keys=made.keys[:1],
        copy=0,
        sentence_ends=Ragged.from_lengths(ends, np.array([len(ends)])),
    )


CASES = [
    (tiny, Mlm(pack="full", short_sequence_rate=0.3)),
    (tiny, Mlm(pack="full", short_sequence_rate=0.7, whole_word=True)),
    (tiny, Mlm(pack="sentences", short_sequence_rate=0.1)),
    (tiny, Causal(pack="best_fit")),
    (single, SentencePair()),
    (single, SentencePair(random_next_prob=1.0)),
    (single, Mlm(short_sequence_rate=0.1)),
]


@pytest.mark.parametrize(("texts", "objective"), CASES, ids=lambda v: getattr(v, "__name__", getattr(v, "kind", "")))
def test_odd_texts_are_no_false_alarm(
    texts: object, objective: ObjectiveParameters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_dataset, "make_documents", texts)
    result = audit_dataset(make_dataset(tmp_path, objective, blocks=1))
    assert [f"{g.name}: {g.observed}" for g in result.failed] == []
