"""The materialize step: every block of the plan becomes shards."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from pipelines.progress import progress
from pipelines.run import Run
from pipelines.tokenize import Sidecars
from schemas.counts import format_count
from schemas.errors import DataError
from schemas.plan import Plan
from schemas.storage import Location, for_each_place
from transforms.materialize import (
    BlockCommit,
    MaterializeOptions,
    commit_location,
    finished_block,
    materialize_block,
)
from transforms.planner import block_fingerprint
from transforms.vocabulary import Vocabulary


@dataclass(frozen=True)
class MaterializeWork:
    """Materializes the block of a number; what a runner's workers are sent."""

    options: MaterializeOptions

    def __call__(self, item: int) -> bytes:
        """Materialize block `item` of the plan."""
        materialize_block(item, self.options)
        return b""


@dataclass(frozen=True)
class _Block:
    block: int
    split: str
    stage: int
    shard: int
    fingerprint: str
    tokens: int
    commit: str
    """URI of its commit."""


def materialize(run: Run, plan: Plan, sidecars: Sidecars, vocabulary: Vocabulary) -> list[BlockCommit]:
    """Materialize what is not materialized yet.

    Returns:
      The commits of all blocks, in the order of the plan.

    Raises:
      DataError: the token store is damaged, or blocks are missing after the run.
    """
    began = time.monotonic()
    blocks = _blocks(run, plan, sidecars)
    commits = _commits(run, blocks)
    todo = [b for b, commit in zip(blocks, commits, strict=True) if commit is None]
    # Commits of blocks that are to be made, so that counting commits counts finished work, and of blocks that are not
    # in the plan, which an earlier budget or curriculum left.
    finished_uris = {b.commit for b, commit in zip(blocks, commits, strict=True) if commit is not None}
    stale = [f.uri for f in (run.output / "_commits").files() if f.uri.endswith(".json")]
    for_each_place(
        run.output.is_local, lambda uri: Location(uri).remove(), [u for u in stale if u not in finished_uris]
    )
    if todo and len(todo) < len(blocks):
        run.say(f"  {len(blocks) - len(todo):,} of {len(blocks):,} blocks are there already")
    if todo:
        options = MaterializeOptions(
            job=run.job,
            store=run.store.uri,
            dataset=run.output.uri,
            fingerprint=run.fingerprint,
            tokenizer_sha256=vocabulary.sha256,
            lengths=tuple(stage.lengths for stage in plan.stages),
        )
        names = {b.commit for b in blocks}

        def done() -> int:
            return sum(f.uri in names for f in (run.output / "_commits").files())

        with progress(run.console, "materialize", "blocks", len(blocks), done):
            items, costs = [b.block for b in todo], [b.tokens for b in todo]
            run.engine.run_each("Materialize", items, costs, MaterializeWork(options))
        commits = _commits(run, blocks)
    finished = [c for c in commits if c is not None]
    if len(finished) < len(blocks):
        raise DataError(
            "Some blocks are not materialized",
            where=str(run.output),
            got=f"{len(blocks) - len(finished)} of {len(blocks)} blocks without a valid commit",
            remedy="The token store may have changed during the run; run again",
        )
    tokens = sum(t.out for c in finished for t in c.tokens)
    rows = sum(int(str(s["rows"])) for c in finished for s in c.shards)
    shards = sum(len(c.shards) for c in finished)
    seconds = time.monotonic() - began
    speed = f"{format_count(tokens / seconds)} tokens/s, {seconds:.1f} s" if todo else "done before"
    run.say(f"[bold]materialize[/]  {rows:,} {run.job.objective.kind} examples in {shards} shards  [dim]{speed}[/]")
    return finished


def _commits(run: Run, blocks: list[_Block]) -> list[BlockCommit | None]:
    """The commit of each block that is done; only those that a listing shows are asked for."""
    there = {f.uri for f in (run.output / "_commits").files()}

    def read(b: _Block) -> BlockCommit | None:
        return finished_block(run.output, b.split, b.stage, b.shard, b.fingerprint) if b.commit in there else None

    return for_each_place(run.output.is_local, read, blocks)


def _blocks(run: Run, plan: Plan, sidecars: Sidecars) -> list[_Block]:
    digests = {
        split: {(name, s.part): s.sha256 for name, by_split in sidecars.items() for s in by_split[split]}
        for split in ("train", "validation")
    }
    number = plan.table["block"].to_numpy()
    starts = np.searchsorted(number, np.arange(plan.blocks + 1))
    blocks = []
    for block in range(plan.blocks):
        rows = plan.table.slice(starts[block], starts[block + 1] - starts[block])
        first = rows.slice(0, 1).to_pylist()[0]
        stage = plan.stages[first["stage"]]
        blocks.append(
            _Block(
                block=block,
                split=first["split"],
                stage=first["stage"],
                shard=first["shard"],
                commit=commit_location(run.output, first["split"], first["stage"], first["shard"]).uri,
                fingerprint=block_fingerprint(run.fingerprint, stage, rows, digests[first["split"]]),
                tokens=int((rows["token_end"].to_numpy() - rows["token_begin"].to_numpy()).sum()),
            )
        )
    return blocks
