"""croissant.json and the card are read by the libraries that are meant to read them."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from tiny_dataset import make_dataset

from pipelines.audit import audit_dataset, write_audit
from pipelines.card import dataset_card
from pipelines.croissant import croissant
from schemas.manifest import read_manifest
from schemas.objectives import ObjectiveParameters
from transforms.objectives.mlm import Mlm
from transforms.objectives.sentence_pair import SentencePair
from transforms.objectives.ul2 import Ul2


@pytest.mark.parametrize("objective", [Mlm(), SentencePair(), Ul2()], ids=lambda o: o.kind)
def test_croissant_validates_and_its_records_are_the_shards_rows(
    objective: ObjectiveParameters, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    dataset = make_dataset(tmp_path / "data", objective, blocks=1)
    result = audit_dataset(dataset)
    place = Path(write_audit(result)["croissant"].uri)
    with caplog.at_level(logging.ERROR):
        read = mlcroissant.Dataset(jsonld=place)
    assert not read.metadata.issues.errors
    assert {r.uuid for r in read.metadata.record_sets} == {"train", "validation"}
    found = {
        a.uuid.rsplit("/", 1)[1]: a.value
        for r in read.metadata.record_sets
        if r.uuid == "train"
        for a in r.annotations
    }
    assert found["rows"] == result.statistics.total("rows", split="train")
    assert croissant(result) == place.read_bytes()


def test_every_file_of_croissant_is_there_with_its_checksum(tmp_path: Path) -> None:
    import hashlib

    dataset = make_dataset(tmp_path, blocks=1)
    document = json.loads(croissant(audit_dataset(dataset)))
    files = [f for f in document["distribution"] if f["@type"] == "cr:FileObject"]
    assert len(files) == 3
    for file in files:
        assert hashlib.sha256((tmp_path / file["contentUrl"]).read_bytes()).hexdigest() == file["sha256"]
    for shards in (f for f in document["distribution"] if f["@type"] == "cr:FileSet"):
        assert list(tmp_path.glob(shards["includes"]))


@pytest.mark.parametrize("objective", [Mlm(), Ul2()], ids=lambda o: o.kind)
def test_the_hub_loads_the_cards_yaml(objective: ObjectiveParameters, tmp_path: Path) -> None:
    from huggingface_hub import DatasetCard

    manifest = read_manifest(make_dataset(tmp_path, objective, blocks=1))
    card = DatasetCard(dataset_card(manifest))
    data = card.data.to_dict()
    assert data["pretty_name"] == "tiny"
    assert [f["split"] for f in data["configs"][0]["data_files"]] == ["train", "validation"]
    for files in data["configs"][0]["data_files"]:
        assert list(tmp_path.glob(files["path"]))
    assert data["task_categories"] == [{"mlm": "fill-mask", "ul2": "text-generation"}[objective.kind]]
    assert data["size_categories"] == ["n<1K"]
    assert "croissant.json" in card.text
