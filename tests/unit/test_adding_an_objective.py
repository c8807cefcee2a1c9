"""Adding an objective touches one file: this one defines an objective and takes it from the job file to the audit.

What stands between here and the first test is all that a module of `transforms.objectives` would hold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import Field
from unit_helpers import corpus, lists, vocabulary

import schemas.objectives
import transforms.objectives.base
from pipelines.audit import audit_dataset
from pipelines.cli import main
from schemas.errors import RequestError
from schemas.jobfile import job_schema, parse_job
from schemas.manifest import TokenizerRecord
from schemas.objectives import ObjectiveParameters, known_objectives
from schemas.storage import Location
from schemas.tables import TARGET, parquet_options
from transforms.objectives.base import Documents, Examples, Objective, require_length, require_token
from transforms.objectives.drawing import Drawing
from transforms.objectives.layout import document_rows
from transforms.objectives.registry import known_objective, objective_for, schema_of
from transforms.ragged import Int64, Ragged, ranges
from transforms.statistics.rows import Rows
from transforms.vocabulary import Vocabulary

# The objective.


class ReversedText(ObjectiveParameters):
    """Text back to front, to be read aloud the right way round."""

    kind: Literal["reversed_text"] = "reversed_text"
    least_tokens: Annotated[int, Field(ge=1)] = 2
    """Shorter pieces read the same both ways, and are a named loss."""


@dataclass(frozen=True)
class ReversedTextObjective(Objective):
    """Builds rows of reversed text whose targets are the text. Law: both have the piece's tokens and EOS."""

    parameters: ReversedText
    eos_id: int

    parameters_class = ReversedText
    columns = TARGET
    laws = {"reversed": (("reversal_errors",), "the target is the input back to front")}  # noqa: RUF012

    @classmethod
    def of(cls, parameters: Any, vocabulary: Vocabulary) -> ReversedTextObjective:
        return cls(parameters, require_token(vocabulary, "reversed_text", "eos"))

    def resolve(self, length: int) -> dict[str, Any]:
        require_length("reversed_text", length, 2, "for a token and EOS")
        return {"length": length, "text_tokens": length - 1}

    def build(self, documents: Documents, *, lengths: Sequence[int], seed: int) -> Examples:
        layout = document_rows(documents, lengths[-1] - 1)
        kept = layout.row_tokens >= self.parameters.least_tokens
        lost = int(layout.row_tokens[~kept].sum())
        layout = layout.take(np.flatnonzero(kept))
        text = layout.tokens(documents, after=self.eos_id)
        return Examples(
            input_ids=Ragged(text.flat[_reversed_before_the_last(text)], text.offsets),
            lists={"target_ids": text},
            losses={"too_short": lost} if lost else {},
            **layout.provenance(documents),
        )

    def row_lengths(
        self, doc_lengths: Int64, counts: Int64, *, lengths: Sequence[int]
    ) -> tuple[Int64, npt.NDArray[np.float64]]:
        return np.array([lengths[-1]]), np.array([float((doc_lengths * counts).sum()) / (lengths[-1] - 1)])

    @staticmethod
    def measure(rows: Rows, table: pa.Table) -> None:
        targets = Ragged.from_arrow(table["target_ids"])
        pieces = rows.doc_lengths.lengths
        rows.per_row["provenance_mismatch"] = (rows.lengths != rows.corpus_tokens + pieces).astype(np.int64)
        errors = (targets.lengths != rows.lengths).astype(np.int64)
        if not errors.any():
            inputs = Ragged(rows.ids, rows.offsets)
            wrong = inputs.flat[_reversed_before_the_last(inputs)] != targets.flat
            errors = rows.count_at(rows.row_of(np.flatnonzero(wrong)))
        rows.per_row["reversal_errors"] = errors

    @staticmethod
    def draw(row: Mapping[str, Any], tokenizer: TokenizerRecord) -> Drawing:
        return Drawing(target=tuple(row["target_ids"]))


def _reversed_before_the_last(rows: Ragged) -> Int64:
    """Flat indices of each row's tokens back to front, the last staying where it is."""
    n = rows.lengths
    place = ranges(n)
    behind = np.repeat(n, n) - 1
    return np.repeat(rows.offsets[:-1], n) + np.where(place == behind, place, behind - 1 - place)


# Other tests must not see it: defining the classes made them known, and a fixture does so for the tests below.
_REGISTRIES: list[dict[str, Any]] = [schemas.objectives._KNOWN, transforms.objectives.base._KNOWN]
_ENTRIES = [registry.pop("reversed_text") for registry in _REGISTRIES]

TEXTS = [
    f"{a} {b} {c} over the {a} {b} and the {c}." * n
    for n, (a, b, c) in enumerate(
        [("quick", "brown", "fox"), ("lazy", "old", "dog"), ("small", "red", "hen"), ("big", "grey", "owl")] * 15, 1
    )
]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry, entry in zip(_REGISTRIES, _ENTRIES, strict=True):
        monkeypatch.setitem(registry, "reversed_text", entry)


