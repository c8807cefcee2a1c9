"""Decoded examples from the shards, as the model will see them. Reads a few row groups; prints nothing.

What is masked stays readable without colour: `[MASK=word]`, `[word→other]` and `[kept word]`.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.show.surfaces import Surfaces
from schemas.errors import DataError, RequestError, did_you_mean
from schemas.manifest import Manifest, read_manifest, read_shards
from schemas.storage import Location
from transforms.objectives.drawing import Drawing, Mark
from transforms.objectives.registry import known_objective, schema_of

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


def pick_examples(
    dataset: Location,
    *,
    n: int = 3,
    split: str = "train",
    stage: int | str | None = None,
    length: int | None = None,
    most_tokens: int = MOST_TOKENS,
) -> list[Example]:
    """Examples from the shortest to the longest, spread over shards and sources; the same ones every time.

    Raises:
      RequestError: there is no such split, stage or length, or no dataset.
      DataError: a shard cannot be read.
    """
    if n < 1:
        raise RequestError("The number of examples is wrong", where="-n", expected="at least 1", got=str(n))
    manifest = read_manifest(dataset)
    kind = str(manifest.objective["kind"])
    shards = _select(manifest, read_shards(dataset).to_pylist(), split, stage, length)
    surfaces = _surfaces(dataset / "tokenizer.json")
    stage_names = {s.stage: s.name for s in manifest.stages}
    special = set(manifest.tokenizer.special_token_ids)
    shown: Counter[str] = Counter()
    taken: set[tuple[str, int]] = set()
    examples: list[Example] = []
    for i in range(n):
        # Shards ascend by length, so the i-th of n comes from the i-th of n equal parts.
        shard = shards[(2 * i + 1) * len(shards) // (2 * n)]
        picked = _pick_row(dataset, shard, i / (n - 1) if n > 1 else 0.5, kind, shown, taken)
        if picked is None:
            continue
        row, values = picked
        drawing = known_objective(kind).draw(values, manifest.tokenizer)
        shown[values["source"]] += 1
        taken.add((shard["path"], row))
        examples.append(
            Example(
                path=shard["path"],
                row=row,
                split=shard["split"],
                stage=shard["stage"],
                stage_name=stage_names.get(shard["stage"], ""),
                length=shard["length"],
                source=values["source"],
                tokens=len(values["input_ids"]),
                copy=values["copy"],
                documents=tuple(zip(values["doc_keys"], values["doc_offsets"], values["doc_lengths"], strict=False)),
                spans=_spans(values, drawing, special, surfaces, most_tokens),
                notes=drawing.notes,
            )
        )
    return examples


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


def _select(
    manifest: Manifest, shards: list[dict[str, Any]], split: str, stage: int | str | None, length: int | None
) -> list[dict[str, Any]]:
    """The shards asked for, ascending by length."""
    names = {s.name: s.stage for s in manifest.stages}
    number = names.get(stage, stage) if isinstance(stage, str) else stage
    if isinstance(number, str) and number.isdigit():
        number = int(number)
    wanted = (("split", split), ("stage", number), ("length", length))
    found = shards
    for field, value in wanted:
        if value is None:
            continue
        known = sorted({str(s[field]) for s in found})
        found = [s for s in found if s[field] == value]
        if not found:
            described = [f"{f} {v}" for f, v in wanted if v is not None and f != field]
            raise RequestError(
                f"The dataset has no {field} {value!r}" + (f" with {', '.join(described)}" if described else ""),
                where=f"--{field}",
                expected=f"one of {', '.join(sorted(known, key=lambda k: (len(k), k)))}" if known else "shards",
                got=repr(value),
                remedy=did_you_mean(str(value), known).capitalize() if field == "split" and known else "",
            )
    if not found:
        raise DataError("The dataset has no shards", where="shards.parquet", expected="at least one")
    return sorted(found, key=lambda s: (s["length"], s["stage"], s["path"]))


def _pick_row(
    dataset: Location,
    shard: dict[str, Any],
    quantile: float,
    kind: str,
    shown: Counter[str],
    taken: set[tuple[str, int]],
) -> tuple[int, dict[str, Any]] | None:
    """Number and values of the row at this quantile of length, of the source shown least.

    Only one row group is read. None where all of its rows are taken.
    """
    path = str(shard["path"])
    try:
        with (dataset / path).open_input() as source:
            file = pq.ParquetFile(source, page_checksum_verification=True)
            group = int(quantile * (file.num_row_groups - 1))
            first = sum(file.metadata.row_group(i).num_rows for i in range(group))
            table = file.read_row_group(group, columns=schema_of(kind).names, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            "A shard cannot be read",
            where=str(dataset / path),
            got=str(error),
            remedy="Run `shardmill verify` to see what else is damaged, then `shardmill prepare` to write it again",
        ) from error
    names = np.array(table["source"].to_pylist(), dtype=object)
    free = np.ones(len(names), dtype=bool)
    free[[row - first for p, row in taken if p == path and first <= row < first + len(names)]] = False
    if not free.any():
        return None
    least = min(sorted(set(names[free])), key=lambda name: shown[name])
    rows = np.flatnonzero(free & (names == least))
    by_length = rows[np.argsort(table["length"].to_numpy()[rows], kind="stable")]
    row = int(by_length[round(quantile * (len(rows) - 1))])
    return first + row, table.slice(row, 1).to_pylist()[0]


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
