"""The processes of a run: who this one is, sums over all of them, and how they share a model. Knows no training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from schemas.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among those that torchrun started; alone without torchrun."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """True for the process that writes and prints."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes, on each of them."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def tell(self, value: Any) -> Any:
        """The leading process's value, on each of them."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """The value of each process, on each of them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def joined(device: str) -> Iterator[World]:
    """Join the other processes: tensors of GPUs are exchanged by NCCL, those of processors by gloo.

    Raises:
      RequestError: there is no such device, or the environment of torchrun is incomplete.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise RequestError(
            "PyTorch sees no CUDA device here",
            got="--device cuda",
            remedy="Use --device cpu, or install a build of PyTorch that fits the driver",
        )
    kind = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(rank=0, size=1, device=torch.device(kind))
        return
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise RequestError(
            "The environment names several processes and not which one this is",
            expected=f"{', '.join(missing)}, as torchrun sets them",
            got=f"WORLD_SIZE {size}",
            remedy="Start it as: torchrun --nproc-per-node N -m trainer DATASET",
        )
    local = torch.device(kind, int(os.environ["LOCAL_RANK"]) if kind == "cuda" else None)
    if kind == "cuda":
        torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo")
    try:
        yield World(rank=dist.get_rank(), size=size, device=local)
    finally:
        dist.destroy_process_group()


def share(module: nn.Module, world: World, how: str) -> nn.Module:
    """A module whose gradients are averaged over all processes: a copy in each (DDP), or a shard of it (FSDP2)."""
    if world.size == 1:
        return module
    if how == "ddp":
        ids = [world.device.index] if world.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, device_ids=ids)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    for layer in _layers(module):
        fully_shard(layer, mesh=mesh)
    return fully_shard(module, mesh=mesh)


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """What is gathered together: the outermost modules with parameters that are in a list of such."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from (layer for layer in child if any(True for _ in layer.parameters()))
        else:
            yield from _layers(child)


@contextmanager
def without_exchange(module: nn.Module, wanted: bool) -> Iterator[None]:
    """Let gradients add up in each process, to be averaged with those of a later micro-batch."""
    if not wanted:
        yield
    elif isinstance(module, nn.parallel.DistributedDataParallel):
        with module.no_sync():
            yield
    elif hasattr(module, "set_requires_gradient_sync"):
        module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            module.set_requires_gradient_sync(True)
    else:
        yield
