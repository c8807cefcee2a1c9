"""The stream delivers what the plan says: once, in one order for any number of ranks, and again after a resume."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from small_datasets import FIRST_TEXT_ID, SPECS, ShardSpec, example_names, train_names, write_dataset

import trainer.stream
from schemas.errors import RequestError
from trainer.stream import KINDS, Stream
from trainer.stream.reader import RowGroupReader

TOKENS = 64


def stream(dataset: Path, **options: object) -> Stream:
    return Stream(dataset, **({"tokens_per_batch": TOKENS, "seed": 1, "window_row_groups": 2} | options))  # type: ignore[arg-type]


@pytest.mark.parametrize("objective", sorted(KINDS))
def test_every_example_exactly_once_an_epoch(objective: str, tmp_path: Path) -> None:
    batches = list(stream(write_dataset(tmp_path, objective=objective), epochs=3))
    assert Counter(n for b in batches for n in example_names(b)) == dict.fromkeys(train_names(), 3)
    third = len(batches) // 3
    assert Counter(n for b in batches[:third] for n in example_names(b)) == dict.fromkeys(train_names(), 1)


@pytest.mark.parametrize("world_size", [2, 3, 4, 5, 8])
def test_same_global_order_and_equal_steps_and_shapes_for_every_world_size(causal: Path, world_size: int) -> None:
    alone = [example_names(b) for b in stream(causal, epochs=1)]
    ranks = [list(stream(causal, epochs=1, rank=r, world_size=world_size)) for r in range(world_size)]
    # Ranks that end unevenly, or come with different shapes, hang a collective.
    assert {len(batches) for batches in ranks} == {len(alone)}
    plan = stream(causal).plan
    for step, names in enumerate(alone):
        assert len({tuple(batches[step]["input_ids"].shape) for batches in ranks}) == 1
        for rank, batches in enumerate(ranks):
            first = (rank - plan.batch(step).begin) % world_size
            assert example_names(batches[step]) == names[first::world_size]


@pytest.mark.parametrize(("before", "after"), [(4, 2), (4, 3), (4, 8), (1, 3), (3, 1), (8, 2)])
def test_saving_at_one_world_size_and_going_on_at_another_loses_and_repeats_nothing(
    causal: Path, before: int, after: int
) -> None:
    seen: list[int] = []
    states = []
    for rank in range(before):
        first = stream(causal, epochs=1, rank=rank, world_size=before)
        seen += [n for b in islice(first, 5) for n in example_names(b)]
        states.append(first.state_dict())
    assert all(s == states[0] for s in states)
    for rank in range(after):
        second = stream(causal, epochs=1, rank=rank, world_size=after)
        second.load_state_dict(json.loads(json.dumps(states[0])))
        seen += [n for b in second for n in example_names(b)]
    assert sorted(seen) == train_names()


@pytest.mark.parametrize("step", [0, 1, 7, 12])
def test_a_resumed_stream_equals_an_uninterrupted_one(mlm: Path, step: int) -> None:
    whole = list(stream(mlm, epochs=2))
    resumed = stream(mlm, epochs=2)
    resumed.load_state_dict(resumed.state_at(step))
    rest = list(resumed)
    assert len(rest) == len(whole) - step
    for a, b in zip(rest, whole[step:], strict=True):
        assert all(torch.equal(a[name], b[name]) for name in b)


def test_the_state_is_small_and_counts_the_batch_in_use(causal: Path) -> None:
    s = stream(causal)
    batches = iter(s)
    next(batches)
    next(batches)
    assert s.state_dict() == {
        "plan_digest": s.plan.digest,
        "step": 2,
        "examples_digest": s.plan.examples_digest(2),
    }
    assert len(json.dumps(s.state_dict())) < 200


def test_resuming_late_reads_no_more_than_resuming_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path, specs=(ShardSpec(stage=0, length=8, rows=400),), vocab_size=1000)
    reads: list[tuple[int, int]] = []
    read = RowGroupReader._read
    monkeypatch.setattr(RowGroupReader, "_read", lambda self, *a: reads.append(a) or read(self, *a))  # type: ignore[func-returns-value]
    counts = []
    for step in (0, 1, 45, 170):
        reads.clear()
        s = stream(tmp_path, lanes=4)
        s.load_state_dict(s.state_at(step))
        next(iter(s))
        counts.append(len(reads))
    # A batch of 8 rows has two of each of 4 lanes, in one window of 2 row groups or in two; one more is read ahead.
    assert max(counts) <= 4 * 2 * 3


def test_a_state_of_another_dataset_or_seed_is_refused_with_both_digests(causal: Path, tmp_path: Path) -> None:
    other = stream(write_dataset(tmp_path, seed=1))
    mine = stream(causal)
    for wrong in (other, stream(causal, seed=2), stream(causal, tokens_per_batch=128)):
        with pytest.raises(RequestError) as caught:
            mine.load_state_dict(wrong.state_dict())
        assert mine.plan.digest in str(caught.value)
        assert wrong.plan.digest in str(caught.value)
    assert mine.step == 0


@pytest.mark.parametrize(
    "state", [{}, {"plan_digest": "x", "step": 1}, {"plan_digest": "x", "step": -1, "examples_digest": "0"}]
)
def test_what_is_no_state_is_refused(causal: Path, state: dict[str, object]) -> None:
    with pytest.raises(RequestError, match="not the state of a stream"):
        stream(causal).load_state_dict(state)


def test_a_state_beyond_the_end_is_refused_and_one_at_the_end_delivers_nothing(causal: Path) -> None:
    s = stream(causal, epochs=1)
    assert s.steps is not None
    s.load_state_dict(s.state_at(s.steps))
    assert list(s) == []
    with pytest.raises(RequestError, match="beyond the end"):
        s.load_state_dict(s.state_at(s.steps + 1))


def test_a_state_whose_examples_are_others_is_refused(causal: Path) -> None:
    s = stream(causal)
    with pytest.raises(RequestError, match="examples delivered so far"):
        s.load_state_dict({**s.state_at(3), "step": 4})


def test_it_drops_into_a_data_loader_and_refuses_worker_processes(
    causal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = torch.utils.data.DataLoader(stream(causal, epochs=1), batch_size=None)
    assert [example_names(b) for b in loader] == [example_names(b) for b in stream(causal, epochs=1)]
    monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: object())
    with pytest.raises(RequestError, match="num_workers=0"):
        next(iter(stream(causal)))


def test_splits_are_apart(causal: Path) -> None:
    names = [n for b in stream(causal, split="validation", epochs=1) for n in example_names(b)]
    validation = sum(s.rows for s in SPECS if s.split == "validation")
    assert sorted(names) == [FIRST_TEXT_ID + len(train_names()) + i for i in range(validation)]


def test_describe_tells_what_an_epoch_delivers(causal: Path) -> None:
    s = stream(causal, epochs=1)
    about, batches = s.describe(), list(s)
    real = sum(int((b["attention_mask"].sum(1) * b["row_weight"]).sum()) for b in batches)
    positions = sum(b["input_ids"].numel() for b in batches)
    assert about["tokens"] == real
    assert about["rows"] == len(train_names())
    assert about["steps_per_epoch"] == len(batches)
    assert about["padding"] == pytest.approx(1 - real / positions)


def test_an_iterator_left_open_does_not_disturb_the_end_of_the_program(causal: Path) -> None:
    code = (
        f"from trainer.stream import Stream; batches = iter(Stream({str(causal)!r}, tokens_per_batch=64)); "
        "next(batches)"
    )
    root = Path(trainer.stream.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=root)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("rank", [-1, 2])
def test_a_rank_out_of_range_is_refused(causal: Path, rank: int) -> None:
    with pytest.raises(RequestError, match="rank"):
        stream(causal, rank=rank, world_size=2)


def test_1001_examples_end_on_all_of_three_ranks_alike(tmp_path: Path) -> None:
    """Ranks that end unevenly hang in a collective."""
    write_dataset(
        tmp_path,
        specs=(ShardSpec(stage=0, length=8, rows=1001, row_group_rows=100),),
        vocab_size=2000,
        objective="mlm",
    )
    ranks = [list(stream(tmp_path, epochs=1, rank=r, world_size=3)) for r in range(3)]
    assert [len(batches) for batches in ranks] == [126] * 3
    assert sum(int(b["row_weight"].sum()) for batches in ranks for b in batches) == 1001
    assert sorted(n for batches in ranks for b in batches for n in example_names(b)) == [
        FIRST_TEXT_ID + i for i in range(1001)
    ]


@pytest.mark.parametrize("row", [0, 3])
def test_explain_names_the_documents_of_the_very_row(causal: Path, row: int) -> None:
    for step, batch in enumerate(stream(causal, epochs=2)):
        names = example_names(batch)
        if row >= len(names):
            continue
        found = stream(causal).explain(step, row)
        number = names[row] - FIRST_TEXT_ID  # the builder counts rows, and so do its document keys
        assert [int(d["doc_key"], 16) for d in found["documents"]] == [number]
        assert found["length"] == int(batch["attention_mask"][row].sum())
        assert found["source"] in ("books", "web")


@pytest.mark.parametrize(("step", "row"), [(-1, 0), (0, 99), (0, -1)])
def test_explain_refuses_what_no_batch_has(causal: Path, step: int, row: int) -> None:
    with pytest.raises(RequestError, match="no such example"):
        stream(causal).explain(step, row)


def test_order_depends_on_neither_lanes_in_memory_nor_threads(causal: Path) -> None:
    one = [example_names(b) for b in stream(causal, epochs=2, threads=1)]
    assert one == [example_names(b) for b in stream(causal, epochs=2, threads=4)]
