"""The stream: a dataset's batches in an order that depends on the plan and the step alone.

A PyTorch `IterableDataset` whose whole state is the step. Not a shuffle buffer and not an index: nothing is
scanned before the first batch or after a resume, and no worker process is started.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Mapping
from typing import Any

import pyarrow as pa
import torch.utils.data

from schemas.errors import RequestError, did_you_mean
from schemas.manifest import Manifest, read_manifest, read_shards
from schemas.storage import Location
from trainer.stream import inspect
from trainer.stream.batches import Batch, batch_kind, target_length
from trainer.stream.delivery import Delivery
from trainer.stream.lanes import MOST_LANES
from trainer.stream.plan import INDEX_COLUMNS, StreamPlan, plan_stream
from trainer.stream.reader import Fault, OnError
from trainer.stream.turns import Order


class Stream(torch.utils.data.IterableDataset[Batch]):
    """The batches of one split of a dataset, for one rank.

    Every example comes exactly once an epoch. Within an epoch stages come in order; within a stage batches of the
    different lengths take turns as `order` says; an epoch more is the same again in a new order. A global batch has
    one length, and all ranks have the same number of steps and the same shapes: the ranks share a batch's rows out in
    turn, and where there are too few, padding rows of weight 0 take their place. The order does not depend on the
    number of ranks.

    It needs no worker processes: `DataLoader(stream, batch_size=None)`, or iterate over it as it is. One iterator
    at a time; a new one goes on at the current step. A batch may be changed in place; tensors of successive batches
    can be parts of one block of memory (4 MB a tensor), so clone what is to be kept for long.

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
        lanes: int = MOST_LANES,
        window_row_groups: int = 1,
        documents: bool = False,
        sources: bool = False,
        on_error: OnError = "fail",
        retries: int = 2,
        backoff_seconds: float = 0.25,
        read_timeout_seconds: float = 300,
        checksums: bool = False,
        threads: int = 2,
    ) -> None:
        """Open a dataset: reads its manifest and its index of shards, no shard.

        Args:
          dataset: its directory, local, `s3://` or `gs://`.
          split: `train` or `validation`.
          tokens_per_batch: tokens of a global batch over all ranks, padding included, at most.
          seed: of the order; independent of the seed that the dataset was made with.
          rank: this process, in [0, world_size).
          world_size: processes that share each batch.
          order: of the lengths within a stage: `natural`, `short_first`, `grow_linear`, `grow_p2`, `competence` or
            `two_phase`, see `trainer.stream.turns.curriculum`.
          epochs: passes over the split; without end if None.
          lanes: row groups that a bucket is read from at a time, over all ranks; a power of two. Their rows are in
            memory, twice.
          window_row_groups: row groups of a lane whose rows are shuffled together.
          documents: of packed rows (`causal`, `fim`, `prefix_lm`), tell documents apart, and let no label cross
            from one into the next.
          sources: tell the source of each row.
          on_error: where a row group cannot be read, `fail`, or `skip` it: its rows stay in their places with weight
            0, and `faults` and `skipped_rows` name and count them.
          retries: attempts after the first, with `backoff_seconds` before the first of them, and twice as long
            before each further one.
          backoff_seconds: see `retries`.
          read_timeout_seconds: after which a row group that does not arrive counts as one that cannot be read.
          checksums: hash each shard before it is first read, against the index of shards. Page checksums are
            always verified.
          threads: that read ahead; where there are several and the dataset is local, one of them reads only while a
            batch is waited for.

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
        if on_error not in ("fail", "skip"):
            raise RequestError(
                f"There is no on_error {on_error!r}: {did_you_mean(on_error, ('fail', 'skip'))}", got=repr(on_error)
            )
        self.dataset = Location.of(dataset)
        self.manifest: Manifest = read_manifest(self.dataset)
        shards = read_shards(self.dataset, INDEX_COLUMNS)
        self.plan: StreamPlan = plan_stream(
            shards,
            split=split,
            tokens_per_batch=tokens_per_batch,
            seed=seed,
            order=order,
            lanes=lanes,
            window_row_groups=window_row_groups,
        )
        filled = shards["rows"].to_numpy() > 0
        self.splits: list[str] = sorted(set(shards["split"].filter(pa.array(filled)).unique().to_pylist()))
        """Splits that the dataset has rows of."""
        self.tokens_per_batch = tokens_per_batch
        self.split, self.rank, self.world_size, self.epochs = split, rank, world_size, epochs
        self.step = 0
        """Batches delivered; the next one is that of this step."""
        self.skipped_rows = 0
        """Rows of this rank that could not be read, so far, with `on_error="skip"`."""
        self.faults: list[Fault] = []
        """What could not be read, so far, with `on_error="skip"`."""
        self.objective = str(self.manifest.objective.get("kind"))
        """Kind of the objective, such as `mlm` or `causal`."""
        self._kind = batch_kind(self.objective)
        lengths = shards["length"].unique().to_pylist()
        self.longest_row: int = max(max(n, target_length(self.manifest, n)) for n in lengths)
        """Tokens of the longest length bucket of any split, or of its targets: positions that a model needs."""
        if documents and not self._kind.packed:
            raise RequestError(
                f"Rows of {self.objective} are not packed of documents that could be kept apart",
                expected="documents=False, or a dataset of the objective causal, fim or prefix_lm",
            )
        self._documents, self._sources = documents, sources
        self._reading: dict[str, Any] = {
            "threads": threads,
            "retries": retries,
            "backoff_seconds": backoff_seconds,
            "timeout_seconds": read_timeout_seconds,
            "on_error": on_error,
            "checksums": checksums,
        }

    @property
    def steps(self) -> int | None:
        """Steps of all epochs, None if without end."""
        return None if self.epochs is None else self.epochs * self.plan.steps_per_epoch

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs: the same small dictionary on every rank, valid for any number of ranks.

        `examples_digest` tells which examples have been delivered, see `StreamPlan.examples_digest`.
        """
        return self.state_at(self.step)

    def state_at(self, step: int) -> dict[str, Any]:
        """The state before a step, found without delivering what comes before it."""
        return {
            "plan_digest": self.plan.digest,
            "step": step,
            "examples_digest": self.plan.examples_digest(step),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on at the step of a state; takes no longer for a late step than for an early one.

        Raises:
          RequestError: the state is of another dataset, split, seed or batch size, or is no state.
        """
        digest, step = state.get("plan_digest"), state.get("step")
        examples = state.get("examples_digest")
        if not isinstance(digest, str) or not isinstance(step, int) or step < 0 or not isinstance(examples, str):
            raise RequestError(
                "This is not the state of a stream",
                expected="plan_digest, step and examples_digest, as state_dict() returns them",
                got=repr(dict(state)),
            )
        if digest != self.plan.digest:
            raise RequestError(
                "The state is that of another stream: the dataset, split, seed, tokens per batch, order, lanes or "
                "window has changed",
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
        if examples != (found := self.plan.examples_digest(step)):
            raise RequestError(
                "The examples delivered so far are not those that this stream delivers",
                expected=f"examples digest {found} at step {step}",
                got=f"examples digest {examples}",
                remedy="Resume with the shardmill that saved the state, or start a new run",
            )
        self.step = step

    def __iter__(self) -> Generator[Batch, None, None]:
        """Batches from the current step on."""
        if torch.utils.data.get_worker_info() is not None:
            raise RequestError(
                "A stream reads ahead by itself, and worker processes would each deliver all of it again",
                expected="DataLoader(stream, batch_size=None, num_workers=0)",
            )
        while self.steps is None or self.step < self.steps:
            delivery = Delivery(
                dataset=self.dataset,
                manifest=self.manifest,
                plan=self.plan,
                kind=self._kind,
                documents=self._documents,
                sources=self._sources,
                rank=self.rank,
                world_size=self.world_size,
                last_step=self.steps,
                faults=self.faults,
                reading=self._reading,
            )
            step = self.step
            with contextlib.closing(delivery.batches(step)) as batches:
                for batch, skipped_rows in batches:
                    # Counted before it is handed over: a state taken while a batch is in use says it was delivered.
                    self.step = step = step + 1
                    self.skipped_rows += skipped_rows
                    yield batch
                    if self.step != step:  # another state has been loaded
                        break

    def __len__(self) -> int:
        """Batches of all epochs; TypeError for a stream without end, as of any iterable without a length."""
        if self.steps is None:
            raise TypeError("a stream without end has no length; give epochs")
        return self.steps

    def describe(self) -> dict[str, Any]:
        """What an epoch delivers, see `trainer.stream.inspect.describe`."""
        return inspect.describe(self.plan, self.manifest, self.dataset, self.split)

    def explain(self, step: int, row: int) -> dict[str, Any]:
        """Where an example of a global batch comes from, see `trainer.stream.inspect.explain`.

        Raises:
          RequestError: the step has no such row.
          DataError: its shard is missing or damaged.
        """
        return inspect.explain(self.plan, self.manifest, self.dataset, step, row)
