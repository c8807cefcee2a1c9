"""Rows that were made by another law than the manifest says: every row is sound, and the gate of that law fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_dataset import describe, make_dataset

from pipelines.audit import audit_dataset
from schemas.objectives import ObjectiveParameters
from schemas.storage import Location
from transforms.objectives.mlm import Mlm
from transforms.objectives.sentence_pair import SentencePair


def claim(dataset: Location, **parameters: Any) -> None:
    """Let the manifest say that the rows were made with these parameters."""
    place = dataset / "manifest.json"
    manifest = json.loads(place.read_bytes())
    manifest["objective"].update(parameters)
    place.write_bytes(json.dumps(manifest).encode())


SHORT = [
    (Mlm(), 0.1),
    (Mlm(pack="full"), 0.1),
    (Mlm(pack="sentences"), 0.1),
    (SentencePair(short_sequence_rate=0), 0.1),
    (SentencePair(task="sop", short_sequence_rate=0), 0.1),
    (Mlm(pack="full", short_sequence_rate=0.2), 0.1),
    (Mlm(pack="sentences", short_sequence_rate=0.1), 0.3),
]


@pytest.mark.parametrize(
    ("objective", "claimed"), SHORT, ids=lambda v: describe(v) if not isinstance(v, float) else v
)
def test_another_rate_of_short_rows_trips_their_gate_alone(
    objective: ObjectiveParameters, claimed: float, tmp_path: Path
) -> None:
    dataset = make_dataset(tmp_path, objective, blocks=2, times=4)
    claim(dataset, short_sequence_rate=claimed)
    (failed,) = audit_dataset(dataset).failed
    assert failed.name == "short_rows"


@pytest.mark.parametrize("pack", ["document", "full"])
def test_the_gate_on_short_rows_says_between_which_shares_the_coins_are(pack: str, tmp_path: Path) -> None:
    """Fails if rows that are short because their text ends were all counted as coins, or none was."""
    objective = Mlm.model_validate({"pack": pack, "short_sequence_rate": 0.1})
    result = audit_dataset(make_dataset(tmp_path, objective, blocks=2, times=4))
    (gate,) = (g for g in result.gates if g.name == "short_rows")
    least, most = (float(x.rstrip("%")) for x in gate.observed.split(" of ")[0].split(" to "))
    assert least < 9.9 < most
    assert gate.n == result.statistics.total("rows", split="train")


RUNS = [
    ({"selection": "ngram", "max_ngram": 2}, {"max_ngram": 3}),
    ({"selection": "ngram", "whole_word": True, "max_ngram": 1}, {"max_ngram": 3}),
    ({"selection": "span", "span_geometric_p": 0.4}, {"span_geometric_p": 0.2}),
    ({"selection": "span", "max_span_words": 8}, {"max_span_words": 10}),
    ({"selection": "span", "pack": "sentences", "span_geometric_p": 0.25}, {"span_geometric_p": 0.2}),
    ({"selection": "span", "span_geometric_p": 0.2}, {"span_geometric_p": 0.3}),
    ({"selection": "ngram", "max_ngram": 4}, {"max_ngram": 3}),
]


@pytest.mark.parametrize(("made", "claimed"), RUNS, ids=str)
def test_ngrams_and_spans_of_other_lengths_trip_the_gate_on_runs_alone(
    made: dict[str, Any], claimed: dict[str, Any], tmp_path: Path
) -> None:
    """Fails if runs were judged by how many places follow another alone, which a law a little off does not show."""
    dataset = make_dataset(tmp_path, Mlm.model_validate(made), blocks=2, times=2)
    claim(dataset, **claimed)
    (failed,) = audit_dataset(dataset).failed
    assert failed.name == "mask_runs"
    assert "runs end elsewhere" in failed.observed
    assert failed.figures == ("mask_run_errors",)


def test_other_ngrams_of_pairs_trip_the_gate_on_runs_alone(tmp_path: Path) -> None:
    pairs = SentencePair(task="sop", selection="ngram", whole_word=True, max_ngram=2)
    dataset = make_dataset(tmp_path, pairs, blocks=2, times=2)
    claim(dataset, max_ngram=3)
    assert [g.name for g in audit_dataset(dataset).failed] == ["mask_runs"]
