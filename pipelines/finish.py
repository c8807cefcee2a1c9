"""The last step of `prepare`: index, ledger, card, and the manifest that makes it a dataset."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.card import dataset_card
from pipelines.run import Run
from pipelines.tokenize import Sidecars
from schemas.jobfile import parse_job
from schemas.ledger import Entry, Ledger, add_counts
from schemas.manifest import (
    InputRecord,
    LengthRecord,
    Manifest,
    SourceRecord,
    StageRecord,
    TokenizerRecord,
    Totals,
)
from schemas.plan import Plan
from schemas.storage import Location, atomic_output
from schemas.store import SPLITS, PartSidecar, rejects_location
from schemas.tables import REJECTS, SHARDS
from schemas.version import shardmill_version
from transforms.materialize import BlockCommit
from transforms.vocabulary import Vocabulary

_OUR_SHARD = re.compile(r"/data/split=(?:train|validation)/stage=\d+/length=\d+/\d{5,}\.parquet$")


def finish(run: Run, plan: Plan, sidecars: Sidecars, commits: list[BlockCommit], vocabulary: Vocabulary) -> Manifest:
    """Write everything beside the shards, the manifest last.

    Args:
      run: the job.
      plan: its plan.
      sidecars: of the token store.
      commits: of all blocks of the plan in order; one that another budget left does not know its number in this one.
      vocabulary: of the tokenizer.

    Returns:
      The manifest.
    """
    # A commit is JSON, which turned the pairs of source_tokens into lists.
    rows = [
        {**shard, "block": block, "source_tokens": [tuple(pair) for pair in shard["source_tokens"]]}
        for block, commit in enumerate(commits)
        for shard in commit.shards
    ]
    shards = pa.Table.from_pylist(rows, schema=SHARDS)
    _remove_stale_shards(run.output, {str(r["path"]) for r in rows})
    with atomic_output(run.output / "shards.parquet") as sink:
        pq.write_table(shards, pa.PythonFile(sink, mode="w"), compression="zstd")
    job_text = Location.of(run.uri).read_bytes()
    (run.output / "job.yaml").write_bytes(job_text)
    (run.output / "tokenizer.json").write_bytes((run.store / "tokenizer.json").read_bytes())
    _copy_rejects(run, sidecars)
    manifest = _manifest(run, plan, sidecars, commits, vocabulary, shards, job_text)
    (run.output / "README.md").write_bytes(dataset_card(manifest).encode())
    (run.output / "manifest.json").write_bytes(manifest.to_json())
    return manifest


def _remove_stale_shards(dataset: Location, wanted: set[str]) -> None:
    """Delete shards of an earlier, unfinished try that this plan does not name."""
    for file in (dataset / "data").files(recursive=True):
        relative = file.uri[len(dataset.uri) + 1 :]
        if _OUR_SHARD.search(file.uri) and relative not in wanted:
            Location(file.uri).remove()


def _copy_rejects(run: Run, sidecars: Sidecars) -> None:
    """Copy the rejected records; a source without any gets an empty table, so that a query over all always works."""
    wanted = set()
    for name, by_split in sidecars.items():
        parts = [s.part for s in by_split["train"] if s.rejected]
        for part in parts or [0]:
            place = run.output / "rejects" / name / f"part-{part:05d}.parquet"
            if parts:
                place.write_bytes(rejects_location(run.store, name, part).read_bytes())
            else:
                with atomic_output(place) as sink:
                    pq.write_table(REJECTS.empty_table(), pa.PythonFile(sink, mode="w"))
            wanted.add(place.uri)
    for file in (run.output / "rejects").files(recursive=True):
        if file.uri not in wanted and re.search(r"/part-\d{5,}\.parquet$", file.uri):
            Location(file.uri).remove()


def content_sha256(sidecars: list[PartSidecar]) -> str:
    """Digest of a source's ids: of its parts' digests in order."""
    return hashlib.sha256("".join(s.sha256 for s in sidecars).encode()).hexdigest()


def source_contents(sidecars: Sidecars) -> dict[str, str]:
    """Digest of every source's parts, both splits."""
    return {name: content_sha256([p for split in SPLITS for p in parts[split]]) for name, parts in sidecars.items()}


