"""A good dataset trips no gate, over many seeds; each kind of damage trips the gate that is there for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_dataset import Spoiled, make_dataset, write_index

from pipelines.audit import audit_dataset
from schemas.keys import document_keys, validation_mask
from schemas.manifest import read_shards
from schemas.objectives import AnyObjective, Causal, Mlm, SpanCorruption
from schemas.storage import Location
from transforms.vocabulary import Vocabulary

OBJECTIVES = [
    Mlm(),
    Mlm(whole_word=True),
    Mlm(mask_replace_prob=0.85, random_replace_prob=0.0),
    Mlm(mask_replace_prob=0.7, random_replace_prob=0.3),
    Mlm(mask_rate=0.4, max_predictions=20),
    Causal(),
    SpanCorruption(),
    SpanCorruption(noise_density=0.4, mean_noise_span_length=5),
]


def failing(dataset: Location) -> set[str]:
    return {gate.name for gate in audit_dataset(dataset).failed}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.model_dump_json(exclude_defaults=True))
def test_a_good_dataset_passes_every_gate(objective: AnyObjective, seed: int, tmp_path: Path) -> None:
    result = audit_dataset(make_dataset(tmp_path, objective, seed))
    assert [f"{g.name}: {g.observed}" for g in result.failed] == []
    assert result.passed
    assert len(result.gates) >= 15


def test_an_empty_dataset_fails(tmp_path: Path) -> None:
    result = audit_dataset(make_dataset(tmp_path, spoil=lambda s: s.tables.clear()))
    assert not result.passed
    assert "not_empty" in {g.name for g in result.failed}


# Damage to rows that leaves every count right, so that only the gate of the broken law can see it.


Columns = dict[str, list[Any]]


def change_shard(
    key_of: Callable[[Spoiled], tuple[str, int, int, int]], change: Callable[[Columns, Vocabulary], None]
) -> Callable[[Spoiled], None]:
    def spoil(s: Spoiled) -> None:
        key = key_of(s)
        columns = s.columns(key)
        change(columns, s.vocabulary)
        s.put(key, columns)

    return spoil


def full_train(s: Spoiled) -> tuple[str, int, int, int]:
    return max(key for key in s.tables if key[0] == "train")


def first_train(s: Spoiled) -> tuple[str, int, int, int]:
    return s.first("train")


def fewer_kept_more_masked(s: Spoiled) -> None:
    """85/10/5: half of the places that are shown unchanged get the mask token."""
    rng = np.random.default_rng(0)
    mask = s.vocabulary.special_ids["mask"]
    for key in s.tables:
        columns = s.columns(key)
        for ids, places, labels in zip(
            columns["input_ids"], columns["mask_positions"], columns["mask_labels"], strict=True
        ):
            for place, label in zip(places, labels, strict=True):
                if ids[place] == label and rng.random() < 0.5:
                    ids[place] = mask
        s.put(key, columns)


def labels_off_by_one(s: Spoiled) -> None:
    """Each masked place gets the label of the next one of its row."""
    for key in s.tables:
        columns = s.columns(key)
        columns["mask_labels"] = [labels[1:] + labels[:1] for labels in columns["mask_labels"]]
        s.put(key, columns)


def masks_at_the_front(s: Spoiled) -> None:
    """Masks moved to the first maskable places of the row: right in number, wrong in where."""
    special = set(s.vocabulary.special_token_ids)
    for key in s.tables:
        columns = s.columns(key)
        for row, (ids, places, labels) in enumerate(
            zip(columns["input_ids"], columns["mask_positions"], columns["mask_labels"], strict=True)
        ):
            shown = ["keep" if ids[p] == x else ids[p] for p, x in zip(places, labels, strict=True)]
            for place, label in zip(places, labels, strict=True):
                ids[place] = label
            moved = [p for p, i in enumerate(ids) if i not in special][: len(places)]
            columns["mask_positions"][row] = moved
            columns["mask_labels"][row] = [ids[p] for p in moved]
            for place, what in zip(moved, shown, strict=True):
                ids[place] = ids[place] if what == "keep" else what
        s.put(key, columns)


def special_token_masked(columns: Columns, vocabulary: Vocabulary) -> None:
    """[CLS] is predicted in place of the row's first masked place, which is restored."""
    ids, places, labels = columns["input_ids"][0], columns["mask_positions"][0], columns["mask_labels"][0]
    ids[places[0]] = labels[0]
    places[0], labels[0] = 0, ids[0]
    ids[0] = vocabulary.special_ids["mask"]


