"""Verify names every difference between the files and what index and manifest say of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from tiny_dataset import make_dataset, write_index

from pipelines.verify import verify
from schemas.errors import RequestError
from schemas.manifest import read_shards
from schemas.storage import Location


def verified(dataset: Location) -> tuple[int, list[str]]:
    console = Console(record=True, width=400)
    code = verify(dataset, console)
    return code, console.export_text().splitlines()


def flip_byte(dataset: Location) -> str:
    place = dataset / shard(dataset)
    data = bytearray(place.read_bytes())
    data[len(data) // 4] ^= 1
    place.write_bytes(bytes(data))
    return "has sha256"


def remove_shard(dataset: Location) -> str:
    (dataset / shard(dataset)).remove()
    return "is missing"


def truncate(dataset: Location) -> str:
    place = dataset / shard(dataset)
    place.write_bytes(place.read_bytes()[:-100])
    return "cannot be read"


def swap_shards(dataset: Location) -> str:
    first, second = (dataset / p for p in read_shards(dataset)["path"].to_pylist()[3:5])
    first.write_bytes(second.read_bytes())
    return "rows, the index says"


def shard(dataset: Location) -> str:
    return str(read_shards(dataset)["path"][3].as_py())


def test_a_good_dataset_has_no_difference(mlm_dataset: Location) -> None:
    code, lines = verified(mlm_dataset)
    assert code == 0
    assert len(lines) == 1
    assert "verify no difference: 20 shards, 904 rows" in lines[0]
    assert "/s" in lines[0]


@pytest.mark.parametrize("damage", [flip_byte, remove_shard, truncate, swap_shards])
def test_damage_to_a_shard_is_named(damage: Callable[[Location], str], tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    what = damage(dataset)
    code, lines = verified(dataset)
    assert code == 1
    assert all(line.startswith(shard(dataset)) for line in lines[:-1])
    assert any(what in line for line in lines[:-1])
    assert f"{len(lines) - 1} problems" in lines[-1]


def test_a_shard_that_the_index_does_not_name_is_found(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    (dataset / "data/split=train/stage=0/length=16/00099.parquet").write_bytes(
        (dataset / shard(dataset)).read_bytes()
    )
    code, lines = verified(dataset)
    assert code == 1
    assert lines[0] == "data/split=train/stage=0/length=16/00099.parquet: is not in the index of shards"


def test_an_index_that_does_not_add_up_is_found(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    rows = read_shards(dataset).to_pylist()
    (dataset / rows[0]["path"]).remove()
    write_index(dataset, rows[1:])
    code, lines = verified(dataset)
    assert code == 1
    assert any("shards.parquet: adds up to 19 shards, the manifest says 20" in line for line in lines)


def test_another_tokenizer_is_found(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    place = dataset / "tokenizer.json"
    place.write_bytes(place.read_bytes() + b" ")
    code, lines = verified(dataset)
    assert code == 1
    assert lines[0].startswith("tokenizer.json: has sha256")


def test_no_dataset_is_a_readable_error(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no finished dataset"):
        verify(Location.of(tmp_path), Console())
