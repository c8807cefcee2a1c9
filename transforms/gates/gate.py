"""What a gate is, and what gates judge. No law of any kind here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from schemas.manifest import Manifest, TokenizerRecord
from transforms.statistics import Accumulator, AuditContext


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One line of the audit, like a test.

    >>> Gate(name="not_empty", passed=True, expected="train rows", observed="7 rows").bound
    'exact'
    """

    name: str
    """`job.…` for a bound of the job file."""
    passed: bool
    expected: str
    observed: str
    bound: str = "exact"
    """What deviation passes."""
    n: int = 0
    """How many things were judged."""
    effect: float | None = None
    """Size of the deviation, in the unit of the bound; None where there is no size."""
    worst_shard: str | None = None
    """Path of the shard that deviates most, where one stands out."""
    command: str = ""
    """Shows more; `DATASET` stands for the dataset's place. By default the rows that the gate judges."""
    figures: tuple[str, ...] = ()
    """Figures of a row that show what is wrong with it, for finding such rows."""

    def __post_init__(self) -> None:
        if not self.command:
            object.__setattr__(self, "command", f"shardmill show DATASET --gate {self.name}")

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What gates judge: what was measured, and what was promised."""

    found: Accumulator
    manifest: Manifest
    context: AuditContext
    tokenizer: TokenizerRecord | None
    """As read from tokenizer.json; None if it cannot be read."""
    index_shards: int
    """Rows of the index of shards."""

    def worst(self, *figures: str) -> str | None:
        """Path of the shard with the most of these figures."""
        found = [self.found.worst[f] for f in figures if f in self.found.worst]
        return min(found, key=_greatest_first)[1] if found else None

    def first_problem(self, *kinds: str) -> str:
        """The first problem of these kinds in words, empty where there is none."""
        texts = [f"{path}: {what}" for kind in kinds for path, what in self.found.problems.get(kind, ())]
        return texts[0] if texts else ""


def _greatest_first(found: tuple[float, str]) -> tuple[float, str]:
    return -found[0], found[1]


def equalities(name: str, law: str, pairs: dict[str, tuple[int, int]], command: str = "") -> Gate:
    """A gate on pairs of (stated, counted) that must be equal."""
    different = [
        f"{what}: {stated:,} stated, {counted:,} counted"
        for what, (stated, counted) in pairs.items()
        if stated != counted
    ]
    return Gate(
        name=name,
        passed=not different,
        expected=law,
        observed=f"{len(different)} differ; {'; '.join(different[:3])}" if different else "all equal",
        n=len(pairs),
        effect=float(len(different)),
        command=command,
    )
