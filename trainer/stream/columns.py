"""Columns of a row group as flat arrays, checked. Knows Arrow; knows nothing of files or batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from schemas.errors import DataError
from trainer.stream.lanes import I32, I64

REMEDY = "`shardmill verify` names every bad shard; restore them, or prepare the dataset again"


@dataclass(frozen=True, eq=False, kw_only=True)
class Flat:
    """A column of some rows."""

    lengths: I64
    """int64 [rows], elements of each row; empty for a column of one value a row."""
    values: I32
    """int32 [elements], the rows one after the other."""


Piece = dict[str, Flat]
"""The columns of a row group by name."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a column may hold; a model that gets anything else fails later and far from the cause."""

    values: int
    """One past the greatest value."""
    least: int = 0
    """Least elements of a row."""
    most: int = 0
    """Most elements of a row; 0 for a column of one value a row."""
    names: tuple[str, ...] = ()
    """Of a column of strings: what each value stands for."""


def flat(column: pa.ChunkedArray, name: str, limits: Limits, where: str) -> Flat:
    """A column as flat arrays, refused where it holds what it must not."""
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    is_list = pa.types.is_list(array.type)
    nulls = array.null_count + (array.values.null_count if is_list else 0)
    if nulls or not _is_kind(array.type, limits):
        kind = "lists of int32" if limits.most else "strings" if limits.names else "int32 or bool"
        raise DataError(
            f"The column {name} is not what the trainer reads",
            where=where,
            expected=f"{kind}, no nulls",
            got=f"{array.type}, {nulls} nulls",
            remedy=REMEDY,
        )
    lengths = np.empty(0, dtype=np.int64)
    if is_list:
        offsets = array.offsets.to_numpy()
        lengths = np.diff(offsets).astype(np.int64)
        if not (limits.least <= lengths.min() and lengths.max() <= limits.most):
            raise DataError(
                f"Rows of {name} do not fit into their length bucket",
                where=where,
                expected=f"{limits.least} to {limits.most} elements a row",
                got=f"{lengths.min()} to {lengths.max()}",
                remedy=REMEDY,
            )
        values = array.values.to_numpy()[offsets[0] : offsets[-1]]  # flatten() is a kernel that looks for nulls
    elif pa.types.is_dictionary(array.type):
        values = _renumbered(array, name, limits.names, where)
    else:
        values = array.cast(pa.int32()).to_numpy(zero_copy_only=False)
    # As unsigned numbers, negative ones are the greatest: one pass in place of two.
    if values.size and values.view(np.uint32).max() >= limits.values:
        raise DataError(
            f"Values of {name} are out of range",
            where=where,
            expected=f"0 to {limits.values - 1}",
            got=f"{values.min()} to {values.max()}",
            remedy=REMEDY,
        )
    return Flat(lengths=lengths, values=values)


def _is_kind(kind: pa.DataType, limits: Limits) -> bool:
    """Whether a column of this type can be what its limits say."""
    if limits.most:
        return bool(pa.types.is_list(kind) and kind.value_type == pa.int32())
    if limits.names:
        return bool(pa.types.is_dictionary(kind) and pa.types.is_string(kind.value_type))
    return bool(pa.types.is_int32(kind) or pa.types.is_boolean(kind))


def _renumbered(array: pa.DictionaryArray, name: str, names: tuple[str, ...], where: str) -> I32:
    """The values of a dictionary column as indices into `names`."""
    known = {n: i for i, n in enumerate(names)}
    entries = array.dictionary.to_pylist()
    if unknown := [e for e in entries if e not in known]:
        raise DataError(
            f"A value of {name} is not in the manifest",
            where=where,
            expected=", ".join(names),
            got=repr(unknown[0]),
            remedy=REMEDY,
        )
    return np.array([known[e] for e in entries] or [0], dtype=np.int32)[array.indices.to_numpy()]


def check_pairs(piece: Piece, where: str) -> None:
    """Refuse masked positions without labels, and values that point beyond their row."""
    if "mask_positions" in piece and not np.array_equal(
        piece["mask_positions"].lengths, piece["mask_labels"].lengths
    ):
        raise DataError(
            "Masked positions and their labels differ in number",
            where=where,
            expected="one element of mask_labels for each of mask_positions",
            remedy=REMEDY,
        )
    for name in ("prefix_length", "segment_a_length"):
        if name in piece and (piece[name].values > piece["input_ids"].lengths).any():
            raise DataError(
                f"A row's {name} is greater than the row", where=where, expected="at most its length", remedy=REMEDY
            )
