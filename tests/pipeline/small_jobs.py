"""Small corpora in every format, jobs over them, and the command line as a test sees it."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipelines.cli import main

WORDS = [
    a + b + c
    for a in ("ka", "lo", "mi", "ne", "shu", "ta")
    for b in ("ra", "vo", "lin", "")
    for c in ("n", "s", "ko")
]


def documents(name: str, count: int, words: int) -> list[dict[str, str]]:
    """`count` documents of very different lengths, about `words` words on average."""
    draw = random.Random(name)
    result = []
    for i in range(count):
        length = max(1, int(draw.expovariate(1 / words)))
        text = " ".join(draw.choice(WORDS) for _ in range(length))
        result.append({"id": f"{name}-{i}", "text": text.capitalize() + "."})
    return result


def write_jsonl(path: Path, rows: list[dict[str, str]]) -> None:
    data = "".join(json.dumps(r) + "\n" for r in rows).encode()
    packed: Callable[[bytes], bytes] = {".gz": gzip.compress, ".bz2": bz2.compress}.get(path.suffix, bytes)
    if path.suffix == ".zst":
        with pa.CompressedOutputStream(str(path), "zstd") as out:
            out.write(data)
    else:
        path.write_bytes(packed(data))


@dataclass
class Shardmill:
    """Runs the command line in this process."""

    capture: pytest.CaptureFixture[str]

    def __call__(self, *args: str | Path, expect: int = 0) -> str:
        """What it printed, standard error included; fails if the exit code is another."""
        self.capture.readouterr()
        code = main([str(a) for a in args])
        shown = self.capture.readouterr()
        text = shown.out + shown.err
        assert code == expect, text
        assert "Traceback" not in text
        return text


@pytest.fixture
def shardmill(capsys: pytest.CaptureFixture[str]) -> Shardmill:
    return Shardmill(capsys)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three sources: jsonl in two files, Parquet with three row groups, and text with blank lines."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    web = documents("web", 150, 120)
    write_jsonl(folder / "web-0.jsonl", web[:90])
    write_jsonl(folder / "web-1.jsonl.gz", web[90:])
    books = documents("books", 60, 200)
    table = pa.table({"id": [b["id"] for b in books], "text": [b["text"] for b in books]})
    pq.write_table(table, folder / "books.parquet", row_group_size=20)
    wiki = documents("wiki", 50, 80)
    (folder / "wiki.txt").write_text("\n\n".join(d["text"] for d in wiki) + "\n")
    return folder


@pytest.fixture
def system_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary directory of the system for this test alone, here and in the processes it starts."""
    folder = tmp_path / "system-tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def job_for(corpus: Path, **changes: Any) -> dict[str, Any]:
    """A job over the three sources, two stages, small enough for seconds and large enough for several blocks."""
    job: dict[str, Any] = {
        "name": "small",
        "seed": 5,
        "output": "out",
        "tokenizer": {"train": {"model": "wordpiece", "vocab_size": 600, "lowercase": True, "sample_bytes": "100kB"}},
        "sources": [
            {"name": "web", "files": "corpus/web-*.jsonl*", "id": "id", "weight": 0.5},
            {"name": "books", "files": "corpus/books.parquet", "id": "id", "weight": 0.3},
            {"name": "wiki", "files": "corpus/wiki.txt", "weight": 0.2},
        ],
        "budget": {"tokens": 60_000},
        "splits": {"validation": 0.1},
        "objective": {"kind": "mlm"},
        "limits": {"range_bytes": 20_000, "block_tokens": 10_000},
        "curriculum": [
            {"stage": "short", "share": 0.4, "lengths": [16, 32]},
            {"stage": "long", "share": 0.6, "lengths": [32, 64]},
        ],
    }
    job.update(changes)
    return job


def write_job(folder: Path, job: dict[str, Any], name: str = "job.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(job))
    return path


@pytest.fixture
def job(corpus: Path) -> Path:
    return write_job(corpus.parent, job_for(corpus))


def digests(folder: Path, pattern: str = "**/*") -> dict[str, str]:
    """sha256 of every file, by relative path."""
    files = sorted(p for p in folder.glob(pattern) if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def shard_digests(out: Path) -> dict[str, str]:
    """sha256 of every shard, the token store, the index and the tokenizer."""
    found = {**digests(out, "data/**/*.parquet"), **digests(out, "tokens/**/*.parquet")}
    return {**found, **digests(out, "*.parquet"), **digests(out, "tokenizer.json")}


def manifest_of(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "manifest.json").read_text()))


def shards_of(out: Path) -> pa.Table:
    """All rows of all shards with their split, stage and bucket."""
    tables = []
    for path in sorted((out / "data").glob("**/*.parquet")):
        keys = dict(part.split("=") for part in path.relative_to(out / "data").parts[:-1])
        table = pq.ParquetFile(path).read()
        table = table.append_column("split", pa.array([keys["split"]] * table.num_rows))
        table = table.append_column("stage", pa.array([int(keys["stage"])] * table.num_rows))
        tables.append(table.append_column("bucket", pa.array([int(keys["length"])] * table.num_rows)))
    return pa.concat_tables(tables).unify_dictionaries()