def job_text(**objective: Any) -> str:
    return yaml.safe_dump(
        {
            "name": "backwards",
            "output": "out",
            "tokenizer": {"train": {"model": "wordpiece", "vocab_size": 400, "lowercase": True}},
            "sources": [{"name": "tales", "files": "tales.jsonl"}],
            "splits": {"validation": 0.1},
            "objective": {"kind": "reversed_text", **objective},
            "curriculum": [{"stage": "only", "lengths": [8, 32]}],
        }
    )


def test_nothing_of_it_is_known_before_it_is_defined() -> None:
    """Fails if this file's objective would leak into other tests."""
    assert "reversed_text" not in known_objectives()
    with pytest.raises(RequestError, match="no objective kind 'reversed_text'"):
        parse_job(job_text())


@pytest.mark.usefixtures("known")
def test_a_job_file_can_name_it_and_a_misspelt_key_is_told_the_nearest() -> None:
    assert parse_job(job_text(least_tokens=3)).objective == ReversedText(least_tokens=3)
    with pytest.raises(RequestError) as error:
        parse_job(job_text(least_token=3))
    assert "did you mean 'least_tokens'?" in error.value.paragraph().lower()
    assert "least_tokens, " in error.value.expected or error.value.expected.endswith("least_tokens")
    with pytest.raises(RequestError, match="greater than or equal to 1"):
        parse_job(job_text(least_tokens=0))


@pytest.mark.usefixtures("known")
def test_the_json_schema_of_job_files_lists_it() -> None:
    schema = job_schema()
    jsonschema.validate(yaml.safe_load(job_text(least_tokens=3)), schema)
    for wrong in ({"least_token": 3}, {"least_tokens": "three"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(yaml.safe_load(job_text(**wrong)), schema)
    assert "ReversedText" in json.dumps(schema)


@pytest.mark.usefixtures("known")
def test_it_builds_rows_and_names_what_it_loses() -> None:
    assert known_objective("reversed_text") is ReversedTextObjective
    objective = objective_for(ReversedText(), vocabulary())
    made = objective.build(corpus([[7, 8, 9, 10, 11], [12]]), lengths=[3], seed=0)
    assert lists(made.input_ids) == [[8, 7, 5], [10, 9, 5]]
    assert lists(made.lists["target_ids"]) == [[7, 8, 5], [9, 10, 5]]
    assert made.losses == {"too_short": 2}
    assert made.to_table(objective.columns, "a").schema == schema_of("reversed_text")
    with pytest.raises(RequestError, match="'eos' token, which reversed_text needs"):
        objective_for(ReversedText(), vocabulary(roles={"unk": 1}))


@pytest.mark.usefixtures("known")
def test_it_goes_from_the_job_file_to_shards_card_show_and_audit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tales.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    (tmp_path / "job.yaml").write_text(job_text(least_tokens=4))
    out, one = tmp_path / "out", "--direct_num_workers=1"
    assert main(["prepare", str(tmp_path / "job.yaml"), one]) == 0, capsys.readouterr()

    manifest = json.loads((out / "manifest.json").read_bytes())
    assert manifest["objective"]["kind"] == "reversed_text"
    assert manifest["objective"]["resolved"] == [{"length": 8, "text_tokens": 7}, {"length": 32, "text_tokens": 31}]
    losses = [e["losses"] for e in manifest["ledger"]["entries"] if e["step"] == "materialize"]
    assert any(entry.get("too_short") for entry in losses)

    paths = sorted((out / "data").rglob("*.parquet"))
    rows = [row for path in paths for row in pq.ParquetFile(path).read().to_pylist()]
    assert len(rows) > 40
    assert all(row["input_ids"][:-1] == row["target_ids"][-2::-1] for row in rows)
    assert all(len(row["input_ids"]) > 4 for row in rows)

    card = (out / "README.md").read_text()
    assert "finished `reversed_text` examples" in card
    assert f"| `target_ids` | {TARGET[0].meaning} |" in card

    capsys.readouterr()
    assert main(["plan", str(tmp_path / "job.yaml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["objective"]["kind"] == "reversed_text"
    assert main(["show", str(out), "-n", "2"]) == 0
    shown = capsys.readouterr().out
    assert "→" in shown
    assert "over the" in shown
    assert "the over" in shown

    place = Location.of(out)
    result = audit_dataset(place)
    assert result.passed
    assert "reversed" in {gate.name for gate in result.gates}
    spoil(paths[-1])
    assert [gate.name for gate in audit_dataset(place).failed] == ["reversed"]


def spoil(path: Path) -> None:
    """Swap two tokens of one target."""
    table = pq.ParquetFile(path).read()
    targets = table["target_ids"].to_pylist()
    row = next(i for i, target in enumerate(targets) if target[0] != target[1])
    targets[row][:2] = targets[row][1::-1]
    column = pa.array(targets, table.schema.field("target_ids").type)
    spoiled = table.set_column(table.schema.get_field_index("target_ids"), table.schema.field("target_ids"), column)
    pq.write_table(spoiled, path, **parquet_options(table.schema))
