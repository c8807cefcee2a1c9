"""Job files and datasets nobody vouches for: every command ends with words and an exit code, never a traceback."""

from __future__ import annotations

import ast
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from small_jobs import Shardmill, job_for, write_job
from tiny_dataset import make_dataset

from pipelines.cli import main
from schemas.errors import DataError
from schemas.manifest import read_shards
from schemas.storage import Location
from schemas.tables import SHARDS
from transforms.objectives.mlm import Mlm

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).parent.parent.parent

JUNK: list[Any] = [
    None, True, -1, 0, 2**70, 1e308, -1e-9, "", "x" * 5000, "\0", "../../../etc/passwd", "/etc/passwd", [], [[]], {},
    {"a": {"b": []}}, "1e999", "🙂", "s3://", "gs://user:pass@x/y", "*", "[", "NaN", [None], "train", 10**9,
]  # fmt: skip


def mutate(draw: random.Random, node: Any) -> Any:
    """The same document with one to three of its values, keys or items replaced, doubled or gone."""
    node = json.loads(json.dumps(node))
    for _ in range(draw.randrange(1, 4)):
        places: list[tuple[Any, Any]] = []
        stack = [node]
        while stack:
            found = stack.pop()
            keys = list(found) if isinstance(found, dict) else range(len(found)) if isinstance(found, list) else ()
            places += [(found, key) for key in keys]
            stack += [found[key] for key in keys]
        if not places:
            return draw.choice(JUNK)
        parent, key = draw.choice(places)
        action = draw.randrange(4)
        if action == 0:
            del parent[key]
        elif action == 1 and isinstance(parent, dict):
            parent[f"{key}x"] = parent.pop(key)
        elif action == 2 and isinstance(parent, list):
            parent.append(parent[key])
        else:
            parent[key] = draw.choice(JUNK)
    return node


def spoil(draw: random.Random, data: bytes) -> bytes:
    """The same bytes, cut, flipped, or with noise put in."""
    spoiled = bytearray(data)
    action = draw.randrange(3)
    at = draw.randrange(max(1, len(spoiled)))
    if action == 0:
        del spoiled[at:]
    elif action == 1:
        for _ in range(draw.randrange(1, 9)):
            spoiled[draw.randrange(len(spoiled))] ^= 1 << draw.randrange(8)
    else:
        spoiled[at:at] = draw.randbytes(draw.randrange(1, 50))
    return bytes(spoiled)


def run(capture: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str]:
    """Exit code and everything shown; fails on a traceback or on an error that nobody foresaw."""
    capture.readouterr()
    code = main([str(a) for a in args])
    shown = capture.readouterr()
    text = shown.out + shown.err
    assert code in (0, 1, 2)
    assert "Traceback" not in text
    assert "failed unexpectedly" not in text, text
    return code, text


def fuzz_jobs(
    folder: Path, corpus: Path, capture: pytest.CaptureFixture[str], rounds: int, seed: int
) -> Counter[int]:
    draw, codes, path = random.Random(seed), Counter[int](), folder / "fuzzed.yaml"
    good = job_for(corpus)
    for number in range(rounds):
        if draw.random() < 0.7:
            path.write_text(yaml.safe_dump(mutate(draw, good)))
        else:
            path.write_bytes(spoil(draw, yaml.safe_dump(good).encode()))
        try:
            codes[run(capture, "plan", path, "--json")[0]] += 1
        except AssertionError as error:
            raise AssertionError(f"round {number} of seed {seed}: {path.read_bytes()!r}") from error
    return codes


def test_a_fuzzed_job_file_is_answered_in_words(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = fuzz_jobs(tmp_path, corpus, capsys, rounds=150, seed=1)
    assert codes[2] > 20


@pytest.mark.slow
def test_fifteen_hundred_fuzzed_job_files_are_answered_in_words(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str], figures: Callable[[str], None]
) -> None:
    figures(f"exit codes {dict(fuzz_jobs(tmp_path, corpus, capsys, rounds=1500, seed=2))}")


def fuzz_dataset(folder: Path, capture: pytest.CaptureFixture[str], rounds: int, seed: int) -> Counter[str]:
    draw, outcomes = random.Random(seed), Counter[str]()
    clean = Path(make_dataset(folder / "clean", Mlm()).uri)
    for number in range(rounds):
        out = folder / "fuzzed"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(clean, out)
        name = draw.choice(
            ["manifest.json", "manifest.json", "shards.parquet", "shards.parquet", "shard", "tokenizer.json"]
        )
        path = draw.choice(sorted(out.glob("data/**/*.parquet"))) if name == "shard" else out / name
        if name == "manifest.json" and draw.random() < 0.8:
            path.write_text(json.dumps(mutate(draw, json.loads(path.read_text()))))
        elif name == "shards.parquet" and draw.random() < 0.7:
            rows = mutate(draw, pq.read_table(path).to_pylist())
            try:
                pq.write_table(pa.Table.from_pylist(rows, schema=SHARDS), path)
            except (pa.ArrowException, TypeError, AttributeError, OverflowError, ValueError):
                continue  # not a table at all
        else:
            path.write_bytes(spoil(draw, path.read_bytes()))
        saved = path.read_bytes()
        for command in ("verify", "show", "audit"):
            try:
                code, _ = run(capture, command, out)
            except AssertionError as error:
                raise AssertionError(f"round {number} of seed {seed}, {command}, {name}: {saved[:3000]!r}") from error
            outcomes[f"{command} {code}"] += 1
    return outcomes


