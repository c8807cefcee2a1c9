"""Checkpoints: the whole state of a run on disk, through `torch.distributed.checkpoint`. Knows no training.

A checkpoint is a directory `step-00000100` that appears whole or not at all. Tensors go through DCP, so a checkpoint
of four processes is read by two, and a sharded one by a single process; everything else is in `state.json`. Nothing
that is read back can run code: tensors are loaded as weights only, and the index through an unpickler that knows
descriptions of tensors and no more.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from schemas.errors import DataError
from schemas.storage import Location, place_errors
from trainer.world import World

_NAME = re.compile(r"step-(\d+)")
_SAFE_MODULES = {"torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem"}
_SAFE_NAMES = {("torch", "Size"), ("torch.serialization", "_get_layout"), ("pathlib", "PosixPath")}


class Checkpoints:
    """The checkpoints of a run."""

    def __init__(self, directory: Path, world: World, *, keep: int) -> None:
        self._directory, self._world, self._keep = directory, world, keep

    def newest(self) -> Path | None:
        """The newest whole checkpoint; what a kill left half-written is removed."""
        if not self._directory.is_dir():
            return None
        for left in self._directory.glob(".step-*.tmp"):
            shutil.rmtree(left, ignore_errors=True)
        found = sorted(p for p in self._directory.iterdir() if _NAME.fullmatch(p.name))
        return found[-1] if found else None

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Save a checkpoint, then remove the oldest ones; all processes call it together.

        Args:
          step: optimiser steps done.
          model: as wrapped for the processes.
          optimizer: its state's tensors are saved; its settings follow from the run's.
          state: JSON of everything else, the same in all processes.
        """
        final = self._directory / f"step-{step:08d}"
        temporary = self._directory / f".{final.name}.tmp"
        with place_errors(Location.of(temporary)):
            if self._world.leads:
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
            self._world.wait()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a single process saves without a process group is meant
                dcp.save(_tensors(model, optimizer), checkpoint_id=temporary)
            torch.save(torch.get_rng_state(), temporary / f"random-{self._world.rank:05d}.pt")
            self._world.wait()
            if self._world.leads:
                (temporary / "state.json").write_text(json.dumps(state) + "\n")
                shutil.rmtree(final, ignore_errors=True)
                os.replace(temporary, final)
                whole = sorted(p for p in self._directory.iterdir() if _NAME.fullmatch(p.name))
                for old in whole[: -self._keep]:
                    shutil.rmtree(old)
            self._world.wait()

    def load(self, place: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Bring model, optimiser and random numbers to where a checkpoint was; returns its `state`.

        Raises:
          DataError: the checkpoint is damaged.
        """
        try:
            state = json.loads((place / "state.json").read_text())
            tensors = _tensors(model, optimizer)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                reader = _SafeReader(place)
                reader.read_metadata()  # DCP would tell what is wrong with it at greater length
                dcp.load(tensors, storage_reader=reader)
            random = place / f"random-{self._world.rank:05d}.pt"
            if random.exists():  # a process more than there were begins with the numbers of its seed
                torch.set_rng_state(torch.load(random, weights_only=True))
        except (
            OSError,
            ValueError,
            RuntimeError,
            EOFError,
            pickle.UnpicklingError,
            dcp.CheckpointException,
        ) as error:
            raise DataError(
                "A checkpoint cannot be read",
                where=str(place),
                got=str(error)[:500],
                remedy="Remove it, and the run goes on from the one before; or start again with --overwrite",
            ) from error
        set_model_state_dict(model, tensors["model"])
        groups = get_optimizer_state_dict(model, optimizer)["param_groups"]
        set_optimizer_state_dict(model, optimizer, {"state": tensors["optimizer"], "param_groups": groups})
        return state


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer)["state"],
    }


class _SafeReader(FileSystemReader):
    """Reads the index of a checkpoint without letting it name any code."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index, as the base class has it."""
        with self.fs.create_stream(self._get_metadata_path(kwargs.get("rank")), "rb") as source:
            metadata = _SafeUnpickler(source).load()
        if getattr(metadata, "storage_meta", None) is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _SafeUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Descriptions of tensors only."""
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or (module, name) in _SAFE_NAMES:
            return super().find_class(module, name)
        if module in _SAFE_MODULES and "." not in name:  # a dotted name would lead to what the module imports
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module:
                return found
        raise pickle.UnpicklingError(f"the index of a checkpoint must not name {module}.{name}")
