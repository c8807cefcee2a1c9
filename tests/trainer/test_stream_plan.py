"""The plan is pure arithmetic: nothing lost, nothing twice, nothing that depends on the number of ranks."""

from __future__ import annotations

import doctest
import importlib
from collections import Counter
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from schemas.errors import DataError, RequestError
from schemas.tables import SHARDS
from trainer.stream import ORDERS, Order
from trainer.stream.lanes import Lanes, lane_count
from trainer.stream.plan import GlobalBatch, StreamPlan, plan_stream
from trainer.stream.turns import CLOCK_BITS, curriculum

WORLD_SIZES = (1, 2, 3, 4, 5, 8)


def index_of(shards: list[tuple[int, int, int, int]]) -> pa.Table:
    """An index of (stage, length, rows, row_group_rows)."""
    rows = [
        {
            "path": f"data/{i}.parquet",
            "split": "train",
            "stage": stage,
            "length": length,
            "block": i,
            "rows": n,
            "row_group_rows": per_group,
            "tokens": n * length,
            "corpus_tokens": n * length,
            "bytes": 1,
            "sha256": f"{i}",
            "source_tokens": [],
        }
        for i, (stage, length, n, per_group) in enumerate(shards)
    ]
    return pa.Table.from_pylist(rows, schema=SHARDS)


def examples_at(plan: StreamPlan, batch: GlobalBatch, positions: np.ndarray) -> list[tuple[int, int, int]]:
    """(shard, row group, row) at some positions of a batch's bucket, found without reading anything."""
    bucket, lanes = plan.buckets[batch.bucket], plan.lanes(batch.bucket, batch.epoch)
    windows, places = lanes.locate(positions)
    found = [lanes.row_of(w, p) for w, p in zip(windows.tolist(), places.tolist(), strict=True)]
    return [(*bucket.place(group), row) for group, row in found]


def delivered(plan: StreamPlan, step: int) -> list[tuple[int, int, int]]:
    batch = plan.batch(step)
    return examples_at(plan, batch, np.arange(batch.begin, batch.end))


shards = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([8, 16, 32]), st.integers(1, 25), st.sampled_from([1, 3, 7, 40])),
    min_size=1,
    max_size=6,
)
seeds = st.integers(0, 2**63 - 1)


@settings(max_examples=60, deadline=None)
@given(shards, st.integers(32, 200), seeds, st.integers(1, 4), st.integers(1, 9), st.sampled_from(ORDERS))
def test_every_row_comes_exactly_once_an_epoch(
    index: list[tuple[int, int, int, int]], tokens_per_batch: int, seed: int, window: int, lanes: int, order: Order
) -> None:
    plan = plan_stream(
        index_of(index),
        split="train",
        tokens_per_batch=tokens_per_batch,
        seed=seed,
        order=order,
        lanes=lanes,
        window_row_groups=window,
    )
    wanted = Counter(
        (i, r // per_group, r % per_group) for i, (_, _, n, per_group) in enumerate(index) for r in range(n)
    )
    for epoch in range(2):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        assert Counter(row for s in steps for row in delivered(plan, s)) == wanted


@settings(max_examples=30, deadline=None)
@given(shards, st.integers(32, 200), st.sampled_from(WORLD_SIZES))
def test_ranks_part_every_batch_among_them_and_differ_by_one_row_at_most(
    index: list[tuple[int, int, int, int]], tokens_per_batch: int, world_size: int
) -> None:
    plan = plan_stream(index_of(index), split="train", tokens_per_batch=tokens_per_batch, seed=3)
    for step in range(plan.steps_per_epoch):
        batch = plan.batch(step)
        parts = [batch.positions(rank, world_size) for rank in range(world_size)]
        assert sorted(np.concatenate(parts).tolist()) == list(range(batch.begin, batch.end))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert all((part % world_size == rank).all() for rank, part in enumerate(parts))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([1, 2, 5, 5, 5]), min_size=1, max_size=40), st.integers(1, 16), st.integers(1, 3))
