"""Damage to rows trips the gate that is there for it and no other, whatever the objective."""

from __future__ import annotations

from pathlib import Path

import pytest
from sabotage import (
    Sabotage,
    a_few_words_restored,
    a_third_of_runs_restored,
    a_third_restored,
    change_row,
    change_rows,
    change_shard,
    descending_positions,
    eos_lost,
    eos_moved,
    fewer_kept_more_masked,
    fewer_masks,
    first_train,
    full_train,
    id_out_of_range,
    in_one_block,
    is_masked,
    is_packed,
    is_packed_with_eos,
    labels_off_by_one,
    labels_swapped,
    leaked_document,
    masks_at_the_front,
    masks_in_one_run,
    masks_lean_forward,
    masks_of_the_first_pass,
    masks_scattered,
    negative_id,
    one_mask_more,
    padding_inside,
    piece_of_nothing,
    piece_starts_late,
    provenance_shifted,
    random_special,
    row_twice,
    sentinel_gone,
    sentinels_swapped,
    separator_lost,
    separator_moved,
    separator_predicted,
    some_shown_at_random,
    spans_of_one_length,
    special_token_masked,
    target_cut,
    target_out_of_range,
    target_without_eos,
    token_of_the_next_piece,
    unlabelled_mask,
    with_unknown,
    wrong_length,
    wrong_source,
)
from tiny_dataset import describe, make_dataset

from pipelines.audit import audit_dataset
from schemas.objectives import ObjectiveParameters
from transforms.objectives.causal import Causal
from transforms.objectives.mlm import Mlm
from transforms.objectives.replaced_token import ReplacedToken
from transforms.objectives.sentence_pair import SentencePair
from transforms.objectives.span_corruption import SpanCorruption
from transforms.objectives.ul2 import Ul2

FULL, SENTENCES = Mlm(pack="full"), Mlm(pack="sentences")
BERNOULLI, NGRAM, SPAN = (Mlm.model_validate({"selection": s}) for s in ("bernoulli", "ngram", "span"))
WORDS = Mlm(whole_word=True)
BEST_FIT, DECOMPOSE = Causal(pack="best_fit"), Causal(pack="decompose")