def _manifest(
    run: Run,
    plan: Plan,
    sidecars: Sidecars,
    commits: list[BlockCommit],
    vocabulary: Vocabulary,
    shards: pa.Table,
    job_text: bytes,
) -> Manifest:
    rows = shards.to_pylist()
    realised: Counter[tuple[str, int, str]] = Counter()
    for row in rows:
        for source, tokens in row["source_tokens"]:
            realised[(row["split"], row["stage"], source)] += tokens
    planned_total = sum(s.total_tokens for s in plan.stages)
    contents = source_contents(sidecars)
    sources = []
    for source in run.job.sources:
        name = source.name
        train, validation = sidecars[name]["train"], sidecars[name]["validation"]
        available = sum(s.tokens for s in train)
        planned = sum(s.tokens.get(name, 0) for s in plan.stages)
        tokens = sum(realised[("train", k, name)] for k in range(len(plan.stages)))
        sources.append(
            SourceRecord(
                name=name,
                weight=planned / planned_total if planned_total else 0.0,
                available_tokens=available,
                available_documents=sum(s.documents for s in train),
                planned_tokens=planned,
                realised_tokens=tokens,
                epochs=tokens / available if available else 0.0,
                validation_tokens=sum(s.tokens for s in validation),
                validation_documents=sum(s.documents for s in validation),
                content_sha256=contents[name],
            )
        )
    stages = []
    for number, stage in enumerate(plan.stages):
        by_source = {
            n: {"planned_tokens": t, "realised_tokens": realised[("train", number, n)]}
            for n, t in sorted(stage.tokens.items())
        }
        stages.append(
            StageRecord(
                stage=number,
                name=stage.name,
                lengths=list(stage.lengths),
                planned_tokens=stage.total_tokens,
                realised_tokens=sum(s["realised_tokens"] for s in by_source.values()),
                sources=by_source,
            )
        )
    return Manifest(
        name=run.job.name,
        fingerprint=run.fingerprint,
        plan_fingerprint=run.plan_fingerprint,
        shardmill_version=shardmill_version(),
        job=parse_job(job_text.decode()).canonical(),
        tokenizer=TokenizerRecord(
            sha256=vocabulary.sha256,
            vocab_size=vocabulary.size,
            special_ids=vocabulary.special_ids,
            special_token_ids=vocabulary.special_token_ids,
            sentinel_ids=vocabulary.sentinel_ids.tolist(),
        ),
        objective=run.resolved_objective(vocabulary, [stage.lengths for stage in plan.stages]),
        sources=sources,
        stages=stages,
        lengths=_lengths(rows),
        cuts=[cut for commit in commits for cut in commit.cuts],
        inputs=[
            InputRecord(source=name, file=f.file, size_bytes=f.size_bytes, mtime_ns=f.mtime_ns)
            for name, files in run.inputs.items()
            for f in files
        ],
        ledger=_ledger(run, plan, sidecars, commits),
        totals=Totals(
            rows=sum(r["rows"] for r in rows),
            tokens=sum(r["tokens"] for r in rows),
            corpus_tokens=sum(r["corpus_tokens"] for r in rows),
            shards=len(rows),
            bytes=sum(r["bytes"] for r in rows),
        ),
    )


def _lengths(rows: list[dict[str, Any]]) -> list[LengthRecord]:
    count: Counter[tuple[str, int, int]] = Counter()
    tokens: Counter[tuple[str, int, int]] = Counter()
    for row in rows:
        key = (row["split"], row["stage"], row["length"])
        count[key] += row["rows"]
        tokens[key] += row["tokens"]
    return [
        LengthRecord(
            split=split,
            stage=stage,
            length=length,
            rows=n,
            tokens=tokens[(split, stage, length)],
            padding=1 - tokens[(split, stage, length)] / (n * length),
        )
        for (split, stage, length), n in sorted(count.items())
    ]


def _ledger(run: Run, plan: Plan, sidecars: Sidecars, commits: list[BlockCommit]) -> Ledger:
    """Every line from figures that were counted apart: reads by the reader, outputs by the writers."""
    read: Counter[tuple[str, int, str]] = Counter()
    out: Counter[tuple[str, int, str]] = Counter()
    losses: dict[tuple[str, int, str], Counter[str]] = {}
    gains: dict[tuple[str, int, str], Counter[str]] = {}
    places = _block_places(plan)
    for block, commit in enumerate(commits):
        split, stage = places[block]
        for line in commit.tokens:
            key = (split, stage, line.source)
            read[key] += line.read
            out[key] += line.out
            losses.setdefault(key, Counter()).update(line.losses)
            gains.setdefault(key, Counter()).update(line.gains)
    entries = []
    used = {name for stage in plan.stages for name in stage.tokens}
    for name, by_split in sidecars.items():
        train, both = by_split["train"], [s for split in SPLITS for s in by_split[split]]
        rejected, rejected_bytes = add_counts(s.rejected for s in train), add_counts(s.rejected_bytes for s in train)
        documents = sum(s.documents for s in both)
        text_bytes, format_bytes = sum(s.text_bytes for s in both), sum(s.format_bytes for s in train)
        records, read_bytes = sum(s.range_records for s in train), sum(s.range_bytes_read for s in train)
        entries += [
            Entry(unit="records", step="read", source=name, read=records, out=documents, losses=rejected),
            Entry(
                unit="bytes",
                step="read",
                source=name,
                read=read_bytes,
                out=text_bytes,
                losses={"format": format_bytes, **rejected_bytes},
            ),
        ]
        available = sum(s.tokens for s in train)
        used_tokens = sum(n for (split, _, source), n in read.items() if (split, source) == ("train", name))
        entries.append(
            Entry(
                unit="tokens",
                step="plan",
                source=name,
                split="train",
                read=max(available, used_tokens),  # tokens of a further pass are read once more
                out=used_tokens,
                losses={"beyond_budget": max(0, available - used_tokens)},
            )
        )
        if name not in used:
            entries.append(
                Entry(
                    unit="tokens",
                    step="plan",
                    source=name,
                    split="validation",
                    read=sum(s.tokens for s in by_split["validation"]),
                    out=0,
                    losses={"weight_zero": sum(s.tokens for s in by_split["validation"])},
                )
            )
    for split, stage, name in sorted(read):
        key = (split, stage, name)
        entries.append(
            Entry(
                unit="tokens",
                step="materialize",
                source=name,
                split=split,
                stage=stage,
                read=read[key],
                out=out[key],
                losses=dict(losses[key]),
                gains=dict(gains[key]),
            )
        )
    return Ledger(entries=entries)


def _block_places(plan: Plan) -> dict[int, tuple[str, int]]:
    columns = (plan.table[c].to_pylist() for c in ("block", "split", "stage"))
    return {block: (split, stage) for block, split, stage in zip(*columns, strict=True)}
