"""The stream: a dataset's batches in an order that depends on the plan and the step alone.

A PyTorch `IterableDataset` whose whole state is the step. Not a shuffle buffer and not an index: nothing is
scanned before the first batch or after a resume, and no worker process is started.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pyarrow.compute as pc
import torch.utils.data

from schemas.errors import RequestError
from schemas.manifest import Manifest, read_manifest, read_shards
from schemas.storage import Location
from trainer.batches import Batch, assemble, batch_kind
from trainer.plan import WINDOW_ROW_GROUPS, GlobalBatch, Order, StreamPlan, plan_stream
from trainer.reader import WindowReader


class Stream(torch.utils.data.IterableDataset[Batch]):
    """The batches of one split of a dataset, for one rank.

    Every example comes exactly once an epoch. Within an epoch stages come in order; within a stage batches of the
    different lengths take turns in proportion to their number; an epoch more is the same again in a new order. A
    global batch has one length, and all ranks have the same number of steps and the same shapes: the ranks share
    a batch's rows out in turn, and rows that are missing from the last batch of a length are padding rows of
    weight 0. The order does not depend on the number of ranks.

    It needs no worker processes: `DataLoader(stream, batch_size=None)`, or iterate over it as it is. One iterator
    at a time; a new one goes on at the current step.

        stream = Stream("out/bert-small", tokens_per_batch=65536, seed=17)
        for batch in stream:
            batch["input_ids"]  # int64 [rows, length]
        torch.save(stream.state_dict(), "stream.pt")  # at any step, for any number of ranks
    """

    def __init__(
        self,
        dataset: str | os.PathLike[str] | Location,
        *,
        split: str = "train",
        tokens_per_batch: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        order: Order = "natural",
        epochs: int | None = None,
        window_row_groups: int = WINDOW_ROW_GROUPS,
    ) -> None:
        """Open a dataset: reads its manifest and its index of shards, no shard.

        Args:
          dataset: its directory, local, `s3://` or `gs://`.
          split: `train` or `validation`.
          tokens_per_batch: tokens of a global batch over all ranks, padding included, at most.
          seed: of the order; independent of the seed that the dataset was made with.
          rank: this process, in [0, world_size).
          world_size: processes that share each batch.
          order: of the lengths within a stage, `natural` (in proportion) or `short_first`.
          epochs: passes over the split; without end if None.
          window_row_groups: row groups whose rows are shuffled together, and held in memory.

        Raises:
          RequestError: there is no such dataset or split, an argument is out of range, or a row does not fit.
          DataError: the manifest or the index of shards is damaged.
        """
        super().__init__()
        if not 0 <= rank < world_size:
            raise RequestError(
                "The rank is out of range", expected=f"0 to {world_size - 1}", got=f"{rank} of {world_size}"
            )
        if epochs is not None and epochs < 1:
            raise RequestError("A stream needs at least one epoch", got=f"epochs {epochs}")
        self.dataset = Location.of(dataset)
        self.manifest: Manifest = read_manifest(self.dataset)
        shards = read_shards(self.dataset)
        self.plan: StreamPlan = plan_stream(
            shards,
            split=split,
            tokens_per_batch=tokens_per_batch,
            seed=seed,
            order=order,
            window_row_groups=window_row_groups,
        )
        self.splits: list[str] = sorted(set(shards.filter(pc.greater(shards["rows"], 0))["split"].to_pylist()))
        """Splits that the dataset has rows of."""
        self.longest_row: int = max(shards["length"].to_pylist())
        """Tokens of the longest length bucket of any split: positions that a model needs."""
        self.tokens_per_batch = tokens_per_batch
        self.split, self.rank, self.world_size, self.epochs = split, rank, world_size, epochs
        self.step = 0
        """Batches delivered; the next one is that of this step."""
        self.objective = str(self.manifest.objective.get("kind"))
        """Kind of the objective, `mlm` or `causal`."""
        self._kind = batch_kind(self.objective)
        special_ids = self.manifest.tokenizer.special_ids
        self.pad_id = special_ids.get("pad", special_ids.get("eos", 0))
        """What fills rows up: the pad id, else that of the end of sequence, else 0; never attended to."""

    @property
    def steps(self) -> int | None:
        """Steps of all epochs, None if without end."""
        return None if self.epochs is None else self.epochs * self.plan.steps_per_epoch

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs: the same small dictionary on every rank, valid for any number of ranks."""
        return {"plan_digest": self.plan.digest, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at the step of a state; takes no longer for a late step than for an early one.

        Raises:
          RequestError: the state is of another dataset, split, seed or batch size, or is no state.
        """
        digest, step = state.get("plan_digest"), state.get("step")
        if not isinstance(digest, str) or not isinstance(step, int) or step < 0:
            raise RequestError(
                "This is not the state of a stream",
                expected="plan_digest and step, as state_dict() returns them",
                got=repr(state),
            )
        if digest != self.plan.digest:
            raise RequestError(
                "The state is that of another stream: the dataset, split, seed, tokens per batch, order or window "
                "has changed",
                where=str(self.dataset),
                expected=f"plan digest {self.plan.digest}",
                got=f"plan digest {digest}",
                remedy="Resume with the dataset and arguments of the first run, or start a new run",
            )
        if self.steps is not None and step > self.steps:
            raise RequestError(
                "The state is beyond the end of the stream",
                expected=f"at most step {self.steps}, the end of epoch {self.epochs}",
                got=f"step {step}",
                remedy="Give more epochs",
            )
        self.step = step

    def __iter__(self) -> Generator[Batch, None, None]:
        """Batches from the current step on."""
        if torch.utils.data.get_worker_info() is not None:
            raise RequestError(
                "A stream reads ahead by itself, and worker processes would each deliver all of it again",
                expected="DataLoader(stream, batch_size=None, num_workers=0)",
            )
        reader = WindowReader(
            self.dataset,
            self.plan,
            columns=self._kind.columns,
            fingerprint=self.manifest.fingerprint,
            vocab_size=self.manifest.tokenizer.vocab_size,
            epochs=self.epochs,
        )
        try:
            while self.steps is None or self.step < self.steps:
                batch = self._batch(reader, self.plan.batch(self.step))
                # Counted before it is handed over: a state taken while a batch is in use says it was delivered.
                self.step += 1
                yield batch
        finally:
            reader.close()

    def _batch(self, reader: WindowReader, batch: GlobalBatch) -> Batch:
        """This rank's rows of a global batch."""
        bucket = self.plan.buckets[batch.bucket]
        pieces = []
        for index, positions in self.plan.pieces(batch, self.rank, self.world_size):
            window = reader.window(batch.bucket, batch.epoch, index)
            pieces.append((window.columns, window.order[positions]))
        return assemble(
            self._kind,
            pieces,
            rows=-(-bucket.batch_rows // self.world_size),
            length=bucket.length,
            pad_id=self.pad_id,
        )

    def describe(self) -> dict[str, Any]:
        """What an epoch delivers: totals, and rows, tokens, batches and padding of each stage and length.

        `padding` is the share of positions of the delivered batches (all ranks) that hold no token, padding rows
        included; it is what a step pays for.
        """
        buckets = []
        for b in self.plan.buckets:
            positions = b.batches * b.batch_rows * b.length
            buckets.append(
                {
                    "stage": b.stage,
                    "length": b.length,
                    "rows": b.rows,
                    "tokens": b.tokens,
                    "batches": b.batches,
                    "batch_rows": b.batch_rows,
                    "padding": 1 - b.tokens / positions,
                }
            )
        positions = sum(b.batches * b.batch_rows * b.length for b in self.plan.buckets)
        tokens = sum(b.tokens for b in self.plan.buckets)
        return {
            "dataset": self.dataset.uri,
            "split": self.split,
            "plan_digest": self.plan.digest,
            "objective": self.objective,
            "rows": sum(b.rows for b in self.plan.buckets),
            "tokens": tokens,
            "steps_per_epoch": self.plan.steps_per_epoch,
            "padding": 1 - tokens / positions,
            "buckets": buckets,
        }
