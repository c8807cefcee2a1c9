"""The common base of the data model: frozen pydantic models that know no surprises."""

from __future__ import annotations

import array
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PlainValidator

from schemas.counts import parse_count


class Frozen(BaseModel):
    """A frozen, closed model: unknown keys are errors, field docstrings become descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def _count(value: Any) -> int:
    return parse_count(value)


Share = Annotated[float, Field(ge=0, le=1)]
"""A number in [0, 1]."""

Count = Annotated[int, BeforeValidator(_count, json_schema_input_type=int | float | str), Field(gt=0)]
"""A positive count of tokens, bytes or rows; accepts 5_000, 410e9, 5B, 1.4T."""


def _integers(value: Any) -> array.array[int]:
    try:
        return array.array("q", value)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"expected a list of integers of 64 bits: {error}") from error


if TYPE_CHECKING:
    Integers = array.array[int]
else:
    Integers = Annotated[array.array, PlainValidator(_integers), PlainSerializer(list)]
"""Many integers in 8 bytes each, which numpy reads without a copy. Equal to its like."""
