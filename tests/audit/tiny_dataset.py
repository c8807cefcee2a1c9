"""Small valid datasets, built from the objectives and schemas alone, and a way to spoil them.

`make_dataset` builds rows, lets the caller change them, and only then writes shards, index and manifest. So a change
that keeps counts leaves all bookkeeping right, and only the gate of the broken law can see it.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace

from schemas.job import Job
from schemas.keys import document_keys, validation_mask
from schemas.ledger import Entry, Ledger
from schemas.manifest import (
    CutDocument,
    LengthRecord,
    Manifest,
    SourceRecord,
    StageRecord,
    TokenizerRecord,
    Totals,
)
from schemas.objectives import ObjectiveParameters
from schemas.storage import Location, atomic_output
from schemas.tables import SHARDS
from transforms.block_documents import cut_documents
from transforms.materialize import cut_documents_of
from transforms.objectives.base import Documents, Examples
from transforms.objectives.mlm import Mlm
from transforms.objectives.registry import objective_for
from transforms.ragged import Ragged, offsets_of
from transforms.shards import ShardName, bucket_tables, write_shard
from transforms.vocabulary import TRAINED_SPECIAL_TOKENS, Vocabulary, read_vocabulary

SOURCES = {"books": 260, "code": 240}
"""Documents by source."""
STAGES = {"short": [16, 32, 64], "long": [64, 128]}
FINGERPRINT = "f" * 32

Tables = dict[tuple[str, int, int, int], pa.Table]
"""By (split, stage, length, block) the rows of a shard."""


@functools.cache
def tokenizer_bytes() -> bytes:
    specials = list(TRAINED_SPECIAL_TOKENS)
    syllables = [a + b for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "u")]
    words = [x + y for x in syllables for y in syllables[:8]]
    vocab = {t: i for i, t in enumerate([*specials, *words, *(f"##{s}" for s in syllables)])}
    tokenizer = Tokenizer(WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(specials)
    return tokenizer.to_str().encode()


@functools.cache
def tiny_vocabulary() -> Vocabulary:
    return read_vocabulary(tokenizer_bytes())


def make_documents(source: str, vocabulary: Vocabulary, seed: int, count: int, *, pairs: bool = False) -> Documents:
    """Documents of lognormal lengths whose sentences have 1 to some 40 tokens; with `pairs`, their targets too."""
    rng = np.random.default_rng([seed, len(source)])
    lengths = np.clip(rng.lognormal(3.9, 0.9, count), 2, 600).astype(np.int64)

    def text(lengths: np.ndarray) -> Ragged:
        ids = vocabulary.text_ids[rng.integers(0, len(vocabulary.text_ids), lengths.sum())].astype(np.int32)
        ids[rng.random(len(ids)) < 0.01] = vocabulary.special_ids["unk"]
        return Ragged.from_lengths(ids, lengths)

    ids = text(lengths)
    is_end = rng.random(len(ids.flat)) < 0.08
    is_end[ids.offsets[1:] - 1] = True
    at = np.flatnonzero(is_end)
    document = np.searchsorted(ids.offsets, at, side="right") - 1
    return Documents(
        ids=ids,
        keys=document_keys(source, [f"{source}-{i}" for i in range(count)]),
        copy=0,
        sentence_ends=Ragged(
            (at - ids.offsets[document] + 1).astype(np.int32), offsets_of(np.bincount(document, minlength=count))
        ),
        targets=text(np.maximum(1, lengths // 2)) if pairs else None,
    )


def part_of(documents: Documents, rows: np.ndarray, copy: int, objective: ObjectiveParameters) -> Documents:
    """Some of the documents as one pass of a block reads them: with no more than the objective asks for."""
    ends, targets = documents.sentence_ends, documents.targets
    return Documents(
        ids=documents.ids.take(rows),
        keys=documents.keys[rows],
        copy=copy,
        sentence_ends=ends.take(rows) if ends is not None and objective.reads_sentences else None,
        targets=targets.take(rows) if targets is not None and objective.reads_pairs else None,
    )


def cut_at_edge(part: Documents, key: int, stage: int) -> Documents:
    """Of the document of this key, if it is there, a third in stage 0 and the rest in the next."""
    at = part.keys == key
    lengths = part.ids.lengths
    kept = np.maximum(1, lengths // 3)
    return cut_documents(part, np.where(at & (stage > 0), kept, 0), np.where(at & (stage == 0), lengths - kept, 0))


def describe(objective: ObjectiveParameters) -> str:
    """A test's name for it: its kind and what differs from the defaults."""
    return " ".join([objective.kind, *(f"{k}={v}" for k, v in objective.model_dump(exclude_defaults=True).items())])


