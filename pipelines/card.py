"""The dataset card, `README.md` with the Hub's YAML, so that the folder explains itself."""

from __future__ import annotations

import yaml

from schemas.counts import format_bytes, format_count
from schemas.manifest import Manifest

_COLUMNS = {
    "input_ids": "the model's input, special tokens included, never padding",
    "length": "number of input ids",
    "source": "the corpus the example comes from",
    "doc_keys, doc_offsets, doc_lengths": "provenance of each piece: document key, first token, corpus tokens",
    "copy": "which pass over the source",
}
_MASKS = {"mask_positions": "positions that are predicted, ascending", "mask_labels": "the original ids at them"}
_MORE = {"mlm": _MASKS, "span_corruption": {"target_ids": "sentinels, the tokens they hide, and EOS"}}


def dataset_card(manifest: Manifest) -> str:
    """The card's Markdown."""
    splits = sorted({row.split for row in manifest.lengths})
    front = {
        "pretty_name": manifest.name,
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
        *(f"| `{c}` | {m} |" for c, m in {**_COLUMNS, **_MORE.get(manifest.objective["kind"], {})}.items()),
        "",
        "The folders are hive-style, and their `length` is the bucket; read files without hive partitioning to see",
        "each row's own `length`. `shards.parquet` indexes the shards, `audit/report.html` is the audit.",
        "",
    ]
    return "\n".join(lines)