def id_out_of_range(columns: Columns, vocabulary: Vocabulary) -> None:
    place = next(p for p in range(1, 9) if p not in columns["mask_positions"][0])
    columns["input_ids"][0][place] = vocabulary.size + 7


def padding_inside(columns: Columns, vocabulary: Vocabulary) -> None:
    ids, places = columns["input_ids"][0], columns["mask_positions"][0]
    place = next(p for p in range(1, len(ids) - 1) if p not in places and ids[p] == vocabulary.special_ids["unk"])
    ids[place] = vocabulary.special_ids["pad"]


def with_unknown(s: Spoiled) -> tuple[str, int, int, int]:
    """A shard whose first row is made to hold an unknown token that is not masked, so its law stays the same."""
    unk = s.vocabulary.special_ids["unk"]
    for key in sorted(s.tables):
        columns = s.columns(key)
        for row, ids in enumerate(columns["input_ids"]):
            if unk in ids:
                for values in columns.values():
                    values[0], values[row] = values[row], values[0]
                s.put(key, columns)
                return key
    raise AssertionError("no row has an unknown token")


def wrong_source(columns: Columns, vocabulary: Vocabulary) -> None:
    columns["source"] = ["elsewhere" for _ in columns["source"]]


def fewer_masks(columns: Columns, vocabulary: Vocabulary) -> None:
    """One masked place less: restored and no longer predicted."""
    ids, places, labels = columns["input_ids"][0], columns["mask_positions"][0], columns["mask_labels"][0]
    ids[places[-1]] = labels[-1]
    del places[-1], labels[-1]


def unlabelled_mask(columns: Columns, vocabulary: Vocabulary) -> None:
    """A masked place more that nobody will be asked about: its label is lost."""
    del columns["mask_positions"][0][-1], columns["mask_labels"][0][-1]


def descending_positions(columns: Columns, vocabulary: Vocabulary) -> None:
    for name in ("mask_positions", "mask_labels"):
        columns[name] = [values[::-1] for values in columns[name]]


def random_special(columns: Columns, vocabulary: Vocabulary) -> None:
    columns["input_ids"][0][columns["mask_positions"][0][0]] = vocabulary.special_ids["bos"]


def wrong_length(columns: Columns, vocabulary: Vocabulary) -> None:
    """Two rows' `length` swapped by one, so that the sums stay."""
    columns["length"][0] += 1
    columns["length"][1] -= 1


def provenance_shifted(columns: Columns, vocabulary: Vocabulary) -> None:
    """A corpus token counted for another row of the same source."""
    rows = [i for i, name in enumerate(columns["source"]) if name == columns["source"][0]][:2]
    columns["doc_lengths"][rows[0]][0] += 1
    columns["doc_lengths"][rows[1]][0] -= 1


def row_twice(s: Spoiled) -> None:
    """A row in place of another of the same source and length, so that every count stays."""
    for key in sorted(s.tables):
        columns = s.columns(key)
        seen: dict[tuple[str, int], int] = {}
        for row, what in enumerate(zip(columns["source"], columns["length"], strict=True)):
            if what in seen and key[0] == "train":
                for name in columns:
                    columns[name][row] = columns[name][seen[what]]
                s.put(key, columns)
                return
            seen[what] = row
    raise AssertionError("no two rows of one source and length")


def leaked_document(columns: Columns, vocabulary: Vocabulary) -> None:
    keys = document_keys("books", [f"books-{i}" for i in range(260)])
    columns["doc_keys"][0][0] = int(keys[validation_mask(keys, 0.1)][0])


def negative_id(columns: Columns, vocabulary: Vocabulary) -> None:
    text = set(vocabulary.text_ids.tolist())
    ids = columns["input_ids"][0]
    ids[next(p for p, i in enumerate(ids) if i in text)] = -1


def piece_starts_late(columns: Columns, vocabulary: Vocabulary) -> None:
    row = next(i for i, pieces in enumerate(columns["doc_offsets"]) if len(pieces) > 1)
    columns["doc_offsets"][row][1] = 5


