"""Blocks read from a token store: stages are exact to the token, and nothing is lost or twice at their edges."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from unit_helpers import cases, job, sidecar

from schemas.job import Job
from schemas.plan import Plan
from schemas.storage import Location
from schemas.store import part_location
from schemas.tables import token_store_schema
from transforms.block_documents import read_documents
from transforms.objectives.base import Documents
from transforms.planner import chunks_of, make_plan

Store = dict[str, list[list[list[int]]]]
"""By source, for each part and chunk the lengths of its documents."""

FAR = 10**6
"""Token ids are source · FAR + position in the source's store, so that each token tells where it is from."""


def write_store(root: Path, store: Store, *, pairs: bool) -> dict[str, Any]:
    """Writes parts whose ids count up, and returns the chunks of every source."""
    schema, found = token_store_schema(sentences=not pairs, pairs=pairs), {}
    for number, (name, parts) in enumerate(store.items()):
        sidecars, position, key = [], number * FAR, number * FAR
        for part, chunks in enumerate(parts):
            place = part_location(Location.of(root), name, "train", part)
            Path(place.uri).parent.mkdir(parents=True, exist_ok=True)
            with pq.ParquetWriter(place.uri, schema) as writer:
                for lengths in chunks:
                    rows = []
                    for length in lengths:
                        ids = list(range(position, position + length))
                        row = {"doc_key": key, "doc_id": str(key), "ids": ids}
                        if pairs:
                            row |= {"ids": ids[:1], "target_ids": ids[1:]}
                        else:
                            row["sentence_ends"] = sorted({*range(3, length, 3), length})
                        rows.append(row)
                        position, key = position + length, key + 1
                    writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            histogram = sorted({n: 1 for chunk in chunks for n in chunk}.items())
            sizes = [(len(c), sum(c)) for c in chunks]
            sidecars.append(sidecar(name, part, sizes, lengths=histogram))
        found[name] = chunks_of(name, sidecars)
    return found


LENGTHS = st.lists(st.integers(1, 25), min_size=1, max_size=5)
PARTS = st.lists(st.lists(LENGTHS, min_size=1, max_size=2), min_size=1, max_size=2)


@st.composite
def jobs(draw: st.DrawFn, kind: str = "sentence_pair") -> tuple[Job, Store]:
    names = ["a", "b", "c"][: draw(st.integers(1, 3))]
    fields = {"input": "x", "target": "y"} if kind == "seq2seq" else {}
    stages: list[dict[str, Any]] = []
    for i, share in enumerate(draw(st.sampled_from([[1.0], [0.5, 0.5], [0.05, 0.95], [0.2, 0.3, 0.5]]))):
        weights = {n: draw(st.integers(0, 5)) for n in names}
        assume(any(weights.values()))
        stages.append({"stage": f"s{i}", "share": share, "lengths": [16], "mixture": weights})
    made = job(
        sources=[{"name": n, "files": [f"{n}.jsonl"], **fields} for n in names],
        budget={"tokens": draw(st.integers(20, 300))},
        curriculum=stages,
        limits={"block_tokens": draw(st.integers(len(names), 150))},
        objective={"kind": kind},
    )
    return made, {n: draw(PARTS) for n in names}


def read_plan(made: Job, store: Store) -> tuple[Plan, list[tuple[int, str, Documents]]]:
    """The plan, and (stage, source, documents) of its blocks in order."""
    with tempfile.TemporaryDirectory() as folder:
        chunks = write_store(Path(folder), store, pairs=made.objective.reads_pairs)
        plan = make_plan(made, chunks, {})
        found = []
        for block in range(plan.blocks):
            rows = plan.table.filter(pa.compute.equal(plan.table["block"], block))
            for source, documents in read_documents(Location.of(folder), "train", rows, made):
                found.append((rows["stage"][0].as_py(), source, documents))
    return plan, found


