"""The ledger: every record, byte and token that was read is in the output or in a named loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from schemas.base import Frozen


class Entry(Frozen):
    """One line: `read + sum(gains.values()) == out + sum(losses.values())`."""

    unit: Literal["records", "bytes", "tokens"]
    step: Literal["read", "plan", "materialize"]
    """`read`: input → token store. `plan`: token store → stages. `materialize`: stages → rows."""
    source: str
    split: str | None = None
    stage: int | None = None
    read: int
    out: int
    losses: dict[str, int] = Field(default_factory=dict)
    gains: dict[str, int] = Field(default_factory=dict)
    """What is in the output more than once, such as the second segments of random pairs."""

    @property
    def difference(self) -> int:
        """What is unaccounted for; zero in a good ledger."""
        return self.read + sum(self.gains.values()) - self.out - sum(self.losses.values())


class Ledger(Frozen):
    """All lines of a dataset's ledger."""

    entries: list[Entry]


def add_counts(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Sum of dictionaries of counts, keys sorted."""
    total: Counter[str] = Counter()
    for c in counts:
        total.update(c)
    return dict(sorted(total.items()))
