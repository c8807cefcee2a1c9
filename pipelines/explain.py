"""`shardmill plan JOB --explain BLOCK`: whose documents a block holds, and how many tokens of each source."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines import plan
from pipelines.run import Run
from pipelines.tokenize import finished_sidecars
from pipelines.tokenizer import known_vocabulary
from schemas.errors import RequestError
from schemas.store import Split
from transforms.block_documents import Parts, token_columns

_MOST_DOCUMENTS = 8
"""Documents named for each source and pass on the terminal; the JSON has all."""


def explain(run: Run, block: int) -> dict[str, Any]:
    """What a block holds, as the JSON of `shardmill plan JOB --explain BLOCK --json`.

    Returns:
      `block`, `split`, `stage`, `lengths`, `tokens`, and `sources`: for each source and copy `planned_share`,
      `tokens`, and `documents`, each with its id, first token, tokens and input file.

    Raises:
      RequestError: the token store is not complete, or there is no such block.
      DataError: a part of the token store is damaged.
    """
    vocabulary = known_vocabulary(run)
    if vocabulary is None:
        raise _incomplete(run, "no tokenizer yet")
    _, todo, sidecars = finished_sidecars(run, vocabulary.sha256)
    if todo:
        raise _incomplete(run, f"{len(todo)} input ranges that are not tokenized")
    made = plan.make(run, sidecars, vocabulary)
    if not 0 <= block < made.blocks:
        raise RequestError(
            f"The plan has no block {block}", where=run.uri, expected=f"0 to {made.blocks - 1}", got=str(block)
        )
    number = made.table["block"].to_numpy()
    first, last = np.searchsorted(number, [block, block + 1]).tolist()
    rows = made.table.slice(first, last - first).to_pylist()
    split: Split = rows[0]["split"]
    stage = made.stages[rows[0]["stage"]]
    sources = []
    for source, copy in sorted({(r["source"], r["copy"]) for r in rows}):
        files = {s.part: s.file for s in sidecars[source][split]}
        mine = [r for r in rows if (r["source"], r["copy"]) == (source, copy)]
        documents = _documents(run, source, split, mine, files)
        sources.append(
            {
                "source": source,
                "copy": copy,
                "planned_share": float(stage.shares.get(source, 0)) if split == "train" else None,
                "tokens": sum(d["tokens"] for d in documents),
                "documents": documents,
            }
        )
    return {
        "block": block,
        "split": split,
        "stage": stage.name,
        "lengths": list(stage.lengths),
        "tokens": sum(s["tokens"] for s in sources),
        "sources": sources,
    }


def _incomplete(run: Run, got: str) -> RequestError:
    return RequestError(
        "The documents of a block are known when the token store is complete",
        where=str(run.store),
        got=got,
        remedy="Run `shardmill tokenize` first; `prepare` goes on from there",
    )


def _documents(
    run: Run, source: str, split: Split, rows: list[dict[str, Any]], files: dict[int, str]
) -> list[dict[str, Any]]:
    columns = token_columns(run.job)
    found = []
    with contextlib.ExitStack() as stack:
        parts = Parts(run.store, source, split, ["doc_id", *columns], stack)
        for row in rows:
            taken = parts.slice(row)
            tokens = taken.sizes - taken.before - taken.behind
            ids = taken.table["doc_id"].to_pylist()
            found += [
                {"id": name, "first_token": first, "tokens": count, "file": files[row["part"]]}
                for name, first, count in zip(ids, taken.before.tolist(), tokens.tolist(), strict=True)
            ]
    return found


def show_explained(report: dict[str, Any], console: Console) -> None:
    """Print what a block holds."""
    lengths = ", ".join(map(str, report["lengths"]))
    console.print(
        f"[bold]block {report['block']}[/]: {report['tokens']:,} tokens of the {report['split']} split, stage "
        f"{escape(report['stage'])}, for lengths {lengths}",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("source", "pass", "documents", "tokens", "share", "planned"):
        table.add_column(heading, justify="left" if heading == "source" else "right")
    for s in report["sources"]:
        share = f"{s['tokens'] / max(1, report['tokens']):.1%}"
        planned = "" if s["planned_share"] is None else f"{s['planned_share']:.1%}"
        count = f"{len(s['documents']):,}"
        table.add_row(escape(s["source"]), str(s["copy"]), count, f"{s['tokens']:,}", share, planned)
    console.print(table)
    for s in report["sources"]:
        console.print(f"\n[bold]{escape(s['source'])}[/] pass {s['copy']}", highlight=False)
        for d in s["documents"][:_MOST_DOCUMENTS]:
            cut = f" from token {d['first_token']:,}" if d["first_token"] else ""
            where = f"{escape(d['file'])}, {d['tokens']:,} tokens{cut}"
            console.print(f"  {escape(d['id'])}  [dim]{where}[/]", highlight=False)
        if (more := len(s["documents"]) - _MOST_DOCUMENTS) > 0:
            console.print(f"  [dim]and {more:,} more; --json lists all[/]", highlight=False)
