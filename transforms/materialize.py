"""Turns one block of the plan into shards: read its chunks, build examples, bucket, shuffle, write, commit.

`materialize_block` is a pure function of (plan, token store, options) but for the files it writes. The Beam side
only deals out block numbers.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from schemas.base import Frozen
from schemas.errors import DataError
from schemas.job import Job
from schemas.keys import draw
from schemas.plan import read_block
from schemas.storage import Location
from schemas.store import PartSidecar, Split, part_location, sidecar_location
from transforms.memory import keep_freed_memory
from transforms.objectives.base import Documents
from transforms.objectives.registry import objective_for
from transforms.planner import block_fingerprint
from transforms.ragged import Ragged, offsets_of
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
    block: int
    shards: list[dict[str, Any]]
    tokens: list[SourceTokens]


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
    lengths = options.job.curriculum[stage].lengths
    parts = sorted(set(zip(slices["source"].to_pylist(), slices["part"].to_pylist(), strict=True)))
    digests = {(s, p): _part_sha256(store, s, split, p) for s, p in parts}
    wanted = block_fingerprint(options.fingerprint, lengths, slices, digests)
    if finished_block(dataset, split, stage, shard, wanted):
        return
    place = commit_location(dataset, split, stage, shard)
    place.remove()  # a stale commit must not vouch for shards that are being replaced
    objective = objective_for(options.job.objective, _vocabulary(options))
    tables, tokens = [], []
    for source, documents in _read_documents(store, split, slices, options.job):
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
    shards = []
    if tables:
        table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
        for length, rows in bucket_tables(table, lengths, options.job.seed):
            name = ShardName(split=split, stage=stage, length=length, shard=shard)
            shards.append({**write_shard(dataset, name, rows, options.fingerprint), "block": block})
    commit = BlockCommit(fingerprint=wanted, block=block, shards=shards, tokens=tokens)
    place.write_bytes(orjson.dumps(commit.model_dump()))


def _read_documents(store: Location, split: Split, slices: pa.Table, job: Job) -> Iterator[tuple[str, Documents]]:
    """(source, documents) for each source and copy of a block, documents in a keyed order."""
    rows = slices.to_pylist()
    columns = ["doc_key", "ids"]
    columns += ["sentence_ends"] if job.objective.reads_sentences else []
    columns += ["target_ids"] if job.objective.reads_pairs else []
    for source, copy in sorted({(r["source"], r["copy"]) for r in rows}):
        with contextlib.ExitStack() as stack:
            parts = _Parts(store, source, split, columns, stack)
            tables = [parts.slice(row) for row in rows if (row["source"], row["copy"]) == (source, copy)]
        table = pa.concat_tables(tables)
        if table.num_rows:
            keys = table["doc_key"].to_numpy()
            order = np.argsort(draw(job.seed, "document", keys, copy), kind="stable")
            lists = {c: Ragged.from_arrow(table[c]).take(order) for c in columns[1:]}
            yield (
                source,
                Documents(
                    ids=lists["ids"],
                    keys=keys[order],
                    copy=copy,
                    sentence_ends=lists.get("sentence_ends"),
                    targets=lists.get("target_ids"),
                ),
            )


@dataclass
class _Parts:
    """Reads slices of one source's parts, each opened once."""

    store: Location
    source: str
    split: Split
    columns: list[str]
    stack: contextlib.ExitStack
    files: dict[int, pq.ParquetFile] = field(default_factory=dict)

    def slice(self, row: dict[str, Any]) -> pa.Table:
        """The documents of a row of the plan: those whose first token lies in its slice of the chunk."""
        place = part_location(self.store, self.source, self.split, row["part"])
        try:
            if row["part"] not in self.files:
                file = self.stack.enter_context(place.open_input())
                self.files[row["part"]] = pq.ParquetFile(file, page_checksum_verification=True)
            chunk = self.files[row["part"]].read_row_group(row["row_group"], columns=self.columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                "A part of the token store is damaged",
                where=f"{place}, row group {row['row_group']}",
                got=str(error),
                remedy="Delete the part and run again; it is tokenized anew",
            ) from error
        sizes = [pc.list_value_length(chunk[c]).to_numpy() for c in ("ids", "target_ids") if c in self.columns]
        first_tokens = offsets_of(np.sum(sizes, axis=0, dtype=np.int64))[:-1]
        first, last = np.searchsorted(first_tokens, [row["token_begin"], row["token_end"]]).tolist()
        return chunk.slice(first, last - first)


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
