"""Masked words are held against the words of their size: exact figures, no alarm where long ones lie apart."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_dataset import describe, make_dataset, tiny_vocabulary

from pipelines.audit import audit_dataset, context_of
from schemas.manifest import read_shards
from schemas.objectives import ObjectiveParameters
from schemas.storage import Location
from transforms.objectives.base import Documents
from transforms.objectives.mlm import Mlm
from transforms.objectives.registry import objective_for
from transforms.objectives.replaced_token import ReplacedToken
from transforms.objectives.sentence_pair import SentencePair
from transforms.ragged import Ragged
from transforms.statistics.context import AuditContext
from transforms.statistics.judged_rows import judged_rows
from transforms.statistics.mask_law import POSITION_FLOOR
from transforms.statistics.mask_positions import FIXED_POINT, POSITION_BINS, count_positions, count_word_positions
from transforms.statistics.masks import measure_masks
from transforms.statistics.rows import Rows
from transforms.statistics.significance import places_test


def measured(table: pa.Table, context: AuditContext, names: np.ndarray | None = None) -> Rows:
    """Rows of which all are judged, unless names are given."""
    rows = Rows.of(table, context)
    places = measure_masks(rows, table)
    named = np.zeros(len(rows), np.uint64) if names is None else names
    judged = judged_rows(rows, places, named, np.ones(len(rows), bool))
    assert judged is not None
    count_word_positions(judged)
    return rows


@pytest.fixture(scope="module")
def of_words(tmp_path_factory: pytest.TempPathFactory) -> Location:
    return make_dataset(tmp_path_factory.mktemp("words"), Mlm(whole_word=True))


@pytest.fixture(scope="module")
def of_spans(tmp_path_factory: pytest.TempPathFactory) -> Location:
    return make_dataset(tmp_path_factory.mktemp("spans"), Mlm(selection="span"))


@pytest.mark.parametrize("selection", ["words", "spans"])
def test_positions_of_words_are_those_a_plain_loop_finds(selection: str, request: pytest.FixtureRequest) -> None:
    dataset: Location = request.getfixturevalue(f"of_{selection}")
    context, vocabulary = context_of(dataset), tiny_vocabulary()
    shard = max(read_shards(dataset).to_pylist(), key=lambda s: s["tokens"])
    table = pq.read_table((dataset / shard["path"]).uri, partitioning=None)
    rows = measured(table, context)
    assert vocabulary.starts_word is not None
    observed = {s: [0] * POSITION_BINS for s in rows.sources}
    expected = {s: [0.0] * POSITION_BINS for s in rows.sources}
    for r in table.to_pylist():
        text, masked = list(r["input_ids"]), set(r["mask_positions"])
        for place, label in zip(r["mask_positions"], r["mask_labels"], strict=True):
            text[place] = label
        words: list[list[int]] = []
        for place, i in enumerate(text):
            if vocabulary.is_special[i]:
                continue
            if vocabulary.starts_word[i] or not words or words[-1][-1] != place - 1:
                words.append([])
            words[-1].append(place)
        tokens, taken = Counter[Any](), Counter[Any]()
        kinds = {
            place: (len(word), number if selection == "spans" else 0)
            for word in words
            for number, place in enumerate(word)
        }
        tokens.update(kinds.values())
        taken.update(kinds[place] for place in masked)
        for place, kind in kinds.items():
            expected[r["source"]][place * POSITION_BINS // len(text)] += taken[kind] / tokens[kind]
        for place in masked:
            observed[r["source"]][place * POSITION_BINS // len(text)] += 1
    for index, source in enumerate(rows.sources):
        assert rows.histograms["mask_position"][index] == observed[source]
        fixed = [x / FIXED_POINT for x in rows.histograms["mask_position_expected"][index]]
        assert fixed == pytest.approx(expected[source], abs=1e-5)
    assert sum(sum(x) for x in observed.values()) > 1000


@pytest.mark.parametrize("selection", ["words", "spans"])
def test_one_row_in_eight_is_judged_by_its_name_and_none_with_a_wrong_number_of_masks(
    selection: str, request: pytest.FixtureRequest
) -> None:
    """Spans are held against draws by that name, so it has to be sure; of words it only chooses the rows."""
    dataset: Location = request.getfixturevalue(f"of_{selection}")
    shard = max(read_shards(dataset).to_pylist(), key=lambda s: s["tokens"])
    table = pq.read_table((dataset / shard["path"]).uri, partitioning=None)
    rows = Rows.of(table, context_of(dataset))
    places = measure_masks(rows, table)
    rows.per_row["mask_count_errors"][8] = 1
    names = np.arange(len(rows), dtype=np.uint64)
    known = names != 16
    judged = judged_rows(rows, places, names, known)
    assert judged is not None
    left = (8, 16) if selection == "spans" else (8,)
    assert judged.which.tolist() == [i for i in range(0, len(rows), 8) if i not in left]


def test_long_words_at_the_ends_of_rows_are_no_false_alarm(of_words: Location) -> None:
    """They are skipped, since few are as short as the budget: places that may be masked are not alike."""
    vocabulary, context = tiny_vocabulary(), context_of(of_words)
    assert vocabulary.starts_word is not None
    text_ids = vocabulary.text_ids
    begins, continues = (text_ids[vocabulary.starts_word[text_ids] == x] for x in (True, False))
    rng = np.random.default_rng(0)
    count, short, long = 4000, 20, 3
    words = rng.choice(begins, (count, short + long)).astype(np.int32)
    tails = rng.choice(continues, (count, long, 9)).astype(np.int32)
    ends = np.concatenate([words[:, short:, None], tails], axis=2).reshape(count, -1)
    ids = np.concatenate([words[:, :short], ends], axis=1)
    documents = Documents(
        ids=Ragged.from_lengths(ids.reshape(-1), np.full(count, ids.shape[1])),
        keys=np.arange(count, dtype=np.uint64),
        copy=0,
    )
    maker = objective_for(Mlm(whole_word=True, mask_rate=0.1), vocabulary)
    table = maker.build(documents, lengths=[64], seed=0).to_table(maker.columns, "books")
    by_words = measured(table, context)
    rows = Rows.of(table, context)
    places = measure_masks(rows, table)
    nothing = np.zeros(0, np.int64)
    count_positions(rows, places, nothing, nothing, rows.lengths)
    distances = []
    for found in (by_words, rows):
        expected = [x / FIXED_POINT for x in found.histograms["mask_position_expected"][0]]
        distances.append(places_test(found.histograms["mask_position"][0], expected, 2.0).distance)
    assert distances[0] < POSITION_FLOOR < 0.2 < distances[1]


ODD = [
    Mlm(selection="ngram", max_ngram=2, mask_rate=0.6),
    Mlm(selection="ngram", max_ngram=2, mask_rate=0.8),
    Mlm(selection="ngram", max_ngram=16, mask_rate=0.97),
    Mlm(selection="ngram", max_ngram=5, mask_rate=0.4, whole_word=True),
    Mlm(selection="span", mask_rate=0.97),
    Mlm(selection="span", mask_rate=0.5, span_geometric_p=0.05, max_span_words=64),
    Mlm(whole_word=True, mask_rate=0.02, pack="sentences"),
    Mlm(whole_word=True, mask_rate=0.97),
    SentencePair(selection="ngram", mask_rate=0.968, task="sop"),
    ReplacedToken(selection="ngram", max_ngram=3, mask_rate=0.75),
]


@pytest.mark.parametrize("objective", ODD, ids=describe)
def test_rates_that_no_paper_has_are_no_false_alarm(objective: ObjectiveParameters, tmp_path: Path) -> None:
    result = audit_dataset(make_dataset(tmp_path, objective, blocks=1, times=2))
    assert [f"{g.name}: {g.observed}" for g in result.failed] == []