EVERY_OBJECTIVE = [
    (change_shard(first_train, id_out_of_range), {"id_range"}, Mlm()),
    (change_shard(with_unknown, padding_inside), {"no_padding"}, Mlm()),
    (change_shard(first_train, wrong_source), {"sources_known"}, Mlm()),
    (change_shard(first_train, wrong_length), {"lengths"}, Mlm()),
    (change_shard(first_train, provenance_shifted), {"provenance"}, Mlm()),
    (row_twice, {"rows_once"}, Mlm()),
    (change_shard(first_train, leaked_document), {"splits_disjoint"}, Mlm()),
    (change_shard(full_train, leaked_document), {"splits_disjoint"}, Causal()),
    (change_shard(full_train, negative_id), {"id_range"}, Causal()),
]
MASKS = [
    (change_rows(fewer_kept_more_masked), {"mask_replacement"}, Mlm()),
    (change_rows(fewer_kept_more_masked), {"mask_replacement"}, SPAN),
    (change_rows(some_shown_at_random), {"mask_replacement"}, ReplacedToken()),
    (change_rows(labels_off_by_one), {"mask_replacement"}, Mlm()),
    # What lies at the front of every row lies side by side and is alike in every pass: three laws are broken.
    (change_rows(masks_at_the_front), {"mask_uniformity", "mask_runs", "passes_differ"}, Mlm()),
    (change_rows(masks_in_one_run), {"mask_runs"}, Mlm()),
    (change_rows(masks_in_one_run), {"mask_runs"}, BERNOULLI),
    (change_rows(masks_scattered), {"mask_runs"}, NGRAM),
    (change_rows(masks_scattered), {"mask_runs"}, SPAN),
    (change_rows(a_third_restored), {"mask_counts"}, BERNOULLI),
    (change_rows(a_third_of_runs_restored), {"mask_counts"}, NGRAM),
    (change_rows(a_third_restored), {"mask_counts"}, WORDS),
    (change_rows(a_few_words_restored), {"mask_counts"}, WORDS),
    (change_shard(first_train, fewer_masks), {"mask_counts"}, Mlm()),
    (change_shard(full_train, fewer_masks), {"mask_counts"}, SPAN),
    (change_shard(full_train, fewer_masks), {"mask_counts"}, ReplacedToken()),
    (change_shard(full_train, fewer_masks), {"mask_counts"}, Mlm(max_predictions=5)),
    (change_row(is_masked, one_mask_more), {"mask_counts"}, NGRAM),
    (change_row(is_masked, one_mask_more), {"mask_counts"}, WORDS),
    (change_row(is_masked, one_mask_more), {"mask_counts"}, Mlm(max_predictions=5)),
    (change_shard(first_train, unlabelled_mask), {"special_tokens"}, Mlm()),
    (change_shard(first_train, special_token_masked), {"mask_labels"}, Mlm()),
    (change_shard(first_train, descending_positions), {"mask_positions"}, Mlm()),
    (change_shard(first_train, random_special), {"random_replacements"}, Mlm()),
    (change_row(is_packed, separator_moved), {"special_tokens"}, FULL),
    (change_row(is_packed, separator_moved), {"special_tokens"}, SENTENCES),
    (change_row(is_packed, separator_lost), {"special_tokens"}, FULL),
    (change_row(is_packed, separator_predicted), {"mask_labels"}, SENTENCES),
    (change_row(is_packed, token_of_the_next_piece), {"special_tokens"}, FULL),
    (change_row(is_packed, piece_of_nothing), {"provenance"}, FULL),
]
PACKED = [
    (change_row(is_packed, eos_lost), {"provenance"}, Causal()),
    (change_row(is_packed, eos_lost), {"provenance"}, BEST_FIT),
    (change_row(is_packed_with_eos, eos_moved), {"document_boundaries"}, Causal()),
    (change_row(is_packed_with_eos, eos_moved), {"document_boundaries"}, BEST_FIT),
    (change_row(is_packed_with_eos, eos_moved), {"document_boundaries"}, DECOMPOSE),
    (change_row(is_packed, token_of_the_next_piece), {"document_boundaries"}, BEST_FIT),
    (change_shard(full_train, piece_starts_late), {"document_boundaries"}, Causal()),
]
PAIRS = [
    (change_shard(full_train, labels_swapped), {"pair_labels"}, SentencePair()),
    (change_shard(full_train, labels_swapped), {"pair_labels"}, SentencePair(task="sop")),
    (change_shard(full_train, fewer_masks), {"mask_counts"}, SentencePair()),
]
A_TENTH = [
    (in_one_block(fewer_kept_more_masked), {"mask_replacement"}, Mlm()),
    (in_one_block(some_shown_at_random), {"mask_replacement"}, ReplacedToken()),
    (in_one_block(labels_off_by_one), {"mask_replacement"}, Mlm()),
    (in_one_block(masks_in_one_run), {"mask_runs"}, Mlm()),
    (in_one_block(masks_in_one_run), {"mask_runs"}, BERNOULLI),
    (in_one_block(masks_scattered), {"mask_runs"}, NGRAM),
    (in_one_block(masks_scattered), {"mask_runs"}, SPAN),
    (in_one_block(a_third_restored), {"mask_counts"}, BERNOULLI),
    (in_one_block(a_third_restored), {"mask_counts"}, WORDS),
    (in_one_block(a_third_of_runs_restored), {"mask_counts"}, NGRAM),
    (in_one_block(masks_lean_forward), {"mask_uniformity"}, Mlm()),
    (masks_of_the_first_pass, {"passes_differ"}, Mlm()),
    (in_one_block(spans_of_one_length), {"span_lengths"}, SpanCorruption()),
    (in_one_block(spans_of_one_length), {"span_lengths"}, Ul2()),
]
SENTINELS = [
    (change_shard(full_train, sentinels_swapped), {"sentinels"}, SpanCorruption()),
    (change_shard(full_train, sentinels_swapped), {"sentinels"}, SpanCorruption(pack="full")),
    (change_shard(full_train, sentinel_gone), {"sentinels"}, SpanCorruption()),
    (change_shard(full_train, target_without_eos), {"sentinels"}, SpanCorruption()),
    (change_shard(full_train, target_cut), {"targets"}, SpanCorruption()),
    (change_shard(full_train, target_out_of_range), {"targets"}, SpanCorruption()),
    (change_shard(full_train, provenance_shifted), {"provenance"}, SpanCorruption(pack="full")),
]


def words(value: Sabotage | set[str] | ObjectiveParameters) -> str:
    """A test's name: the sabotage, the gates and the objective."""
    if isinstance(value, ObjectiveParameters):
        return describe(value)
    return "+".join(sorted(value)) if isinstance(value, set) else value.__name__


@pytest.mark.parametrize(
    ("spoil", "gates", "objective"), [*EVERY_OBJECTIVE, *MASKS, *PACKED, *PAIRS, *SENTINELS], ids=words
)
def test_damage_to_rows_trips_its_own_gate_and_no_other(
    spoil: Sabotage, gates: set[str], objective: ObjectiveParameters, tmp_path: Path
) -> None:
    result = audit_dataset(make_dataset(tmp_path, objective, spoil=spoil, blocks=1))
    assert {g.name for g in result.failed} == gates
    for gate in result.failed:
        assert gate.expected
        assert gate.observed
        assert gate.command


@pytest.mark.parametrize(("spoil", "gates", "objective"), A_TENTH, ids=words)
def test_a_law_of_chance_that_a_tenth_of_the_shards_breaks_is_found_by_its_gate(
    spoil: Sabotage, gates: set[str], objective: ObjectiveParameters, tmp_path: Path
) -> None:
    """Fails if a gate judged all rows together alone, where nine good shards hide a bad one."""
    result = audit_dataset(make_dataset(tmp_path, objective, spoil=spoil, blocks=10, times=10))
    assert {g.name for g in result.failed} == gates
