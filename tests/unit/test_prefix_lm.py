"""prefix_lm: rows hold every document and its EOS, and are split at a place that is uniform in 1..n − 1."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from audit_helpers import audited, audited_columns, columns_of
from hypothesis import given
from hypothesis import strategies as st
from unit_helpers import FIRST_TEXT_ID, SPECIAL_IDS, cases, fits, lists, ragged, vocabulary

from schemas.errors import RequestError
from schemas.manifest import TokenizerRecord
from transforms.objectives.base import Documents, Examples
from transforms.objectives.prefix_lm import PrefixLm
from transforms.objectives.registry import objective_for, schema_of
from transforms.ragged import Ragged

EOS = SPECIAL_IDS["eos"]
PACKS = ("document", "concat")
TEXTS = st.lists(st.lists(st.integers(FIRST_TEXT_ID, 59), min_size=1, max_size=30), max_size=12)
LONGEST = st.integers(3, 24)


def of(documents: list[list[int]], keys: list[int] | None = None, copy: int = 0) -> Documents:
    return Documents(ids=ragged(documents), keys=np.array(keys or range(len(documents)), np.uint64), copy=copy)


def build(documents: Documents, longest: int, pack: str = "document", seed: int = 1) -> Examples:
    objective = objective_for(PrefixLm(pack=pack), vocabulary())  # type: ignore[arg-type]
    return objective.build(documents, lengths=[longest], seed=seed)


def prefixes(examples: Examples) -> list[int]:
    return np.asarray(examples.scalars["prefix_length"]).tolist()


def ramp(count: int, longest: int = 60, seed: int = 0) -> list[list[int]]:
    sizes = np.random.default_rng(seed).integers(1, longest, count).tolist()
    return [[FIRST_TEXT_ID + (7 * d + i) % 50 for i in range(n)] for d, n in enumerate(sizes)]


@cases(200)
@given(documents=TEXTS, longest=LONGEST, pack=st.sampled_from(PACKS))
def test_every_document_and_its_eos_is_in_the_rows_once_and_none_is_too_short_to_split(
    documents: list[list[int]], longest: int, pack: str
) -> None:
    examples = build(of(documents), longest, pack)
    rows = lists(examples.input_ids)
    assert [t for row in rows for t in row] == [t for d in documents for t in [*d, EOS]]
    assert all(2 <= len(row) <= longest for row in rows)
    assert int(examples.doc_lengths.flat.sum()) == sum(map(len, documents))
    assert examples.losses == examples.gains == {}
    assert all(1 <= p <= len(row) - 1 for p, row in zip(prefixes(examples), rows, strict=True))
    if pack == "document":
        assert all(len(keys) == 1 for keys in lists(examples.doc_keys))
    else:  # all rows are full but the last, or the last two where one lends a token
        assert all(len(row) == longest for row in rows[:-2])


@pytest.mark.parametrize("pack", PACKS)
def test_one_document_of_every_length_up_is_cut_into_full_rows_of_two_ids_at_least(pack: str) -> None:
    for longest in range(3, 14):
        for n in range(1, 45):
            rows = [len(r) for r in lists(build(of([[FIRST_TEXT_ID] * n]), longest, pack).input_ids)]
            full, rest = divmod(n + 1, longest)
            expected = [longest] * full + [rest] * (rest > 0)
            if rest == 1:
                expected[-2:] = [longest - 1, 2]
            assert rows == expected


@cases(100)
@given(documents=TEXTS, longest=LONGEST, pack=st.sampled_from(PACKS))
def test_each_row_can_be_rebuilt_from_its_provenance(documents: list[list[int]], longest: int, pack: str) -> None:
    examples = build(of(documents), longest, pack)
    columns = (lists(c) for c in (examples.input_ids, examples.doc_keys, examples.doc_offsets, examples.doc_lengths))
    for row, *pieces in zip(*columns, strict=True):
        rebuilt: list[int] = []
        for key, begin, n in zip(*pieces, strict=True):
            rebuilt += documents[key][begin : begin + n]
            rebuilt += [EOS] * (begin + n == len(documents[key]) and len(rebuilt) < len(row))
        assert rebuilt == row


def test_a_document_is_split_the_same_whatever_it_is_built_beside() -> None:
    documents = ramp(50)
    order = np.random.default_rng(1).permutation(len(documents)).tolist()
    together, shuffled = (
        build(of([documents[i] for i in some], keys=[i + 9 for i in some]), 16)
        for some in (list(range(len(documents))), order)
    )

    def splits(examples: Examples) -> dict[tuple[int, int], int]:
        names = zip(examples.doc_keys.flat.tolist(), examples.doc_offsets.flat.tolist(), strict=True)
        return dict(zip(names, prefixes(examples), strict=True))

    assert splits(together) == splits(shuffled)
    alone = build(of([documents[7]], keys=[7 + 9]), 16)
    assert splits(alone).items() <= splits(together).items()


def test_another_copy_or_seed_splits_anew() -> None:
    documents = ramp(300)
    first = prefixes(build(of(documents), 64))
    for other in (build(of(documents, copy=1), 64), build(of(documents), 64, seed=2)):
        same = sum(a == b for a, b in zip(first, prefixes(other), strict=True))
        assert same < len(first) / 5


@pytest.mark.parametrize("units", [2, 3, 4, 7, 12])
def test_every_split_of_a_row_is_equally_likely(units: int) -> None:
    n = 20_000
    ids = Ragged(np.full(n * (units - 1), FIRST_TEXT_ID, np.int32), np.arange(n + 1) * (units - 1))
    found = Counter(prefixes(build(Documents(ids=ids, keys=np.arange(n, dtype=np.uint64), copy=0), 16)))
    assert set(found) == set(range(1, units))
    if units > 2:
        assert fits([found[k] for k in range(1, units)], [n / (units - 1)] * (units - 1))


@pytest.mark.parametrize("pack", PACKS)
def test_no_documents_give_no_rows(pack: str) -> None:
    examples = build(of([]), 8, pack)
    assert len(examples) == 0
    assert examples.to_table(objective_for(PrefixLm(), vocabulary()).columns, "a").schema == schema_of("prefix_lm")


def test_the_preview_predicts_the_rows_of_a_block() -> None:
    documents = ramp(200)
    sizes, counts = np.unique([len(d) for d in documents], return_counts=True)
    objective = objective_for(PrefixLm(), vocabulary())
    preview: Counter[int] = Counter()
    for length, n in zip(*objective.row_lengths(sizes, counts, lengths=[8, 16]), strict=True):
        preview[int(length)] += float(n)
    assert preview == Counter(len(r) for r in lists(build(of(documents), 16).input_ids))
    shown, rows = objective_for(PrefixLm(pack="concat"), vocabulary()).row_lengths(sizes, counts, lengths=[16])
    assert shown.tolist() == [16]
    assert len(build(of(documents), 16, "concat")) == -(-float(rows[0]) // 1)


def test_a_length_too_short_to_split_and_lend_is_refused() -> None:
    objective = objective_for(PrefixLm(), vocabulary())
    assert objective.resolve(3)["length"] == 3
    with pytest.raises(RequestError, match="at least 3"):
        objective.resolve(2)
    with pytest.raises(RequestError, match="eos"):
        objective_for(PrefixLm(), vocabulary(roles={"cls": 2}))


def test_the_suffix_is_drawn_as_predicted_and_documents_begin_where_they_do() -> None:
    record = TokenizerRecord(sha256="", vocab_size=60, special_ids=SPECIAL_IDS, special_token_ids=[])
    for pack in PACKS:
        examples = build(of(ramp(40, longest=12)), 24, pack)
        columns = columns_of(examples, PrefixLm())
        for i in range(len(examples)):
            row: dict[str, Any] = {name: values[i] for name, values in columns.items()}
            marks = objective_for(PrefixLm(), vocabulary()).draw(row, record).marks
            assert all(a.end <= b.begin for a, b in pairwise(marks))
            predicted = [p for m in marks if m.kind == "predicted" for p in range(m.begin, m.end)]
            assert predicted == list(range(row["prefix_length"], len(row["input_ids"])))
            begins = [m.begin for m in marks if m.kind == "boundary" and "document" in m.note]
            (split,) = [m.begin for m in marks if m.kind == "boundary" and "prefix" in m.note]
            assert split == row["prefix_length"]
            after_eos = [p + 1 for p, t in enumerate(row["input_ids"][:-1]) if t == EOS]
            assert begins == after_eos


# The audit.


@cases(150)
@given(documents=TEXTS, longest=LONGEST, pack=st.sampled_from(PACKS))
def test_a_good_dataset_breaks_no_law(documents: list[list[int]], longest: int, pack: str) -> None:
    parameters = PrefixLm(pack=pack)  # type: ignore[arg-type]
    assert audited(build(of(documents), longest, pack), parameters, vocabulary(), [longest]).failed() == set()


@pytest.mark.parametrize("pack", PACKS)
def test_a_prefix_that_is_empty_or_whole_is_found(pack: str) -> None:
    parameters = PrefixLm(pack=pack)  # type: ignore[arg-type]
    good = columns_of(build(of(ramp(30)), 16, pack), parameters)
    for value in (0, len(good["input_ids"][3]), -1, 2**31 - 1):
        columns = deepcopy(good)
        columns["prefix_length"][3] = value
        assert audited_columns(columns, parameters, vocabulary(), [16]).errors() == {"prefix_lengths": 1}


@pytest.mark.parametrize("pack", PACKS)
def test_damage_to_rows_is_found(pack: str) -> None:
    parameters = PrefixLm(pack=pack)  # type: ignore[arg-type]
    good = columns_of(build(of(ramp(60, longest=40)), 16, pack), parameters)
    for i, ids in enumerate(good["input_ids"]):
        if EOS not in ids:
            continue
        at = ids.index(EOS)
        moved = [*ids[: at - 1], EOS, ids[at - 1], *ids[at + 1 :]] if at else [*ids[1:], EOS]
        for changes in (
            {"input_ids": ids[:at] + ids[at + 1 :]},
            {"input_ids": moved},
            {"doc_lengths": [good["doc_lengths"][i][0] + 1, *good["doc_lengths"][i][1:]]},
            {"doc_offsets": [*good["doc_offsets"][i][:-1], good["doc_offsets"][i][-1] + 1]},
        ):
            columns = {**good, **{name: [*good[name][:i], v, *good[name][i + 1 :]] for name, v in changes.items()}}
            if changes.get("input_ids") == ids:
                continue
            failed = audited_columns(columns, parameters, vocabulary(), [16]).failed()
            if "doc_offsets" in changes and ids[-1] != EOS and len(good["doc_keys"][i]) == 1:
                continue
            assert failed - {"prefix_uniformity"}, (i, changes)


def test_prefixes_that_are_too_short_on_average_fail_the_gate_and_good_ones_pass() -> None:
    documents = of(ramp(9000, longest=40))
    good = columns_of(build(documents, 32), PrefixLm())
    gate = audited_columns(good, PrefixLm(), vocabulary(), [32]).gates()["prefix_uniformity"]
    assert gate.passed
    assert gate.n == len(good["input_ids"])
    rng = np.random.default_rng(0)
    spoiled = {**good, "prefix_length": [max(1, p - int(rng.random() < 0.5)) for p in good["prefix_length"]]}
    assert audited_columns(spoiled, PrefixLm(), vocabulary(), [32]).failed() == {"prefix_uniformity"}


def test_damaged_rows_are_measured_without_a_crash() -> None:
    good = columns_of(build(of(ramp(10)), 16), PrefixLm())
    for changes in ({"input_ids": []}, {"doc_lengths": []}, {"doc_offsets": [], "doc_keys": []}, {"input_ids": [-3]}):
        columns = deepcopy(good)
        for name, value in changes.items():
            columns[name][0] = value
        assert audited_columns(columns, PrefixLm(), vocabulary(), [16]).errors()
