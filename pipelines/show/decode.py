"""Rows as text: what is masked, predicted or special in a row, decoded. Reads no shards and prints nothing.

What is masked stays readable without colour: `[MASK=word]`, `[word→other]` and `[kept word]`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from schemas.errors import DataError, RequestError
from schemas.manifest import Manifest, read_manifest
from schemas.storage import Location
from transforms.objectives.drawing import Drawing, Mark
from transforms.objectives.registry import known_objective
from transforms.surfaces import Surfaces

MOST_TOKENS = 2048
"""Tokens of a row that are shown; the rest is counted."""


@dataclass(frozen=True)
class Span:
    """A stretch of a row that is shown alike."""

    kind: str
    """text, special, boundary, rest, or a kind of `transforms.objectives.drawing.Mark`."""
    text: str
    """With marks that keep its meaning without colour."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One row, decoded."""

    path: str
    """Of its shard."""
    row: int
    """Within the shard."""
    split: str
    stage: int
    stage_name: str
    length: int
    """Bucket."""
    source: str
    tokens: int
    copy: int
    documents: tuple[tuple[int, int, int], ...]
    """(key, first token, corpus tokens) of each piece."""
    spans: tuple[Span, ...]
    notes: tuple[str, ...] = ()
    """Facts of the whole row, such as its label."""

    def header(self) -> str:
        """Where the row is from, in one line."""
        key, first, count = self.documents[0] if self.documents else (0, 0, 0)
        more = f" and {len(self.documents) - 1} more" if len(self.documents) > 1 else ""
        return (
            f"{self.source} · {self.split} · stage {self.stage} {self.stage_name} · length {self.length} · "
            f"{self.tokens} tokens · document {key:016x} from token {first}, {count} tokens{more} · copy {self.copy}"
            + "".join(f" · {note}" for note in self.notes)
        )


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Turns rows of a dataset into examples."""

    manifest: Manifest
    surfaces: Surfaces
    most_tokens: int = MOST_TOKENS

    @classmethod
    def of(cls, dataset: Location, most_tokens: int = MOST_TOKENS) -> Decoder:
        """For the rows of a dataset."""
        return cls(
            manifest=read_manifest(dataset),
            surfaces=_surfaces(dataset / "tokenizer.json"),
            most_tokens=most_tokens,
        )

    @property
    def kind(self) -> str:
        """The objective's."""
        return str(self.manifest.objective["kind"])

    @cached_property
    def _special(self) -> set[int]:
        return set(self.manifest.tokenizer.special_token_ids)

    @cached_property
    def _stage_names(self) -> dict[int, str]:
        return {s.stage: s.name for s in self.manifest.stages}

    def example(self, shard: Mapping[str, Any], row: int, values: dict[str, Any]) -> Example:
        """A row as an example.

        Args:
          shard: its shard's row of the index.
          row: its place within the shard.
          values: by column.
        """
        drawing = known_objective(self.kind).draw(values, self.manifest.tokenizer)
        return Example(
            path=shard["path"],
            row=row,
            split=shard["split"],
            stage=shard["stage"],
            stage_name=self._stage_names.get(shard["stage"], ""),
            length=shard["length"],
            source=values["source"],
            tokens=len(values["input_ids"]),
            copy=values["copy"],
            documents=tuple(zip(values["doc_keys"], values["doc_offsets"], values["doc_lengths"], strict=False)),
            spans=_spans(values, drawing, self._special, self.surfaces, self.most_tokens),
            notes=drawing.notes,
        )


def _surfaces(place: Location) -> Surfaces:
    try:
        return Surfaces.of(place.read_bytes())
    except (FileNotFoundError, IsADirectoryError, RequestError) as error:
        raise DataError(
            "The dataset's tokenizer cannot be read",
            where=str(place),
            got=str(error),
            remedy="Run `shardmill prepare` again to write it",
        ) from error


def _spans(
    row: dict[str, Any], drawing: Drawing, special: set[int], surfaces: Surfaces, most: int
) -> tuple[Span, ...]:
    """The row as spans; a walk over the few rows that are shown, not over a dataset."""
    ids: list[int] = row["input_ids"]
    spans: list[Span] = []
    place = 0
    for mark in [*drawing.marks, Mark("boundary", len(ids), len(ids))]:
        if mark.begin < place:
            continue  # only in a damaged row, which is to be seen rather than to stop the show
        if mark.begin > place:
            spans += _plain(ids[place : min(mark.begin, most)], "text", special, surfaces)
        if mark.begin >= min(most, len(ids)):
            break
        shown = ids[mark.begin : mark.end]
        if mark.kind == "boundary":
            spans.append(Span("boundary", f"\n[{mark.note}]\n"))
        elif mark.kind in ("mask", "random", "kept"):
            spans += _masked(mark.kind, shown[0], mark.hidden[0], surfaces)
        elif mark.kind == "sentinel":
            text = surfaces.text(list(mark.hidden))
            spans += [Span("text", " ")] if text.startswith(" ") else []
            spans.append(Span("sentinel", f"[{surfaces.name(shown[0])}={text.strip()}]"))
        elif mark.kind == "gap":
            spans.append(Span("gap", f" {surfaces.name(shown[0])}"))
        else:
            spans += _plain(shown[: most - mark.begin], mark.kind, special, surfaces)
        place = mark.end
    if len(ids) > most:
        spans.append(Span("rest", f" … {len(ids) - most:,} more tokens"))
    spans = _trimmed(spans)
    if drawing.target is not None:
        target = list(drawing.target)
        spans.append(Span("boundary", "\n→ "))
        spans += _trimmed(_plain(target[:most], "predicted", special, surfaces))
        if len(target) > most:
            spans.append(Span("rest", f" … {len(target) - most:,} more tokens"))
    return tuple(spans)


def _trimmed(spans: list[Span]) -> list[Span]:
    """The spans; a line does not begin with a word's space."""
    first = [i == 0 or spans[i - 1].kind == "boundary" for i in range(len(spans))]
    return [Span(s.kind, s.text.removeprefix(" ")) if f else s for s, f in zip(spans, first, strict=True)]


def _plain(ids: list[int], kind: str, special: set[int], surfaces: Surfaces) -> list[Span]:
    """A stretch of text of one kind, its special tokens apart."""
    spans: list[Span] = []
    for is_special, group in itertools.groupby(ids, special.__contains__):
        if is_special:
            spans += [Span("special", f" {surfaces.name(token)}") for token in group]
        else:
            spans.append(Span(kind, surfaces.text(list(group))))
    return spans


def _masked(kind: str, token: int, label: int, surfaces: Surfaces) -> list[Span]:
    """A masked place, the space before it apart."""
    old, new = surfaces.text([label]), surfaces.text([token])
    space = [Span("text", " ")] if old.startswith(" ") else []
    shown = {"mask": f"[MASK={old.strip()}]", "kept": f"[kept {old.strip()}]"}
    return [*space, Span(kind, shown.get(kind, f"[{old.strip()}→{new.strip()}]"))]