def boundary_lost(columns: Columns, vocabulary: Vocabulary) -> None:
    row = next(i for i, pieces in enumerate(columns["doc_lengths"]) if len(pieces) > 1)
    columns["input_ids"][row][columns["doc_lengths"][row][0]] = int(vocabulary.text_ids[0])


def _row_with_two_spans(columns: Columns, vocabulary: Vocabulary) -> int:
    second = int(vocabulary.sentinel_ids[1])
    return next(i for i, target in enumerate(columns["target_ids"]) if second in target)


def sentinels_swapped(columns: Columns, vocabulary: Vocabulary) -> None:
    first, second = vocabulary.sentinel_ids[:2].tolist()
    target = columns["target_ids"][_row_with_two_spans(columns, vocabulary)]
    i, j = target.index(first), target.index(second)
    target[i], target[j] = second, first


def sentinel_gone(columns: Columns, vocabulary: Vocabulary) -> None:
    ids = columns["input_ids"][_row_with_two_spans(columns, vocabulary)]
    ids[ids.index(int(vocabulary.sentinel_ids[0]))] = int(vocabulary.text_ids[0])


def target_without_eos(columns: Columns, vocabulary: Vocabulary) -> None:
    columns["target_ids"][0].pop()


def target_out_of_range(columns: Columns, vocabulary: Vocabulary) -> None:
    columns["target_ids"][0][1] = vocabulary.size


@pytest.mark.parametrize(
    ("spoil", "gates", "objective"),
    [
        (fewer_kept_more_masked, {"mask_replacement"}, Mlm()),
        (labels_off_by_one, {"mask_replacement"}, Mlm()),
        (masks_at_the_front, {"mask_uniformity"}, Mlm()),
        (change_shard(first_train, special_token_masked), {"mask_labels"}, Mlm()),
        (change_shard(first_train, id_out_of_range), {"id_range"}, Mlm()),
        (change_shard(with_unknown, padding_inside), {"no_padding"}, Mlm()),
        (change_shard(first_train, wrong_source), {"sources_known", "mixture", "ledger"}, Mlm()),
        (change_shard(first_train, fewer_masks), {"mask_counts"}, Mlm()),
        (change_shard(first_train, unlabelled_mask), {"mask_counts", "special_tokens"}, Mlm()),
        (change_shard(first_train, descending_positions), {"mask_positions"}, Mlm()),
        (change_shard(first_train, random_special), {"random_replacements"}, Mlm()),
        (change_shard(first_train, wrong_length), {"lengths"}, Mlm()),
        (change_shard(first_train, provenance_shifted), {"provenance"}, Mlm()),
        (row_twice, {"rows_once"}, Mlm()),
        (change_shard(first_train, leaked_document), {"splits_disjoint"}, Mlm()),
        (change_shard(full_train, leaked_document), {"splits_disjoint"}, Causal()),
        (change_shard(full_train, boundary_lost), {"document_boundaries"}, Causal()),
        (change_shard(full_train, negative_id), {"id_range"}, Causal()),
        (change_shard(full_train, piece_starts_late), {"document_boundaries"}, Causal()),
        (change_shard(full_train, sentinels_swapped), {"sentinels"}, SpanCorruption()),
        (change_shard(full_train, sentinel_gone), {"sentinels"}, SpanCorruption()),
        (change_shard(full_train, target_without_eos), {"sentinels", "targets"}, SpanCorruption()),
        (change_shard(full_train, target_out_of_range), {"targets"}, SpanCorruption()),
    ],
)
def test_damage_to_rows_trips_its_own_gate_and_no_other(
    spoil: Callable[[Spoiled], None], gates: set[str], objective: AnyObjective, tmp_path: Path
) -> None:
    dataset = make_dataset(tmp_path, objective, spoil=spoil)
    result = audit_dataset(dataset)
    assert {g.name for g in result.failed} == gates
    for gate in result.failed:
        assert gate.expected
        assert gate.observed
        assert gate.command


def test_the_gate_names_the_shard_and_the_command(tmp_path: Path) -> None:
    result = audit_dataset(make_dataset(tmp_path, spoil=change_shard(first_train, fewer_masks)))
    gate = result.failed[0]
    assert gate.worst_shard == "data/split=train/stage=0/length=16/00000.parquet"
    assert gate.command == "shardmill show DATASET --split train --stage 0 --length 16"
    assert gate.effect == 1


