"""Operations are those that follow from the architecture, each layer counted as often as it runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_datasets import ShardSpec, write_dataset

from trainer.flops import FlopCounter
from trainer.models import RECIPES
from trainer.stream import Stream


@pytest.mark.parametrize("name", ["gpt-tiny", "bert-tiny", "albert-tiny"])
def test_operations_follow_from_the_architecture(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    specs = (ShardSpec(stage=0, length=16, rows=8),)
    stream = Stream(
        write_dataset(tmp_path, objective=recipe.family.objectives[0], specs=specs, full_rows=True),
        tokens_per_batch=64,
        documents=recipe.family.packed,
    )
    with torch.device("meta"):
        counter = FlopCounter(recipe.family, recipe.build(stream.manifest, 16))
    rows = recipe.family.micro_batch(next(iter(stream)))
    size, positions, length = recipe.size, rows.batch["input_ids"].numel(), 16
    labels = len(next(iter(rows.labels.values())).ids)
    layer = 2 * positions * (4 * size.hidden**2 + 2 * size.hidden * size.feed_forward)
    attention = 4 * positions * length * size.hidden
    expected = size.layers * (layer + attention)
    if name == "gpt-tiny":
        expected += 2 * labels * size.hidden * 1000
    elif name == "bert-tiny":  # a head of a square matrix and the vocabulary
        expected += 2 * labels * (size.hidden**2 + size.hidden * 1000)
    else:  # embeddings are widened, and the head narrows
        expected += 2 * positions * size.embedding * size.hidden
        expected += 2 * labels * (size.hidden * size.embedding + size.embedding * 1000)
    assert counter.of(rows) == 3 * expected  # a backward pass is two forward ones
