"""Losses are those of transformers, of the labels alone; attention stops at documents and spans prefixes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_datasets import write_dataset

from schemas.errors import RequestError
from trainer.models import RECIPES
from trainer.models.attention import attention_arguments
from trainer.models.family import token_loss
from trainer.step import Losses, backward, micro_batches
from trainer.stream import Batch, Stream
from trainer.world import World

TINY = [r for r in RECIPES.values() if r.name.endswith("-tiny")]
ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def dataset(recipe: Any, root: Path, **options: Any) -> Path:
    return write_dataset(root, objective=recipe.family.objectives[0], **options)


@pytest.mark.parametrize("recipe", [r for r in TINY if r.name != "electra-tiny"], ids=lambda r: r.name)
def test_the_loss_is_that_of_transformers(recipe: Any, tmp_path: Path) -> None:
    stream = Stream(dataset(recipe, tmp_path), tokens_per_batch=256, epochs=1)
    torch.manual_seed(0)
    model = recipe.build(stream.manifest, stream.longest_row).eval()
    for batch in stream:
        (part,) = recipe.family.parts(model, recipe.family.micro_batch(batch)).values()
        names = ["input_ids", "labels", *(["attention_mask"] if recipe.name != "prefix-lm-tiny" else [])]
        given: dict[str, Any] = {k: batch[k] for k in names}  # type: ignore[literal-required]
        if recipe.name == "prefix-lm-tiny":
            given["attention_mask"] = attention_arguments(batch, flex=False)["allowed"]
        torch.testing.assert_close(part.loss.mean(), model(**given).loss, rtol=1e-4, atol=1e-4)


def test_targets_longer_than_all_rows_have_positions(tmp_path: Path) -> None:
    """A text of which all is one mask has a short input; where no row is as long as the text, its target still is."""
    place = write_dataset(tmp_path, objective="infilling") / "manifest.json"
    manifest = json.loads(place.read_bytes())
    manifest["objective"]["resolved"].append({"length": 100, "target_length": 100})
    place.write_text(json.dumps(manifest))
    stream = Stream(tmp_path, tokens_per_batch=256)
    recipe = RECIPES["bart-tiny"]
    rows = recipe.family.micro_batch(next(iter(stream)))
    assert rows.batch["labels"].shape[1] == 100 > rows.batch["input_ids"].shape[1]
    assert (
        recipe.family.parts(recipe.build(stream.manifest, stream.longest_row), rows)["tokens"].loss.isfinite().all()
    )
    with pytest.raises(RequestError, match="rows or targets that are longer"):
        recipe.build(stream.manifest, stream.longest_row, positions=99)


@pytest.mark.parametrize("name", ["bert-tiny", "albert-tiny"])
def test_the_loss_of_pairs_is_that_of_transformers(name: str, tmp_path: Path) -> None:
    stream = Stream(write_dataset(tmp_path, objective="sentence_pair"), tokens_per_batch=256, epochs=1)
    model: Any = RECIPES[name].build(stream.manifest, stream.longest_row).eval()
    family = RECIPES[name].family
    for batch in stream:
        parts = family.parts(model, family.micro_batch(batch))
        label = "next_sentence_label" if name == "bert-tiny" else "sentence_order_label"
        theirs = model(
            **{k: batch[k] for k in ("input_ids", "attention_mask", "token_type_ids", "labels")},  # type: ignore[literal-required]
            **{label: batch["pair_labels"]},
        ).loss
        torch.testing.assert_close(sum(p.loss.mean() for p in parts.values()), theirs, rtol=1e-4, atol=1e-4)


def test_a_discriminator_sees_what_the_generator_drew_and_what_equals_the_original_is_original(
    tmp_path: Path,
) -> None:
    stream = Stream(write_dataset(tmp_path, objective="replaced_token"), tokens_per_batch=256, epochs=1)
    recipe = RECIPES["electra-tiny"]
    model: Any = recipe.build(stream.manifest, stream.longest_row).eval()
    seen: list[torch.Tensor] = []
    model.discriminator.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    for batch in stream:
        originals = torch.where(batch["labels"] >= 0, batch["labels"], batch["input_ids"])
        parts = recipe.family.parts(model, recipe.family.micro_batch(batch), correct=True)
        drawn = seen.pop()
        assert (drawn[batch["labels"] < 0] == batch["input_ids"][batch["labels"] < 0]).all()
        real = batch["attention_mask"] & (batch["row_weight"] > 0)[:, None]
        assert len(parts["rtd"].loss) == int(real.sum())
        scores = model.discriminator(input_ids=drawn, attention_mask=batch["attention_mask"]).logits[real]
        wanted = (drawn != originals)[real]
        assert parts["rtd"].correct is not None
        assert torch.equal(parts["rtd"].correct, (scores > 0) == wanted)
        seen.clear()
    # The generator's distribution is what draws are made from: a peaked one gives its peak whatever the draw.
    with torch.no_grad():
        model.generator.generator_lm_head.bias[17] = 1e4
    recipe.family.parts(model, recipe.family.micro_batch(batch))
    assert (seen[0][batch["labels"] >= 0] == 17).all()


@pytest.mark.parametrize("recipe", TINY, ids=lambda r: r.name)
def test_a_rank_with_padding_rows_alone_gives_no_loss_and_no_nan(recipe: Any, tmp_path: Path) -> None:
    # Two rows of 32 tokens for eight ranks: the last rank never has an example of that length.
    stream = Stream(dataset(recipe, tmp_path), tokens_per_batch=64, epochs=1, rank=7, world_size=8, sources=True)
    model = recipe.build(stream.manifest, stream.longest_row).train()
    empty = next(b for b in stream if not b["row_weight"].any())
    module = Losses(recipe.family, model, smoothing=0.1, bf16=False)
    counts = torch.tensor([5.0] * len(recipe.family.part_weights))
    sums, by_source = backward(module, recipe.family, [recipe.family.micro_batch(empty)], counts, ALONE, 2)
    assert sums.tolist() == [0.0] * len(counts)
    assert not by_source.any()
    assert all(not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("recipe", [r for r in TINY if r.family.packed], ids=lambda r: r.name)
def test_a_packed_document_has_the_loss_it_has_alone(recipe: Any, tmp_path: Path) -> None:
    """Fails if attention, positions or labels leak from one document into the next."""
    stream = Stream(dataset(recipe, tmp_path), tokens_per_batch=64, epochs=1)
    model = recipe.build(stream.manifest, 24).eval()
    torch.manual_seed(1)
    one, two = torch.randint(7, 1000, (1, 9)), torch.randint(7, 1000, (1, 12))

    def batch(ids: torch.Tensor, documents: torch.Tensor, positions: torch.Tensor) -> Batch:
        labels = ids.clone()
        labels[:, 1:][documents[:, 1:] != documents[:, :-1]] = -100
        made = Batch(
            input_ids=ids,
            labels=labels,
            attention_mask=torch.ones_like(ids, dtype=torch.bool),
            document_ids=documents,
            position_ids=positions,
        )
        if "prefix_lm" in recipe.family.objectives:
            made["prefix_lengths"] = torch.tensor([3])
        return made

    packed = batch(
        torch.cat([one, two], 1),
        torch.tensor([[0] * 9 + [1] * 12]),
        torch.tensor([[*range(9), *range(12)]]),
    )
    alone = batch(one, torch.zeros_like(one), torch.arange(9)[None])

    def loss(rows: Batch) -> torch.Tensor:
        return recipe.family.parts(model, recipe.family.micro_batch(rows))["tokens"].loss

    together = loss(packed)
    torch.testing.assert_close(together[:8], loss(alone), rtol=1e-4, atol=1e-4)
    if "prefix_lm" not in recipe.family.objectives:
        second = batch(two, torch.zeros_like(two), torch.arange(12)[None])
        torch.testing.assert_close(together[8:], loss(second), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_vocabulary_filled_up_to_aligned_rows_has_the_same_loss(smoothing: float) -> None:
    torch.manual_seed(0)
    logits, ids = torch.randn(7, 50), torch.randint(0, 50, (7,))
    filled = torch.cat([logits, torch.full((7, 14), 100.0)], 1)
    torch.testing.assert_close(token_loss(filled, ids, 50, smoothing), token_loss(logits, ids, 50, smoothing))


def test_smoothing_is_of_training_alone(mlm: Path) -> None:
    stream = Stream(mlm, tokens_per_batch=64, epochs=1)
    recipe = RECIPES["bert-tiny"]
    module = Losses(recipe.family, recipe.build(stream.manifest, 32), smoothing=0.2, bf16=False)
    rows = recipe.family.micro_batch(next(iter(stream)))
    plain = recipe.family.parts(module.model, rows)["mlm"].loss
    torch.testing.assert_close(module.eval()(rows)["mlm"].loss, plain)
    assert not torch.allclose(module.train()(rows)["mlm"].loss, plain)


def test_autocast_computes_in_bf16_and_keeps_the_loss_in_fp32(mlm: Path) -> None:
    stream = Stream(mlm, tokens_per_batch=64, epochs=1)
    recipe = RECIPES["bert-tiny"]
    model = recipe.build(stream.manifest, 32)
    seen: list[torch.dtype] = []
    model.get_submodule("bert.encoder.layer.0.intermediate.dense").register_forward_hook(
        lambda module, args, output: seen.append(output.dtype)
    )
    rows = recipe.family.micro_batch(next(iter(stream)))
    loss = Losses(recipe.family, model, smoothing=0.0, bf16=True)(rows)["mlm"].loss
    assert (loss.dtype, seen) == (torch.float32, [torch.bfloat16])


def test_micro_batches_part_rows_and_are_never_empty(mlm: Path) -> None:
    batch, family = next(iter(Stream(mlm, tokens_per_batch=64, epochs=1))), RECIPES["bert-tiny"].family
    labels = family.labels(batch)["mlm"].ids
    for count in (1, 3, 50):
        pieces = list(micro_batches(family, batch, count))
        assert torch.equal(torch.cat([p.batch["input_ids"] for p in pieces]), batch["input_ids"])
        assert torch.equal(torch.cat([p.labels["mlm"].ids for p in pieces]), labels)
        assert all(len(p.batch["input_ids"]) for p in pieces)