# Damage to files and bookkeeping.


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    path = read_shards(dataset)["path"][2].as_py()
    (dataset / path).remove()
    gates = {g.name: g for g in audit_dataset(dataset).failed}
    assert gates["shards_readable"].worst_shard == path
    assert "1 missing" in gates["shards_readable"].observed


def test_a_shard_dropped_from_disk_and_index_does_not_add_up(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    rows = read_shards(dataset).to_pylist()
    (dataset / rows[2]["path"]).remove()
    write_index(dataset, rows[:2] + rows[3:])
    assert {"totals", "ledger"} <= failing(dataset)


def test_a_truncated_shard_is_unreadable_and_named(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    place = dataset / read_shards(dataset)["path"][4].as_py()
    place.write_bytes(place.read_bytes()[:-200])
    gate = {g.name: g for g in audit_dataset(dataset).failed}["shards_readable"]
    assert gate.worst_shard == read_shards(dataset)["path"][4].as_py()
    assert "cannot be read" in gate.observed


def test_a_shard_that_holds_more_than_its_index_says_is_named(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    rows = read_shards(dataset).to_pylist()
    rows[1]["rows"] -= 1
    write_index(dataset, rows)
    gates = {g.name: g for g in audit_dataset(dataset).failed}
    assert set(gates) == {"shards_match_index"}
    assert gates["shards_match_index"].worst_shard == rows[1]["path"]


def test_a_shard_of_another_run_is_found_by_its_fingerprint(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    edit_manifest(dataset, lambda m: m.update(fingerprint="e" * 32))
    assert failing(dataset) == {"shards_readable"}


def test_another_tokenizer_is_found(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    place = dataset / "tokenizer.json"
    place.write_bytes(place.read_bytes() + b"\n")
    assert failing(dataset) == {"tokenizer"}
    place.remove()
    assert failing(dataset) == {"tokenizer"}


def test_a_ledger_that_does_not_close_is_found(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    edit_manifest(dataset, lambda m: m["ledger"]["entries"][0].update(out=259))
    gate = audit_dataset(dataset).failed
    assert [g.name for g in gate] == ["ledger"]
    assert "read records of books: 263 stated, 262 counted" in gate[0].observed


def test_a_mixture_more_than_a_document_off_the_plan_is_found(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)

    def plan_more(m: dict[str, Any]) -> None:
        m["stages"][0]["sources"]["books"]["planned_tokens"] += 601

    def plan_less_than_a_document(m: dict[str, Any]) -> None:
        m["stages"][0]["sources"]["books"]["planned_tokens"] -= 501

    edit_manifest(dataset, plan_more)
    assert failing(dataset) == {"mixture"}
    edit_manifest(dataset, plan_less_than_a_document)
    assert failing(dataset) == set()


def edit_manifest(dataset: Location, change: Callable[[dict[str, Any]], object]) -> None:
    place = dataset / "manifest.json"
    raw = json.loads(place.read_bytes())
    change(raw)
    place.write_bytes(json.dumps(raw).encode())


# The job's own bounds.


@pytest.mark.parametrize(
    ("gates", "fails"),
    [
        ({"padding": {"max": 0.9}, "rows": {"min": 10}}, set()),
        ({"padding": {"max": 0.01}}, {"job.padding"}),
        ({"tokens": {"min": 10**9}}, {"job.tokens"}),
        ({"rejected": {"max": 0.001}}, {"job.rejected"}),
        ({"unknown": {"max": 0.0001}}, {"job.unknown"}),
        ({"repetition": {"max": 1.2}}, {"job.repetition"}),
        ({"duplicates": {"max": 0.5}}, set()),
    ],
)
def test_the_jobs_bounds_are_gates(gates: dict[str, Any], fails: set[str], tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, gates=gates)
    result = audit_dataset(dataset)
    assert {g.name for g in result.failed} == fails
    assert {f"job.{name}" for name in gates} <= {g.name for g in result.gates}


def test_a_bound_on_no_figure_fails_instead_of_passing(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    edit_manifest(dataset, lambda m: m["job"].update(gates={"pading": {"max": 0.5}}))
    gate = audit_dataset(dataset).failed
    assert [g.name for g in gate] == ["job.pading"]
    assert "did you mean 'padding'?" in gate[0].expected
