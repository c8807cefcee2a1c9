"""The plan: every stream is laid out once, without gap or repeat, and later changes move nothing earlier."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from unit_helpers import cases, job, sidecar

from schemas.errors import ShardmillError
from schemas.job import Job
from schemas.plan import Plan, SourceChunks, read_block, write_plan
from schemas.storage import Location
from schemas.store import CHUNK_TOKENS
from schemas.tables import PLAN
from transforms.apportion import apportion
from transforms.blocks import block_ends, block_tokens_for
from transforms.planner import block_fingerprint, chunks_of, make_plan

Chunks = dict[str, list[list[int]]]
"""By source, the tokens of each chunk of each part."""


def table_of(parts: Chunks, split: str = "train") -> dict[str, SourceChunks]:
    return {
        name: chunks_of(
            name,
            [sidecar(name, i, [(1, t) for t in part], split=split) for i, part in enumerate(listed)],
        )
        for name, listed in parts.items()
    }


def available(parts: Chunks) -> dict[str, int]:
    return {name: sum(map(sum, listed)) for name, listed in parts.items()}


def planned_job(
    names: list[str], stages: list[dict[str, Any]], *, budget: int, block_tokens: int, seed: int = 0, **changes: Any
) -> Job:
    return job(
        sources=[{"name": n, "files": [n]} for n in names],
        budget={"tokens": budget},
        curriculum=[{"stage": f"s{i}", "lengths": [16], **stage} for i, stage in enumerate(stages)],
        limits={"block_tokens": block_tokens},
        seed=seed,
        **changes,
    )


def rows_of(plan: Plan, split: str = "train", stage: int | None = None) -> list[dict[str, Any]]:
    rows = plan.table.to_pylist()
    return [r for r in rows if r["split"] == split and stage in (None, r["stage"])]


CHUNKS = st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=4), min_size=1, max_size=3)


@st.composite
def planning(draw: st.DrawFn) -> tuple[Job, Chunks]:
    names = ["a", "b", "c"][: draw(st.integers(1, 3))]
    parts = {n: draw(CHUNKS) for n in names}
    stages: list[dict[str, Any]] = []
    shares = draw(st.sampled_from([[1.0], [0.5, 0.5], [0.25, 0.75], [0.2, 0.3, 0.5]]))
    for share in shares:
        weights = {n: draw(st.integers(0, 5)) for n in names}
        assume(any(weights.values()))
        stages.append({"share": share, "mixture": weights})
    made = planned_job(
        names,
        stages,
        budget=draw(st.integers(20, 400)),
        block_tokens=draw(st.integers(len(names), 120)),
        seed=draw(st.integers(0, 5)),
    )
    return made, parts


@cases(150)
@given(planning())
def test_every_stream_is_consumed_once_without_gap_or_repeat(case: tuple[Job, Chunks]) -> None:
    made, parts = case
    plan = make_plan(made, table_of(parts), {})
    rows = rows_of(plan)
    for name, listed in parts.items():
        # Walk the source's slices in the order of the plan: chunk after chunk, pass after pass, over all stages.
        copy, seen, chunk, position = 0, set[tuple[int, int]](), None, 0
        sizes = {(p, g): t for p, part in enumerate(listed) for g, t in enumerate(part)}
        for row in (r for r in rows if r["source"] == name):
            here = (row["part"], row["row_group"])
            assert row["token_begin"] < row["token_end"] <= sizes[here]
            if chunk is not None and position == sizes[chunk]:
                chunk = None
            if chunk is None:
                if len(seen) == len(sizes):
                    copy, seen = copy + 1, set()
                assert here not in seen, "a chunk came again before the source was used up"
                chunk, position = here, 0
                seen.add(here)
            assert (here, row["copy"], row["token_begin"]) == (chunk, copy, position), "a gap or an overlap"
            position = row["token_end"]
        # Every token position is read floor(epochs) or ceil(epochs) times.
        taken = sum(r["token_end"] - r["token_begin"] for r in rows if r["source"] == name)
        total = sum(sizes.values())
        assert taken == sum(s.tokens.get(name, 0) for s in plan.stages)
        reads = Counter((r["part"], r["row_group"], r["copy"]) for r in rows if r["source"] == name)
        assert len({c for _, _, c in reads}) == -(-taken // total)
        assert plan.epochs(name) == pytest.approx(taken / total)


@cases(100)
@given(planning())
def test_blocks_hold_every_sources_share_to_within_one_token_or_a_few_turns(case: tuple[Job, Chunks]) -> None:
    made, parts = case
    plan = make_plan(made, table_of(parts), {})
    assert plan.blocks == len({r["block"] for r in rows_of(plan)})
    assert plan.table.schema == PLAN
    blocks = plan.table["block"].to_pylist()
    assert blocks == sorted(blocks)
    assert made.budget.tokens == sum(s.total_tokens for s in plan.stages)
    for number, stage in enumerate(plan.stages):
        rows = rows_of(plan, stage=number)
        count = -(-stage.total_tokens // plan.block_tokens)
        assert sorted({r["shard"] for r in rows}) == list(range(count))
        for name, tokens in stage.tokens.items():
            mine = [r for r in rows if r["source"] == name]
            for b in range(count - 1):
                held = sum(r["token_end"] - r["token_begin"] for r in mine if r["shard"] <= b)
                wanted = stage.shares[name] * plan.block_tokens * (b + 1)
                turn = plan.block_tokens // 32
                waits = stage.shares[name] * plan.block_tokens < turn
                assert -1 - 3 * turn * waits < held - wanted <= 0
            assert sum(r["token_end"] - r["token_begin"] for r in mine) == tokens


@cases(100)
@given(planning(), st.randoms(use_true_random=False))
def test_the_order_does_not_depend_on_how_the_parts_are_numbered(case: tuple[Job, Chunks], order: Any) -> None:
    made, parts = case
    new_number = {n: list(range(len(listed))) for n, listed in parts.items()}
    for numbers in new_number.values():
        order.shuffle(numbers)
    renumbered = {
        name: chunks_of(
            name,
            # The same files under other part numbers, listed in another order.
            sorted(
                (
                    sidecar(name, new_number[name][i], [(1, t) for t in part], file=f"file-{i}")
                    for i, part in enumerate(listed)
                ),
                key=lambda s: s.part,
            ),
        )
        for name, listed in parts.items()
    }
    back = {n: {new: old for old, new in enumerate(numbers)} for n, numbers in new_number.items()}
    moved = make_plan(made, renumbered, {}).table.to_pylist()
    for row in moved:
        row["part"] = back[row["source"]][row["part"]]
    assert moved == make_plan(made, table_of(parts), {}).table.to_pylist()


@cases(60)
@given(parts=CHUNKS, other=CHUNKS, weights=st.tuples(st.integers(1, 5), st.integers(1, 5)), later=st.integers(1, 7))
def test_changing_a_later_stage_leaves_the_earlier_blocks_as_they_are(
    parts: list[list[int]], other: list[list[int]], weights: tuple[int, int], later: int
) -> None:
    tables = table_of({"a": parts, "b": other})

    def plan(budget: int, shares: tuple[float, float], last: dict[str, int], lengths: list[int]) -> Plan:
        first = {"share": shares[0], "mixture": {"a": weights[0], "b": weights[1]}}
        second = {"share": shares[1], "mixture": last, "lengths": lengths}
        return make_plan(planned_job(["a", "b"], [first, second], budget=budget, block_tokens=40), tables, {})

    before = plan(400, (0.5, 0.5), {"a": 1, "b": 1}, [16])
    after = plan(800, (0.25, 0.75), {"a": later, "b": 1}, [16, 32])
    assert rows_of(before, stage=0) == rows_of(after, stage=0)


GROW = st.integers(1, 200)


@cases(100)
@given(parts=CHUNKS, blocks=st.integers(1, 8), more=GROW)
def test_a_larger_budget_of_one_source_only_appends_blocks(parts: list[list[int]], blocks: int, more: int) -> None:
    tables = table_of({"a": parts})

    def full_blocks(budget: int, count: int, **changes: Any) -> list[dict[str, Any]]:
        plan = make_plan(planned_job(["a"], [{}], budget=budget, block_tokens=30), tables, {})
        return [{**r, **changes} for r in rows_of(plan) if r["block"] < count]

    # Where the stage ends a document may be cut, which is in a block no farther before than that is long.
    certain = (30 * blocks - tables["a"].longest_document_tokens) // 30
    assert full_blocks(30 * blocks, certain) == full_blocks(30 * blocks + more, certain)
    assert full_blocks(30 * blocks, blocks, cut_at=0) == full_blocks(30 * blocks + more, blocks, cut_at=0)


def test_a_larger_budget_of_several_sources_only_appends_blocks() -> None:
    tables = table_of({"a": [[30, 20], [45]], "b": [[25, 60, 12]]})

    def full_blocks(budget: int, blocks: int) -> list[dict[str, Any]]:
        made = planned_job(["a", "b"], [{"mixture": {"a": 1, "b": 2}}], budget=budget, block_tokens=10)
        return [{**r, "cut_at": 0} for r in rows_of(make_plan(made, tables, {})) if r["block"] < blocks]

    for blocks in range(1, 9):
        for more in range(1, 25):
            budget = 10 * blocks + 1  # the last block, here of one token, may grow
            assert full_blocks(budget, blocks) == full_blocks(budget + more, blocks), (budget, more)


MANY = st.dictionaries(st.sampled_from("abcdefghijkl"), st.integers(1, 10**6), min_size=1)


@cases(150)
@given(weights=MANY, block_tokens=st.integers(32, 2**21), blocks=st.integers(1, 120), more=st.integers(0, 50))
def test_small_sources_take_turns_and_are_never_ahead_nor_far_behind(
    weights: dict[str, int], block_tokens: int, blocks: int, more: int
) -> None:
    shares = {n: Fraction(w, sum(weights.values())) for n, w in weights.items()}
    tokens = apportion(block_tokens * (blocks - 1) + max(1, block_tokens // 3), shares)
    ends = block_ends(tokens, shares, block_tokens)
    turn = min(CHUNK_TOKENS // 4, block_tokens // 32)
    visited = np.zeros(blocks, np.int64)
    for name, at in ends.items():
        assert len(at) == blocks
        assert at[-1] == tokens[name]
        assert (np.diff(np.append(0, at)) >= 0).all()
        quota = shares[name] * block_tokens
        for b in range(blocks - 1):
            assert (-3 * turn if quota < turn else 0) - 1 < at[b] - quota * (b + 1) <= 0
        if quota < turn:
            visited += np.diff(np.append(0, at)) > 0
    # Turns are spread: no block has more than one over the mean, but the last, which pays what is owed.
    rate = sum((shares[n] * block_tokens / turn for n in shares if shares[n] * block_tokens < turn), Fraction(0))
    assert (visited[:-1] <= int(rate) + 1).all()
    assert sum(at[-1] - at[-2] for at in ends.values() if blocks > 1) <= 3 * block_tokens
    grown = block_ends(apportion(sum(tokens.values()) + more * block_tokens, shares), shares, block_tokens)
    assert all((grown[n][: blocks - 1] == at[:-1]).all() for n, at in ends.items()), "an earlier block moved"


def test_a_source_of_a_thousandth_is_in_one_block_of_thirty() -> None:
    shares = {"most": Fraction(999, 1000), "rare": Fraction(1, 1000)}
    ends = block_ends(apportion(1000 * 2**20, shares), shares, 2**20)
    taken = np.diff(np.append(0, ends["rare"]))
    assert np.count_nonzero(taken) == 32  # 1000 · 2^20 / 1000 tokens at some 2^15 a turn
    assert 2**15 - 1049 < np.median(taken[taken > 0]) < 2**15 + 1049


def test_a_second_pass_comes_in_another_order() -> None:
    parts = {"a": [[5] * 12, [5] * 12]}
    plan = make_plan(planned_job(["a"], [{}], budget=240, block_tokens=1000), table_of(parts), {})
    passes = [[(r["part"], r["row_group"]) for r in rows_of(plan) if r["copy"] == copy] for copy in (0, 1)]
    assert sorted(passes[0]) == sorted(passes[1])
    assert len(passes[0]) == 24
    assert passes[0] != passes[1]
    assert passes[0] != sorted(passes[0]), "chunks come in a drawn order, not in the order of the files"
    other = make_plan(planned_job(["a"], [{}], budget=240, block_tokens=1000, seed=1), table_of(parts), {})
    assert rows_of(other) != rows_of(plan)


@cases(60)
@given(parts=CHUNKS, held_out=CHUNKS, stages=st.integers(1, 3), block_tokens=st.integers(5, 80))
def test_every_stage_validates_on_every_held_out_document_once(
    parts: list[list[int]], held_out: list[list[int]], stages: int, block_tokens: int
) -> None:
    made = planned_job(["a"], [{}] * stages, budget=60, block_tokens=block_tokens)
    plan = make_plan(made, table_of({"a": parts}), table_of({"a": held_out}, "validation"))
    last_train = max(r["block"] for r in rows_of(plan))
    for stage in range(stages):
        rows = rows_of(plan, "validation", stage)
        assert {r["copy"] for r in rows} == {0}
        assert min(r["block"] for r in rows) > last_train
        for part, chunks in enumerate(held_out):
            for group, tokens in enumerate(chunks):
                mine = [r for r in rows if (r["part"], r["row_group"]) == (part, group)]
                edges = [e for r in mine for e in (r["token_begin"], r["token_end"])]
                assert edges[0] == 0
                assert edges[-1] == tokens
                assert edges[1:-1:2] == edges[2::2]


def test_a_source_outside_every_mixture_is_not_validated_on() -> None:
    tables, held_out = table_of({"a": [[9]], "b": [[9]]}), table_of({"a": [[4]], "b": [[4]]}, "validation")
    made = planned_job(["a", "b"], [{"mixture": {"a": 1}}], budget=9, block_tokens=50)
    plan = make_plan(made, tables, held_out)
    assert {r["source"] for r in plan.table.to_pylist()} == {"a"}


def test_an_empty_validation_split_is_said() -> None:
    made = planned_job(["a"], [{}], budget=9, block_tokens=50)
    assert any("validation" in w for w in make_plan(made, table_of({"a": [[9]]}), {}).warnings)


@cases(60)
@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(1, 9), st.integers(1, 99)), max_size=4),
            st.dictionaries(st.integers(1, 5), st.integers(1, 9), max_size=4),
        ),
        max_size=5,
    )
)
def test_chunks_are_those_of_the_sidecars(parts: list[tuple[list[tuple[int, int]], dict[int, int]]]) -> None:
    sidecars = [sidecar("a", i, chunks, lengths=sorted(h.items())) for i, (chunks, h) in enumerate(parts)]
    found = chunks_of("a", sidecars)
    flat = [(i, g, d, t) for i, (chunks, _) in enumerate(parts) for g, (d, t) in enumerate(chunks)]
    columns = (found.part, found.row_group, found.documents, found.tokens)
    assert list(zip(*(c.tolist() for c in columns), strict=True)) == flat
    assert len(set(found.order_key.tolist())) == len(flat)
    assert found.lengths == dict(sum((Counter(h) for _, h in parts), Counter()))
    assert found.available_tokens == sum(t for *_, t in flat)


def test_the_size_of_a_block_follows_from_the_corpus_and_not_from_the_budget() -> None:
    for tokens in (1, 10**6, 3 * 10**8, 10**9, 10**10, 10**13):
        size = block_tokens_for(job(budget={"tokens": 5}), tokens)
        assert size == block_tokens_for(job(budget={"tokens": 10**15}), tokens)
        assert size & (size - 1) == 0
        assert 2**20 <= size <= 2**25
        if 2**20 < size < 2**25:
            assert 1 / 2 <= size / (tokens / 256) <= 2
    assert block_tokens_for(job(limits={"block_tokens": 77}), 10**9) == 77


def test_plan_rows_survive_writing_and_a_worker_reads_its_own(tmp_path: Path) -> None:
    parts = {"a": [[30, 20], [10]], "b": [[25]]}
    made = planned_job(["a", "b"], [{"mixture": {"a": 2, "b": 1}}, {}], budget=150, block_tokens=20)
    plan = make_plan(made, table_of(parts), table_of({"a": [[8]]}, "validation"))
    place = Location.of(tmp_path / "plan.parquet")
    write_plan(place, plan.table)
    assert plan.blocks > 6
    read = [read_block(place, b) for b in range(plan.blocks)]
    assert pa.concat_tables(b["slices"] for b in read).equals(plan.table)
    for block in read:
        first = block["slices"].to_pylist()[0]
        assert all(block[k] == first[k] for k in ("split", "stage", "shard"))
    with pytest.raises(IndexError, match=str(plan.blocks)):
        read_block(place, plan.blocks)


def test_a_blocks_fingerprint_follows_what_it_is_made_from() -> None:
    plan = make_plan(planned_job(["a"], [{}], budget=50, block_tokens=20), table_of({"a": [[30], [30]]}), {})
    slices, digests = plan.table, {("a", 0): "x", ("a", 1): "y"}
    base = block_fingerprint("d", [16], slices, digests)
    assert base == block_fingerprint("d", plan.stages[0], slices, {**digests, ("b", 0): "unused"})
    others = [
        block_fingerprint("e", [16], slices, digests),
        block_fingerprint("d", [16, 32], slices, digests),
        block_fingerprint("d", [16], slices.slice(1), digests),
        block_fingerprint("d", [16], slices, {**digests, ("a", 1): "z"}),
    ]
    assert len({base, *others}) == 5


@pytest.mark.parametrize("case", ["no tokens at all", "a budget of no token", "a stage of no token"])
def test_a_plan_of_nothing_is_an_error_a_person_can_act_on(case: str) -> None:
    tables = {"a": chunks_of("a", [])} if case == "no tokens at all" else table_of({"a": [[100]]})
    changes: dict[str, Any] = {"budget": {"epochs": 0.001} if case == "a budget of no token" else {"epochs": 1.0}}
    if case == "a stage of no token":
        changes["curriculum"] = [
            {"stage": "p", "share": 0.999, "lengths": [8]},
            {"stage": "q", "share": 0.001, "lengths": [8]},
        ]
    with pytest.raises(ShardmillError):
        make_plan(job(**changes), tables, {})


def test_no_block_is_empty_even_if_blocks_are_smaller_than_the_number_of_sources() -> None:
    made = planned_job(["a", "b", "c"], [{}], budget=9, block_tokens=1)
    plan = make_plan(made, table_of({n: [[3]] for n in "abc"}), {})
    assert sorted(set(plan.table["block"].to_pylist())) == list(range(plan.blocks))
    assert np.all(np.diff(plan.table["block"].to_numpy()) >= 0)
