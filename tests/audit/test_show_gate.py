"""`show --gate` finds the very rows that a gate complains of, for any gate, and says which gates there are."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from sabotage import change_shard, fewer_masks, first_train, full_train, id_out_of_range, row_twice
from tiny_dataset import make_dataset

from pipelines.audit import audit_dataset, find_gate, write_audit
from pipelines.cli import main
from pipelines.show.gate import gate_examples
from pipelines.show_gate import show_gate
from schemas.errors import RequestError
from schemas.storage import Location
from transforms.objectives.mlm import Mlm


def printed(dataset: Location, name: str, n: int = 3) -> str:
    target = io.StringIO()
    show_gate(dataset, name, n=n, console=Console(file=target, soft_wrap=True, width=100))
    return target.getvalue()


@pytest.mark.parametrize("audited", [False, True])
def test_the_row_that_breaks_a_law_is_shown_with_or_without_an_audit_before(tmp_path: Path, audited: bool) -> None:
    dataset = make_dataset(tmp_path, spoil=change_shard(full_train, fewer_masks), blocks=1)
    if audited:
        write_audit(audit_dataset(dataset))
    gate, found = find_gate(dataset, "mask_counts")
    shown = gate_examples(dataset, gate, n=3, found=found)
    assert [(e.path, e.row) for e in shown.examples] == [("data/split=train/stage=1/length=128/00000.parquet", 0)]
    text = printed(dataset, "mask_counts")
    assert "FAIL mask_counts" in text
    assert "rows with: mask count errors" in text


def test_an_id_outside_the_vocabulary_is_shown_by_its_number(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, spoil=change_shard(first_train, id_out_of_range), blocks=1)
    assert "<" in printed(dataset, "id_range", n=1).split("row 0")[1]


def test_both_of_two_equal_rows_are_shown(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, spoil=row_twice, blocks=1)
    gate, found = find_gate(dataset, "rows_once")
    shown = gate_examples(dataset, gate, found=found).examples
    assert len(shown) == 2
    assert shown[0].spans == shown[1].spans
    assert shown[0].documents == shown[1].documents


def test_every_gate_of_a_good_dataset_shows_rows(mlm_dataset: Location) -> None:
    result = audit_dataset(mlm_dataset)
    for gate in result.gates:
        shown = gate_examples(mlm_dataset, gate, n=2, found=result.statistics)
        assert len(shown.examples) == 2, gate.name


def test_an_unknown_gate_is_an_error_that_names_the_nearest(
    mlm_dataset: Location, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RequestError, match="no gate 'mask_count'"):
        show_gate(mlm_dataset, "mask_count")
    assert main(["show", str(mlm_dataset), "--gate", "mask_count"]) == 2
    assert "Did you mean 'mask_counts'?" in capsys.readouterr().err
    assert main(["show", str(mlm_dataset), "--gate", "mask_counts", "--length", "16"]) == 2


def test_the_command_of_every_gate_of_rows_is_one_that_runs(mlm_dataset: Location) -> None:
    commands = {gate.command for gate in audit_dataset(mlm_dataset).gates}
    for command in sorted(commands):
        if "show" in command:
            assert main([a.replace("DATASET", str(mlm_dataset)) for a in command.split()[1:]]) == 0
    assert len(commands) > 10


def test_a_share_that_is_off_shows_rows_with_most_of_what_there_is_too_much_of(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, Mlm(mask_replace_prob=0.6, random_replace_prob=0.4), blocks=1)
    gate, _ = find_gate(dataset, "mask_replacement")
    assert len(gate.figures) == 1
    shown = gate_examples(dataset, gate, n=2).examples
    wanted = {"shown_mask": "mask", "shown_random": "random", "shown_unchanged": "kept"}[gate.figures[0]]
    assert all(any(span.kind == wanted for span in e.spans) for e in shown)
