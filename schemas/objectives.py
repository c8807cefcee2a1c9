"""What the data model knows of objectives: that each has a kind and parameters. Nothing of what they do.

An objective is one module of `transforms.objectives`, which holds its parameters too. A class of parameters makes
itself known by being defined, so a job file can name every objective whose module is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import GetJsonSchemaHandler, PlainSerializer, PlainValidator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from schemas.base import Frozen

_KNOWN: dict[str, type[ObjectiveParameters]] = {}


class ObjectiveParameters(Frozen):
    """The parameters of an objective, as a job file gives them; `kind` has its name as the default."""

    kind: str

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Make the objective known, unless the class is a base of others and has no kind."""
        super().__pydantic_init_subclass__(**kwargs)
        kind = cls.model_fields["kind"].default
        if isinstance(kind, str):
            _KNOWN[kind] = cls

    @property
    def reads_sentences(self) -> bool:
        """True if documents come with the ends of their sentences."""
        return False

    @property
    def reads_pairs(self) -> bool:
        """True if a record is an input and a target."""
        return False


def known_objectives() -> Mapping[str, type[ObjectiveParameters]]:
    """The classes of parameters by kind, in the order of the alphabet."""
    return dict(sorted(_KNOWN.items()))


def parse_objective(value: Any) -> ObjectiveParameters:
    """The parameters of the kind that the value names.

    Raises:
      ValueError: there is no such kind, or a parameter is wrong (pydantic's errors, which know the place).
    """
    if isinstance(value, ObjectiveParameters):
        return value
    kinds = ", ".join(known_objectives()) or "none, before transforms.objectives.registry is imported"
    if not isinstance(value, dict) or "kind" not in value:
        raise PydanticCustomError(
            "objective_without_kind", "an objective is a mapping with a kind: {kinds}", {"kinds": kinds}
        )
    model = _KNOWN.get(value["kind"]) if isinstance(value["kind"], str) else None
    if model is None:
        context = {"kind": str(value["kind"]), "kinds": kinds}
        raise PydanticCustomError("objective_unknown", "there is no objective {kind}; known: {kinds}", context)
    return model.model_validate(value)


def _dump(value: ObjectiveParameters) -> dict[str, Any]:
    return value.model_dump(mode="json")


class _OneOfKnown:
    """JSON Schema of the objectives known when the schema is asked for."""

    @classmethod
    def __get_pydantic_json_schema__(cls, _: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"oneOf": [handler(model.__pydantic_core_schema__) for model in known_objectives().values()]}


Objective = Annotated[ObjectiveParameters, PlainValidator(parse_objective), PlainSerializer(_dump), _OneOfKnown()]
"""An objective of any known kind."""