class Spoiled:
    """What a sabotage may change before the dataset is written."""

    def __init__(self, tables: Tables, vocabulary: Vocabulary) -> None:
        self.tables, self.vocabulary = tables, vocabulary

    def columns(self, key: tuple[str, int, int, int]) -> dict[str, list[Any]]:
        return {name: self.tables[key][name].to_pylist() for name in self.tables[key].column_names}

    def put(self, key: tuple[str, int, int, int], columns: dict[str, list[Any]]) -> None:
        schema = self.tables[key].schema
        arrays = [pa.array(columns[f.name], f.type) for f in schema]
        self.tables[key] = pa.Table.from_arrays(arrays, schema=schema)

    def first(self, split: str = "train") -> tuple[str, int, int, int]:
        return min(k for k in self.tables if k[0] == split)


@dataclass
class Line:
    """A line of the ledger as materialize counts it."""

    read: int = 0
    out: int = 0
    losses: Counter[str] = field(default_factory=Counter)
    gains: Counter[str] = field(default_factory=Counter)

    def add(self, documents: Documents, examples: Examples) -> None:
        self.read += documents.tokens
        self.out += int(examples.doc_lengths.flat.sum())
        self.losses.update(examples.losses)
        self.gains.update(examples.gains)


def make_dataset(
    root: Path,
    objective: ObjectiveParameters | None = None,
    seed: int = 0,
    spoil: Callable[[Spoiled], None] | None = None,
    gates: dict[str, Any] | None = None,
    blocks: int = 2,
    times: int = 1,
) -> Location:
    """Two sources, two stages, two blocks a stage, a second pass over one source, and validation rows.

    With `times`, so many times the documents.
    """
    with patch("os.fsync"):  # a third of the time; these datasets need not survive a crash
        return _make_dataset(root, objective or Mlm(), seed, spoil, gates or {}, blocks, times)


def _make_dataset(
    root: Path,
    objective: ObjectiveParameters,
    seed: int,
    spoil: Callable[[Spoiled], None] | None,
    gates: dict[str, Any],
    blocks: int,
    times: int,
) -> Location:
    data, vocabulary = tokenizer_bytes(), tiny_vocabulary()
    fields = {"input": "in", "target": "out"} if objective.reads_pairs else {}
    job = Job.model_validate(
        {
            "name": "tiny",
            "seed": seed,
            "output": "out/tiny",
            "tokenizer": {"file": "tokenizer.json"},
            "sources": [{"name": n, "files": [f"{n}.jsonl"], **fields} for n in SOURCES],
            "splits": {"validation": 0.1},
            "objective": objective.model_dump(),
            "curriculum": [{"stage": n, "lengths": lengths} for n, lengths in STAGES.items()],
            "gates": gates,
        }
    )
    maker = objective_for(objective, vocabulary)
    parts: dict[tuple[str, int, int], list[pa.Table]] = defaultdict(list)
    lines: dict[tuple[str, int, str], Line] = defaultdict(Line)
    cuts: list[CutDocument] = []
    available: dict[str, tuple[int, int]] = {}
    for source, count in SOURCES.items():
        documents = make_documents(source, vocabulary, seed, count * times, pairs=objective.reads_pairs)
        held_out = validation_mask(documents.keys, job.splits.validation)
        train, rest = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        available[source] = (part_of(documents, train, 0, objective).tokens, len(train))
        half = len(train) // 2
        # The edge of the stages runs through a document, which is in both of them.
        pieces = [("train", 0, train[: half + (not objective.reads_pairs)], 0), ("train", 1, train[half:], 0)]
        pieces += [("train", 1, train[:half], 1)] * (source == "code")
        pieces += [("validation", stage, rest, 0) for stage in range(len(STAGES))]
        for split, stage, chosen, copy in pieces:
            for block, rows in enumerate(np.array_split(chosen, blocks)):
                part = part_of(documents, rows, copy, objective)
                if split == "train" and copy == 0 and not objective.reads_pairs:
                    part = cut_at_edge(part, documents.keys[train[half]], stage)
                    cuts += cut_documents_of(source, stage, part)
                examples = maker.build(part, lengths=list(STAGES.values())[stage], seed=seed)
                lines[(split, stage, source)].add(part, examples)
                parts[(split, stage, block)].append(examples.to_table(maker.columns, source))
    tables: Tables = {}
    for (split, stage, block), found in parts.items():
        table = pa.concat_tables(found).unify_dictionaries().combine_chunks()
        for length, rows in bucket_tables(table, list(STAGES.values())[stage], seed):
            tables[(split, stage, length, block)] = rows
    if spoil is not None:
        spoil(Spoiled(tables, vocabulary))
    dataset = Location.of(root)
    rows = [
        {**write_shard(dataset, ShardName(split=s, stage=k, length=n, shard=b), table, FINGERPRINT), "block": b}
        for (s, k, n, b), table in sorted(tables.items())
    ]
    write_rest(dataset, job, objective, data, vocabulary, rows, lines, available, cuts)
    return dataset