@cases(120)
@given(jobs())
def test_stages_hold_every_sources_tokens_exactly_and_each_token_as_often_as_planned(case: tuple[Job, Store]) -> None:
    made, store = case
    plan, found = read_plan(made, store)
    for number, stage in enumerate(plan.stages):
        for name, tokens in stage.tokens.items():
            assert tokens == sum(d.tokens for s, n, d in found if (s, n) == (number, name))
    for name, parts in store.items():
        size = sum(sum(c) for chunks in parts for c in chunks)
        taken = [d.ids.flat for _, n, d in found if n == name]
        counts = np.bincount(np.concatenate([*taken, np.zeros(0, np.int64)]) % FAR, minlength=size)
        passes = sum(s.tokens.get(name, 0) for s in plan.stages) / size
        assert set(counts.tolist()) <= {int(passes), -int(-passes // 1)}


@cases(120)
@given(jobs())
def test_only_a_stages_edge_cuts_a_document_and_the_next_stage_goes_on_there(case: tuple[Job, Store]) -> None:
    made, store = case
    _, found = read_plan(made, store)
    whole = {}
    for number, (_, parts) in enumerate(store.items()):
        lengths = [n for chunks in parts for c in chunks for n in c]
        whole |= {number * FAR + i: n for i, n in enumerate(lengths)}
    reached: dict[tuple[int, int], int] = {}
    cuts: dict[tuple[int, str], int] = {}
    for stage, source, documents in found:
        firsts = documents.first_tokens(np.arange(len(documents)))
        for i, key in enumerate(documents.keys.tolist()):
            first, ids = int(firsts[i]), documents.ids.flat[documents.ids.offsets[i] : documents.ids.offsets[i + 1]]
            assert len(ids) > 0
            assert reached.get((key, documents.copy), 0) == first, "a gap, or tokens that come twice"
            assert (np.diff(ids) == 1).all()
            reached[(key, documents.copy)] = first + len(ids)
            assert documents.ends[i] == (first + len(ids) == whole[key])
            if not documents.ends[i]:
                cuts[(stage, source)] = cuts.get((stage, source), 0) + 1
            assert documents.sentence_ends is not None
            ends = documents.sentence_ends.flat[slice(*documents.sentence_ends.offsets[i : i + 2])]
            expected = {*range(3, whole[key], 3), first + len(ids)}
            assert ends.tolist() == sorted(e - first for e in expected if first < e <= first + len(ids))
    assert all(n == 1 for n in cuts.values())


@cases(60)
@given(jobs("seq2seq"))
def test_pairs_are_never_cut(case: tuple[Job, Store]) -> None:
    made, store = case
    assume(all(n > 1 for parts in store.values() for chunks in parts for c in chunks for n in c))
    plan, found = read_plan(made, store)
    longest = max(n for parts in store.values() for chunks in parts for c in chunks for n in c)
    for number, stage in enumerate(plan.stages):
        for name, tokens in stage.tokens.items():
            assert abs(tokens - sum(d.tokens for s, n, d in found if (s, n) == (number, name))) < longest
    for _, _, documents in found:
        assert documents.begins is None
        assert documents.goes_on is None


def test_a_document_longer_than_a_stage_is_in_several_stages() -> None:
    stages = [{"stage": f"s{i}", "share": 0.25, "lengths": [16]} for i in range(4)]
    made = job(
        sources=[{"name": "a", "files": ["a.jsonl"]}],
        budget={"tokens": 40},
        curriculum=stages,
        objective={"kind": "sentence_pair"},
    )
    _, found = read_plan(made, {"a": [[[40]]]})
    assert [d.first_tokens(np.array([0])).tolist() for _, _, d in found] == [[0], [10], [20], [30]]
    assert [d.ends.tolist() for _, _, d in found] == [[False], [False], [False], [True]]


@pytest.mark.parametrize("budget", [39, 40])
def test_a_whole_pass_cuts_nothing(budget: int) -> None:
    made = job(sources=[{"name": "a", "files": ["a.jsonl"]}], budget={"tokens": budget}, objective={"kind": "causal"})
    _, found = read_plan(made, {"a": [[[15, 25]]]})
    assert all(d.goes_on is None for _, _, d in found) == (budget == 40)
