"""seq2seq: a record's input and target are a row with EOS on both, and records that do not fit are counted."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from audit_helpers import audited, audited_columns, columns_of
from hypothesis import given
from hypothesis import strategies as st
from unit_helpers import FIRST_TEXT_ID, SPECIAL_IDS, cases, lists, ragged, vocabulary

from schemas.errors import RequestError
from schemas.manifest import TokenizerRecord
from transforms.objectives.base import Documents, Examples
from transforms.objectives.registry import objective_for, schema_of
from transforms.objectives.seq2seq import Seq2Seq

EOS = SPECIAL_IDS["eos"]
SIDE = st.lists(st.integers(FIRST_TEXT_ID, 59) | st.just(SPECIAL_IDS["unk"]), min_size=1, max_size=20)
PAIRS = st.lists(st.tuples(SIDE, SIDE), max_size=12)
Pairs = list[tuple[list[int], list[int]]]


def of(pairs: Pairs, keys: list[int] | None = None, copy: int = 0) -> Documents:
    return Documents(
        ids=ragged([a for a, _ in pairs]),
        targets=ragged([b for _, b in pairs]),
        keys=np.array(keys or range(len(pairs)), np.uint64),
        copy=copy,
    )


def build(documents: Documents, longest: int, **parameters: Any) -> Examples:
    return objective_for(Seq2Seq(**parameters), vocabulary()).build(documents, lengths=[2, longest], seed=1)


def rows_of(examples: Examples) -> list[tuple[int, list[int], list[int]]]:
    """(key, input, target) of each row."""
    keys = [key for (key,) in lists(examples.doc_keys)]
    return list(zip(keys, lists(examples.input_ids), lists(examples.lists["target_ids"]), strict=True))


def many(count: int, longest: int = 30) -> Pairs:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, longest, (count, 2)).tolist()
    return [([FIRST_TEXT_ID + (i + k) % 50 for k in range(a)], [FIRST_TEXT_ID] * b) for i, (a, b) in enumerate(sizes)]


@cases(200)
@given(pairs=PAIRS, longest=st.integers(2, 24), most=st.none() | st.integers(2, 24))
def test_records_that_fit_are_rows_as_they_are_and_the_others_are_counted_as_too_long(
    pairs: Pairs, longest: int, most: int | None
) -> None:
    examples = build(of(pairs), longest, max_target_length=most)
    fit = {i for i, (a, b) in enumerate(pairs) if len(a) < longest and len(b) < (most or longest)}
    assert rows_of(examples) == [(i, [*pairs[i][0], EOS], [*pairs[i][1], EOS]) for i in sorted(fit)]
    lost = sum(len(a) + len(b) for i, (a, b) in enumerate(pairs) if i not in fit)
    assert examples.losses == ({"too_long": lost} if lost else {})


@cases(200)
@given(pairs=PAIRS, longest=st.integers(2, 24), most=st.none() | st.integers(2, 24))
def test_truncation_keeps_every_record_and_counts_the_tokens_it_cuts(
    pairs: Pairs, longest: int, most: int | None
) -> None:
    examples = build(of(pairs), longest, on_long="truncate", max_target_length=most)
    bound = most or longest
    assert rows_of(examples) == [
        (i, [*a[: longest - 1], EOS], [*b[: bound - 1], EOS]) for i, (a, b) in enumerate(pairs)
    ]
    lost = sum(max(0, len(a) - longest + 1) + max(0, len(b) - bound + 1) for a, b in pairs)
    assert examples.losses == ({"truncated": lost} if lost else {})


@cases(100)
@given(pairs=PAIRS, longest=st.integers(2, 24), on_long=st.sampled_from(["reject", "truncate"]))
def test_tokens_read_are_in_rows_or_in_a_named_loss(pairs: Pairs, longest: int, on_long: str) -> None:
    documents = of(pairs, copy=2)
    examples = build(documents, longest, on_long=on_long)
    assert documents.tokens == int(examples.doc_lengths.flat.sum()) + sum(examples.losses.values())
    assert lists(examples.doc_offsets) == [[0]] * len(examples)
    assert examples.copy.tolist() == [2] * len(examples)
    columns = objective_for(Seq2Seq(), vocabulary()).columns
    assert examples.to_table(columns, "a").schema == schema_of("seq2seq")


def test_inputs_and_targets_of_every_length_up_to_the_bound_and_beyond() -> None:
    longest, most = 6, 4
    for a in range(1, 10):
        for b in range(1, 10):
            pair = [([FIRST_TEXT_ID] * a, [FIRST_TEXT_ID + 1] * b)]
            rejected = build(of(pair), longest, max_target_length=most)
            assert len(rejected) == (a <= longest - 1 and b <= most - 1)
            cut = build(of(pair), longest, max_target_length=most, on_long="truncate")
            assert cut.input_ids.lengths.tolist() == [min(a + 1, longest)]
            assert cut.lists["target_ids"].lengths.tolist() == [min(b + 1, most)]


def test_a_record_is_the_same_row_whatever_it_is_built_beside() -> None:
    pairs = many(50)
    order = np.random.default_rng(1).permutation(50).tolist()
    together = rows_of(build(of(pairs, keys=[i + 9 for i in range(50)]), 20))
    shuffled = rows_of(build(of([pairs[i] for i in order], keys=[i + 9 for i in order]), 20))
    assert sorted(shuffled) == sorted(together)


def test_no_records_give_no_rows() -> None:
    assert len(build(of([]), 8)) == 0
    assert len(build(of([([FIRST_TEXT_ID] * 9, [FIRST_TEXT_ID])]), 8)) == 0


def test_it_reads_pairs_and_states_the_longest_target() -> None:
    assert Seq2Seq().reads_pairs
    assert objective_for(Seq2Seq(), vocabulary()).resolve(64)["target_length"] == 64
    assert objective_for(Seq2Seq(max_target_length=16), vocabulary()).resolve(64)["target_length"] == 16
    with pytest.raises(RequestError, match="at least 2"):
        objective_for(Seq2Seq(), vocabulary()).resolve(1)
    with pytest.raises(RequestError, match="eos"):
        objective_for(Seq2Seq(), vocabulary(roles={"cls": 2}))


def test_the_preview_counts_every_record_that_may_fit() -> None:
    pairs = [([FIRST_TEXT_ID] * n, [FIRST_TEXT_ID] * n) for n in range(1, 20)]
    sizes, counts = np.arange(2, 40, 2), np.ones(19, np.int64)
    for on_long in ("reject", "truncate"):
        objective = objective_for(Seq2Seq(on_long=on_long), vocabulary())  # type: ignore[arg-type]
        shown, rows = objective.row_lengths(sizes, counts, lengths=[8, 12])
        built = build(of(pairs), 12, on_long=on_long)
        assert sorted(shown.tolist()) == sorted(built.input_ids.lengths.tolist())
        assert rows.sum() == len(built)


def test_the_target_is_drawn_below_the_input() -> None:
    record = TokenizerRecord(sha256="", vocab_size=60, special_ids=SPECIAL_IDS, special_token_ids=[])
    drawing = objective_for(Seq2Seq(), vocabulary()).draw({"input_ids": [9, EOS], "target_ids": [8, 7, EOS]}, record)
    assert drawing.target == (8, 7, EOS)
    assert not drawing.marks


# The audit.


@cases(150)
@given(pairs=PAIRS, longest=st.integers(2, 24), most=st.none() | st.integers(2, 24), cut=st.booleans())
def test_a_good_dataset_breaks_no_law(pairs: Pairs, longest: int, most: int | None, cut: bool) -> None:
    parameters = Seq2Seq(on_long="truncate" if cut else "reject", max_target_length=most)
    examples = objective_for(parameters, vocabulary()).build(of(pairs), lengths=[longest], seed=0)
    assert audited(examples, parameters, vocabulary(), [longest]).failed() == set()


def changed(columns: dict[str, list[Any]], row: int, **values: Any) -> dict[str, list[Any]]:
    return {
        name: [*v[:row], values[name], *v[row + 1 :]] if name in values else deepcopy(v)
        for name, v in columns.items()
    }


def test_damage_to_any_one_row_is_found_by_its_own_law() -> None:
    parameters = Seq2Seq(max_target_length=40)
    good = columns_of(build(of(many(30)), 40, max_target_length=40), parameters)
    for row in range(30):
        ids, target, counts = (good[name][row] for name in ("input_ids", "target_ids", "doc_lengths"))
        more = [counts[0] + 1]
        damages: list[tuple[dict[str, Any], set[str]]] = [
            ({"input_ids": ids[:-1]}, {"provenance", "pairs"}),
            ({"input_ids": [*ids[:-1], FIRST_TEXT_ID]}, {"pairs"}),
            ({"input_ids": [*ids, EOS], "doc_lengths": more}, {"pairs"}),
            ({"input_ids": [*ids[:-2], EOS, ids[-2]]}, {"pairs"}),
            ({"input_ids": [EOS], "doc_lengths": [len(target) - 1]}, {"pairs"}),
            ({"target_ids": target[:-1]}, {"provenance", "targets"}),
            ({"target_ids": [*target[:-1], FIRST_TEXT_ID]}, {"targets"}),
            ({"target_ids": [*target[:-2], EOS, target[-2]]}, {"targets"}),
            ({"target_ids": [60, *target[1:]]}, {"targets"}),
            ({"target_ids": [-1, *target[1:]]}, {"targets"}),
            ({"target_ids": [7] * 40 + [EOS], "doc_lengths": [len(ids) + 39]}, {"targets"}),
            ({"target_ids": ids, "input_ids": target}, set()),  # nothing in a row tells which side is which
            ({"doc_lengths": more}, {"provenance"}),
            ({"doc_offsets": [1]}, {"pairs"}),
        ]
        for values, laws in damages:
            found = audited_columns(changed(good, row, **values), parameters, vocabulary(), [40])
            assert set(found.errors()) == laws, (row, values)


def test_a_target_longer_than_the_longest_bucket_is_found_where_no_bound_is_given() -> None:
    good = columns_of(build(of(many(30)), 40), Seq2Seq())
    bad = changed(good, 3, target_ids=[7] * 40 + [EOS], doc_lengths=[len(good["input_ids"][3]) + 39])
    assert set(audited_columns(bad, Seq2Seq(), vocabulary(), [40]).errors()) == {"targets"}


def test_damaged_rows_are_measured_without_a_crash() -> None:
    good = columns_of(build(of(many(5)), 40), Seq2Seq())
    for values in (
        {"input_ids": []},
        {"target_ids": []},
        {"doc_lengths": []},
        {"doc_offsets": []},
        {"doc_lengths": [1, 2], "doc_keys": [1, 2], "doc_offsets": [0, 0]},
        {"input_ids": [10**6], "target_ids": [-(10**6)]},
        {"doc_lengths": [-3]},
    ):
        assert audited_columns(changed(good, 0, **values), Seq2Seq(), vocabulary(), [40]).errors()
