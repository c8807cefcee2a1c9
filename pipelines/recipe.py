"""`shardmill recipe`: job files with the numbers of published models, as they are or with a few values filled in.

A recipe is a YAML file of `pipelines/recipes`, mostly comments that say where each number is from. Values are filled
in line by line, so that the comments stay: a recipe has `output`, `budget` and `vocab_size` once and each source on a
line of its own.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from schemas.counts import parse_count
from schemas.errors import RequestError, did_you_mean

_FOLDER = Path(__file__).parent / "recipes"

_EPOCHS = re.compile(r"(?P<number>[0-9]+(\.[0-9]+)?) ?epochs?")


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What to fill in; None leaves the recipe's own value."""

    files: tuple[str, ...] | None = None
    """Paths or globs of one source, which takes the place of the recipe's."""
    text: str | None = None
    """Field or column of that source that holds the text."""
    output: str | None = None
    """Directory of the dataset."""
    budget: str | None = None
    """Training tokens such as `2M`, or passes such as `1.5 epochs`."""
    vocab_size: str | None = None
    """Entries of the vocabulary to train."""

    def __bool__(self) -> bool:
        return any(v is not None for v in (self.files, self.text, self.output, self.budget, self.vocab_size))


def recipe(name: str | None, changes: Changes, console: Console) -> int:
    """Print a recipe to standard output, or list all of them.

    Returns:
      The exit code.

    Raises:
      RequestError: there is no such recipe, or a value to fill in is wrong.
    """
    if name is not None:
        sys.stdout.write(fill_in(name, changes))
        return 0
    if changes:
        raise RequestError(
            "The command line names no recipe to fill in",
            expected=f"one of {', '.join(recipe_names())}",
            remedy="Write the name first, as in `shardmill recipe bert --files 'corpus/*.jsonl'`",
        )
    names = recipe_names()
    width = max(map(len, names))
    for known in names:
        console.print(f"[bold]{known:<{width}}[/]  {_title(known)}", highlight=False)
    console.print("\n[dim]shardmill recipe NAME > job.yaml, edit its sources, shardmill prepare job.yaml[/]")
    return 0


def recipe_names() -> list[str]:
    """The recipes, in the order of the alphabet."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def recipe_text(name: str) -> str:
    """The recipe's YAML.

    Raises:
      RequestError: there is no recipe of this name.
    """
    names = recipe_names()
    if name not in names:
        raise RequestError(
            f"There is no recipe {name!r}",
            expected=", ".join(names),
            got=repr(name),
            remedy=did_you_mean(name, names).capitalize(),
        )
    return (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def fill_in(name: str, changes: Changes) -> str:
    """The recipe with these values, its comments as they were.

    Raises:
      RequestError: there is no recipe of this name, or the result would be no valid job.
    """
    text = recipe_text(name)
    if not changes:
        return text
    if changes.files is not None:
        source: dict[str, Any] = {"name": "corpus", "files": _one_or_all(changes.files)}
        text = _replace_sources(text, source if changes.text is None else {**source, "text": changes.text})
    elif changes.text is not None:
        raise RequestError(
            "--text names a field of the files given with --files, and none are given",
            got=f"--text {changes.text}",
            remedy="Give --files too, or edit the sources of the recipe",
        )
    if changes.output is not None:
        text = _replace_value(text, r"^output: ", changes.output)
    if changes.budget is not None:
        text = _replace_value(text, r"^budget: ", _budget(changes.budget))
    if changes.vocab_size is not None:
        text = _replace_value(text, r"^  train: \{.*vocab_size: ", _vocab_size(changes.vocab_size))

    import transforms.objectives.registry  # noqa: F401 - a job file can name the objectives that are imported
    from schemas.jobfile import parse_job

    parse_job(text, where=f"the recipe {name} with the options given")
    return text


def _title(name: str) -> str:
    """The recipe's first line, which says what it is."""
    return recipe_text(name).split("\n", 1)[0].removeprefix("# ")


def _one_or_all(values: tuple[str, ...]) -> str | list[str]:
    return values[0] if len(values) == 1 else list(values)


def _budget(text: str) -> dict[str, Any]:
    if match := _EPOCHS.fullmatch(text.strip()):
        return {"epochs": float(match["number"])}
    try:
        count = parse_count(text)
    except ValueError as error:
        raise RequestError(
            "The budget is wrong",
            where="--budget",
            expected="training tokens such as 2M or 5e9, or passes over the files such as '1.5 epochs'",
            got=repr(text),
        ) from error
    return {"tokens": count if text.isdigit() else text}  # as it was written: 2M is easier to read than 2000000


def _vocab_size(text: str) -> int:
    try:
        return parse_count(text)
    except ValueError as error:
        raise RequestError(
            "The size of the vocabulary is wrong",
            where="--vocab-size",
            expected="a whole number such as 8000",
            got=repr(text),
        ) from error


def _flow(value: Any) -> str:
    """The value in YAML's flow style, on one line."""
    listed = yaml.safe_dump([value], default_flow_style=True, sort_keys=False, width=1 << 30, allow_unicode=True)
    return listed.strip()[1:-1]


def _replace_value(text: str, before: str, value: Any) -> str:
    """The value of the one line that matches, up to a comma, a bracket of a mapping around it, or a comment."""
    place = re.compile(rf"(?P<before>{before})(?P<value>\{{[^}}]*\}}|[^\s,}}#]+)", re.MULTILINE)
    filled, count = place.subn(lambda match: match["before"] + _flow(value), text, count=1)
    assert count == 1, f"the recipe has no line {before}"
    return filled


def _replace_sources(text: str, source: dict[str, Any]) -> str:
    """One source in place of all, where the first was."""
    lines = text.splitlines(keepends=True)
    places = [i for i, line in enumerate(lines) if line.startswith("  - {name: ")]
    lines[places[0]] = f"  - {_flow(source)}\n"
    return "".join(line for i, line in enumerate(lines) if i not in places[1:])
