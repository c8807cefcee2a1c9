"""The report is one small file that needs nothing else, the same bytes each time, for good and bad datasets."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tiny_dataset import Spoiled, make_dataset

from pipelines.audit import audit_dataset
from pipelines.report import render_report
from schemas.manifest import read_shards
from schemas.storage import Location
from transforms.objectives.mlm import Mlm

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
