"""The audit: measures the shards, judges every gate and writes the report. Wiring only.

What is measured is in `transforms.statistics`, what is judged in `transforms.gates`, what it looks like in
`pipelines.report`. The default runs in this process; given a `map_reduce`, the same functions run on an engine.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipelines.engine import Engine
from pipelines.report.result import AUDIT_VERSION, AuditResult
from pipelines.show.gate import REPEATS
from schemas.errors import RequestError, did_you_mean
from schemas.manifest import Manifest, TokenizerRecord, manifest_errors, read_manifest, read_shards
from schemas.storage import Location
from transforms.gates import Evidence, Gate
from transforms.gates.bounds import figures
from transforms.gates.evaluate import evaluate
from transforms.statistics import Accumulator, AuditContext
from transforms.statistics.mask_spans import RUNS
from transforms.statistics.shard import shard_statistics
from transforms.surfaces import Surfaces
from transforms.vocabulary import read_vocabulary

_AUDIT_HERE_TOKENS = 2**25
"""A smaller local dataset is audited in this process, in seconds."""

MapReduce = Callable[[str, Sequence[int], Callable[[int], bytes], Callable[..., bytes]], bytes]
"""(label, costs, map, merge) → the merged bytes of the items 0, 1, …, one a cost. Both functions are picklable; merge
is associative and commutative."""


_GROUP_TOKENS, _LEAST_GROUPS = 2**22, 16
"""Statistics cross to another process as JSON, whose size hardly depends on the shard's. So small shards are measured
several together, as long as there are groups for some workers."""


@dataclass
class ShardMapper:
    """Number of a group of shards → its statistics as bytes. Small and picklable: only the place travels."""

    dataset_uri: str
    group_shards: int = 1
    """Shards that follow each other in the index and make a group."""

    def __call__(self, group: int) -> bytes:
        """The statistics of a group of shards, as `Accumulator.to_bytes`."""
        first, *others = group_members(group, self.group_shards, self._shards.num_rows)
        found = self.measure(first)
        for index in others:
            found = found.merge(self.measure(index))
        return found.to_bytes()

    def measure(self, index: int) -> Accumulator:
        """The statistics of one shard."""
        return shard_statistics(
            Location(self.dataset_uri), self._shards.slice(index, 1).to_pylist()[0], self._context
        )

    @cached_property
    def _shards(self) -> Any:
        return read_shards(Location(self.dataset_uri))

    @cached_property
    def _context(self) -> AuditContext:
        return context_of(Location(self.dataset_uri))

    def __reduce__(self) -> tuple[type[ShardMapper], tuple[str, int]]:
        return ShardMapper, (self.dataset_uri, self.group_shards)


def group_members(group: int, group_shards: int, shards: int) -> range:
    """The shards of a group.

    >>> [list(group_members(g, 3, 5)) for g in range(2)]
    [[0, 1, 2], [3, 4]]
    """
    return range(group * group_shards, min((group + 1) * group_shards, shards))


def context_of(dataset: Location) -> AuditContext:
    """What rows of a dataset are held against; its ids have no bytes where the tokenizer cannot be read."""
    manifest, surfaces, starts_word = read_manifest(dataset), None, None
    with contextlib.suppress(FileNotFoundError, IsADirectoryError, RequestError):  # the tokenizer's gate says so
        data = (dataset / "tokenizer.json").read_bytes()
        surfaces = Surfaces.of(data)
        if manifest.objective.get("whole_word") or manifest.objective.get("selection") in RUNS:
            starts_word = read_vocabulary(data).starts_word
    return AuditContext.of(manifest, surfaces, starts_word)


def merge_bytes(*parts: bytes) -> bytes:
    """The statistics of all parts; associative and commutative to the byte."""
    found = Accumulator.from_bytes(parts[0])
    for part in parts[1:]:
        found = found.merge(Accumulator.from_bytes(part))
    return found.to_bytes()


def audit_dataset(
    dataset: Location,
    *,
    map_reduce: MapReduce | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AuditResult:
    """Measure every shard and judge every gate; writes nothing.

    Args:
      dataset: the dataset's directory.
      map_reduce: runs the work elsewhere, say on Beam; by default it runs here, one shard at a time.
      progress: called with (shards done, shards) when it runs here.

    Raises:
      RequestError: there is no finished dataset at that place.
      DataError: the manifest or the index of shards is damaged. Damaged shards are found by gates instead.
    """
    raw = _manifest_bytes(dataset)
    manifest = read_manifest(dataset)
    with manifest_errors(dataset):
        context = context_of(dataset)
    index = read_shards(dataset)
    count = index.num_rows
    mapper = ShardMapper(dataset.uri)
    found = Accumulator.create()
    if map_reduce is not None and count:
        small = -(-_GROUP_TOKENS * count // max(1, manifest.totals.tokens))
        mapper.group_shards = max(1, min(small, count // _LEAST_GROUPS))
        sizes = index["bytes"].to_pylist()
        groups = [group_members(g, mapper.group_shards, count) for g in range(-(-count // mapper.group_shards))]
        costs = [sum(sizes[group.start : group.stop]) for group in groups]
        found = Accumulator.from_bytes(map_reduce("AuditShards", costs, mapper, merge_bytes))
    elif map_reduce is None:
        for shard in range(count):
            found = found.merge(mapper.measure(shard))
            if progress is not None:
                progress(shard + 1, count)
    evidence = Evidence(
        found=found,
        manifest=manifest,
        context=context,
        tokenizer=_tokenizer_record(dataset, manifest),
        index_shards=count,
    )
    return AuditResult(
        dataset=dataset,
        manifest=manifest,
        manifest_sha256=hashlib.sha256(raw).hexdigest(),
        statistics=found,
        index=index,
        gates=tuple(evaluate(evidence)),
        figures=figures(found, manifest),
    )


def map_reduce_on(engine: Engine, dataset: Location) -> MapReduce:
    """The `map_reduce` of an engine, on any runner; the result passes through a file that is removed again."""

    def map_reduce(
        label: str,
        costs: Sequence[int],
        work: Callable[[int], bytes],
        merge: Callable[..., bytes],
    ) -> bytes:
        place = dataset / "audit" / "statistics.json"
        engine.map_reduce(label, range(len(costs)), costs, work, merge, place.uri)
        try:
            return place.read_bytes()
        finally:
            place.remove()

    return map_reduce


def where_to_run(engine: Engine, dataset: Location) -> MapReduce | None:
    """On Beam where its options were given or the dataset is large, else here: starting workers takes as long."""
    small = engine.is_local and read_manifest(dataset).totals.tokens < _AUDIT_HERE_TOKENS
    return None if small and not engine.beam_args else map_reduce_on(engine, dataset)


def write_audit(
    result: AuditResult,
    dataset: Location | None = None,
    *,
    html: Location | None = None,
    json: Location | None = None,
    junit: Location | None = None,
) -> dict[str, Location]:
    """Write report.html, junit.xml, croissant.json and audit.json, the last since it vouches for the others.

    Args:
      result: of `audit_dataset`.
      dataset: whose `audit` directory they go to; by default the audited one's.
      html: another place for the report.
      json: another place for audit.json.
      junit: another place for the JUnit file.

    Returns:
      Where each was written, by `html`, `junit`, `croissant` and `json`.
    """
    from pipelines.croissant import croissant
    from pipelines.report import render_report

    root = dataset or result.dataset
    folder = root / "audit"
    places = {
        "html": html or folder / "report.html",
        "junit": junit or folder / "junit.xml",
        "croissant": root / "croissant.json",
        "json": json or folder / "audit.json",
    }
    places["html"].write_bytes(render_report(result))
    places["junit"].write_bytes(result.to_junit())
    places["croissant"].write_bytes(croissant(result))
    places["json"].write_bytes(result.to_json())
    return places


def audit_is_current(dataset: Location) -> bool:
    """True if `<dataset>/audit/audit.json` is of this manifest and of this version, whatever its verdict."""
    try:
        found = json.loads((dataset / "audit" / "audit.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False  # never audited, or a file of somebody else
    if not isinstance(found, dict):
        return False
    manifest = read_manifest(dataset)
    return (
        found.get("audit_version") == AUDIT_VERSION
        and found.get("manifest_sha256") == hashlib.sha256(_manifest_bytes(dataset)).hexdigest()
        and found.get("fingerprint") == manifest.fingerprint
        and found.get("plan_fingerprint") == manifest.plan_fingerprint
    )


def find_gate(dataset: Location, name: str) -> tuple[Gate, Accumulator | None]:
    """A gate of a dataset by its name: of its last audit if that is current and enough, else of a new one.

    Returns:
      The gate, and the statistics where the dataset was measured for it.

    Raises:
      RequestError: there is no such gate or no dataset.
    """
    gates: tuple[Gate, ...]
    found: Accumulator | None = None
    if name != REPEATS and audit_is_current(dataset):
        raw = json.loads((dataset / "audit" / "audit.json").read_bytes())
        gates = tuple(Gate(**{**g, "figures": tuple(g["figures"])}) for g in raw["gates"])
    else:
        result = audit_dataset(dataset)
        gates, found = result.gates, result.statistics
    for gate in gates:
        if gate.name == name:
            return gate, found
    known = [gate.name for gate in gates]
    raise RequestError(
        f"The dataset has no gate {name!r}",
        where="--gate",
        expected="a gate that the audit of this dataset has",
        got=repr(name),
        remedy=did_you_mean(name, known).capitalize(),
    )


def _manifest_bytes(dataset: Location) -> bytes:
    """The bytes of manifest.json, empty where there is none: `read_manifest` then says what is wrong."""
    place = dataset / "manifest.json"
    return place.read_bytes() if place.info() else b""


def _tokenizer_record(dataset: Location, manifest: Manifest) -> TokenizerRecord | None:
    """The facts of the dataset's tokenizer.json; None where it cannot be read or lacks a token of the job."""
    names = {str(r): str(t) for r, t in manifest.job.get("tokenizer", {}).get("special_tokens", {}).items()}
    try:
        vocabulary = read_vocabulary((dataset / "tokenizer.json").read_bytes(), names)
    except (FileNotFoundError, IsADirectoryError, RequestError):
        return None  # a gate says so
    return TokenizerRecord(
        sha256=vocabulary.sha256,
        vocab_size=vocabulary.size,
        special_ids=vocabulary.special_ids,
        special_token_ids=vocabulary.special_token_ids,
        sentinel_ids=vocabulary.sentinel_ids.tolist(),
    )