def test_positions_belong_to_lanes_in_turn_until_a_lane_ends(group_rows: list[int], most: int, window: int) -> None:
    lanes = Lanes(
        seed=1,
        name=(0, 0, 8),
        count=lane_count(len(group_rows), most),
        window_row_groups=window,
        group_rows=np.array(group_rows),
    )
    lane, ordinal = lanes.place(np.arange(lanes.rows))
    shortest = int(lanes.lane_rows.min()) * lanes.count
    assert (lane[:shortest] == np.arange(shortest) % lanes.count).all()
    assert np.bincount(lane, minlength=lanes.count).tolist() == lanes.lane_rows.tolist()
    for one in range(lanes.count):
        assert ordinal[lane == one].tolist() == list(range(lanes.lane_rows[one]))


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_a_row_group_is_read_by_one_rank_alone_where_ranks_divide_lanes(world_size: int) -> None:
    plan = plan_stream(index_of([(0, 8, 6400, 100)]), split="train", tokens_per_batch=104, seed=0)
    assert plan.lanes(0, 0).count == 16
    readers: dict[int, set[int]] = {}
    for step in range(plan.steps_per_epoch):
        batch = plan.batch(step)
        for rank in range(world_size):
            for window in plan.lanes(0, 0).locate(batch.positions(rank, world_size))[0].tolist():
                readers.setdefault(window, set()).add(rank)
    assert {len(ranks) for ranks in readers.values()} == {1}


phases = st.integers(0, 2**CLOCK_BITS - 1)


@settings(max_examples=120, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.sampled_from(ORDERS), st.integers(1, 9), st.data())
def test_a_curriculum_gives_every_batch_once_in_its_buckets_order_and_from_any_index_alike(
    counts: list[int], order: Order, cycles: int, data: st.DataObject
) -> None:
    lengths = [32 << i for i in range(len(counts))]
    drawn = data.draw(st.lists(phases, min_size=len(counts), max_size=len(counts)))
    turns = curriculum(order, lengths, counts, drawn, cycles=cycles)
    whole = turns.run(0, sum(counts) + 5)
    given_so_far = [0] * len(counts)
    for index, (bucket, ordinal) in enumerate(whole):
        assert turns.before(index) == given_so_far
        assert ordinal == given_so_far[bucket]
        given_so_far[bucket] += 1
    assert given_so_far == counts == turns.before(sum(counts))
    begin = data.draw(st.integers(0, sum(counts) - 1))
    assert turns.run(begin, 7) == whole[begin : begin + 7]


def lengths_in_order(order: Order, counts: list[int], lengths: list[int], **options: int) -> list[int]:
    turns = curriculum(order, lengths, counts, [1 << (CLOCK_BITS - 1)] * len(counts), **options)
    return [lengths[bucket] for bucket, _ in turns.run(0, sum(counts))]


def test_natural_takes_turns_in_proportion() -> None:
    order = lengths_in_order("natural", [60, 30, 10], [128, 256, 512])
    for end in range(1, 101):
        for length, share in ((128, 0.6), (256, 0.3), (512, 0.1)):
            assert abs(order[:end].count(length) - share * end) <= 1.5


def test_short_first_and_two_phase_sort_lengths() -> None:
    assert lengths_in_order("short_first", [3, 2, 1], [64, 128, 512]) == [64] * 3 + [128] * 2 + [512]
    order = lengths_in_order("two_phase", [6, 6, 2, 2], [64, 128, 256, 512])
    assert set(order[:12]) == {64, 128}
    assert set(order[12:]) == {256, 512}
    assert order[:12] != sorted(order[:12])


@pytest.mark.parametrize(("order", "odds"), [("grow_p2", [4, 2, 1]), ("grow_linear", [3, 2, 1])])
def test_grow_orders_favour_short_rows_at_their_odds_until_they_are_used_up(order: Order, odds: list[int]) -> None:
    found = lengths_in_order(order, [700, 700, 700], [128, 256, 512], cycles=1)
    head = found[: 70 * sum(odds)]
    assert [abs(head.count(n) - 70 * o) <= 1 for n, o in zip([128, 256, 512], odds, strict=True)] == [True] * 3
    assert set(found[-100:]) == {512}
    cycles = lengths_in_order(order, [700, 700, 700], [128, 256, 512], cycles=7)
    means = [
        np.mean(cycles[i * 300 : i * 300 + 100]) < np.mean(cycles[i * 300 + 200 : i * 300 + 300]) for i in range(7)
    ]
    assert means == [True] * 7


def test_competence_releases_a_length_when_the_square_root_law_says() -> None:
    order = lengths_in_order("competence", [500, 500], [128, 512])
    # √(t (1 − c0²) + c0²) reaches 1/2 at t = (1/4 − c0²) / (1 − c0²) = .2499 of the time; until then only the first
    # bucket gives batches, a quarter of its 500.
    assert abs(order.index(512) - 125) <= 2


