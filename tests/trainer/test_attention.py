"""A processor's mask and a GPU's are the same one, and attention gives the same with either."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_datasets import write_dataset
from torch import nn
from torch._dynamo.testing import CompileCounter

from trainer.models import RECIPES, decoders
from trainer.models.attention import BLOCK, attend, attention_arguments, block_mask, dense_mask
from trainer.stream import Batch, Stream

PACKED = ["gpt-tiny", "llama-tiny", "prefix-lm-tiny"]
GPU = torch.cuda.is_available()


def documents_of(lengths: list[int], width: int) -> torch.Tensor:
    """int64 [1, width] of successive documents, the last of which goes on to the end."""
    ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[:width]
    return torch.cat([ids, ids[-1:].expand(width - len(ids))])[None]


def test_a_prefix_is_read_in_both_directions_and_the_rest_in_one() -> None:
    ids = torch.zeros((1, 5), dtype=torch.int64)
    batch = Batch(input_ids=ids, attention_mask=ids == 0)
    assert attention_arguments(batch, flex=False)["allowed"] is None
    batch["prefix_lengths"] = torch.tensor([2])
    assert attention_arguments(batch, flex=False)["allowed"][0, 0].int().tolist() == [
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
    ]


@given(
    width=st.integers(1, 4 * BLOCK + 5),
    lengths=st.lists(st.lists(st.integers(1, 2 * BLOCK), min_size=1, max_size=9), min_size=1, max_size=3),
    data=st.data(),
)
def test_a_block_is_left_out_if_nobody_attends_in_it_and_whole_only_if_everybody_does(
    width: int, lengths: list[list[int]], data: st.DataObject
) -> None:
    documents = torch.cat([documents_of(some, width) for some in lengths])
    prefix = torch.tensor([data.draw(st.integers(0, width)) for _ in lengths])
    mask = block_mask(documents, prefix)
    dense = dense_mask(documents, prefix)[:, 0]
    place = torch.arange(width)
    row = torch.arange(len(lengths))[:, None, None]
    allowed = mask.mask_mod(row, torch.tensor(0), place[:, None], place)
    assert torch.equal(allowed, dense)
    partial = to_table(mask.kv_num_blocks, mask.kv_indices)
    assert mask.full_kv_num_blocks is not None
    assert mask.full_kv_indices is not None
    whole = to_table(mask.full_kv_num_blocks, mask.full_kv_indices)
    assert not (partial & whole).any()
    for r in range(len(lengths)):
        for i in range(whole.shape[1]):
            for j in range(whole.shape[2]):
                block = dense[r, i * BLOCK : (i + 1) * BLOCK, j * BLOCK : (j + 1) * BLOCK]
                assert block.any() <= (partial | whole)[r, i, j]
                assert block.all() or not whole[r, i, j]
                assert block.any() or not partial[r, i, j] or prefix[r] > 0


def to_table(counts: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """bool [rows, blocks, blocks], true on those that are listed."""
    table = torch.zeros(blocks.shape, dtype=torch.bool)
    listed = torch.arange(blocks.shape[-1]) < counts[..., None]
    return table.scatter(-1, blocks.long(), listed)[:, 0]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not GPU, reason="no GPU"))])
@pytest.mark.parametrize("width", [96, BLOCK, 300])
@pytest.mark.parametrize("key_heads", [2, 4])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_and_pytorchs_own_agree(width: int, key_heads: int, device: str) -> None:
    """On a GPU backwards too; on a processor FlexAttention only runs forwards."""
    documents = torch.cat([documents_of([70, 40, 1, 200], width), documents_of([3, 180], width)]).to(device)
    prefix = torch.tensor([0, 20], device=device)
    module = nn.Module()
    module.num_key_value_groups = 4 // key_heads  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(width)
    query, key, value, weight = [
        torch.randn((2, heads, width, 16), generator=generator).to(device) for heads in (4, key_heads, key_heads, 4)
    ]
    found = []
    for mask in (dense_mask(documents, prefix), block_mask(documents, prefix)):
        tensors = [t.clone().requires_grad_(device == "cuda") for t in (query, key, value)]
        out, _ = attend(module, *tensors, None, scaling=0.25, allowed=mask)
        if device == "cuda":
            (out * weight.transpose(1, 2)).sum().backward()
        found.append([out, *(t.grad for t in tensors)])
    loose = {"rtol": 1e-4, "atol": 1e-5} if device == "cpu" else {"rtol": 1e-2, "atol": 1e-2}  # tf32
    for one, other in zip(*found, strict=True):
        if one is not None:
            torch.testing.assert_close(one, other, **loose)


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKED)
@pytest.mark.usefixtures("compiler")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_block_masks_pass_through_compiled_models_with_one_graph_a_length(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if transformers drops the mask, or if other documents need another graph."""
    recipe = RECIPES[name]
    stream = Stream(
        write_dataset(tmp_path, objective=recipe.family.objectives[0]), tokens_per_batch=64, documents=True, epochs=2
    )
    plain = recipe.build(stream.manifest, stream.longest_row).eval()
    compiled, counter = copy.deepcopy(plain), CompileCounter()
    for backbone in recipe.family.backbones(compiled):
        backbone.compile(backend=counter, dynamic=False)
    lengths = set()
    with torch.no_grad():
        for batch in stream:
            rows = recipe.family.micro_batch(batch)
            dense = recipe.family.parts(plain, rows)["tokens"].loss
            with monkeypatch.context() as patched:
                patched.setattr(
                    decoders, "attention_arguments", lambda some, flex: attention_arguments(some, flex=True)
                )
                flex = recipe.family.parts(compiled, rows)["tokens"].loss
            torch.testing.assert_close(flex, dense, rtol=1e-4, atol=1e-4)
            lengths.add(tuple(batch["input_ids"].shape))
    assert counter.frame_count == len(lengths)
