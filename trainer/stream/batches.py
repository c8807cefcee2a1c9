"""Batches: rows in memory become `[rows, length]` tensors. Knows objectives; knows nothing of files or order."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch

from schemas.errors import RequestError
from schemas.keys import draw
from schemas.manifest import Manifest
from trainer.stream.columns import Limits
from trainer.stream.documents import document_ids, position_ids
from trainer.stream.lanes import I64
from trainer.stream.rows import Bool, RowStore, Values

IGNORED_LABEL = -100
"""Label of a position that is not predicted, as PyTorch's and transformers' losses have it."""


class Batch(TypedDict, total=False):
    """What a step trains on. A padding row has `row_weight` 0 and only ignored labels.

    Every batch has the first four; the others come with their objective or when they are asked for.
    """

    input_ids: torch.Tensor
    """int64 [rows, length], the pad id beyond a row's end."""
    attention_mask: torch.Tensor
    """bool [rows, length], true on tokens; of a padding row on its first position only."""
    labels: torch.Tensor
    """int64 [rows, length], `IGNORED_LABEL` where nothing is predicted. For `causal`, `fim` and `prefix_lm` they are
    the inputs, and the loss shifts them by one, as transformers models do. For objectives with targets int64
    [rows, target length], the target ids."""
    row_weight: torch.Tensor
    """float32 [rows], 1 for an example, 0 for a padding row or one that could not be read."""
    token_type_ids: torch.Tensor
    """`sentence_pair`: int64 [rows, length], 1 in the second segment."""
    pair_labels: torch.Tensor
    """`sentence_pair`: int64 [rows], 0 where B follows A or the two are in order, 1 otherwise, as transformers'
    `next_sentence_label` and `sentence_order_label` have it."""
    prefix_lengths: torch.Tensor
    """`prefix_lm`: int64 [rows]."""
    sample_draws: torch.Tensor
    """`replaced_token`: float32 [rows, length], uniform in [0, 1) at masked positions, which a generator's sample is
    drawn with; a function of the stream's seed and the example's position, so the same for any number of ranks."""
    document_ids: torch.Tensor
    """With `documents`: int64 [rows, length], which document of its row a token belongs to."""
    position_ids: torch.Tensor
    """With `documents`: int64 [rows, length], a token's place within its document."""
    source_ids: torch.Tensor
    """With `sources`: int64 [rows], index into the manifest's sources."""


@dataclass(frozen=True, eq=False, kw_only=True)
class BatchRows:
    """What a batch is made of."""

    store: RowStore
    rows: I64
    """int64 [N] rows of the store, padding rows last."""
    positions: I64
    """int64 [N] of each in the bucket's stream; 0 for padding rows."""
    name: tuple[int, int, int]
    """(epoch, stage, length)."""
    length: int
    target_length: int
    seed: int
    special_ids: Mapping[str, int]
    pad_id: int
    """What stands in `input_ids` beyond a row's end."""

    @functools.cached_property
    def _inputs(self) -> tuple[torch.Tensor, Bool | None]:
        ids = torch.empty((len(self.rows), self.length), dtype=torch.int64)
        return ids, self.store.rectangle("input_ids", self.rows, ids.numpy(), fill=self.pad_id)

    @property
    def input_ids(self) -> torch.Tensor:
        """int64 [N, length]; not to be written to."""
        return self._inputs[0]

    @property
    def present(self) -> Bool | None:
        """bool [N, length], true on tokens; None if all places have one."""
        return self._inputs[1]

    @functools.cached_property
    def masks(self) -> tuple[I64, Values, Values]:
        """(row, position, original id) of each masked position, [predictions]."""
        row, (position, original) = self.store.flat(("mask_positions", "mask_labels"), self.rows)
        return row, position, original


Fill = Callable[[BatchRows], dict[str, npt.NDArray[Any]]]


def causal(some: BatchRows) -> dict[str, npt.NDArray[Any]]:
    """Labels are the inputs, ignored beyond a row's end; none of their own where no row has one."""
    return {} if some.present is None else {"labels": inputs_as_labels(some)}


def inputs_as_labels(some: BatchRows) -> I64:
    """int64 [N, length], the inputs, ignored beyond a row's end."""
    labels = some.input_ids.numpy().copy()
    if some.present is not None:
        np.copyto(labels, IGNORED_LABEL, where=~some.present)
    return labels


