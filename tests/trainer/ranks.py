"""Runs a training in several processes of one machine, as torchrun would, without its minutes of imports."""

from __future__ import annotations

import io
import json
import os
import socket
from pathlib import Path
from typing import Any

import torch.multiprocessing as mp

# Imported once, before the processes fork.
import transformers.models.bert.modeling_bert
import transformers.models.electra.modeling_electra
import transformers.models.gpt2.modeling_gpt2  # noqa: F401
from rich.console import Console

import trainer.loop  # noqa: F401


def _rank(rank: int, size: int, port: int, settings: dict[str, Any]) -> None:
    import torch

    from trainer.loop import TrainSettings, train

    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        GLOO_SOCKET_IFNAME="lo",
    )
    train(TrainSettings(**settings), console=Console(file=io.StringIO()))


def train_on(size: int, **settings: Any) -> list[dict[str, Any]]:
    """Train with so many processes; returns the lines of metrics."""
    settings = {"device": "cpu", "tensorboard": False, "log_every_steps": 1} | settings
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(_rank, args=(size, port, settings), nprocs=size, start_method="fork")
    return [json.loads(line) for line in (Path(settings["out"]) / "metrics.jsonl").read_text().splitlines()]