def test_a_fuzzed_dataset_is_answered_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = fuzz_dataset(tmp_path, capsys, rounds=12, seed=1)
    assert outcomes["verify 1"] > 3


@pytest.mark.slow
def test_two_hundred_fuzzed_datasets_are_answered_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], figures: Callable[[str], None]
) -> None:
    figures(f"exit codes {dict(fuzz_dataset(tmp_path, capsys, rounds=200, seed=2))}")


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "/etc/passwd",
        "data/../../x",
        "s3://bucket/x",
        "data//x",
        "",
        ".",
        "data/\0",
        "data\\..\\x",
        None,
        "./x",
        "data/split=train/stage=0/length=8/../../../../../x.parquet",
    ],
)
def test_an_index_cannot_name_a_path_outside_the_dataset(tmp_path: Path, path: str | None) -> None:
    dataset = make_dataset(tmp_path, Mlm())
    rows = pq.read_table(f"{dataset.uri}/shards.parquet").to_pylist()
    rows[0]["path"] = path
    schema = pa.schema([f.with_nullable(True) for f in SHARDS])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), f"{dataset.uri}/shards.parquet")
    with pytest.raises(DataError):
        read_shards(dataset)


def test_nothing_that_is_read_is_unpickled_or_evaluated() -> None:
    """Fails if a dataset, a job file or a checkpoint of a stranger could run code."""
    banned = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "jsonpickle"}
    for package in ("schemas", "transforms", "pipelines", "trainer"):
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text())
            # torch writes the index of a checkpoint as a pickle.
            is_index = path == ROOT / "trainer" / "checkpoint_files.py" and _only_names_classes(tree)
            allowed = {"pickle"} if is_index else set()
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    assert not {a.name.split(".")[0] for a in node.names} & (banned - allowed), path
                elif isinstance(node, ast.ImportFrom):
                    assert (node.module or "").split(".")[0] not in banned, path
                elif isinstance(node, ast.Call):
                    _check_call(node, path)


def _only_names_classes(tree: ast.Module) -> bool:
    """True if all use of pickle is an unpickler that decides itself which classes may be named."""
    found = [
        c for c in ast.walk(tree) if isinstance(c, ast.ClassDef) and "pickle.Unpickler" in map(ast.unparse, c.bases)
    ]
    uses = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "pickle"}
    restricted = all(any(getattr(f, "name", "") == "find_class" for f in c.body) for c in found)
    return restricted and uses <= {"Unpickler", "UnpicklingError"}


def _check_call(node: ast.Call, path: Path) -> None:
    name, keywords = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
    where = f"{path}:{node.lineno}"
    assert name not in ("eval", "exec"), where
    assert keywords.get("allow_pickle", "False") == "False", where
    if name in ("torch.load", "load_checkpoint"):
        assert keywords.get("weights_only") == "True", where
    if name == "yaml.load":
        assert [ast.unparse(a) for a in node.args[1:]] == ["_Loader"], where  # a SafeLoader


def test_a_job_file_over_fuzzed_inputs_keeps_the_good_records(corpus: Path, shardmill: Shardmill) -> None:
    """From the files to `rejects/`: the documents of the clean corpus, and a row for each bad record."""
    clean = write_job(corpus.parent, job_for(corpus, output="clean"), "clean.yaml")
    shardmill("prepare", clean, "--direct_num_workers=1")
    lines = (corpus / "web-0.jsonl").read_bytes().splitlines(keepends=True)
    bad = [
        b"\xff\xfe\n",
        b'{"id": 1\n',
        b"[" * 3000 + b"\n",
        b"\0\0\n",
        b'{"id": "x", "text": "' + b"y" * 5000 + b'"}\n',
    ]
    mixed = [piece for i, line in enumerate(lines) for piece in (line, bad[i % len(bad)])]
    (corpus / "web-0.jsonl").write_bytes(b"".join(mixed))
    limits = {"range_bytes": 20_000, "block_tokens": 10_000, "max_record_bytes": 4096, "max_reject_share": 0.5}
    # The same tokenizer: what one is trained on moves with the bytes of the files.
    changed = job_for(corpus, output="fuzzed", limits=limits, tokenizer={"file": "clean/tokenizer.json"})
    fuzzed = write_job(corpus.parent, changed, "fuzzed.yaml")
    shardmill("prepare", fuzzed, "--direct_num_workers=1")

    def documents(out: str) -> set[tuple[str, tuple[int, ...]]]:
        found = set()
        for path in (corpus.parent / out / "tokens").glob("web/split=*/*.parquet"):
            for row in pq.ParquetFile(path).read(["doc_id", "ids"]).to_pylist():
                found.add((row["doc_id"], tuple(row["ids"])))
        return found

    assert documents("fuzzed") == documents("clean")
    rejects = [
        row
        for path in (corpus.parent / "fuzzed" / "rejects" / "web").glob("*.parquet")
        for row in pq.ParquetFile(path).read().to_pylist()
    ]
    assert len(rejects) == len(lines)
    assert {r["reason"] for r in rejects} == {"invalid_utf8", "invalid_json", "too_long"}
    shardmill("audit", corpus.parent / "fuzzed")
    assert read_shards(Location.of(corpus.parent / "fuzzed")).num_rows
