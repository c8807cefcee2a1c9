"""Local workers: shares of nearly equal cost, and no worker idle while another has work that is not begun."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit_helpers import cases

from pipelines.shares import HelpingWork, balance


@cases(100)
@given(costs=st.lists(st.integers(0, 1000), min_size=1, max_size=40), workers=st.integers(1, 6))
def test_every_item_is_dealt_once_and_no_share_is_much_above_the_mean(costs: list[int], workers: int) -> None:
    items = [7 * i + 3 for i in range(len(costs))]
    cost_of = dict(zip(items, costs, strict=True))
    lanes = balance(items, costs, workers)
    assert sorted(i for lane in lanes for i in lane) == items
    assert len(lanes) == min(workers, len(items))
    loads = [sum(cost_of[i] for i in lane) for lane in lanes]
    assert max(loads) <= sum(costs) / len(lanes) + max(costs), "Graham's bound"
    for lane in lanes:
        assert [cost_of[i] for i in lane] == sorted((cost_of[i] for i in lane), reverse=True)


@cases(60)
@given(costs=st.lists(st.integers(1, 9), min_size=1, max_size=12), workers=st.integers(2, 4), at=st.data())
def test_items_are_done_once_in_whatever_order_workers_come(
    tmp_path_factory: pytest.TempPathFactory, costs: list[int], workers: int, at: st.DataObject
) -> None:
    lanes = balance(list(range(len(costs))), costs, workers)
    done: list[int] = []
    work = HelpingWork(
        lambda item: done.append(item) or b"", lanes, str(tmp_path_factory.mktemp("taken")), os.getpid()
    )
    queues = [list(lane) for lane in lanes]
    while any(queues):
        queue = at.draw(st.sampled_from([q for q in queues if q]))
        work(queue.pop(0))
    assert sorted(done) == sorted(i for lane in lanes for i in lane)


def test_a_worker_that_is_done_helps_one_that_is_slow(tmp_path: Path) -> None:
    """Fails if a share whose cost was guessed too low kept one worker busy alone."""
    by: dict[int, str] = {}
    begun = threading.Event()

    def work(item: int) -> bytes:
        by[item] = threading.current_thread().name
        if item == 0:
            begun.set()
            while len(by) < 6:  # until the others have done all that is left
                time.sleep(0.001)
        return b""

    shared = HelpingWork(work, [[0, 2, 4], [1, 3, 5]], str(tmp_path), os.getpid())
    slow = threading.Thread(target=lambda: [shared(i) for i in (0, 2, 4)], name="slow")
    slow.start()
    assert begun.wait(10)
    quick = threading.Thread(target=lambda: [shared(i) for i in (1, 3, 5)], name="quick")
    quick.start()
    quick.join(10)
    slow.join(10)
    assert by == {0: "slow", **dict.fromkeys((1, 2, 3, 4, 5), "quick")}


def test_what_a_helper_meets_stops_it_as_its_own_would(tmp_path: Path) -> None:
    def work(item: int) -> bytes:
        if item == 2:
            raise ValueError("bad range")
        return b""

    with pytest.raises(ValueError, match="bad range"):
        HelpingWork(work, [[0, 2], [1]], str(tmp_path), os.getpid())(1)


def test_a_worker_whose_launcher_was_killed_begins_nothing_more(tmp_path: Path) -> None:
    """Fails if it went on beside the run that is started again."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    done: list[int] = []
    HelpingWork(lambda item: done.append(item) or b"", [[0, 2], [1]], str(tmp_path), ended.pid)(1)
    assert done == []