def test_another_epoch_and_another_seed_are_another_order() -> None:
    index = index_of([(0, 8, 200, 10)])
    plan = plan_stream(index, split="train", tokens_per_batch=64, seed=0)
    other = plan_stream(index, split="train", tokens_per_batch=64, seed=1)
    first = [delivered(plan, s) for s in range(25)]
    assert first != [delivered(plan, s + 25) for s in range(25)]
    assert first != [delivered(other, s) for s in range(25)]


def test_a_batch_is_spread_over_the_row_groups_of_all_lanes() -> None:
    plan = plan_stream(index_of([(0, 8, 4000, 500)]), split="train", tokens_per_batch=800, seed=5)
    row_groups = [group for _, group, _ in delivered(plan, 0)]
    assert sorted(Counter(row_groups).values()) == [12, 12, 12, 12, 13, 13, 13, 13]


def test_a_digest_changes_with_everything_the_order_depends_on() -> None:
    index = [(0, 8, 20, 4), (1, 16, 20, 4)]
    base: dict[str, Any] = {"split": "train", "tokens_per_batch": 64, "seed": 0}
    variants = [
        {**base, "tokens_per_batch": 65},
        {**base, "seed": 1},
        {**base, "order": "short_first"},
        {**base, "window_row_groups": 4},
        {**base, "lanes": 4},
    ]
    digests = [plan_stream(index_of(index), **v).digest for v in [base, *variants]]
    digests.append(plan_stream(index_of([(0, 8, 21, 4), index[1]]), **base).digest)
    assert len(set(digests)) == len(digests)
    assert digests[0] == plan_stream(index_of(index), **base).digest


@settings(max_examples=30, deadline=None)
@given(shards, st.integers(32, 100), st.integers(1, 3), st.sampled_from(ORDERS), st.data())
def test_the_examples_digest_is_that_of_the_examples_delivered_so_far(
    index: list[tuple[int, int, int, int]], tokens_per_batch: int, window: int, order: Order, data: st.DataObject
) -> None:
    plan = plan_stream(
        index_of(index),
        split="train",
        tokens_per_batch=tokens_per_batch,
        seed=3,
        order=order,
        lanes=4,
        window_row_groups=window,
    )
    keys = {}
    for bucket in plan.buckets:
        for group, key in enumerate(bucket.keys.tolist()):
            keys[bucket.place(group)] = key
    step = data.draw(st.integers(0, 2 * plan.steps_per_epoch))
    rows = [row for s in range(step) for row in delivered(plan, s)]
    total = sum(keys[shard, group] * (row + 0xD1342543DE82EF95) for shard, group, row in rows)
    assert plan.examples_digest(step) == f"{total % 2**64:016x}"


def test_finding_a_late_batch_needs_no_early_one() -> None:
    plan = plan_stream(
        index_of([(0, 8, 10**9, 10**5), (0, 16, 10**9, 10**5)]), split="train", tokens_per_batch=32, seed=0
    )
    late = plan.batch(7 * plan.steps_per_epoch - 1)
    assert late.epoch == 6
    assert late.end == 10**9
    assert len(plan.examples_digest(6 * plan.steps_per_epoch + 12345)) == 16


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tokens_per_batch": 15}, "16"),
        ({"order": "random"}, "random"),
        ({"split": "test"}, "test"),
        ({"window_row_groups": 0}, "0"),
        ({"lanes": 0}, "lanes 0"),
    ],
)
def test_bad_arguments_are_refused_by_name(change: dict[str, Any], named: str) -> None:
    arguments: dict[str, Any] = {"split": "train", "tokens_per_batch": 64, "seed": 0} | change
    with pytest.raises(RequestError, match=named):
        plan_stream(index_of([(0, 16, 20, 4)]), **arguments)


def test_an_index_that_contradicts_itself_is_refused_by_shard() -> None:
    with pytest.raises(DataError, match=r"data/0\.parquet.*row_group_rows 0"):
        plan_stream(index_of([(0, 16, 20, 0)]), split="train", tokens_per_batch=64, seed=0)


@pytest.mark.parametrize("name", ["lanes", "turns", "documents"])
def test_docstring_examples_are_true(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"trainer.stream.{name}"))
    assert (result.failed, result.attempted > 0) == (0, True)
