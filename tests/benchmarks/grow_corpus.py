"""Repeats a corpus with its documents shuffled, until it has so many megabytes of text.

    python tests/benchmarks/grow_corpus.py CORPUS OUT --megabytes 300

Every source becomes one file of the same name in OUT: Parquet stays Parquet, text stays text, JSON Lines stay what
they are but are not compressed, since a compressed file is one range and so one worker's.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq


def read_documents(file: Path) -> list[str]:
    """The texts of a file of the corpus."""
    if file.suffix == ".parquet":
        return pq.read_table(file, columns=["text"])["text"].to_pylist()
    with pa.input_stream(str(file), compression="detect") as stream:
        data = stream.read()
    if ".txt" in file.suffixes:
        return [t for t in data.decode().split("\n\n") if t.strip()]
    rows = map(orjson.loads, data.splitlines())
    return [row.get("text") or row["content"] for row in rows]


def write_documents(texts: list[str], name: str, kind: str, out: Path) -> None:
    """Write a source's file."""
    if kind == "parquet":
        ids = [str(i) for i in range(len(texts))]
        pq.write_table(pa.table({"id": ids, "text": texts}), out / f"{name}.parquet", row_group_size=512)
    elif kind == "txt":
        (out / f"{name}.txt").write_text("\n\n".join(texts))
    else:
        with open(out / f"{name}.jsonl", "wb") as file:
            file.writelines(orjson.dumps({"text": text}) + b"\n" for text in texts)


def grow(corpus: Path, out: Path, megabytes: int) -> None:
    """Write the larger corpus; each pass over a source in an order of its own."""
    files = [p for p in sorted(corpus.iterdir()) if {".jsonl", ".parquet", ".txt"} & set(p.suffixes)]
    sources = {p: read_documents(p) for p in files}
    size = sum(len(text.encode()) for texts in sources.values() for text in texts)
    passes = -(-megabytes * 10**6 // size)
    rng = random.Random(1)
    out.mkdir(parents=True, exist_ok=True)
    for file, texts in sources.items():
        kind = next(s[1:] for s in file.suffixes if s in (".jsonl", ".parquet", ".txt"))
        repeated = [text for _ in range(passes) for text in rng.sample(texts, len(texts))]
        write_documents(repeated, file.name.split(".")[0], kind, out)
    print(f"{size * passes / 1e6:.0f} MB of text in {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--megabytes", type=int, default=300)
    options = parser.parse_args()
    grow(options.corpus.resolve(), options.out, options.megabytes)
