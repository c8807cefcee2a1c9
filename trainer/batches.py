"""Batches: rows of windows become `[rows, length]` tensors. Knows objectives; knows nothing of files or order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch

from schemas.errors import RequestError
from trainer.ragged import I64, Ragged

IGNORED_LABEL = -100
"""Label of a position that is not predicted, as PyTorch's and transformers' losses have it."""


class Batch(TypedDict):
    """What a step trains on. A padding row has `row_weight` 0 and only ignored labels."""

    input_ids: torch.Tensor
    """int64 [rows, length], the pad id beyond a row's end."""
    attention_mask: torch.Tensor
    """bool [rows, length], true on tokens; of a padding row on its first position only."""
    labels: torch.Tensor
    """int64 [rows, length], `IGNORED_LABEL` where nothing is predicted. For `causal` they are the inputs, and the
    loss shifts them by one, as transformers models do."""
    row_weight: torch.Tensor
    """float32 [rows], 1 for an example, 0 for a padding row."""


Rows = tuple[dict[str, Ragged], I64]
"""Some rows of a window: its columns, and which rows of them, int64 [N]."""

Labels = Callable[[dict[str, Ragged], I64, npt.NDArray[np.int32], npt.NDArray[np.bool_]], npt.NDArray[np.int64]]
"""(columns, rows, input_ids [N, length], present [N, length]) → labels int64 [N, length]."""


def causal_labels(
    columns: dict[str, Ragged], rows: I64, input_ids: npt.NDArray[np.int32], present: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """The inputs themselves, ignored beyond a row's end."""
    labels = input_ids.astype(np.int64)
    if not present.all():
        labels[~present] = IGNORED_LABEL
    return labels


def mlm_labels(
    columns: dict[str, Ragged], rows: I64, input_ids: npt.NDArray[np.int32], present: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """The original ids at the masked positions, ignored elsewhere."""
    labels = np.full(input_ids.shape, IGNORED_LABEL, dtype=np.int64)
    row, position = columns["mask_positions"].flat(rows)
    _, original = columns["mask_labels"].flat(rows)
    labels[row, position] = original
    return labels


@dataclass(frozen=True, kw_only=True)
class BatchKind:
    """How rows of one objective become a batch."""

    columns: tuple[str, ...]
    """Columns to read; the first is `input_ids`."""
    labels: Labels


KINDS: dict[str, BatchKind] = {
    "causal": BatchKind(columns=("input_ids",), labels=causal_labels),
    "mlm": BatchKind(columns=("input_ids", "mask_positions", "mask_labels"), labels=mlm_labels),
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


def assemble(kind: BatchKind, pieces: Sequence[Rows], *, rows: int, length: int, pad_id: int) -> Batch:
    """One batch of some rows, one after the other, filled up with padding rows.

    Args:
      kind: the objective's.
      pieces: rows of one window after the other, `rows` of them at most.
      rows: rows of the batch.
      length: columns of the batch; no row is longer.
      pad_id: what stands in `input_ids` beyond a row's end.
    """
    parts = [_examples(kind, columns, chosen, length, pad_id) for columns, chosen in pieces if len(chosen)]
    if padding_rows := rows - sum(len(part["row_weight"]) for part in parts):
        parts.append(_padding(padding_rows, length, pad_id))
    whole = {
        name: parts[0][name] if len(parts) == 1 else np.concatenate([part[name] for part in parts])
        for name in parts[0]
    }
    return Batch(**{name: torch.from_numpy(array) for name, array in whole.items()})  # type: ignore[typeddict-item]


def _examples(
    kind: BatchKind, columns: dict[str, Ragged], rows: I64, length: int, pad_id: int
) -> dict[str, npt.NDArray[Any]]:
    ids, present = columns["input_ids"].rectangle(rows, length)
    input_ids = ids.astype(np.int64)
    if pad_id:  # absent tokens are 0 already
        input_ids[~present] = pad_id
    return {
        "input_ids": input_ids,
        "attention_mask": present,
        "labels": kind.labels(columns, rows, ids, present),
        "row_weight": np.ones(len(rows), dtype=np.float32),
    }


def _padding(rows: int, length: int, pad_id: int) -> dict[str, npt.NDArray[Any]]:
    # A row that attends to nothing is a softmax over nothing, NaN in some kernels, and NaN times a weight of
    # zero is still NaN in the gradient. So a padding row attends to its first position.
    present = np.zeros((rows, length), dtype=np.bool_)
    present[:, 0] = True
    return {
        "input_ids": np.full((rows, length), pad_id, dtype=np.int64),
        "attention_mask": present,
        "labels": np.full((rows, length), IGNORED_LABEL, dtype=np.int64),
        "row_weight": np.zeros(rows, dtype=np.float32),
    }
