"""The plan is pure arithmetic: nothing lost, nothing twice, nothing that depends on the number of ranks."""

from __future__ import annotations

import doctest
from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

import trainer.plan
import trainer.ragged
import trainer.turns
from schemas.errors import RequestError
from schemas.tables import SHARDS
from trainer.plan import StreamPlan, plan_stream
from trainer.turns import CLOCK_BITS, interleave


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


def delivered(plan: StreamPlan, step: int, rank: int, world_size: int) -> list[tuple[int, int]]:
    """(shard, row of the shard) of a rank's rows at a step, found without reading anything."""
    batch = plan.batch(step)
    bucket, windows = plan.buckets[batch.bucket], plan.windows(batch.bucket, batch.epoch)
    rows: list[tuple[int, int]] = []
    for window, positions in plan.pieces(batch, rank, world_size):
        places = [
            (int(bucket.shard[g]), int(bucket.row_group[g]), r)
            for g in windows.groups_of(window)
            for r in range(int(bucket.group_rows[g]))
        ]
        chosen = plan.row_order(batch.bucket, batch.epoch, window)[positions]
        rows += [(places[i][0], places[i][1] * 1000 + places[i][2]) for i in chosen]
    return rows


shards = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([8, 16, 32]), st.integers(1, 25), st.sampled_from([1, 3, 7, 40])),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(
    shards, st.integers(32, 200), st.integers(0, 2**63 - 1), st.integers(1, 4), st.sampled_from(trainer.plan.ORDERS)
)
def test_every_row_comes_exactly_once_an_epoch(
    index: list[tuple[int, int, int, int]], tokens_per_batch: int, seed: int, window: int, order: trainer.plan.Order
) -> None:
    plan = plan_stream(
        index_of(index),
        split="train",
        tokens_per_batch=tokens_per_batch,
        seed=seed,
        order=order,
        window_row_groups=window,
    )
    wanted = Counter(
        (i, r // per_group * 1000 + r % per_group) for i, (_, _, n, per_group) in enumerate(index) for r in range(n)
    )
    for epoch in range(2):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        assert Counter(row for s in steps for row in delivered(plan, s, 0, 1)) == wanted


@settings(max_examples=25, deadline=None)
@given(shards, st.integers(32, 200), st.sampled_from([2, 3, 4, 5, 8]), st.integers(1, 4))
def test_ranks_share_out_the_same_global_order(
    index: list[tuple[int, int, int, int]], tokens_per_batch: int, world_size: int, window: int
) -> None:
    plan = plan_stream(
        index_of(index), split="train", tokens_per_batch=tokens_per_batch, seed=3, window_row_groups=window
    )
    for step in range(plan.steps_per_epoch):
        whole = delivered(plan, step, 0, 1)
        for rank in range(world_size):
            assert delivered(plan, step, rank, world_size) == whole[rank::world_size]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.data())
def test_buckets_take_turns_in_proportion_and_in_order(counts: list[int], data: st.DataObject) -> None:
    phase = st.integers(0, 2**CLOCK_BITS - 1)
    phases = data.draw(st.lists(phase, min_size=len(counts), max_size=len(counts)))
    total, taken = sum(counts), [0] * len(counts)
    for index in range(total):
        turn, ordinal = interleave(counts, phases, index)
        assert ordinal == taken[turn], "a bucket's batches must come in order, each once"
        taken[turn] += 1
        for count, n in zip(taken, counts, strict=True):
            assert abs(count - (index + 1) * n / total) <= 1 + len(counts) * n / total
    assert taken == counts


def test_stages_come_in_order_and_short_first_sorts_lengths_within_them() -> None:
    index = index_of([(1, 8, 20, 4), (0, 16, 20, 4), (0, 8, 20, 4)])
    plan = plan_stream(index, split="train", tokens_per_batch=32, seed=0)
    stages = [plan.buckets[plan.batch(s).bucket].stage for s in range(plan.steps_per_epoch)]
    assert stages == sorted(stages)
    plan = plan_stream(index, split="train", tokens_per_batch=32, seed=0, order="short_first")
    pairs = [plan.buckets[plan.batch(s).bucket] for s in range(plan.steps_per_epoch)]
    assert [(b.stage, b.length) for b in pairs] == sorted((b.stage, b.length) for b in pairs)


def test_another_epoch_and_another_seed_are_another_order() -> None:
    index = index_of([(0, 8, 200, 10)])
    plan = plan_stream(index, split="train", tokens_per_batch=64, seed=0)
    other = plan_stream(index, split="train", tokens_per_batch=64, seed=1)
    first = [delivered(plan, s, 0, 1) for s in range(25)]
    assert first != [delivered(plan, s + 25, 0, 1) for s in range(25)]
    assert first != [delivered(other, s, 0, 1) for s in range(25)]


def test_rows_are_spread_over_the_window_they_are_shuffled_in() -> None:
    plan = plan_stream(index_of([(0, 8, 4000, 500)]), split="train", tokens_per_batch=800, seed=5)
    row_group_of = [row // 1000 for _, row in delivered(plan, 0, 0, 1)]
    # 100 of 4000 rows in 8 groups: an unshuffled batch would hold one group, a fair one 12.5 ± 3.3 of each.
    assert np.bincount(row_group_of, minlength=8).max() < 32


def test_a_digest_changes_with_everything_the_order_depends_on() -> None:
    index = [(0, 8, 20, 4), (1, 16, 20, 4)]
    base = {"split": "train", "tokens_per_batch": 64, "seed": 0, "order": "natural", "window_row_groups": 8}
    variants = [
        {**base, "tokens_per_batch": 65},
        {**base, "seed": 1},
        {**base, "order": "short_first"},
        {**base, "window_row_groups": 4},
    ]
    digests = [plan_stream(index_of(index), **v).digest for v in [base, *variants]]  # type: ignore[arg-type]
    digests.append(plan_stream(index_of([(0, 8, 21, 4), index[1]]), **base).digest)  # type: ignore[arg-type]
    assert len(set(digests)) == len(digests)
    assert digests[0] == plan_stream(index_of(index), **base).digest  # type: ignore[arg-type]


def test_finding_a_late_batch_needs_no_early_one() -> None:
    plan = plan_stream(
        index_of([(0, 8, 10**9, 10**5), (0, 16, 10**9, 10**5)]), split="train", tokens_per_batch=32, seed=0
    )
    late = plan.batch(7 * plan.steps_per_epoch - 1)
    assert late.epoch == 6
    assert late.end == 10**9


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tokens_per_batch": 15}, "16"),
        ({"order": "random"}, "random"),
        ({"split": "test"}, "test"),
        ({"window_row_groups": 0}, "0"),
    ],
)
def test_bad_arguments_are_refused_by_name(change: dict[str, object], named: str) -> None:
    arguments: dict[str, object] = {"split": "train", "tokens_per_batch": 64, "seed": 0} | change
    with pytest.raises(RequestError, match=named):
        plan_stream(index_of([(0, 16, 20, 4)]), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("module", [trainer.plan, trainer.turns, trainer.ragged])
def test_docstring_examples_are_true(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]
