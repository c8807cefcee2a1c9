"""`shardmill verify`: every byte and every row count of a dataset against its index and manifest.

It looks at files, not at what rows mean; that is the audit.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape

from pipelines.progress import progress
from schemas.counts import format_bytes
from schemas.manifest import Manifest, read_manifest, read_shards
from schemas.storage import Location
from schemas.tables import read_fingerprint
from transforms.statistics.shard import row_group_difference

_READ_BYTES = 2**20
_THREADS = 8
"""Readers at a time: hashing and decoding let go of the interpreter, and object stores need company."""


@dataclass(frozen=True, order=True)
class Problem:
    """A difference between what is there and what should be."""

    path: str
    """Relative to the dataset."""
    what: str


@dataclass(frozen=True)
class _Checked:
    """What was read of one shard."""

    problems: tuple[Problem, ...]
    rows: int
    size_bytes: int


def verify(dataset: Location, console: Console) -> int:
    """Check every file, print a line for each problem and a summary.

    Returns:
      0 if nothing differs, else 1.

    Raises:
      RequestError: there is no finished dataset at that place.
      DataError: the manifest or the index of shards is damaged.
    """
    began = time.monotonic()
    manifest = read_manifest(dataset)
    shards = read_shards(dataset).to_pylist()
    done = 0

    def count() -> None:
        nonlocal done
        done += 1

    with progress(console, "verify", "shards", len(shards), lambda: done):
        checked = _check_shards(dataset, shards, manifest, count)
    problems = sorted({p for c in checked for p in c.problems})
    problems += [*_check_tokenizer(dataset, manifest), *_check_totals(shards, manifest)]
    problems += _find_strangers(dataset, {str(s["path"]) for s in shards})
    for problem in problems:
        console.print(f"[bold red]{escape(problem.path)}[/]: {escape(problem.what)}", highlight=False)
    rows, size = sum(c.rows for c in checked), sum(c.size_bytes for c in checked)
    seconds = max(time.monotonic() - began, 1e-9)
    verdict = f"[red]{len(problems)} problems[/]" if problems else "[green]no difference[/]"
    console.print(
        f"[bold]verify[/] {verdict}: {len(shards):,} shards, {rows:,} rows, {format_bytes(size)} in {seconds:.1f} s, "
        f"{format_bytes(size / seconds)}/s",
        highlight=False,
    )
    return 1 if problems else 0


def _check_shards(
    dataset: Location, shards: list[dict[str, Any]], manifest: Manifest, count: Callable[[], None]
) -> list[_Checked]:
    def check(shard: dict[str, Any]) -> _Checked:
        found = _check_shard(dataset, shard, manifest.fingerprint)
        count()
        return found

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(check, shards))


def _check_shard(dataset: Location, shard: Mapping[str, Any], fingerprint: str) -> _Checked:
    """Size, digest, pages, rows, row groups and fingerprint of one file."""
    path = str(shard["path"])
    place = dataset / path
    info = place.info()
    if info is None:
        return _Checked((Problem(path, "is missing"),), 0, 0)
    problems, rows = [], 0
    if info.size_bytes != shard["bytes"]:
        problems.append(f"has {info.size_bytes:,} bytes, the index says {shard['bytes']:,}")
    try:
        digest = _sha256(place)
        if digest != shard["sha256"]:
            problems.append(f"has sha256 {digest}, the index says {shard['sha256']}")
        rows, found = _read_parquet(place, shard, fingerprint)
        problems += found
    except (OSError, pa.ArrowException) as error:
        problems.append(f"cannot be read: {' '.join(str(error).split())}")
    return _Checked(tuple(Problem(path, what) for what in problems), rows, info.size_bytes)


def _sha256(place: Location) -> str:
    digest = hashlib.sha256()
    with place.open_input() as source:
        while block := source.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _read_parquet(place: Location, shard: Mapping[str, Any], fingerprint: str) -> tuple[int, list[str]]:
    """Rows decoded, and what differs; every page is read, so that its checksum is."""
    problems = []
    with place.open_input() as source:
        file = pq.ParquetFile(source, page_checksum_verification=True)
        rows = sum(file.read_row_group(i, use_threads=False).num_rows for i in range(file.num_row_groups))
        found = read_fingerprint(file.metadata)
    if rows != shard["rows"]:
        problems.append(f"has {rows:,} rows, the index says {shard['rows']:,}")
    if difference := row_group_difference(file.metadata, int(shard["row_group_rows"])):
        problems.append(difference)
    if found != fingerprint:
        problems.append(f"carries fingerprint {found}, the manifest says {fingerprint}")
    return rows, problems


def _check_tokenizer(dataset: Location, manifest: Manifest) -> Iterator[Problem]:
    place = dataset / "tokenizer.json"
    if place.info() is None:
        yield Problem(place.name, "is missing")
        return
    digest = _sha256(place)
    if digest != manifest.tokenizer.sha256:
        yield Problem(place.name, f"has sha256 {digest}, the manifest says {manifest.tokenizer.sha256}")


def _check_totals(shards: list[dict[str, Any]], manifest: Manifest) -> Iterator[Problem]:
    """The index's sums against the manifest's totals."""
    summed = {name: sum(int(s[name]) for s in shards) for name in ("rows", "tokens", "corpus_tokens", "bytes")}
    for name, total in {**summed, "shards": len(shards)}.items():
        stated = getattr(manifest.totals, name)
        if total != stated:
            yield Problem("shards.parquet", f"adds up to {total:,} {name}, the manifest says {stated:,}")


def _find_strangers(dataset: Location, known: set[str]) -> Iterator[Problem]:
    """Parquet files below data/ that the index does not name; other readers would take them for shards."""
    for file in (dataset / "data").files(recursive=True):
        path = file.uri[len(dataset.uri) + 1 :]
        if path.endswith(".parquet") and path not in known:
            yield Problem(path, "is not in the index of shards")
