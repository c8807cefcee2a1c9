"""How batches are made: several steps together, on threads, ahead of who uses them. Never what is in them."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from small_datasets import ShardSpec, write_dataset

from trainer.stream import KINDS, Batch, Stream, delivery
from trainer.stream.delivery import Delivery
from trainer.stream.feed import Feed
from trainer.stream.pool import DaemonPool


def assert_same(found: Sequence[Batch], expected: Sequence[Batch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)  # type: ignore[literal-required]


def _slowly(some: Stream) -> list[Batch]:
    """As a training loop takes batches, which are then made on a thread."""
    found = []
    for batch in some:
        found.append(batch)
        time.sleep(0.003)
    return found


@pytest.mark.parametrize("objective", ["causal", "mlm"])
def test_batches_made_while_a_step_is_trained_are_the_same(
    objective: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    makers = set()
    make = Delivery._run

    def noted(self: Delivery, *arguments: Any) -> Any:
        makers.add(threading.current_thread().name)
        return make(self, *arguments)

    monkeypatch.setattr(Delivery, "_run", noted)
    dataset = request.getfixturevalue(objective)
    at_once, slowly = (Stream(dataset, tokens_per_batch=64, seed=3, epochs=2) for _ in range(2))
    assert_same(list(at_once), _slowly(slowly))
    assert makers == {"MainThread", "shardmill-ahead"}
    assert at_once.state_dict() == slowly.state_dict()


@pytest.mark.parametrize("pause_seconds", [0.0, 0.003])
def test_a_state_loaded_while_iterating_is_gone_on_from(causal: Path, pause_seconds: float) -> None:
    """Fails if batches that were made before the state was loaded are delivered after it."""
    some = Stream(causal, tokens_per_batch=64, seed=3, epochs=2)
    expected = list(Stream(causal, tokens_per_batch=64, seed=3, epochs=2))
    found = []
    for batch in some:
        found.append(batch)
        time.sleep(pause_seconds)
        if len(found) == 5:
            some.load_state_dict(some.state_at(1))
    assert_same(found, expected[:5] + expected[1:])


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (2, 3)])
@pytest.mark.parametrize("objective", sorted(KINDS))
def test_batches_made_together_are_those_made_one_by_one(
    objective: str, rank: int, world_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_dataset(tmp_path, objective=objective)
    packed = KINDS[objective].packed

    def batches() -> list[Batch]:
        return list(
            Stream(
                dataset,
                tokens_per_batch=80,
                seed=5,
                epochs=10,
                rank=rank,
                world_size=world_size,
                documents=packed,
                sources=True,
            )
        )

    together = batches()
    assert len({b["input_ids"].untyped_storage().data_ptr() for b in together}) < len(together) / 2
    monkeypatch.setattr(delivery, "_RUN_TOKENS", 1)
    alone = batches()
    assert len({b["input_ids"].untyped_storage().data_ptr() for b in alone}) == len(alone)
    assert_same(together, alone)


def test_more_ranks_than_a_batch_has_tokens(causal: Path) -> None:
    """Fails if a rank's share of a batch, rounded to no token, is divided by."""
    last = list(Stream(causal, tokens_per_batch=32, epochs=1, rank=39, world_size=40))
    assert last
    assert not any(b["row_weight"].any() for b in last)


def test_changing_a_batch_changes_no_other(causal: Path) -> None:
    """Fails if batches that are made together overlap, or if inputs and labels are the same memory."""
    expected = list(Stream(causal, tokens_per_batch=64, seed=3, epochs=1))
    for number, batch in enumerate(Stream(causal, tokens_per_batch=64, seed=3, epochs=1)):
        assert_same([batch], [expected[number]])
        batch["input_ids"].fill_(-1)
        assert torch.equal(batch["labels"], expected[number]["labels"])
        for tensor in batch.values():
            tensor.zero_()  # type: ignore[attr-defined]


def test_every_window_but_a_lanes_first_is_begun_to_be_read_before_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if what comes next is not asked for again once room for it has been made."""
    specs = (ShardSpec(stage=0, length=16, rows=480, row_group_rows=8),) * 4
    dataset = write_dataset(tmp_path, specs=specs, full_rows=True)
    calls, started, late = 0, dict[int, int](), list[int]()
    rows, start, load = Feed.rows, Feed._start, Feed._load

    def counted(self: Feed, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return rows(self, *arguments)

    def begun(self: Feed, bucket: int, current: Any, window: int) -> bool:
        there = start(self, bucket, current, window)
        if there:
            started.setdefault(window, calls)
        return there

    def loaded(self: Feed, current: Any, window: int) -> list[int]:
        if current.lanes.lane_of(window) in current.held and started[window] == calls:
            late.append(window)
        return load(self, current, window)

    monkeypatch.setattr(delivery, "_RUN_TOKENS", 256)
    monkeypatch.setattr(Feed, "rows", counted)
    monkeypatch.setattr(Feed, "_start", begun)
    monkeypatch.setattr(Feed, "_load", loaded)
    list(Stream(dataset, tokens_per_batch=256, epochs=1))
    assert len(started) == 240
    assert late == []


def test_helpers_work_only_while_somebody_waits() -> None:
    pool = DaemonPool(1, helpers=1)
    gate, threads = threading.Event(), list[int]()

    def note() -> None:
        threads.append(threading.get_ident())

    try:
        busy = pool.submit(gate.wait)
        noted = pool.submit(note)
        time.sleep(0.05)
        assert not noted.done()
        with pool.helped():
            noted.result(timeout=10)
        assert not busy.done()
        later = pool.submit(note)
        time.sleep(0.05)
        assert not later.done()
        gate.set()
        later.result(timeout=10)
        assert len(set(threads)) == 2
    finally:
        gate.set()
        pool.close()
