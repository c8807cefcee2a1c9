"""What an audit found, and its two forms for programs: audit.json and JUnit XML."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from schemas.manifest import Manifest
from schemas.storage import Location
from transforms.gates import Gate
from transforms.statistics import Accumulator

if TYPE_CHECKING:
    from pipelines.difference import Difference

AUDIT_VERSION = 3
"""Of audit.json and of what the gates mean; a result of another version is not current."""


@dataclass(frozen=True, kw_only=True)
class AuditResult:
    """What an audit found."""

    dataset: Location
    manifest: Manifest
    manifest_sha256: str
    """Of manifest.json as it was read."""
    statistics: Accumulator
    index: pa.Table
    """Rows of shards.parquet."""
    gates: tuple[Gate, ...]
    figures: dict[str, float]
    """Every figure that a job may bound, by name in `schemas.gates.GATES`."""
    difference: Difference | None = None
    """From another dataset, where one was given."""

    @property
    def passed(self) -> bool:
        """True if every gate passed; an audit without gates passes nothing."""
        return bool(self.gates) and all(gate.passed for gate in self.gates)

    @property
    def failed(self) -> list[Gate]:
        """The gates that failed."""
        return [gate for gate in self.gates if not gate.passed]

    def verdict(self) -> str:
        """The result in one sentence."""
        totals = f"{self.statistics.total('rows'):,} rows in {self.statistics.shards['read']:,} shards"
        if self.passed:
            return f"{self.manifest.name} passes all {len(self.gates)} gates: {totals}."
        names = ", ".join(gate.name for gate in self.failed)
        return f"{self.manifest.name} fails {len(self.failed)} of {len(self.gates)} gates ({names}): {totals}."

    def to_json(self) -> bytes:
        """`audit.json`: verdict, gates, figures, statistics, and what they are of."""
        return (
            json.dumps(
                {
                    "audit_version": AUDIT_VERSION,
                    "passed": self.passed,
                    "verdict": self.verdict(),
                    "name": self.manifest.name,
                    "fingerprint": self.manifest.fingerprint,
                    "plan_fingerprint": self.manifest.plan_fingerprint,
                    "manifest_sha256": self.manifest_sha256,
                    "gates": [gate.to_json() for gate in self.gates],
                    "figures": self.figures,
                    "against": self.difference.to_json() if self.difference else None,
                    "statistics": self.statistics.extract(),
                },
                indent=1,
                ensure_ascii=False,
            )
            + "\n"
        ).encode()

    def to_junit(self) -> bytes:
        """The gates as JUnit XML, one test case each."""
        suite = ElementTree.Element(
            "testsuite", name=f"shardmill audit {self.manifest.name}", tests=str(len(self.gates))
        )
        suite.set("failures", str(len(self.failed)))
        for gate in self.gates:
            case = ElementTree.SubElement(suite, "testcase", classname="shardmill.audit", name=gate.name)
            if not gate.passed:
                message = f"expected {gate.expected}; observed {gate.observed}; bound {gate.bound}"
                failure = ElementTree.SubElement(case, "failure", message=message)
                failure.text = f"worst shard: {gate.worst_shard or 'none stands out'}\nlook with: {gate.command}"
        return bytes(ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True))
