"""Whom a token of a decoder may attend to: what is before it, in its own document, and the whole of a prefix.

On a processor a table of bits for PyTorch's attention; on a GPU FlexAttention (Dong et al. 2024), which skips the
blocks of 128 × 128 in which nobody may attend to anybody.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from trainer.stream import Batch

IMPLEMENTATION = "shardmill"
"""Name that the attention goes by in transformers' registry."""

BLOCK = 128
"""Side of FlexAttention's blocks, in tokens."""


@functools.cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention)  # not at import: the compiler takes longer to import than all else


def register() -> str:
    """Make the attention known to transformers; returns its name there."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(IMPLEMENTATION, attend)
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
    return IMPLEMENTATION


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """FlexAttention where `allowed` is a block mask, and transformers' call of PyTorch's attention otherwise.

    Returns:
      ([rows, length, heads, width of a head], None), as transformers has it.
    """
    allowed = options.pop("allowed", attention_mask)
    if not isinstance(allowed, BlockMask):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, allowed, scaling=scaling, **options)
    # On a processor FlexAttention has no backward pass when it is compiled; within a compiled model it is already.
    plain = query.device.type == "cpu" or torch.compiler.is_compiling()
    call = flex_attention if plain else _compiled()
    grouped = query.shape[1] != key.shape[1]
    out = call(query, key, value, block_mask=allowed, scale=scaling, enable_gqa=grouped)
    return out.transpose(1, 2).contiguous(), None


def attention_arguments(batch: Batch, *, flex: bool) -> dict[str, Any]:
    """What a decoder of transformers is to be called with, so that its tokens attend as they may.

    What is before a token is all it may attend to where there are neither documents nor prefixes: padding is behind
    all tokens of its row.

    Args:
      batch: on the device that attends.
      flex: whether to attend by FlexAttention.

    Returns:
      `attention_mask`, of four dimensions, which transformers passes through as it is; given none it would look for
      padding among the ids, and wait for the device. `allowed`, which `attend` takes in its place.
    """
    documents, prefix, ids = batch.get("document_ids"), batch.get("prefix_lengths"), batch["input_ids"]
    through = ids.new_ones((1, 1, 1, 1), dtype=torch.bool)
    if documents is None and prefix is None:
        return {"attention_mask": through, "allowed": None}
    if documents is None:
        documents = torch.zeros_like(ids)
    if prefix is None:
        prefix = ids.new_zeros(len(ids))
    return {"attention_mask": through, "allowed": (block_mask if flex else dense_mask)(documents, prefix)}


def dense_mask(documents: torch.Tensor, prefix: torch.Tensor) -> torch.Tensor:
    """bool [rows, 1, length, length], true where a token (the last but one) may attend to another (the last).

    Tokens of the same document up to itself; in a prefix, the whole prefix (Raffel et al. 2020, figure 4).

    Args:
      documents: int64 [rows, length], which document of its row a token is of, not falling.
      prefix: int64 [rows], tokens of the row's prefix.
    """
    place = torch.arange(documents.shape[1], device=documents.device)
    allowed = (place <= place[:, None])[None] | (place < prefix[:, None])[:, None, :]
    return (allowed & (documents[:, :, None] == documents[:, None, :]))[:, None]


def block_mask(documents: torch.Tensor, prefix: torch.Tensor) -> BlockMask:
    """The same mask for FlexAttention, the arguments those of `dense_mask`.

    Which blocks are needed follows from the first and the last document of each block, since documents do not fall;
    PyTorch's own `create_block_mask` would build the table of all pairs first.
    """
    length = documents.shape[1]
    begin = torch.arange(0, length, BLOCK, device=documents.device)
    end = (begin + BLOCK).clamp(max=length)
    first, last = documents[:, begin], documents[:, end - 1]  # [rows, blocks]
    meet = (first[:, :, None] <= last[:, None, :]) & (last[:, :, None] >= first[:, None, :])
    one = (first[:, :, None] == last[:, None, :]) & (last[:, :, None] == first[:, None, :])
    needed = meet & ((begin <= begin[:, None]) | (begin < prefix[:, None])[:, None, :])
    whole = one & ((begin < begin[:, None]) | (end <= prefix[:, None])[:, None, :])
    whole &= begin + BLOCK <= length  # beyond the end of a row nothing may be attended to

    def allowed(row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        del head
        same = documents[row, query] == documents[row, key]
        return same & ((key <= query) | (key < prefix[row]))

    partial_counts, partial_blocks = _listed(needed & ~whole)
    whole_counts, whole_blocks = _listed(needed & whole)
    return BlockMask.from_kv_blocks(
        partial_counts,
        partial_blocks,
        whole_counts,
        whole_blocks,
        BLOCK_SIZE=BLOCK,
        mask_mod=allowed,
        seq_lengths=(length, length),
    )


def _listed(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(how many, which ones first) of bool [rows, blocks, blocks] along the last axis, as BlockMask has them."""
    order = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32)[:, None], order.int()[:, None]