def write_rest(
    dataset: Location,
    job: Job,
    objective: ObjectiveParameters,
    data: bytes,
    vocabulary: Vocabulary,
    rows: list[dict[str, Any]],
    lines: dict[tuple[str, int, str], Line],
    available: dict[str, tuple[int, int]],
    cuts: list[CutDocument],
) -> None:
    """Index, tokenizer and manifest of these shards."""
    planned = Counter({key: line.read for key, line in lines.items()})
    write_index(dataset, rows)
    (dataset / "tokenizer.json").write_bytes(data)
    realised: Counter[tuple[str, int, str]] = Counter()
    for row in rows:
        for source, tokens in row["source_tokens"]:
            realised[(row["split"], row["stage"], source)] += tokens
    lengths: Counter[tuple[str, int, int, str]] = Counter()
    for row in rows:
        for figure in ("rows", "tokens"):
            lengths[(row["split"], row["stage"], row["length"], figure)] += row[figure]
    manifest = Manifest(
        name=job.name,
        fingerprint=FINGERPRINT,
        plan_fingerprint="a" * 32,
        shardmill_version="0",
        job=job.canonical(),
        tokenizer=TokenizerRecord(
            sha256=hashlib.sha256(data).hexdigest(),
            vocab_size=vocabulary.size,
            special_ids=vocabulary.special_ids,
            special_token_ids=vocabulary.special_token_ids,
            sentinel_ids=vocabulary.sentinel_ids.tolist(),
        ),
        objective={**objective.model_dump(), "resolved": []},
        sources=[
            SourceRecord(
                name=name,
                weight=0.5,
                available_tokens=tokens,
                available_documents=documents,
                planned_tokens=sum(planned[("train", k, name)] for k in range(len(STAGES))),
                realised_tokens=sum(realised[("train", k, name)] for k in range(len(STAGES))),
                epochs=sum(realised[("train", k, name)] for k in range(len(STAGES))) / tokens,
                validation_tokens=realised[("validation", 0, name)],
                validation_documents=1,
                content_sha256="0" * 64,
            )
            for name, (tokens, documents) in available.items()
        ],
        stages=[
            StageRecord(
                stage=k,
                name=name,
                lengths=STAGES[name],
                planned_tokens=sum(planned[("train", k, s)] for s in SOURCES),
                realised_tokens=sum(realised[("train", k, s)] for s in SOURCES),
                sources={
                    s: {
                        "planned_tokens": planned[("train", k, s)],
                        "realised_tokens": realised[("train", k, s)],
                    }
                    for s in SOURCES
                },
            )
            for k, name in enumerate(STAGES)
        ],
        lengths=[
            LengthRecord(
                split=s,
                stage=k,
                length=n,
                rows=lengths[(s, k, n, "rows")],
                tokens=lengths[(s, k, n, "tokens")],
                padding=1 - lengths[(s, k, n, "tokens")] / (lengths[(s, k, n, "rows")] * n),
            )
            for s, k, n in sorted({key[:3] for key in lengths})
        ],
        cuts=cuts,
        inputs=[],
        ledger=Ledger(
            entries=[
                *(
                    Entry(unit="records", step="read", source=s, read=n + 3, out=n, losses={"bad_json": 3})
                    for s, n in SOURCES.items()
                ),
                *(
                    Entry(
                        unit="tokens",
                        step="materialize",
                        source=s,
                        split=split,
                        stage=k,
                        read=line.read,
                        out=line.out,
                        losses=dict(line.losses),
                        gains=dict(line.gains),
                    )
                    for (split, k, s), line in sorted(lines.items(), key=lambda item: item[0])
                ),
            ]
        ),
        totals=Totals(
            **{f: sum(r[f] for r in rows) for f in ("rows", "tokens", "corpus_tokens", "bytes")}, shards=len(rows)
        ),
    )
    (dataset / "manifest.json").write_bytes(manifest.to_json())


def write_index(dataset: Location, rows: list[dict[str, Any]]) -> None:
    with atomic_output(dataset / "shards.parquet") as sink:
        pq.write_table(pa.Table.from_pylist(rows, schema=SHARDS), pa.PythonFile(sink, mode="w"))
