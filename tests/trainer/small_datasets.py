"""A builder of small, valid datasets straight from `schemas`, so that these tests need no pipeline."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from schemas.ledger import Ledger
from schemas.manifest import Manifest, SourceRecord, TokenizerRecord, Totals
from schemas.tables import FINGERPRINT_KEY, MASKS, SHARDS, TARGET, Column, example_schema, parquet_options

FINGERPRINT = "0123456789abcdef" * 2
SPECIAL_IDS = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4, "bos": 5, "eos": 6}
FIRST_TEXT_ID = 7


@dataclass(frozen=True, kw_only=True)
class ShardSpec:
    """One shard to write."""

    stage: int
    length: int
    rows: int
    split: str = "train"
    row_group_rows: int = 4


# Two stages, three lengths, several shards, short last row groups, one bucket of a single row.
SPECS = (
    ShardSpec(stage=0, length=8, rows=11),
    ShardSpec(stage=0, length=8, rows=9),
    ShardSpec(stage=0, length=16, rows=10),
    ShardSpec(stage=1, length=16, rows=23),
    ShardSpec(stage=1, length=32, rows=1),
    ShardSpec(stage=0, length=16, rows=6, split="validation"),
    ShardSpec(stage=0, length=32, rows=3, split="validation"),
)

MASKED = ("mlm", "replaced_token", "sentence_pair")
TARGETED = ("span_corruption", "ul2", "infilling", "seq2seq")
COLUMNS = {
    "mlm": MASKS,
    "replaced_token": MASKS,
    "sentence_pair": (
        *MASKS,
        Column("segment_a_length", pa.int32(), ""),
        Column("is_next", pa.bool_(), ""),
    ),
    "prefix_lm": (Column("prefix_length", pa.int32(), ""),),
    **dict.fromkeys(TARGETED, TARGET),
    "ul2": (*TARGET, Column("denoiser", pa.dictionary(pa.int32(), pa.string()), "")),
}

Tokens = Callable[[np.random.Generator, int], np.ndarray]


def uniform_tokens(vocab_size: int) -> Tokens:
    return lambda rng, n: rng.integers(FIRST_TEXT_ID, vocab_size, n)


def write_dataset(
    root: Path,
    *,
    objective: str = "causal",
    specs: tuple[ShardSpec, ...] = SPECS,
    vocab_size: int = 1000,
    tokens: Tokens | None = None,
    seed: int = 0,
    full_rows: bool = False,
    name: str = "tiny",
    special_ids: dict[str, int] | None = None,
) -> Path:
    """Write a dataset. Row r of the whole dataset begins with the id `FIRST_TEXT_ID + r`, which names it."""
    rng = np.random.default_rng(seed)
    tokens = tokens or uniform_tokens(vocab_size)
    index: list[dict[str, Any]] = []
    row = 0
    for number, spec in enumerate(specs):
        lengths = rng.integers(spec.length // 2 + 1, spec.length + 1, spec.rows)
        if full_rows:
            lengths[:] = spec.length
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        ids = tokens(rng, int(offsets[-1])).astype(np.int32)
        names = FIRST_TEXT_ID + row + np.arange(spec.rows)
        if names[-1] < vocab_size:
            ids[offsets[:-1]] = names
        ones = np.arange(spec.rows + 1, dtype=np.int32)
        columns: dict[str, Any] = {
            "length": pa.array(lengths.astype(np.int32)),
            "source": pa.array(["books", "web"] * spec.rows)[: spec.rows].dictionary_encode(),
            "doc_keys": pa.ListArray.from_arrays(ones, pa.array((row + ones[:-1]).astype(np.uint64))),
            "doc_offsets": pa.ListArray.from_arrays(ones, pa.array(np.zeros(spec.rows, np.int64))),
            "doc_lengths": pa.ListArray.from_arrays(ones, pa.array(lengths.astype(np.int32))),
            "copy": pa.array(np.zeros(spec.rows, np.int32)),
        }
        if objective in MASKED:
            masked = rng.random(len(ids)) < 0.15
            masked[offsets[:-1]] = False
            masked[offsets[1:] - 1] = True
            counts = np.add.reduceat(masked.astype(np.int32), offsets[:-1])
            ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
            (at,) = np.nonzero(masked)
            positions = (at - np.repeat(offsets[:-1], counts)).astype(np.int32)
            columns["mask_positions"] = pa.ListArray.from_arrays(ends, pa.array(positions))
            columns["mask_labels"] = pa.ListArray.from_arrays(ends, pa.array(ids[at]))
            ids = np.where(masked, SPECIAL_IDS["mask"], ids).astype(np.int32)
        if objective == "sentence_pair":
            columns["segment_a_length"] = pa.array(np.maximum(1, lengths // 3).astype(np.int32))
            columns["is_next"] = pa.array(rng.random(spec.rows) < 0.5)
        if objective == "prefix_lm":
            columns["prefix_length"] = pa.array(rng.integers(1, lengths).astype(np.int32))
        if objective in TARGETED:
            counts = np.maximum(2, lengths // 2)
            ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
            columns["target_ids"] = pa.ListArray.from_arrays(ends, pa.array(tokens(rng, ends[-1]).astype(np.int32)))
        if objective == "ul2":
            columns["denoiser"] = pa.array(["r1", "s1"] * spec.rows)[: spec.rows].dictionary_encode()
        columns["input_ids"] = pa.ListArray.from_arrays(offsets, pa.array(ids))
        schema = example_schema(COLUMNS.get(objective, ()))
        table = pa.table([columns[n].cast(schema.field(n).type) for n in schema.names], schema=schema)
        table = table.replace_schema_metadata({FINGERPRINT_KEY: FINGERPRINT})
        path = f"data/split={spec.split}/stage={spec.stage}/length={spec.length}/{number:05d}.parquet"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, root / path, row_group_size=spec.row_group_rows, **parquet_options(schema))
        data = (root / path).read_bytes()
        index.append(
            {
                "path": path,
                "split": spec.split,
                "stage": spec.stage,
                "length": spec.length,
                "block": number,
                "rows": spec.rows,
                "row_group_rows": spec.row_group_rows,
                "tokens": int(lengths.sum()),
                "corpus_tokens": int(lengths.sum()),
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "source_tokens": [("books", int(lengths.sum()))],
            }
        )
        row += spec.rows
    pq.write_table(pa.Table.from_pylist(index, schema=SHARDS), root / "shards.parquet")
    total = sum(r["tokens"] for r in index)
    vocabulary = {f"[{role.upper()}]": i for role, i in SPECIAL_IDS.items()}
    vocabulary |= {f"w{i}": i for i in range(len(vocabulary), vocab_size)}
    Tokenizer(WordLevel(vocabulary, unk_token="[UNK]")).save(str(root / "tokenizer.json"))
    manifest = Manifest(
        name=name,
        fingerprint=FINGERPRINT,
        plan_fingerprint=FINGERPRINT,
        shardmill_version="0",
        job={},
        tokenizer=TokenizerRecord(
            sha256=hashlib.sha256((root / "tokenizer.json").read_bytes()).hexdigest(),
            vocab_size=vocab_size,
            special_ids=SPECIAL_IDS if special_ids is None else special_ids,
            special_token_ids=list(range(FIRST_TEXT_ID)),
        ),
        objective={"kind": objective, **({"resolved": _resolved(specs)} if objective in TARGETED else {})},
        sources=[_source(name, total) for name in ("books", "web")],
        stages=[],
        lengths=[],
        inputs=[],
        ledger=Ledger(entries=[]),
        totals=Totals(rows=row, tokens=total, corpus_tokens=total, shards=len(index), bytes=0),
    )
    (root / "manifest.json").write_bytes(manifest.to_json())
    return root


def _resolved(specs: tuple[ShardSpec, ...]) -> list[dict[str, int]]:
    return [{"length": n, "target_length": max(2, n // 2)} for n in sorted({s.length for s in specs})]


def _source(name: str, tokens: int) -> SourceRecord:
    return SourceRecord(
        name=name,
        weight=0.5,
        available_tokens=tokens,
        available_documents=1,
        planned_tokens=tokens,
        realised_tokens=tokens,
        epochs=1.0,
        validation_tokens=0,
        validation_documents=0,
        content_sha256="",
    )


def example_names(batch: dict[str, torch.Tensor]) -> list[int]:
    """First ids of a batch's examples, padding rows left out; they name the rows of a dataset."""
    return batch["input_ids"][batch["row_weight"] > 0, 0].tolist()


def train_names(specs: tuple[ShardSpec, ...] = SPECS) -> list[int]:
    """Names of all rows of the train split, which `SPECS` puts first."""
    rows = sum(s.rows for s in specs if s.split == "train")
    return [FIRST_TEXT_ID + row for row in range(rows)]
