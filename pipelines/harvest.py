"""Real text that every Python installation carries, written as corpora in four formats, for `quickstart`.

Nothing is downloaded: the standard library's source, its docstrings, pydoc's topics and the descriptions of the
installed packages. What is found is sorted and bounded, so the same installation gives the same files.
"""

from __future__ import annotations

import ast
import gzip
import importlib.metadata
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.keys import text_key
from schemas.storage import Location, atomic_output

_CODE_BYTES = 6_000_000
_DOCSTRING_BYTES = 3_000_000
_SKIPPED = {"test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3", "__pycache__", "pydoc_data"}

CORPORA = ("code.jsonl.gz", "docstrings.parquet", "topics.txt", "packages.jsonl")
"""Files that `harvest` writes, one a source."""


def harvest(folder: Location) -> dict[str, int]:
    """Write the corpora that are not there yet.

    Args:
      folder: where to.

    Returns:
      Documents by file name, for every file of `CORPORA` that holds any.
    """
    found = {}
    modules = _modules()
    for name, write in (
        ("code.jsonl.gz", _write_code),
        ("docstrings.parquet", _write_docstrings),
        ("topics.txt", _write_topics),
        ("packages.jsonl", _write_packages),
    ):
        count = write(folder / name, modules)
        if count:
            found[name] = count
    return found


def _modules() -> list[tuple[str, str]]:
    """(path within the library, source) of the standard library's modules, in a shuffled but fixed order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = [p for p in root.rglob("*.py") if not _SKIPPED & set(p.relative_to(root).parts[:-1])]
    names = sorted((p.relative_to(root).as_posix() for p in paths), key=lambda name: text_key("quickstart", name))
    modules = []
    for name in names:
        text = (root / name).read_bytes().decode("utf-8", "replace")
        if text.strip() and "\ufffd" not in text:
            modules.append((name, text))
    return modules


def _write_code(place: Location, modules: list[tuple[str, str]]) -> int:
    rows, size = [], 0
    for name, text in modules:
        if size + len(text) > _CODE_BYTES:
            continue
        rows.append(orjson.dumps({"path": name, "content": text}))
        size += len(text)
    if rows:
        with atomic_output(place) as sink, gzip.GzipFile(fileobj=sink, mode="wb", mtime=0) as packed:
            packed.write(b"\n".join(rows) + b"\n")
    return len(rows)


def _write_docstrings(place: Location, modules: list[tuple[str, str]]) -> int:
    ids: list[str] = []
    texts: list[str] = []
    size = 0
    for name, text in modules:
        if size >= _DOCSTRING_BYTES:
            break
        for path, docstring in _docstrings(text):
            ids.append(f"{name}:{path}")
            texts.append(docstring)
            size += len(docstring)
    if ids:
        with atomic_output(place) as sink:
            pq.write_table(pa.table({"id": ids, "text": texts}), pa.PythonFile(sink, mode="w"), row_group_size=2000)
    return len(ids)


def _docstrings(source: str) -> Iterator[tuple[str, str]]:
    """(dotted path, docstring) of a module and everything in it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in somebody else's strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return  # a template or a fixture that is no module
    stack: list[tuple[str, ast.AST]] = [("", tree)]
    while stack:
        path, node = stack.pop()
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node)
            if docstring and len(docstring) > 40:
                yield path or "module", docstring
        stack += [
            (f"{path}.{child.name}" if path else child.name, child)
            for child in ast.iter_child_nodes(node)
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        ]


def _write_topics(place: Location, _: list[tuple[str, str]]) -> int:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return 0  # some distributions leave the topics out
    # A blank line ends a document of a .txt corpus, so a topic must not hold one.
    documents = ["\n".join(line for line in text.splitlines() if line.strip()) for _, text in sorted(topics.items())]
    documents = [d for d in documents if d]
    if documents:
        place.write_bytes(("\n\n".join(documents) + "\n").encode())
    return len(documents)


def _write_packages(place: Location, _: list[tuple[str, str]]) -> int:
    described = {}
    for package in importlib.metadata.distributions():
        metadata: Any = package.metadata
        text = metadata.get_payload() or metadata["Description"]
        name = metadata["Name"]
        if name and isinstance(text, str) and len(text.strip()) > 200:
            described[name] = text.encode("utf-8", "replace").decode()
    rows = [orjson.dumps({"id": name, "text": text}) for name, text in sorted(described.items())]
    if rows:
        place.write_bytes(b"\n".join(rows) + b"\n")
    return len(rows)
