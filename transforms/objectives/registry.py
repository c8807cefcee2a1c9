"""Every objective, by kind. All modules of this package are imported here, so adding one is adding its module."""

from __future__ import annotations

import importlib
import pkgutil

import pyarrow as pa

import transforms.objectives
from schemas.objectives import ObjectiveParameters
from schemas.tables import example_schema
from transforms.objectives.base import Objective, known_objective
from transforms.vocabulary import Vocabulary

for _module in pkgutil.iter_modules(transforms.objectives.__path__, "transforms.objectives."):
    importlib.import_module(_module.name)


def objective_for(parameters: ObjectiveParameters, vocabulary: Vocabulary) -> Objective:
    """The objective with these parameters for a vocabulary.

    Raises:
      RequestError: the vocabulary lacks what the objective needs.
    """
    return known_objective(parameters.kind).of(parameters, vocabulary)


def schema_of(kind: str) -> pa.Schema:
    """The schema of shards of this kind of objective."""
    return example_schema(known_objective(kind).columns)


__all__ = ["known_objective", "objective_for", "schema_of"]
