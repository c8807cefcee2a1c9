"""Turns one block of the plan into shards: read its chunks, build examples, bucket, shuffle, write, commit.

`materialize_block` is a pure function of (plan, token store, options) but for the files it writes. The Beam side
only deals out block numbers.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from pydantic import Field, ValidationError

from schemas.base import Frozen
from schemas.errors import DataError
from schemas.job import Job
from schemas.manifest import CutDocument
from schemas.plan import read_block
from schemas.storage import Location
from schemas.store import PartSidecar, Split, sidecar_location
from transforms.block_documents import read_documents
from transforms.memory import keep_freed_memory
from transforms.objectives.base import Documents
from transforms.objectives.registry import objective_for
from transforms.planner import block_fingerprint
from transforms.shards import ShardName, bucket_tables, write_shard
from transforms.vocabulary import Vocabulary, read_vocabulary


@dataclass(frozen=True, kw_only=True)
class MaterializeOptions:
    """What, beside the plan and the store, a block's shards depend on."""

    job: Job
    store: str
    dataset: str
    fingerprint: str
    """Of the dataset."""
    tokenizer_sha256: str
    lengths: tuple[tuple[int, ...], ...]
    """Length buckets of each stage."""


class SourceTokens(Frozen):
    """A ledger line of a block: corpus tokens of one source."""

    source: str
    documents: int
    read: int
    out: int
    losses: dict[str, int]
    gains: dict[str, int] = Field(default_factory=dict)


class BlockCommit(Frozen):
    """`_commits/SPLIT-STAGE-SHARD.json`: written after the block's shards, says what they hold."""

    fingerprint: str
    shards: list[dict[str, Any]]
    tokens: list[SourceTokens]
    cuts: list[CutDocument] = Field(default_factory=list)


def commit_location(dataset: Location, split: str, stage: int, shard: int) -> Location:
    """Where a block's commit is."""
    return dataset / "_commits" / f"{split}-{stage}-{shard:05d}.json"


def finished_block(dataset: Location, split: str, stage: int, shard: int, fingerprint: str) -> BlockCommit | None:
    """The commit of a block that is done and still matches; None if there is work to do."""
    try:
        commit = BlockCommit.model_validate_json(commit_location(dataset, split, stage, shard).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None  # never done, or a commit of another version
    if commit.fingerprint != fingerprint:
        return None
    for written in commit.shards:
        info = (dataset / str(written["path"])).info()
        if info is None or info.size_bytes != written["bytes"]:
            return None
    return commit


def materialize_block(block: int, options: MaterializeOptions) -> None:
    """Write the shards of one block and commit them, unless that is done already.

    Raises:
      DataError: the token store is damaged.
      RequestError: the dataset cannot be written.
    """
    keep_freed_memory()
    store, dataset = Location(options.store), Location(options.dataset)
    plan = read_block(dataset / "plan.parquet", block)
    split, stage, shard, slices = plan["split"], plan["stage"], plan["shard"], plan["slices"]
    lengths = options.lengths[stage]
    parts = sorted(set(zip(slices["source"].to_pylist(), slices["part"].to_pylist(), strict=True)))
    digests = {(s, p): _part_sha256(store, s, split, p) for s, p in parts}
    wanted = block_fingerprint(options.fingerprint, lengths, slices, digests)
    if finished_block(dataset, split, stage, shard, wanted):
        return
    place = commit_location(dataset, split, stage, shard)
    place.remove()  # a stale commit must not vouch for shards that are being replaced
    objective = objective_for(options.job.objective, _vocabulary(options))
    tables, tokens, cuts = [], [], []
    for source, documents in read_documents(store, split, slices, options.job):
        examples = objective.build(documents, lengths=lengths, seed=options.job.seed)
        tables.append(examples.to_table(objective.columns, source))
        tokens.append(
            SourceTokens(
                source=source,
                documents=len(documents),
                read=documents.tokens,
                out=int(examples.doc_lengths.flat.sum()),
                losses=examples.losses,
                gains=examples.gains,
            )
        )
        cuts += cut_documents_of(source, stage, documents)
    shards = []
    if tables:
        table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
        for length, rows in bucket_tables(table, lengths, options.job.seed):
            name = ShardName(split=split, stage=stage, length=length, shard=shard)
            shards.append(write_shard(dataset, name, rows, options.fingerprint))
    commit = BlockCommit(fingerprint=wanted, shards=shards, tokens=tokens, cuts=cuts)
    place.write_bytes(orjson.dumps(commit.model_dump()))


def cut_documents_of(source: str, stage: int, documents: Documents) -> list[CutDocument]:
    """Which of a stage's documents its end runs through."""
    cut = np.flatnonzero(~documents.ends)
    tokens = documents.first_tokens(cut) + documents.ids.lengths[cut]
    return [
        CutDocument(source=source, stage=stage, doc_key=f"{key:016x}", copy_number=documents.copy, token=token)
        for key, token in zip(documents.keys[cut].tolist(), tokens.tolist(), strict=True)
    ]


def _part_sha256(store: Location, source: str, split: Split, part: int) -> str:
    place = sidecar_location(store, source, split, part)
    try:
        return PartSidecar.model_validate_json(place.read_bytes()).sha256
    except (FileNotFoundError, ValidationError) as error:
        raise DataError(
            "A part of the token store is missing or damaged",
            where=str(place),
            got=str(error),
            remedy="Run `shardmill tokenize` or `prepare` again; it is tokenized anew",
        ) from error


@functools.lru_cache(maxsize=4)
def _load_vocabulary(uri: str, sha256: str, names: tuple[tuple[str, str], ...]) -> Vocabulary:
    return read_vocabulary(Location(uri).read_bytes(), dict(names), where=uri)


def _vocabulary(options: MaterializeOptions) -> Vocabulary:
    names = tuple(sorted((str(r), t) for r, t in options.job.tokenizer.special_tokens.items()))
    return _load_vocabulary(f"{options.store}/tokenizer.json", options.tokenizer_sha256, names)
