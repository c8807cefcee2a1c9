"""Checkpoints of strangers and of failing disks: refused in one paragraph; no traceback, and no other number."""

from __future__ import annotations

import pickle
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from signed_checkpoints import sign
from torch import nn

from schemas.errors import DataError
from schemas.storage import Location
from trainer.checkpoints import Checkpoints
from trainer.world import World

WORLD = World(rank=0, size=1, device=torch.device("cpu"))
STATE: dict[str, Any] = {"step": 4, "tokens": 7, "stream": {"step": 4}}


def parts(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(2, 6)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    Checkpoints(Location.of(tmp_path / "saved"), WORLD, keep=2).save(4, *parts(0), STATE)
    return tmp_path / "saved/step-00000004"


def load(place: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    model, optimizer = parts(1)
    state = Checkpoints(Location.of(place.parent), WORLD, keep=2).load(Location.of(place), model, optimizer)
    return state, model.state_dict()


def said(place: Path) -> str:
    """What loading a checkpoint says against it; empty where it loads."""
    try:
        load(place)
    except DataError as error:
        return error.paragraph()
    return ""


def refusal(place: Path) -> str:
    """What loading a checkpoint says against it; empty where it loads what was saved."""
    try:
        state, weights = load(place)
    except DataError as error:
        return error.paragraph()
    assert state == STATE
    assert all(torch.equal(weights[name], value) for name, value in parts(0)[0].state_dict().items())
    return ""


def spoil(draw: random.Random, data: bytes) -> bytes:
    match draw.randrange(4):
        case 0:
            return data[: draw.randrange(len(data))]
        case 1:
            at = draw.randrange(len(data))
            return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
        case 2:
            at, end = sorted(draw.randrange(len(data)) for _ in range(2))
            return data[:at] + draw.randbytes(draw.randrange(20)) + data[end:]
    return draw.choice([b"", b"null", b"{}", b"[1]", b'{"step": "x"}', draw.randbytes(200), pickle.dumps(7)])


@pytest.mark.parametrize("count", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_what_somebody_has_spoiled_and_signed_again_is_refused_or_read(
    saved: Path, count: int, figures: Callable[[str], None]
) -> None:
    """Fails at whatever is no `DataError`, with checksums that fit."""
    draw, outcomes = random.Random(-count), Counter[str]()
    for _ in range(count):
        place = Path(shutil.copytree(saved, saved.parent.parent / "copy/step-00000004"))
        name = draw.choice(["__0_0.distcp", ".metadata", "random-00000.pt"])
        (place / name).write_bytes(spoil(draw, (place / name).read_bytes()))
        sign(place)
        text = said(place)
        outcomes["refused" if text else "read"] += 1
        assert "weights_only" not in text
        shutil.rmtree(place.parent)
    figures(f"{count} spoiled and signed checkpoints: {dict(outcomes)}")
    assert outcomes["refused"] > count // 3


@pytest.mark.parametrize("count", [60, pytest.param(1500, marks=pytest.mark.slow)])
def test_a_spoiled_checkpoint_is_refused(saved: Path, count: int, figures: Callable[[str], None]) -> None:
    """Fails at whatever is no `DataError`, and at anything that is read and is not what was saved."""
    draw, outcomes = random.Random(count), Counter[str]()
    files = sorted(p.name for p in saved.iterdir())
    for _ in range(count):
        place = Path(shutil.copytree(saved, saved.parent.parent / "copy/step-00000004"))
        name = draw.choice(files)
        (place / name).write_bytes(spoil(draw, (place / name).read_bytes()))
        text = refusal(place)
        outcomes["refused" if text else "read"] += 1
        assert not text or ("step-00000004" in text and "--overwrite" in text)
        assert "Traceback" not in text
        assert "weights_only" not in text
        shutil.rmtree(place.parent)
    figures(f"{count} spoiled checkpoints: {dict(outcomes)}")
    # A cut of nothing, or of the line's end, changes nothing that is read.
    assert outcomes["read"] < count // 20
    assert refusal(saved) == ""


def test_a_checkpoint_without_one_of_its_files_is_refused(saved: Path) -> None:
    (saved / "random-00000.pt").unlink()
    assert "random-00000.pt" in refusal(saved)


@pytest.mark.parametrize("name", ["../elsewhere", "/etc/passwd", "..", ""])
def test_a_checksum_of_a_file_elsewhere_is_refused(saved: Path, name: str) -> None:
    sign(saved, files={name: "0" * 64})
    assert "must not name the file" in refusal(saved)


def test_an_index_that_names_a_file_elsewhere_is_refused(saved: Path) -> None:
    """Fails if a checkpoint could make the trainer read what its directory does not hold."""
    elsewhere = saved.parent / "elsewhere.distcp"
    shutil.copy(saved / "__0_0.distcp", elsewhere)
    index = pickle.loads((saved / ".metadata").read_bytes())
    for name in ("../elsewhere.distcp", str(elsewhere)):
        for info in index.storage_data.values():
            info.relative_path = name
        (saved / ".metadata").write_bytes(pickle.dumps(index))
        sign(saved)
        with pytest.raises(DataError, match="must not name the file"):
            load(saved)
