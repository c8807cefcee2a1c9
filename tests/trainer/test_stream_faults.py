"""What goes wrong while reading: a stream fails by name or skips by count, keeps its order, and never hangs."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_datasets import FIRST_TEXT_ID, ShardSpec, example_names, write_dataset

from schemas.errors import DataError, RequestError
from schemas.storage import Location
from trainer.stream import Stream

SPECS = tuple(ShardSpec(stage=0, length=8, rows=40, row_group_rows=8) for _ in range(3))
BAD_ROWS = range(40, 80)
"""Rows of the second shard."""


def stream(dataset: Path, **options: Any) -> Stream:
    return Stream(dataset, **({"tokens_per_batch": 64, "seed": 1, "epochs": 1, "backoff_seconds": 0.01} | options))


def second_shard(dataset: Path) -> Path:
    return sorted((dataset / "data").rglob("*.parquet"))[1]


def flipped_byte(dataset: Path) -> range:
    """In the first row group alone."""
    shard = second_shard(dataset)
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(data)
    return range(40, 48)


def truncated(dataset: Path) -> range:
    shard = second_shard(dataset)
    shard.write_bytes(shard.read_bytes()[:-100])
    return BAD_ROWS


def missing(dataset: Path) -> range:
    second_shard(dataset).unlink()
    return BAD_ROWS


DAMAGES = [flipped_byte, truncated, missing]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
def test_damage_fails_by_name(damage: Callable[[Path], range], tmp_path: Path) -> None:
    damage(write_dataset(tmp_path, specs=SPECS))
    with pytest.raises(DataError, match=second_shard(tmp_path).name if damage is not missing else "00001.parquet"):
        list(stream(tmp_path))


@pytest.mark.parametrize("pause_seconds", [0.0, 0.003])
def test_what_comes_before_the_damage_is_delivered(pause_seconds: float, tmp_path: Path) -> None:
    """Fails if a batch that is made ahead of its step brings its error ahead of it too."""
    whole = list(stream(write_dataset(tmp_path, specs=SPECS), lanes=1))
    bad = {FIRST_TEXT_ID + row for row in flipped_byte(tmp_path)}
    some = stream(tmp_path, lanes=1)
    batches = iter(some)
    for expected in itertools.takewhile(lambda b: not bad.intersection(example_names(b)), whole):
        assert torch.equal(next(batches)["input_ids"], expected["input_ids"])
        time.sleep(pause_seconds)
    assert 1 < some.step < len(whole)
    with pytest.raises(DataError):
        next(batches)


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
def test_damage_is_skipped_in_place_counted_and_named(
    damage: Callable[[Path], range], world_size: int, tmp_path: Path
) -> None:
    whole = [b["input_ids"][:, 0].tolist() for b in stream(write_dataset(tmp_path, specs=SPECS))]
    bad = {FIRST_TEXT_ID + row for row in damage(tmp_path)}
    streams = [stream(tmp_path, rank=r, world_size=world_size, on_error="skip") for r in range(world_size)]
    ranks = [list(s) for s in streams]
    assert {len(batches) for batches in ranks} == {len(whole)}
    begin = 0
    for step, names in enumerate(whole):
        for rank, batches in enumerate(ranks):
            mine = names[(rank - begin) % world_size :: world_size]
            assert example_names(batches[step]) == [n for n in mine if n not in bad]
            assert (batches[step]["labels"][batches[step]["row_weight"] == 0] == -100).all()
        begin += len(names)
    assert sum(s.skipped_rows for s in streams) == len(bad)
    assert all("00001.parquet, row group" in fault.where for s in streams for fault in s.faults)
    if world_size == 1:
        assert sum(fault.rows for fault in streams[0].faults) == len(bad)


@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_a_store_that_fails_now_and_then_is_asked_again(
    on_error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [example_names(b) for b in stream(write_dataset(tmp_path, specs=SPECS))]
    opened: dict[str, int] = {}
    real, lock = Location.open_input, threading.Lock()

    def flaky(self: Location) -> pa.NativeFile:
        with lock:
            opened[self.uri] = opened.get(self.uri, 0) + 1
            if self.uri.endswith("parquet") and "data" in self.uri and opened[self.uri] % 3:
                raise OSError("503 Slow Down")
        return real(self)

    monkeypatch.setattr(Location, "open_input", flaky)
    s = stream(tmp_path, on_error=on_error, threads=1)
    assert [example_names(b) for b in s] == wanted
    assert s.faults == []
    monkeypatch.setattr(Location, "open_input", flaky)
    if on_error == "fail":
        opened.clear()
        with pytest.raises(DataError, match="503 Slow Down"):
            list(stream(tmp_path, retries=0, threads=1))


@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_a_slow_store_changes_nothing_and_one_that_never_answers_hangs_nobody(
    on_error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [example_names(b) for b in stream(write_dataset(tmp_path, specs=SPECS))]
    real, release = Location.open_input, threading.Event()

    def slow(self: Location) -> pa.NativeFile:
        time.sleep(0.01)
        return real(self)

    monkeypatch.setattr(Location, "open_input", slow)
    assert [example_names(b) for b in stream(tmp_path, on_error=on_error)] == wanted

    def stuck(self: Location) -> pa.NativeFile:
        if self.uri.endswith("00001.parquet"):
            release.wait(30)
        return real(self)

    monkeypatch.setattr(Location, "open_input", stuck)
    began = time.monotonic()
    s = stream(tmp_path, on_error=on_error, read_timeout_seconds=0.2)
    try:
        if on_error == "fail":
            with pytest.raises(DataError, match="does not answer"):
                list(s)
        else:
            bad = {FIRST_TEXT_ID + row for row in BAD_ROWS}
            assert [example_names(b) for b in s] == [[n for n in names if n not in bad] for names in wanted]
            assert s.skipped_rows == len(bad)
    finally:
        release.set()
    assert time.monotonic() - began < 20


def test_checksums_find_what_page_checksums_cannot(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a", specs=SPECS)
    write_dataset(tmp_path / "b", specs=SPECS, seed=1)
    # A whole, sound shard with the same fingerprint and rows, but of other tokens.
    second_shard(tmp_path / "a").write_bytes(second_shard(tmp_path / "b").read_bytes())
    list(stream(tmp_path / "a"))
    with pytest.raises(DataError, match="checksum"):
        list(stream(tmp_path / "a", checksums=True))


def test_an_unknown_way_to_handle_errors_is_refused(causal: Path) -> None:
    with pytest.raises(RequestError, match="did you mean 'skip'"):
        stream(causal, on_error="skp")


def test_skipped_rows_do_not_make_a_loss_of_nothing(tmp_path: Path) -> None:
    damage = truncated
    damage(write_dataset(tmp_path, specs=SPECS, objective="sentence_pair"))
    for batch in stream(tmp_path, on_error="skip"):
        gone = batch["row_weight"] == 0
        assert (batch["pair_labels"][gone] == -100).all()
        assert batch["attention_mask"].any(dim=1).all()
        assert torch.isfinite(batch["row_weight"]).all()


def lists_of_int64(ids: pa.ListArray) -> pa.Array:
    return ids.cast(pa.list_(pa.int64()))


def a_null_list(ids: pa.ListArray) -> pa.Array:
    return pa.array([None, *ids.to_pylist()[1:]], ids.type)


def a_null_id(ids: pa.ListArray) -> pa.Array:
    first, *rest = ids.to_pylist()
    return pa.array([[*first[:-1], None], *rest], ids.type)


def no_lists(ids: pa.ListArray) -> pa.Array:
    return pa.array(range(len(ids)), pa.int32())


def texts(ids: pa.ListArray) -> pa.Array:
    return pa.array(["text"] * len(ids))


@pytest.mark.parametrize(
    "change", [lists_of_int64, a_null_list, a_null_id, no_lists, texts], ids=lambda c: c.__name__
)
def test_a_column_of_another_kind_is_refused_and_can_be_skipped(
    change: Callable[[pa.ListArray], pa.Array], tmp_path: Path
) -> None:
    """Fails at a traceback of pyarrow's or numpy's, and at 64-bit ids that are read as pairs of 32-bit ones."""
    shard = second_shard(write_dataset(tmp_path, specs=SPECS))
    table = pq.read_table(shard)
    at = table.schema.get_field_index("input_ids")
    changed = change(table["input_ids"].combine_chunks())
    table = table.set_column(at, pa.field("input_ids", changed.type), changed)
    pq.write_table(table, shard, row_group_size=8)
    with pytest.raises(DataError, match="The column input_ids is not what the trainer reads"):
        list(stream(tmp_path))
    skipping = stream(tmp_path, on_error="skip")
    assert sum(int(b["row_weight"].sum()) for b in skipping) == 120 - skipping.skipped_rows
    assert 8 <= skipping.skipped_rows <= 40
