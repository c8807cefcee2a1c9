"""What a stream delivers and where it comes from, for people. Not on the way of any batch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.errors import DataError, RequestError
from schemas.manifest import Manifest, read_shards
from schemas.storage import Location
from trainer.stream.batches import target_length
from trainer.stream.plan import StreamPlan


def describe(plan: StreamPlan, manifest: Manifest, dataset: Location, split: str) -> dict[str, Any]:
    """What an epoch delivers: totals, what each source gives, and rows, tokens, batches and padding of each length.

    `padding` is the share of positions of the delivered batches (all ranks) that hold no token, padding rows
    included; it is what a step pays for. A source's `epochs` are passes over its documents in one epoch of it.
    """
    buckets = []
    for i, b in enumerate(plan.buckets):
        positions = b.batches * b.batch_rows * b.length
        buckets.append(
            {
                "stage": b.stage,
                "length": b.length,
                "rows": b.rows,
                "tokens": b.tokens,
                "batches": b.batches,
                "batch_rows": b.batch_rows,
                "shape": [b.batch_rows, b.length],
                "target_length": target_length(manifest, b.length),
                "row_groups": len(b.group_rows),
                "lanes": plan.lanes(i, 0).count,
                "padding": 1 - b.tokens / positions,
            }
        )
    positions = sum(b.batches * b.batch_rows * b.length for b in plan.buckets)
    tokens = sum(b.tokens for b in plan.buckets)
    return {
        "dataset": dataset.uri,
        "split": split,
        "plan_digest": plan.digest,
        "objective": manifest.objective.get("kind"),
        "order": plan.order,
        "rows": sum(b.rows for b in plan.buckets),
        "tokens": tokens,
        "steps_per_epoch": plan.steps_per_epoch,
        "padding": 1 - tokens / positions,
        "sources": _sources(dataset, manifest, split),
        "buckets": buckets,
    }


def _sources(dataset: Location, manifest: Manifest, split: str) -> dict[str, dict[str, float]]:
    shards = read_shards(dataset, ("path", "split", "source_tokens"))
    tokens: Counter[str] = Counter()
    for row in shards["source_tokens"].filter(pc.equal(shards["split"], split)).to_pylist():
        tokens.update(dict(row))
    total = sum(tokens.values())
    epochs = {s.name: s.epochs for s in manifest.sources} if split == "train" else {}
    return {
        name: {"corpus_tokens": count, "share": count / max(1, total), "epochs": epochs.get(name, 1.0)}
        for name, count in sorted(tokens.items())
    }


def explain(plan: StreamPlan, manifest: Manifest, dataset: Location, step: int, row: int) -> dict[str, Any]:
    """Where row `row` of the global batch of a step comes from: its place in the shards, its source and documents.

    Rank p of P has it if `position % P == p`.
    """
    batch = plan.batch(step) if step >= 0 else None
    if batch is None or not 0 <= row < batch.end - batch.begin:
        raise RequestError(
            "The stream has no such example",
            expected=f"a step from 0 on, and a row from 0 to {batch.end - batch.begin - 1 if batch else 0}",
            got=f"step {step}, row {row}",
        )
    bucket, position = plan.buckets[batch.bucket], batch.begin + row
    lanes = plan.lanes(batch.bucket, batch.epoch)
    (window,), (place,) = (a.tolist() for a in lanes.locate(np.array([position])))
    group, row_of_group = lanes.row_of(window, place)
    shard, row_group = bucket.place(group)
    path = plan.path(shard)
    columns = ["source", "length", "copy", "doc_keys", "doc_offsets", "doc_lengths"]
    try:
        with (dataset / path).open_input() as source:
            table = pq.ParquetFile(source).read_row_group(row_group, columns=columns)
            found = table.slice(row_of_group, 1).to_pylist()[0]
    except (OSError, pa.ArrowException, IndexError) as error:
        raise DataError("A shard cannot be read", where=str(dataset / path), got=str(error)) from error
    pieces = zip(found["doc_keys"], found["doc_offsets"], found["doc_lengths"], strict=True)
    return {
        "step": step,
        "row": row,
        "epoch": batch.epoch,
        "stage": bucket.stage,
        "bucket_length": bucket.length,
        "position": position,
        "shard": path,
        "row_group": row_group,
        "row_of_row_group": row_of_group,
        "source": found["source"],
        "length": found["length"],
        "copy": found["copy"],
        "documents": [{"doc_key": f"{k:016x}", "first_token": o, "corpus_tokens": n} for k, o, n in pieces],
    }
