"""The report is one small file that needs nothing else, the same bytes each time, for good and bad datasets."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest
from tiny_dataset import Spoiled, make_dataset

from pipelines.audit import audit_dataset
from pipelines.report import render_report
from schemas.manifest import read_shards
from schemas.storage import Location
from schemas.tables import SHARDS
from transforms.objectives.mlm import Mlm
from transforms.statistics import Group

_MOST_BYTES = 2_000_000


class _References(HTMLParser):
    """Collects everything a browser would fetch, and checks that tags nest."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "srcset", "action") and value:
                self.references.append(value)


def references(page: str) -> list[str]:
    parser = _References()
    parser.feed(page)
    assert not parser.tags & {"script", "link", "iframe", "img", "object", "embed"}
    urls = [*re.findall(r"url\(([^)]*)\)", page), *re.findall(r"@import\s+(\S+)", page)]
    return [r for r in [*parser.references, *urls] if not r.startswith("#")]


@pytest.mark.parametrize("fixture", ["mlm_dataset", "causal_dataset"])
def test_the_report_is_small_needs_no_other_file_and_is_reproducible(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    result = audit_dataset(request.getfixturevalue(fixture))
    report = render_report(result)
    assert len(report) < _MOST_BYTES
    page = report.decode()
    assert references(page) == []
    assert render_report(result) == report
    assert result.verdict() in page
    for gate in result.gates:
        assert f"<code>{gate.name}</code>" in page


def test_charts_take_their_colours_from_the_page(mlm_dataset: Location) -> None:
    page = render_report(audit_dataset(mlm_dataset)).decode()
    charts = re.findall(r"<svg .*?</svg>", page, flags=re.DOTALL)
    assert len(charts) == 10
    for chart in charts:
        assert "var(--ink)" in chart
        assert not re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", chart)


def test_failing_gates_come_first_and_say_what_to_do(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, gates={"padding": {"max": 0.0001}})
    result = audit_dataset(dataset)
    page = render_report(result).decode()
    assert f"fails 1 of {len(result.gates)} gates (job.padding)" in page
    assert page.index("Failing gates") < page.index("<h2>Gates</h2>")
    assert page.index("<code>job.padding</code>") < page.index("<code>not_empty</code>")


def test_a_damaged_dataset_still_gets_its_report(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    for path in read_shards(dataset)["path"].to_pylist():
        (dataset / path).write_bytes(b"PAR1")
    page = render_report(audit_dataset(dataset)).decode()
    assert "A shard cannot be read" in page
    assert "20 unreadable" in page


def test_an_empty_dataset_still_gets_its_report(tmp_path: Path) -> None:
    page = render_report(audit_dataset(make_dataset(tmp_path, spoil=lambda s: s.tables.clear()))).decode()
    assert "not_empty" in page


def test_text_of_a_corpus_cannot_become_markup(tmp_path: Path) -> None:
    def rename(s: Spoiled) -> None:
        for key in s.tables:
            columns = s.columns(key)
            columns["source"] = ["<script>alert(1)</script>" for _ in columns["source"]]
            s.put(key, columns)

    page = render_report(audit_dataset(make_dataset(tmp_path, Mlm(), spoil=rename))).decode()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_sixty_sources_at_eight_lengths_in_three_stages_stay_under_two_megabytes(mlm_dataset: Location) -> None:
    """Fails if some table or chart grows with sources x lengths x stages."""
    result = audit_dataset(mlm_dataset)
    lengths, stages, names = [2**i for i in range(5, 13)], range(3), [f"source-number-{i:02d}" for i in range(60)]
    groups = dict(result.statistics.groups)
    pattern = next(m for g, m in groups.items() if g.split == "train")
    found = replace(
        result.statistics,
        groups={
            Group(split, k, n, s): pattern
            for split in ("train", "validation")
            for k in stages
            for n in lengths
            for s in names
        },
        tokens={("train", s): next(iter(result.statistics.tokens.values())) for s in names},
    )
    manifest = result.manifest
    source, stage = manifest.sources[0], manifest.stages[0]
    planned = {s: {"planned_tokens": 1_000 + i, "realised_tokens": 1_000} for i, s in enumerate(names)}
    entry = next(e for e in manifest.ledger.entries if e.step == "materialize")
    entries = [entry.model_copy(update={"source": s, "stage": k}) for s in names for k in stages]
    manifest = manifest.model_copy(
        update={
            "sources": [source.model_copy(update={"name": s}) for s in names],
            "stages": [
                stage.model_copy(update={"stage": k, "name": f"stage-{k}", "lengths": lengths, "sources": planned})
                for k in stages
            ],
            "ledger": manifest.ledger.model_copy(update={"entries": entries}),
        }
    )
    shard = result.index.to_pylist()[0]
    index = [
        {**shard, "stage": k, "block": 200 * k + b, "length": n, "source_tokens": [(s, 100) for s in names]}
        for k in stages
        for b in range(200)
        for n in lengths
    ]
    report = render_report(
        replace(result, statistics=found, manifest=manifest, index=pa.Table.from_pylist(index, schema=SHARDS))
    )
    assert len(report) < _MOST_BYTES
    assert b"source-number-59" in report
