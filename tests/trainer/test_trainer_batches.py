"""Batches and losses: labels where they belong, padding that weighs nothing, the same loss as transformers'."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import write_dataset

from trainer.batches import IGNORED_LABEL
from trainer.models import RECIPES, loss_sum
from trainer.ragged import Ragged
from trainer.stream import Stream


def rows_by_name(dataset: Path) -> dict[int, dict[str, list[int]]]:
    tables = [pq.ParquetFile(p).read().to_pylist() for p in dataset.rglob("data/**/*.parquet")]
    return {row["input_ids"][0]: row for table in tables for row in table}


def test_masked_labels_stand_at_their_positions_and_nowhere_else(mlm: Path) -> None:
    rows = rows_by_name(mlm)
    for batch in Stream(mlm, tokens_per_batch=64, epochs=1):
        for i in torch.nonzero(batch["row_weight"]).flatten().tolist():
            row = rows[int(batch["input_ids"][i, 0])]
            expected = [IGNORED_LABEL] * batch["labels"].shape[1]
            for position, label in zip(row["mask_positions"], row["mask_labels"], strict=True):
                expected[position] = label
            assert batch["labels"][i].tolist() == expected


@pytest.mark.parametrize("special_ids", [{"pad": 0}, {"pad": 3}, {"eos": 2}, {}])
def test_rows_are_whole_and_padding_is_never_a_label(tmp_path: Path, special_ids: dict[str, int]) -> None:
    write_dataset(tmp_path, special_ids=special_ids)
    rows, fill = rows_by_name(tmp_path), next(iter(special_ids.values()), 0)
    for batch in Stream(tmp_path, tokens_per_batch=64, epochs=1):
        for i in torch.nonzero(batch["row_weight"]).flatten().tolist():
            ids, width = rows[int(batch["input_ids"][i, 0])]["input_ids"], batch["input_ids"].shape[1]
            assert batch["input_ids"][i].tolist() == ids + [fill] * (width - len(ids))
            assert batch["labels"][i].tolist() == ids + [IGNORED_LABEL] * (width - len(ids))
            assert batch["attention_mask"][i].tolist() == [j < len(ids) for j in range(width)]


@pytest.mark.parametrize("objective", ["causal", "mlm"])
def test_padding_rows_have_no_weight_no_label_and_something_to_attend_to(
    objective: str, request: pytest.FixtureRequest
) -> None:
    seen = 0
    for batch in Stream(request.getfixturevalue(objective), tokens_per_batch=64, epochs=1, rank=2, world_size=3):
        padding = batch["row_weight"] == 0
        seen += int(padding.sum())
        assert (batch["labels"][padding] == IGNORED_LABEL).all()
        assert batch["attention_mask"].any(dim=1).all()
    assert seen


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_the_loss_is_that_of_transformers(name: str, request: pytest.FixtureRequest) -> None:
    recipe = RECIPES[name]
    stream = Stream(request.getfixturevalue(recipe.objective), tokens_per_batch=256, epochs=1)
    torch.manual_seed(0)
    model = recipe.build(stream.manifest.tokenizer, stream.longest_row).eval()
    for batch in stream:
        total, labels = loss_sum(recipe, model, batch)
        theirs = model(**{k: batch[k] for k in ("input_ids", "attention_mask", "labels")}).loss  # type: ignore[literal-required]
        torch.testing.assert_close(total / labels, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_rank_with_padding_rows_alone_gives_no_loss_and_no_nan(name: str, request: pytest.FixtureRequest) -> None:
    recipe = RECIPES[name]
    # Two rows of 32 tokens for eight ranks: the last rank never has an example of that length.
    stream = Stream(request.getfixturevalue(recipe.objective), tokens_per_batch=64, epochs=1, rank=7, world_size=8)
    model = recipe.build(stream.manifest.tokenizer, stream.longest_row).train()
    empty = next(b for b in stream if not b["row_weight"].any())
    total, labels = loss_sum(recipe, model, empty)
    (total / labels.clamp(min=1)).backward()
    assert (float(total.detach()), int(labels)) == (0, 0)
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_ragged_rows_survive_slices_of_arrow_arrays() -> None:
    array = pa.array([[9], [1, 2, 3], [], [4]], pa.list_(pa.int32()))
    column = Ragged.of([array.slice(1), array.slice(0, 1)], widest=4)
    rectangle, present = column.rectangle(np.array([3, 0, 1, 2]), 4)
    assert rectangle.tolist() == [[9, 0, 0, 0], [1, 2, 3, 0], [0, 0, 0, 0], [4, 0, 0, 0]]
    assert present.sum(1).tolist() == [1, 3, 0, 1]
    owner, values = column.flat(np.array([0, 1, 3]))
    assert (owner.tolist(), values.tolist()) == ([0, 0, 0, 2], [1, 2, 3, 9])
