"""Inputs nobody vouches for: good records come out as they are whatever stands between them, each bad one once."""

from __future__ import annotations

import bz2
import gzip
import json
import random
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import ShardmillError
from schemas.job import Source
from schemas.store import InputRange
from transforms.read import read_records

LIMIT = 4096
SOURCE = Source(name="s", files=["x"], text="text", id="id")


def _good(draw: random.Random, number: int) -> bytes:
    """A record that is right, however odd it looks."""
    alphabet = "abc äß漢字🙂\u2028\u0085\x7f\ufeff\u200b\t" + '"\\/'
    text = "".join(draw.choice(alphabet) for _ in range(draw.randrange(1, 60))) + f" {number}"
    extra: dict[str, object] = {
        "n": draw.choice([0, -1.5, 2**63 - 1, None, True, [], {}, [[[1]]], "x" * draw.randrange(50)])
    }
    if draw.random() < 0.1:
        text += "\x00inside"
    record = {"id": f"g{number}", "text": text, **extra}
    return json.dumps(record, ensure_ascii=draw.random() < 0.5).encode()


BAD: dict[str, Callable[[random.Random], bytes]] = {
    "broken UTF-8": lambda d: (
        b'{"id": "b", "text": "' + d.choice([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8x"]) + b'"}'
    ),
    "cut JSON": lambda d: json.dumps({"id": "b", "text": "word " * 9}).encode()[: d.randrange(1, 40)],
    "deep JSON": lambda d: b'{"text": ' + b"[" * d.randrange(1500, 3500),
    "deep closed JSON": lambda d: b'{"text": ' + b"[" * 1800 + b"]" * 1800 + b"}",
    "NUL bytes": lambda d: b"\0" * d.randrange(1, 300),
    "NUL in a string": lambda d: b'{"id": "b", "text": "a\0b"}',
    "huge line": lambda d: b'{"id": "b", "text": "' + b"x" * d.randrange(LIMIT, 4 * LIMIT) + b'"}',
    "lone surrogate": lambda d: b'{"id": "b", "text": "\\ud83d"}',
    "no object": lambda d: d.choice([b"1", b"null", b"[1]", b'"text"', b"true", b"NaN", b"Infinity"]),
    "no text": lambda d: b'{"id": "b"}',
    "text is null": lambda d: b'{"id": "b", "text": null}',
    "text is no string": lambda d: b'{"id": "b", "text": ' + d.choice([b"1", b"[]", b"{}", b"false"]) + b"}",
    "empty text": lambda d: b'{"id": "b", "text": "' + d.choice([b"", b"  ", b"\\n\\t"]) + b'"}',
    "noise": lambda d: bytes(b for b in d.randbytes(d.randrange(20, 400)) if b != 10) + b"}",
    "huge number": lambda d: b'{"id": "b", "text": ' + b"9" * 2000 + b"}",
    "two objects": lambda d: b'{"id": "b", "text": "a"}{"id": "b", "text": "b"}',
}


@dataclass
class Made:
    """A file's bytes, and what is in it."""

    data: bytes
    good: list[tuple[str, str]]
    bad: list[int]
    """Offsets."""
    kinds: Counter[str] = field(default_factory=Counter)


def make_file(draw: random.Random, records: int) -> Made:
    made, lines, offset = Made(b"", [], []), [], 0
    for number in range(records):
        if draw.random() < 0.5:
            line = _good(draw, number)
            record = json.loads(line)
            made.good.append((record["id"], record["text"]))
        else:
            kind = draw.choice(list(BAD))
            made.kinds[kind] += 1
            line = BAD[kind](draw)
            made.bad.append(offset)
        line += draw.choice([b"\n", b"\n", b"\r\n", b"\n\n"])
        lines.append(line)
        offset += len(line)
    made.data = b"".join(lines)
    return made


def _zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(data)
    return bytes(sink.getvalue())


PACK: dict[str | None, Callable[[bytes], bytes]] = {
    None: bytes,
    "gzip": gzip.compress,
    "zstd": _zstd,
    "bz2": bz2.compress,
}


def read(path: Path, compression: str | None, edges: list[int] | None = None) -> tuple[list[tuple[str, str]], list]:
    """(id, text) of all documents, and all rejects; checks that every byte is accounted for."""
    size = path.stat().st_size
    edges = edges or [0, size]
    found: list[tuple[str, str]] = []
    rejects = []
    for begin, end in pairwise(edges):
        piece = InputRange(
            source="s", part=0, uri=str(path), file=path.name, format="jsonl", compression=compression, begin=begin,
            end=end, size_bytes=size, mtime_ns=0, cost_bytes=1,
        )  # fmt: skip
        for batch in read_records(piece, SOURCE, LIMIT):
            found += zip(batch.ids, batch.texts, strict=True)
            rejects += batch.rejects
            rejected = sum(r.size_bytes for r in batch.rejects)
            assert batch.read_bytes == batch.text_bytes + batch.format_bytes + rejected
    return found, rejects


def check_files(folder: Path, files: int, records: int, seed: int) -> Counter[str]:
    """Good records equal those of the clean file, and each bad one is one reject, in every compression."""
    draw, kinds = random.Random(seed), Counter[str]()
    for number in range(files):
        made = make_file(draw, records)
        compression = draw.choice(list(PACK))
        path = folder / f"{number % 4}.jsonl"
        path.write_bytes(PACK[compression](made.data))
        edges = None
        if compression is None:
            edges = [0, *sorted(draw.sample(range(1, len(made.data)), 3)), len(made.data)]
        found, rejects = read(path, compression, edges)
        assert found == made.good, (seed, number)
        assert [r.offset for r in rejects] == made.bad, (seed, number)
        assert all(len(r.excerpt) <= 200 for r in rejects)
        kinds += made.kinds
        kinds["good"] += len(made.good)
    return kinds


def test_bad_records_cost_no_good_one(tmp_path: Path) -> None:
    kinds = check_files(tmp_path, files=24, records=100, seed=1)
    assert set(kinds) == {"good", *BAD}


@pytest.mark.slow
def test_a_hundred_thousand_fuzzed_records_cost_no_good_one(tmp_path: Path, figures: Callable[[str], None]) -> None:
    kinds = check_files(tmp_path, files=500, records=200, seed=2)
    figures(f"{kinds.total() - kinds['good']:,} bad records among {kinds['good']:,} good: {dict(kinds)}")
    assert sum(kinds.values()) == 100_000


def check_truncated(folder: Path, files: int, seed: int) -> Counter[str]:
    """An archive cut anywhere gives a prefix of its records, and says where it ends."""
    draw, outcomes = random.Random(seed), Counter[str]()
    for number in range(files):
        good = [_good(draw, i) for i in range(draw.randrange(1, 80))]
        data, compression = b"\n".join(good) + b"\n", draw.choice(["gzip", "zstd", "bz2"])
        packed = PACK[compression](data)
        broken = bytearray(packed[: draw.randrange(len(packed))])
        if draw.random() < 0.5:  # damaged within
            broken = bytearray(packed)
            for _ in range(draw.randrange(1, 4)):
                broken[draw.randrange(len(broken))] ^= 1 << draw.randrange(8)
        path = folder / f"{number % 4}.jsonl"
        path.write_bytes(bytes(broken))
        found, rejects = read(path, compression)
        clean = [(r["id"], r["text"]) for r in map(json.loads, good)]
        damaged = [r for r in rejects if r.reason == "damaged_file"]
        if len(broken) < len(packed):
            assert found == clean[: len(found)], (seed, number)
            assert len(found) == len(clean) or damaged or not broken, (seed, number)
            assert len(rejects) <= 2
        assert len(damaged) <= 1
        outcomes["cut" if len(broken) < len(packed) else "flipped"] += 1
        outcomes["said to be damaged"] += len(damaged)
    return outcomes


def test_a_damaged_archive_gives_what_stands_before_the_damage(tmp_path: Path) -> None:
    check_truncated(tmp_path, files=150, seed=3)


@pytest.mark.slow
def test_two_thousand_damaged_archives_give_what_stands_before_the_damage(
    tmp_path: Path, figures: Callable[[str], None]
) -> None:
    figures(str(dict(check_truncated(tmp_path, files=2000, seed=4))))


BOMB = """
import resource, sys
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1])))
from test_fuzzed_inputs import read
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found, rejects = read(Path(sys.argv[2]), sys.argv[3])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(found), [r.reason for r in rejects], (after - before) // 1024)
"""


SLOW = pytest.mark.slow


@pytest.mark.parametrize("compression", ["zstd", pytest.param("gzip", marks=SLOW), pytest.param("bz2", marks=SLOW)])
def test_a_bomb_is_one_reject_in_little_memory(tmp_path: Path, compression: str) -> None:
    """A line of 256 MiB from a few kB; fails if it is ever held in memory, or costs the record after it."""
    path = tmp_path / "bomb"
    block, count = b"a" * 2**20, 256
    if compression == "gzip":
        packer = zlib.compressobj(9, wbits=31)
        parts = [packer.compress(block) for _ in range(count)]
        path.write_bytes(b"".join([*parts, packer.compress(b'\n{"id": "g", "text": "after"}\n'), packer.flush()]))
    elif compression == "bz2":
        bz = bz2.BZ2Compressor(1)
        parts = [bz.compress(block) for _ in range(count)]
        path.write_bytes(b"".join([*parts, bz.compress(b'\n{"id": "g", "text": "after"}\n'), bz.flush()]))
    else:
        with pa.CompressedOutputStream(str(path), "zstd") as out:
            for _ in range(count):
                out.write(block)
            out.write(b'\n{"id": "g", "text": "after"}\n')
    assert path.stat().st_size < 2**19
    command = [sys.executable, "-c", BOMB, Path(__file__).parent, path, compression]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    found, reasons, mebibytes = done.stdout.split()
    assert (found, reasons) == ("1", "['too_long']")
    assert int(mebibytes) < 64


PARQUET = """
import random, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_fuzzed_inputs import flip_parquet
print(flip_parquet(Path(sys.argv[2]), int(sys.argv[3])))
"""


def flip_parquet(folder: Path, rounds: int) -> dict[str, int]:
    """Flip bits of a Parquet input and read it; a `ShardmillError` or rows, and nothing else."""
    draw, outcomes = random.Random(5), Counter[str]()
    source = Source(name="s", files=["x"], text="text", id="id")
    table = pa.table({"id": [f"i{n}" for n in range(200)], "text": [f"text {n} ä" * 5 for n in range(200)]})
    pq.write_table(table, folder / "clean.parquet", row_group_size=50, write_page_checksum=True)
    clean, path = (folder / "clean.parquet").read_bytes(), folder / "flipped.parquet"
    for _ in range(rounds):
        data = bytearray(clean)
        if draw.random() < 0.3:
            del data[draw.randrange(len(data)) :]
        else:
            for _ in range(draw.randrange(1, 5)):
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(bytes(data))
        piece = InputRange(
            source="s", part=0, uri=str(path), file="f", format="parquet", compression=None, begin=0, end=4,
            size_bytes=len(data), mtime_ns=0, cost_bytes=1,
        )  # fmt: skip
        try:
            rows = [t for batch in read_records(piece, source, LIMIT) for t in batch.texts]
            outcomes["read whole" if rows == table["text"].to_pylist() else "read differently"] += 1
        except ShardmillError:
            outcomes["refused"] += 1
    return dict(outcomes)


def test_a_damaged_parquet_file_is_refused_in_words(tmp_path: Path) -> None:
    """In a process of its own, so that a crash of the reader is a failure and not the end of the tests."""
    command = [sys.executable, "-c", PARQUET, Path(__file__).parent, tmp_path, "600"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "refused" in done.stdout
    assert "differently" not in done.stdout
