"""Loads and validates a job file; turns every mistake into one readable paragraph."""

from __future__ import annotations

import glob
import os
import types
import typing
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from schemas.errors import RequestError, did_you_mean
from schemas.job import Job
from schemas.objectives import ObjectiveParameters, known_objectives
from schemas.storage import Location


class _Loader(yaml.SafeLoader):
    """YAML's safe loader that refuses a key given twice, which PyYAML would silently overwrite."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue  # the base class merges, and refuses keys that are no scalars
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_job(uri: str) -> Job:
    """Read a job file; relative paths in it become relative to the file.

    Raises:
      RequestError: the file is missing, is not YAML, or does not describe a job.
    """
    place = Location.of(uri)
    try:
        text = place.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise RequestError(
            f"There is no job file {uri}",
            expected="a YAML file",
            remedy="Give the path of a job file; `shardmill quickstart` writes one to start from",
        ) from None
    except NotADirectoryError:
        raise RequestError(f"There is no job file {uri}", got="a path that leads through a file") from None
    except IsADirectoryError:
        raise RequestError(f"{uri} is a directory", expected="a YAML job file") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"{uri} is not UTF-8 text", expected="a YAML job file", got=str(error)) from error
    return parse_job(text, where=uri, base=place.parent)


def parse_job(text: str, *, where: str = "job file", base: Location | None = None) -> Job:
    """Validate the text of a job file.

    Args:
      text: YAML.
      where: what to call it in messages.
      base: the directory that relative paths are relative to; None leaves them as they are.
    """
    try:
        raw = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML raises plain errors for scalars that do not fit their tag, such as !!int "".
        mark = getattr(error, "problem_mark", None)
        place = f"{where}, line {mark.line + 1}, column {mark.column + 1}" if mark else where
        raise RequestError(
            "The job file is not valid YAML",
            where=place,
            got=str(getattr(error, "problem", None) or error),
            remedy="Mend the line and run again",
        ) from error
    if not isinstance(raw, dict):
        raise RequestError(
            "The job file holds no mapping",
            where=where,
            expected="keys such as name, output, tokenizer and sources",
            got=type(raw).__name__ if raw is not None else "an empty file",
        )
    try:
        job = Job.model_validate(raw)
    except ValidationError as error:
        raise _readable(error, raw, where) from error
    return job if base is None else _resolve_paths(job, base)


def job_schema() -> dict[str, Any]:
    """The JSON Schema of job files, for editors and validators."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Job.model_json_schema()}


def _resolve_paths(job: Job, base: Location) -> Job:
    def absolute(path: str) -> str:
        return base.join(path).uri

    output = absolute(job.output)
    tokenizer = job.tokenizer
    if tokenizer.file is not None:
        tokenizer = tokenizer.model_copy(update={"file": absolute(tokenizer.file)})
    return job.model_copy(
        update={
            "output": output,
            "tokens": absolute(job.tokens) if job.tokens else str(Location.of(output) / "tokens"),
            "tokenizer": tokenizer,
            "sources": [s.model_copy(update={"files": [_pattern(base, f) for f in s.files]}) for s in job.sources],
        }
    )


def _pattern(base: Location, path: str) -> str:
    """A pattern relative to a folder whose own name may hold characters that mean something in patterns."""
    literal = base.join(path)
    if not base.is_local or literal.uri != os.path.normpath(os.path.join(base.uri, path)):
        return literal.uri
    return Location(glob.escape(base.uri)).join(path).uri


def _readable(error: ValidationError, raw: Any, where: str) -> RequestError:
    """The first mistake as what, where, expected, got, remedy; the number of the others is said."""
    # An unknown key explains the others (a misspelt required key is also a missing one), so it goes first.
    found = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    first, more = found[0], len(found) - 1
    path, value = _path(first["loc"], raw), first.get("input")
    also = f" There {'is 1 more mistake' if more == 1 else f'are {more} more mistakes'} in the file" if more else ""
    here = f"{where}, at {path}" if path else where
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        known = _known_keys(first["loc"][:-1], raw)
        return RequestError(
            f"The job file has an unknown key {key!r}",
            where=here,
            expected=", ".join(known),
            got=repr(key),
            remedy=did_you_mean(key, known).capitalize() + also,
        )
    if first["type"] == "missing":
        return RequestError(f"The job file lacks the key {path!r}", where=where, remedy=f"Add it.{also}")
    if first["type"] == "objective_unknown":
        kind, kinds = first["ctx"]["kind"], first["ctx"]["kinds"]
        return RequestError(
            f"There is no objective kind {kind!r}",
            where=here,
            expected=kinds,
            got=repr(kind),
            remedy=did_you_mean(kind, kinds.split(", ")).capitalize() + also,
        )
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "string_pattern_mismatch":
        message = "a name is letters, digits, '_', '-' and '.', and starts with a letter or digit"
    got = "" if isinstance(value, (dict, list, BaseModel)) else repr(value)
    # What a mistaken value is for says what to write in its place; our own messages say that themselves.
    meaning = "" if first["type"] == "value_error" else _meaning(first["loc"], raw)
    return RequestError(f"The job file is wrong: {message}", where=here, got=got, remedy=f"{meaning}{also}".strip())


def _path(loc: tuple[int | str, ...], raw: Any) -> str:
    """`sources[1].weight` from pydantic's location, without the tags of unions."""
    text, node = "", raw
    for i, part in enumerate(loc):
        if isinstance(part, int):
            text += f"[{part}]"
            node = _inside(node, part)
            if isinstance(node, dict) and (name := node.get("name") or node.get("stage")):
                text += f" ({name})"
        else:
            if not isinstance(node, dict) or (part not in node and i + 1 < len(loc)):
                continue  # a discriminator's tag, not a key
            text += f".{part}" if text else part
            node = _inside(node, part)
    return text


def _inside(node: Any, part: int | str) -> Any:
    """What a list or a mapping of the file holds at a place; None where the file has no such place."""
    if isinstance(node, dict):
        return node.get(part)
    return node[part] if isinstance(node, list) and isinstance(part, int) and part < len(node) else None


def _known_keys(loc: tuple[int | str, ...], raw: Any) -> list[str]:
    """The keys allowed at a location."""
    models, _ = _walk(loc, raw)
    return sorted({name for model in models for name in model.model_fields})


def _meaning(loc: tuple[int | str, ...], raw: Any) -> str:
    """What the docstring of the innermost key of a location says."""
    _, field = _walk(loc, raw)
    return f"`{field[0]}`: {field[1]}" if field is not None else ""


def _walk(loc: tuple[int | str, ...], raw: Any) -> tuple[list[type[BaseModel]], tuple[str, str] | None]:
    """(the models at a location, the innermost key on the way with what it is for), along annotations and file."""
    models: list[type[BaseModel]] = [Job]
    field, node = None, raw
    for part in loc:
        node = _inside(node, part)
        if isinstance(part, str):
            known = [f for model in models if (f := model.model_fields.get(part))]
            if known and known[0].description:
                field = (part, known[0].description)
            inner = [m for f in known for m in _models_in(f.annotation)]
            models = [_objective_of(node) if m is ObjectiveParameters else m for m in inner] or models
    return models, field


def _objective_of(node: Any) -> type[BaseModel]:
    """The class of an objective's parameters, by the kind that the file gives."""
    kind = node.get("kind") if isinstance(node, dict) else None
    return known_objectives().get(str(kind), ObjectiveParameters)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is not None:
        return [m for arg in typing.get_args(annotation) for m in _models_in(arg)]
    return []