def prefix_lm(some: BatchRows) -> dict[str, npt.NDArray[Any]]:
    """Labels behind the prefix only."""
    prefix = some.store.scalars("prefix_length", some.rows).astype(np.int64)
    labels = inputs_as_labels(some)
    labels[np.arange(some.length) < prefix[:, None]] = IGNORED_LABEL
    return {"labels": labels, "prefix_lengths": prefix}


def mlm(some: BatchRows) -> dict[str, npt.NDArray[Any]]:
    """The original ids at the masked positions, ignored elsewhere."""
    labels = np.full(len(some.rows) * some.length, IGNORED_LABEL, dtype=np.int64)
    row, position, original = some.masks
    labels[row * some.length + position] = original
    return {"labels": labels.reshape(-1, some.length)}


def replaced_token(some: BatchRows) -> dict[str, npt.NDArray[Any]]:
    """As `mlm`, with a draw for each masked position."""
    draws = np.zeros((len(some.rows), some.length), dtype=np.float32)
    row, position, _ = some.masks
    bits = draw(some.seed, "replaced token", *some.name, some.positions[row], position)
    draws[row, position] = (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    return {**mlm(some), "sample_draws": draws}


def sentence_pair(some: BatchRows) -> dict[str, npt.NDArray[Any]]:
    """As `mlm`, with segments and the pair's label."""
    first = some.store.scalars("segment_a_length", some.rows).astype(np.int64)
    types = np.arange(some.length) >= first[:, None]
    if some.present is not None:
        types &= some.present
    pair = 1 - some.store.scalars("is_next", some.rows).astype(np.int64)
    pair[some.store.lengths("input_ids", some.rows) == 0] = IGNORED_LABEL
    return {**mlm(some), "token_type_ids": types.astype(np.int64), "pair_labels": pair}


def targets(some: BatchRows) -> dict[str, npt.NDArray[Any]]:
    """The target ids, ignored beyond a target's end."""
    labels = np.empty((len(some.rows), some.target_length), dtype=np.int64)
    some.store.rectangle("target_ids", some.rows, labels, fill=IGNORED_LABEL)
    return {"labels": labels}


@dataclass(frozen=True, kw_only=True)
class BatchKind:
    """How rows of one objective become a batch."""

    columns: tuple[str, ...]
    """Columns to read beside `input_ids`."""
    fill: Fill
    packed: bool = False
    """True if rows can hold several documents that are to be kept apart."""
    extra_roles: tuple[str, ...] = field(default=("eos",))
    """Of packed rows: special tokens beside the corpus's own that end or part documents."""


_MASKS = ("mask_positions", "mask_labels")

KINDS: dict[str, BatchKind] = {
    "causal": BatchKind(columns=(), fill=causal, packed=True),
    "fim": BatchKind(columns=(), fill=causal, packed=True, extra_roles=("eos", "fim_suffix", "fim_middle")),
    "prefix_lm": BatchKind(columns=("prefix_length",), fill=prefix_lm, packed=True),
    "mlm": BatchKind(columns=_MASKS, fill=mlm),
    "replaced_token": BatchKind(columns=_MASKS, fill=replaced_token),
    "sentence_pair": BatchKind(columns=(*_MASKS, "segment_a_length", "is_next"), fill=sentence_pair),
    **{
        kind: BatchKind(columns=("target_ids",), fill=targets)
        for kind in ("span_corruption", "ul2", "infilling", "seq2seq")
    },
}
"""By kind of objective."""


def batch_kind(objective: str) -> BatchKind:
    """How rows of this objective become a batch.

    Raises:
      RequestError: this trainer does not know the objective.
    """
    if objective not in KINDS:
        raise RequestError(
            f"The trainer cannot read the objective {objective!r}",
            expected=" or ".join(sorted(KINDS)),
            got=objective,
        )
    return KINDS[objective]


def column_limits(
    kind: BatchKind, manifest: Manifest, length: int, target_length: int, *, documents: bool, sources: bool
) -> dict[str, Limits]:
    """The columns to read for a bucket of this length, and what they may hold."""
    vocabulary = manifest.tokenizer.vocab_size
    known = {
        "mask_positions": Limits(values=length, most=length),
        "mask_labels": Limits(values=vocabulary, most=length),
        "prefix_length": Limits(values=length + 1),
        "segment_a_length": Limits(values=length + 1),
        "is_next": Limits(values=2),
        "target_ids": Limits(values=vocabulary, least=1, most=target_length),
    }
    limits = {"input_ids": Limits(values=vocabulary, least=1, most=length), **{n: known[n] for n in kind.columns}}
    if documents:
        limits["doc_lengths"] = Limits(values=length + 1, least=1, most=length + 1)
    if sources:
        names = tuple(s.name for s in manifest.sources)
        limits["source"] = Limits(values=max(1, len(names)), names=names)
    return limits


def target_length(manifest: Manifest, length: int) -> int:
    """Ids that the targets of a bucket's rows are padded to; 0 for an objective without targets.

    What a plan resolves is for full rows. A span corruption's target grows with its row, so that of the bucket's
    length is enough; of the others a short input can have the longest target.
    """
    kind, resolved = manifest.objective.get("kind"), manifest.objective.get("resolved", [])
    if "target_ids" not in KINDS[str(kind)].columns:
        return 0
    found = {
        r["length"]: max([r.get("target_length", 0), *(d["target_length"] for d in r.get("denoisers", []))])
        for r in resolved
    }
    if kind == "span_corruption" and found.get(length):
        return int(found[length])
    return int(max(found.values(), default=0)) or max([length, *found])


def assemble(kind: BatchKind, some: BatchRows, *, documents: bool, sources: bool) -> Batch:
    """One batch; rows without tokens, which are padding, have no weight.

    Args:
      kind: the objective's.
      some: its rows.
      documents: with `document_ids`, `position_ids`, and no label that crosses from one document into the next.
      sources: with `source_ids`.
    """
    arrays, present = kind.fill(some), some.present
    weight = np.ones(len(some.rows), dtype=np.float32)
    arrays["row_weight"] = weight
    if present is not None:
        if (empty := ~present[:, 0]).any():
            weight[empty] = 0
            # A row that attends to nothing is a softmax over nothing, NaN in some kernels, and NaN times a weight
            # of zero is still NaN in the gradient. So a padding row attends to its first position.
            present = present.copy()
            present[empty, 0] = True
        arrays["attention_mask"] = present
    if documents:
        owner, (tokens,) = some.store.flat(("doc_lengths",), some.rows)
        apart = document_ids(
            some.input_ids.numpy(),
            some.present,
            (owner, tokens),
            extra_ids=[some.special_ids[r] for r in kind.extra_roles if r in some.special_ids],
            opening_ids=[i for r, i in some.special_ids.items() if r == "fim_prefix"],
        )
        if "labels" not in arrays:
            arrays["labels"] = inputs_as_labels(some)
        arrays["labels"][:, 1:][apart[:, 1:] != apart[:, :-1]] = IGNORED_LABEL
        arrays |= {"document_ids": apart, "position_ids": position_ids(apart)}
    if sources:
        arrays["source_ids"] = some.store.scalars("source", some.rows).astype(np.int64)
    tensors = {"input_ids": some.input_ids, **{name: torch.from_numpy(array) for name, array in arrays.items()}}
    # What is the same shares its memory until somebody writes to it; PyTorch has no public name for that.
    if "labels" not in tensors:
        tensors["labels"] = torch._lazy_clone(some.input_ids)
    if "attention_mask" not in tensors:
        tensors["attention_mask"] = torch._lazy_clone(_all_true(len(some.rows), some.length))
    return Batch(**tensors)  # type: ignore[typeddict-item]


@functools.lru_cache(maxsize=8)
def _all_true(rows: int, length: int) -> torch.Tensor:
    return torch.ones((rows, length), dtype=torch.bool)


def split(rows: Batch, count: int) -> list[Batch]:
    """Rows of successive batches as so many batches of the same size; they share memory, and no element."""
    if count == 1:
        return [rows]
    parts = [tensor.unflatten(0, (count, -1)).unbind() for tensor in rows.values()]  # type: ignore[attr-defined]
    return [Batch(**dict(zip(rows, part, strict=True))) for part in zip(*parts, strict=True)]  # type: ignore[typeddict-item]
