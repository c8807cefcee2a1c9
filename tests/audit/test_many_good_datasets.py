"""No false alarm on 200 good datasets of different seeds, and the same statistics from any number of workers."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_gates import OBJECTIVES
from tiny_dataset import describe, make_dataset

from pipelines.audit import ShardMapper, audit_dataset, map_reduce_on, merge_bytes
from pipelines.engine import Engine
from pipelines.shares import balance
from schemas.manifest import read_shards
from transforms.objectives.mlm import Mlm


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 107))
@pytest.mark.parametrize("objective", OBJECTIVES, ids=describe)
def test_two_hundred_and_more_good_datasets_pass(objective: object, seed: int, tmp_path: Path) -> None:
    """33 variants of the objectives at 7 further seeds, with enough rows that laws of chance are judged."""
    result = audit_dataset(make_dataset(tmp_path, objective, seed, blocks=2, times=3))  # type: ignore[arg-type]
    assert [f"{g.name}: {g.observed}" for g in result.failed] == []


def test_one_two_and_four_shares_of_the_shards_give_the_same_bytes(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, Mlm(pack="full"), blocks=3)
    mapper, sizes = ShardMapper(dataset.uri), read_shards(dataset)["bytes"].to_pylist()
    parts = [mapper(i) for i in range(len(sizes))]
    results = set()
    for workers in (1, 2, 4):
        shares = []
        for lane in balance(range(len(sizes)), sizes, workers):
            merged = parts[lane[0]]
            for index in lane[1:]:
                merged = merge_bytes(merged, parts[index])
            shares.append(merged)
        whole = shares[-1]
        for share in shares[-2::-1]:
            whole = merge_bytes(whole, share)
        results.add(whole)
    assert len(results) == 1


@pytest.mark.slow
def test_one_two_and_four_processes_give_the_same_audit(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, blocks=3)
    expected = audit_dataset(dataset).to_json()
    for workers in (1, 2, 4):
        engine = Engine((f"--direct_num_workers={workers}",))
        assert audit_dataset(dataset, map_reduce=map_reduce_on(engine, dataset)).to_json() == expected
