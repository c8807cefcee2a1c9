"""The dataset card, `README.md` with the Hub's YAML, so that the folder explains itself."""

from __future__ import annotations

from itertools import pairwise

import yaml

from schemas.counts import format_bytes, format_count
from schemas.manifest import Manifest
from schemas.tables import PROVENANCE
from transforms.objectives.registry import known_objective


def dataset_card(manifest: Manifest) -> str:
    """The card's Markdown."""
    columns = (*PROVENANCE, *known_objective(manifest.objective["kind"]).columns)
    splits = sorted({row.split for row in manifest.lengths})
    front = {
        "pretty_name": manifest.name,
        "task_categories": ["fill-mask" if "mask_labels" in {c.name for c in columns} else "text-generation"],
        "size_categories": [_size_category(manifest.totals.rows)],
        "tags": ["shardmill", "pretraining", manifest.objective["kind"]],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": s, "path": f"data/split={s}/**/*.parquet"} for s in splits],
            }
        ],
    }
    totals = manifest.totals
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        f"# {manifest.name}",
        "",
        f"{totals.rows:,} finished `{manifest.objective['kind']}` examples, "
        f"{format_count(totals.corpus_tokens)} corpus tokens in {totals.shards} shards, "
        f"{format_bytes(totals.bytes)}. Made by shardmill {manifest.shardmill_version}; "
        f"fingerprint `{manifest.fingerprint}`, plan `{manifest.plan_fingerprint}`.",
        "",
        "| source | share | tokens available | tokens used | passes | documents |",
        "|---|---:|---:|---:|---:|---:|",
        *(
            f"| {s.name} | {s.weight:.1%} | {s.available_tokens:,} | {s.realised_tokens:,} | {s.epochs:.2f} | "
            f"{s.available_documents:,} |"
            for s in manifest.sources
        ),
        "",
        "| split | stage | length | rows | padding |",
        "|---|---:|---:|---:|---:|",
        *(f"| {x.split} | {x.stage} | {x.length} | {x.rows:,} | {x.padding:.1%} |" for x in manifest.lengths),
        "",
        "| column | meaning |",
        "|---|---|",
        *(f"| `{c.name}` | {c.meaning} |" for c in columns),
        "",
        "The folders are hive-style, and their `length` is the bucket; read files without hive partitioning to see",
        "each row's own `length`. `shards.parquet` indexes the shards, `audit/report.html` is the audit, and",
        "`croissant.json` describes the dataset in Croissant 1.1 with the audit's statistics.",
        "",
    ]
    return "\n".join(lines)


def _size_category(rows: int) -> str:
    """The Hub's name of a size."""
    edges = [(10**i, name) for i, name in enumerate(("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B"), 3)]
    if rows < edges[0][0]:
        return "n<1K"
    for (edge, low), (next_edge, high) in pairwise(edges):
        if edge <= rows < next_edge:
            return f"{low}<n<{high}"
    return "n>10B"
