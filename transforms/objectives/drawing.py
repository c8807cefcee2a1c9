"""How a row is drawn for a person: which of its places are what, and what stands behind them. No text, no colour.

An objective says what its rows mean in these terms; `shardmill show` decodes and prints them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from schemas.manifest import TokenizerRecord

MarkKind = Literal["mask", "random", "kept", "sentinel", "boundary", "predicted", "second", "rearranged", "gap"]


@dataclass(frozen=True)
class Mark:
    """Places `begin` to `end` of a row's input that are not plain text."""

    kind: MarkKind
    """`mask`, `random`, `kept`: a predicted place and how it is shown. `sentinel`: stands for `hidden`. `boundary`:
    a document begins here. `predicted`: plain text that is predicted. `second`: text of the second segment.
    `rearranged`: text that was moved here from behind. `gap`: a mask that stands for any number of words."""
    begin: int
    end: int
    hidden: tuple[int, ...] = ()
    """Ids that stand behind these places and are to be predicted."""
    note: str = ""
    """Words to print there, say of a boundary."""


@dataclass(frozen=True)
class Drawing:
    """What a row means."""

    marks: Sequence[Mark] = ()
    """Ascending, not overlapping."""
    target: tuple[int, ...] | None = None
    """Ids of the target where there is one that the marks do not show."""
    notes: tuple[str, ...] = field(default=())
    """Facts of the whole row, such as its label."""


def masked_places(row: Mapping[str, Any], tokenizer: TokenizerRecord) -> list[Mark]:
    """The marks of `mask_positions` and `mask_labels`."""
    mask_id, ids = tokenizer.special_ids.get("mask"), row["input_ids"]
    marks = []
    for place, label in zip(row["mask_positions"], row["mask_labels"], strict=False):
        shown = ids[place] if 0 <= place < len(ids) else None
        kind: MarkKind = "mask" if shown == mask_id else "kept" if shown == label else "random"
        marks.append(Mark(kind, place, place + 1, (label,)))
    return marks


def document_boundaries(row: Mapping[str, Any], *, first: int = 0, between: int = 1) -> list[Mark]:
    """A mark where each further document of a row begins.

    Args:
      row: the row.
      first: special tokens before the first piece.
      between: special tokens after each piece.
    """
    marks, place = [], first
    pieces = zip(row["doc_keys"], row["doc_offsets"], row["doc_lengths"], strict=False)
    for i, (key, offset, count) in enumerate(pieces):
        if i:
            marks.append(Mark("boundary", place, place, note=f"document {key:016x} from token {offset}"))
        place += count + between
    return marks


def hidden_spans(row: Mapping[str, Any], tokenizer: TokenizerRecord) -> list[Mark]:
    """The marks of sentinels, each with the tokens that follow it in `target_ids`."""
    sentinels, eos = set(tokenizer.sentinel_ids), tokenizer.special_ids.get("eos")
    hidden: dict[int, list[int]] = {}
    current: list[int] = []
    for token in row["target_ids"]:
        if token in sentinels:
            current = hidden.setdefault(token, [])
        elif token != eos:
            current.append(token)
    return [
        Mark("sentinel", place, place + 1, tuple(hidden[token]))
        for place, token in enumerate(row["input_ids"])
        if token in hidden
    ]


def merge_marks(*marks: list[Mark]) -> tuple[Mark, ...]:
    """Marks of several kinds in ascending order; a boundary comes before what begins there."""
    return tuple(sorted((m for some in marks for m in some), key=lambda m: (m.begin, m.end)))
