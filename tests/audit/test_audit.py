"""The audit as a whole: the same result on Beam, what is written, and whether it is current."""

from __future__ import annotations

import json
import pickle
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from rich.console import Console
from tiny_dataset import make_dataset

from pipelines.audit import (
    ShardMapper,
    audit_dataset,
    audit_is_current,
    map_reduce_on,
    merge_bytes,
    write_audit,
)
from pipelines.audit_command import audit_command
from pipelines.engine import Engine
from schemas.errors import RequestError
from schemas.manifest import read_shards
from schemas.storage import Location
from transforms.objectives.causal import Causal


@pytest.mark.parametrize("fixture", ["mlm_dataset", "causal_dataset"])
def test_beam_finds_what_one_process_finds(fixture: str, request: pytest.FixtureRequest) -> None:
    dataset: Location = request.getfixturevalue(fixture)
    here = audit_dataset(dataset)
    beam = audit_dataset(dataset, map_reduce=map_reduce_on(Engine(("--direct_num_workers=1",)), dataset))
    assert beam.statistics.to_bytes() == here.statistics.to_bytes()
    assert beam.to_json() == here.to_json()
    assert not (dataset / "audit" / "statistics.json").exists()


def test_map_and_merge_travel_to_a_worker() -> None:
    mapper = ShardMapper("/data/run")
    assert pickle.loads(pickle.dumps(mapper)).dataset_uri == "/data/run"
    assert len(pickle.dumps(mapper)) < 200
    assert pickle.loads(pickle.dumps(merge_bytes)) is merge_bytes


def test_progress_counts_shards(mlm_dataset: Location) -> None:
    seen: list[tuple[int, int]] = []
    audit_dataset(mlm_dataset, progress=lambda done, total: seen.append((done, total)))
    count = read_shards(mlm_dataset).num_rows
    assert seen == [(i + 1, count) for i in range(count)]


def test_no_dataset_is_a_readable_error(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no finished dataset"):
        audit_dataset(Location.of(tmp_path))
    with pytest.raises(RequestError, match="no finished dataset"):
        audit_command(str(tmp_path), Console())


def test_an_audit_is_current_until_the_manifest_changes(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    assert not audit_is_current(dataset)
    write_audit(audit_dataset(dataset))
    assert audit_is_current(dataset)
    place = dataset / "manifest.json"
    place.write_bytes(place.read_bytes() + b" ")
    assert not audit_is_current(dataset)
    (dataset / "audit" / "audit.json").write_bytes(b"[]")
    assert not audit_is_current(dataset)


def test_audit_json_carries_verdict_gates_and_fingerprints(mlm_dataset: Location, tmp_path: Path) -> None:
    result = audit_dataset(mlm_dataset)
    places = write_audit(result, Location.of(tmp_path), json=Location.of(tmp_path / "elsewhere.json"))
    assert places["json"].uri == str(tmp_path / "elsewhere.json")
    assert places["html"].uri == str(tmp_path / "audit" / "report.html")
    found = json.loads((tmp_path / "elsewhere.json").read_bytes())
    assert found["passed"] is True
    assert found["fingerprint"] == result.manifest.fingerprint
    assert [g["name"] for g in found["gates"]] == [g.name for g in result.gates]
    assert set(found["gates"][0]) == {
        *("name", "passed", "expected", "observed", "bound", "n", "effect", "worst_shard", "command", "figures"),
    }
    assert found["statistics"]["samples"]["rows/train"]["level"] == 0


def test_junit_has_a_case_a_gate_and_a_failure_a_failing_one(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, gates={"padding": {"max": 0.0001}})
    result = audit_dataset(dataset)
    suite = ElementTree.fromstring(result.to_junit())
    assert len(suite) == len(result.gates) == int(suite.get("tests", "0"))
    failures = [case for case in suite if case.find("failure") is not None]
    assert [case.get("name") for case in failures] == ["job.padding"]
    assert suite.get("failures") == "1"


def test_the_command_prints_every_gate_and_exits_by_the_verdict(tmp_path: Path) -> None:
    good, bad = make_dataset(tmp_path / "good", Causal()), make_dataset(tmp_path / "bad", gates={"rows": {"max": 1}})
    console = Console(record=True, width=200)
    assert audit_command(str(good), console, junit=str(tmp_path / "j.xml")) == 0
    assert audit_command(str(bad), console) == 1
    text = console.export_text()
    assert f"tiny passes all {len(audit_dataset(good).gates)} gates" in text
    assert re.search(r"FAIL job\.rows\s+759", text)
    assert f"look: shardmill show {bad}" in text
    assert (tmp_path / "j.xml").exists()
    assert not (good / "audit" / "junit.xml").exists()


def test_beam_options_go_to_beam_and_the_result_is_the_same(tmp_path: Path) -> None:
    from pipelines.cli import main

    dataset = make_dataset(tmp_path, Causal(), blocks=1)
    assert main(["audit", str(dataset)]) == 0
    here = (dataset / "audit" / "audit.json").read_bytes()
    assert main(["audit", str(dataset), "--runner=DirectRunner", "--direct_num_workers=2"]) == 0
    assert (dataset / "audit" / "audit.json").read_bytes() == here
    assert main(["audit", str(dataset), "--no_such_option"]) == 2
