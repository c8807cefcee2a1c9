"""The objectives, one module each. To add one: its parameters in `schemas.objectives`, its columns in
`schemas.tables`, a module here, and a line in `_BUILDERS`.
"""

from __future__ import annotations

from typing import Any

from schemas.objectives import AnyObjective, Causal, Mlm, SpanCorruption
from transforms.objectives.base import ObjectiveBuilder
from transforms.objectives.causal import CausalBuilder
from transforms.objectives.mlm import MlmBuilder
from transforms.objectives.span_corruption import SpanCorruptionBuilder
from transforms.vocabulary import Vocabulary

_BUILDERS: dict[type, Any] = {Causal: CausalBuilder, Mlm: MlmBuilder, SpanCorruption: SpanCorruptionBuilder}


def builder_for(parameters: AnyObjective, vocabulary: Vocabulary) -> ObjectiveBuilder:
    """The builder of an objective's examples.

    Raises:
      RequestError: the vocabulary lacks what the objective needs.
    """
    builder: ObjectiveBuilder = _BUILDERS[type(parameters)].of(parameters, vocabulary)
    return builder


__all__ = ["ObjectiveBuilder", "builder_for"]
