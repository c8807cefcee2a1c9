"""Batches: labels where they belong, padding that weighs nothing, documents kept apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from small_datasets import SPECIAL_IDS, SPECS, ShardSpec, write_dataset

from schemas.errors import RequestError
from trainer.stream import IGNORED_LABEL, KINDS, Batch, Stream
from trainer.stream.documents import document_ids, position_ids


def rows_by_name(dataset: Path) -> dict[int, dict[str, Any]]:
    tables = [pq.ParquetFile(p).read().to_pylist() for p in dataset.rglob("data/**/*.parquet")]
    return {row["input_ids"][0]: row for table in tables for row in table}


def padded(values: list[int], width: int, fill: int = IGNORED_LABEL) -> list[int]:
    return values + [fill] * (width - len(values))


def labels_of(objective: str, row: dict[str, Any], batch: Batch) -> list[int]:
    width = batch["labels"].shape[1]
    if objective in ("causal", "fim"):
        return padded(row["input_ids"], width)
    if objective == "prefix_lm":
        return padded([IGNORED_LABEL] * row["prefix_length"] + row["input_ids"][row["prefix_length"] :], width)
    if "target_ids" in row:
        return padded(row["target_ids"], width)
    labels = [IGNORED_LABEL] * width
    for position, label in zip(row["mask_positions"], row["mask_labels"], strict=True):
        labels[position] = label
    return labels


@pytest.mark.parametrize("objective", sorted(KINDS))
def test_labels_are_the_rows_own(objective: str, tmp_path: Path) -> None:
    rows, seen = rows_by_name(write_dataset(tmp_path, objective=objective)), 0
    for batch in Stream(tmp_path, tokens_per_batch=64, epochs=1, sources=True):
        for i in torch.nonzero(batch["row_weight"]).flatten().tolist():
            row = rows[int(batch["input_ids"][i, 0])]
            seen += 1
            assert batch["labels"][i].tolist() == labels_of(objective, row, batch)
            assert ["books", "web"][int(batch["source_ids"][i])] == row["source"]
            if objective == "sentence_pair":
                first, width = row["segment_a_length"], batch["labels"].shape[1]
                types = [0] * first + [1] * (row["length"] - first)
                assert batch["token_type_ids"][i].tolist() == padded(types, width, 0)
                assert int(batch["pair_labels"][i]) == (0 if row["is_next"] else 1)
            if objective == "prefix_lm":
                assert int(batch["prefix_lengths"][i]) == row["prefix_length"]
            if objective == "replaced_token":
                drawn = batch["sample_draws"][i] > 0
                assert torch.nonzero(drawn).flatten().tolist() == row["mask_positions"]
    assert seen == sum(s.rows for s in SPECS if s.split == "train")


def test_writing_to_labels_or_to_inputs_changes_neither_the_other_nor_the_next_batch(tmp_path: Path) -> None:
    """Until somebody writes, full rows share memory with their labels and all masks, and a run is one block."""
    write_dataset(tmp_path, specs=(ShardSpec(stage=0, length=8, rows=64, row_group_rows=8),), full_rows=True)
    stream = Stream(tmp_path, tokens_per_batch=64, epochs=1)
    plain = [batch["input_ids"].clone() for batch in stream]
    stream.load_state_dict(stream.state_at(0))
    for step, batch in enumerate(stream):
        assert torch.equal(batch["input_ids"], plain[step])
        assert torch.equal(batch["labels"], plain[step])
        written, other = ("labels", "input_ids")[:: 1 if step % 2 else -1]
        batch[written].zero_()  # type: ignore[literal-required]
        assert not batch[written].any()  # type: ignore[literal-required]
        assert torch.equal(batch[other], plain[step])  # type: ignore[literal-required]
        assert batch["attention_mask"].all()
        batch["attention_mask"].zero_()
        batch["labels"].numpy()[:] = 5
        assert (batch["labels"] == 5).all()
        assert not (batch["input_ids"] == 5).all()


def test_draws_for_replacements_are_the_same_for_any_number_of_ranks_and_new_each_epoch(tmp_path: Path) -> None:
    write_dataset(tmp_path, objective="replaced_token")

    def draws(rank: int, world_size: int, epoch: int) -> dict[int, list[float]]:
        s = Stream(tmp_path, tokens_per_batch=64, epochs=epoch + 1, rank=rank, world_size=world_size)
        s.load_state_dict(s.state_at(epoch * s.plan.steps_per_epoch))
        return {
            int(b["input_ids"][i, 0]): b["sample_draws"][i].tolist()
            for b in s
            for i in torch.nonzero(b["row_weight"]).flatten().tolist()
        }

    alone = draws(0, 1, 0)
    assert {**draws(0, 3, 0), **draws(1, 3, 0), **draws(2, 3, 0)} == alone
    later = draws(0, 1, 1)
    assert all(later[name] != alone[name] for name in alone)


@pytest.mark.parametrize("special_ids", [{"pad": 0}, {"pad": 3}, {"eos": 2}, {}])
def test_rows_are_whole_and_padding_is_never_a_label(tmp_path: Path, special_ids: dict[str, int]) -> None:
    write_dataset(tmp_path, special_ids=special_ids)
    rows, fill = rows_by_name(tmp_path), next(iter(special_ids.values()), 0)
    for batch in Stream(tmp_path, tokens_per_batch=64, epochs=1):
        for i in torch.nonzero(batch["row_weight"]).flatten().tolist():
            ids, width = rows[int(batch["input_ids"][i, 0])]["input_ids"], batch["input_ids"].shape[1]
            assert batch["input_ids"][i].tolist() == padded(ids, width, fill)
            assert batch["labels"][i].tolist() == padded(ids, width)
            assert batch["attention_mask"][i].tolist() == [j < len(ids) for j in range(width)]


@pytest.mark.parametrize("vocab_size", [1000, 100_000])
def test_large_vocabularies_keep_their_ids(vocab_size: int, tmp_path: Path) -> None:
    rows = rows_by_name(write_dataset(tmp_path, vocab_size=vocab_size))
    (greatest,) = {int(max(b["input_ids"].max() for b in Stream(tmp_path, tokens_per_batch=64, epochs=1)))}
    assert greatest == max(max(r["input_ids"]) for n, r in rows.items() if n < 7 + 54)


@pytest.mark.parametrize("objective", sorted(KINDS))
def test_padding_rows_have_no_weight_no_label_and_something_to_attend_to(objective: str, tmp_path: Path) -> None:
    seen = 0
    write_dataset(tmp_path, objective=objective)
    for batch in Stream(tmp_path, tokens_per_batch=64, epochs=1, rank=2, world_size=3):
        padding = batch["row_weight"] == 0
        seen += int(padding.sum())
        assert (batch["labels"][padding] == IGNORED_LABEL).all()
        assert batch["attention_mask"].any(dim=1).all()
    assert seen


pieces = st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(st.lists(pieces, min_size=1, max_size=4), st.integers(0, 3))
def test_documents_are_told_apart_with_and_without_eos_and_rearranged(
    rows: list[list[tuple[int, bool, bool, bool]]], padding: int
) -> None:
    """A piece is `count` corpus tokens (9), rearranged or not (fim: 2 opens, 3 and 4 part it), EOS (1) or not."""
    ids, wanted, owner, counts = [], [], [], []
    for r, row in enumerate(rows):
        flat: list[int] = []
        apart: list[int] = []
        for piece, (count, moved, early, eos) in enumerate(row):
            tokens = [9] * count
            if moved:
                cut = 0 if early else count
                tokens = [2, *tokens[:cut], 3, *tokens[cut:], 4]
            tokens += [1] * eos
            flat += tokens
            apart += [piece] * len(tokens)
            owner.append(r)
            counts.append(count)
        ids.append(flat)
        wanted.append(apart)
    width = max(map(len, ids)) + padding
    rectangle = np.array([padded(i, width, 0) for i in ids], dtype=np.int32)
    present = np.array([[j < len(i) for j in range(width)] for i in ids])
    found = document_ids(
        rectangle, present, (np.array(owner), np.array(counts, np.int32)), extra_ids=[1, 3, 4], opening_ids=[2]
    )
    for r, apart in enumerate(wanted):
        assert found[r].tolist() == padded(apart, width, apart[-1])
        places = [i - apart.index(d) for i, d in enumerate(apart)]
        assert position_ids(found)[r, : len(apart)].tolist() == places


def test_no_label_crosses_from_one_document_into_the_next(causal: Path) -> None:
    for batch in Stream(causal, tokens_per_batch=64, epochs=1, documents=True):
        begins = batch["document_ids"][:, 1:] != batch["document_ids"][:, :-1]
        assert (batch["labels"][:, 1:][begins] == IGNORED_LABEL).all()
        assert (batch["position_ids"][:, 0] == 0).all()


def test_documents_cannot_be_asked_for_where_rows_are_not_packed(mlm: Path) -> None:
    with pytest.raises(RequestError, match="not packed"):
        Stream(mlm, tokens_per_batch=64, documents=True)
    assert SPECIAL_IDS["mask"] != SPECIAL_IDS["pad"]


def test_it_trains_a_model_in_transformers_trainer_and_in_accelerate(mlm: Path, tmp_path: Path) -> None:
    import operator

    from accelerate import Accelerator
    from transformers import BertConfig, BertForMaskedLM, Trainer, TrainingArguments

    def model() -> BertForMaskedLM:
        torch.manual_seed(0)
        return BertForMaskedLM(
            BertConfig(
                vocab_size=1000,
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                max_position_embeddings=32,
            )
        )

    stream = Stream(mlm, tokens_per_batch=64)
    trainer = Trainer(
        model=model(),
        args=TrainingArguments(
            output_dir=str(tmp_path / "hf"),
            max_steps=4,
            per_device_train_batch_size=1,  # of batches
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=stream,
        data_collator=operator.itemgetter(0),
    )
    assert 6 < trainer.train().training_loss < 8
    assert stream.step >= 4

    stream = Stream(mlm, tokens_per_batch=64, epochs=1)
    accelerator = Accelerator(cpu=True)
    prepared, optimizer, loader = accelerator.prepare(
        net := model(),
        torch.optim.SGD(net.parameters(), lr=0.1),
        torch.utils.data.DataLoader(stream, batch_size=None),
    )
    steps = 0
    for batch in loader:
        batch.pop("row_weight")
        accelerator.backward(prepared(**batch).loss)
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
    assert steps == stream.plan.steps_per_epoch
