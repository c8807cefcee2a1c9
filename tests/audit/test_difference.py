"""A comparison names what moved and why, and nothing where only chance is at work."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_dataset import Spoiled, make_dataset

from pipelines.audit import audit_dataset
from pipelines.cli import main
from pipelines.difference import difference
from schemas.storage import Location
from transforms.objectives.causal import Causal
from transforms.objectives.mlm import Mlm
from transforms.statistics.divergence import compare_counts

_COUNTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 10**9), min_size=1)


@given(_COUNTS, _COUNTS)
def test_the_divergence_is_symmetric_bounded_and_zero_only_for_equal_shares(
    a: dict[str, int], b: dict[str, int]
) -> None:
    found = compare_counts("x", a, b).divergence_bits
    assert 0 <= found <= 1
    assert found == pytest.approx(compare_counts("x", b, a).divergence_bits, abs=1e-12)
    assert compare_counts("x", a, a).divergence_bits == pytest.approx(0, abs=1e-12)
    if not set(a) & set(b):
        assert found == pytest.approx(1)


def test_the_divergence_is_that_of_its_definition() -> None:
    p, q = [0.5, 0.3, 0.2], [0.1, 0.6, 0.3]
    m = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
    kl = [sum(x * math.log2(x / z) for x, z in zip(side, m, strict=True)) for side in (p, q)]
    found = compare_counts("x", dict(zip("abc", p, strict=True)), dict(zip("abc", q, strict=True)))
    assert found.divergence_bits == pytest.approx(sum(kl) / 2, abs=1e-12)
    assert found.movers[0] == ("a", 0.5, 0.1)


def test_a_dataset_does_not_differ_from_itself(mlm_dataset: Location) -> None:
    result = audit_dataset(mlm_dataset)
    found = difference(result, result)
    assert found.biggest is None
    assert found.same_rows
    assert found.same_plan
    assert found.reasons == ()
    assert found.sentence() == "Nothing differs beyond chance."


def test_the_biggest_mover_is_the_source_that_was_changed(tmp_path: Path) -> None:
    def drop_code(s: Spoiled) -> None:
        for key in [k for k in s.tables if k[1] == 1]:
            columns = s.columns(key)
            kept = [i for i, name in enumerate(columns["source"]) if name == "books"]
            s.put(key, {name: [values[i] for i in kept] for name, values in columns.items()})

    there = audit_dataset(make_dataset(tmp_path / "a", Causal(), blocks=1))
    here = audit_dataset(make_dataset(tmp_path / "b", Causal(), spoil=drop_code, blocks=1))
    found = difference(here, there)
    assert found.mixture[0][0] in ("books", "code")
    assert found.biggest is not None
    top = {f.field: f for f in found.fields[:4]}
    assert "source" in top
    assert {m[0] for m in top["source"].movers} == {"books", "code"}
    assert not any(r.covered_by != "neither" for r in found.reasons)


def test_other_fingerprints_are_explained_by_what_the_jobs_say(tmp_path: Path) -> None:
    there = audit_dataset(make_dataset(tmp_path / "a", Mlm(), seed=1, blocks=1))
    here = audit_dataset(make_dataset(tmp_path / "b", Mlm(mask_rate=0.3), seed=2, blocks=1))
    reasons = {r.what: (r.there, r.here, r.covered_by) for r in difference(here, there).reasons}
    assert reasons == {"seed": ("1", "2", "rows"), "objective.mask_rate": ("0.15", "0.3", "rows")}


def test_the_command_prints_the_difference_and_keeps_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there, here = make_dataset(tmp_path / "a", Mlm(), blocks=1), make_dataset(tmp_path / "b", Causal(), blocks=1)
    assert main(["audit", str(here), "--against", str(there)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "The biggest mover is" in text
    assert "objective.kind: mlm → causal changes rows" in text
    assert "vocabulary: the same tokenizer" in text
    against = json.loads((here / "audit" / "audit.json").read_bytes())["against"]
    assert against["there"] == str(there)
    assert not (there / "audit" / "audit.json").exists()
    assert main(["audit", str(here), "--against", str(tmp_path / "nowhere")]) == 2
