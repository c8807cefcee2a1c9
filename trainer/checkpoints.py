"""Checkpoints: the whole state of a run, on disk or an object store. Knows no training.

A checkpoint is a directory `step-00000100` that is whole or does not count: locally it is renamed when it is whole,
on an object store `state.json` is put last, and removed first. Tensors go through `torch.distributed.checkpoint`, so
a checkpoint of four processes is read by two, and a sharded one by a single process; all else is in `state.json`,
with a checksum of every file and one of itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from schemas.errors import DataError, ShardmillError
from schemas.place_errors import place_errors
from schemas.storage import Location
from trainer.checkpoint_files import Reader, Writer, check_file, file_of, read_tensor, write_tensor
from trainer.world import World

_WHOLE, _HALF = re.compile(r"step-\d+"), re.compile(r"\.step-\d+\.tmp")


_SENTENCE = r"\.\s|\n"


class Checkpoints:
    """The checkpoints of a run."""

    def __init__(self, directory: Location, world: World, *, keep: int) -> None:
        self._directory, self._world, self._keep = directory, world, keep

    def newest(self) -> Location | None:
        """The newest whole checkpoint; what a kill left half-written, or half removed, is removed."""
        names = self._directory.directories()
        whole = [n for n in names if _WHOLE.fullmatch(n) and (self._directory / n / "state.json").info()]
        for name in names:
            if name not in whole and (_WHOLE.fullmatch(name) or _HALF.fullmatch(name)):
                (self._directory / name).remove_directory()
        return self._directory / whole[-1] if whole else None

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Save a checkpoint, then remove the oldest ones; all processes call it together.

        Args:
          step: optimiser steps done.
          model: as wrapped for the processes.
          optimizer: its state's tensors are saved; its settings follow from the run's.
          state: JSON of everything else, the same in all processes.

        Raises:
          RequestError, DataError: the disk is full, or the place cannot be written; earlier checkpoints are as they
            were.
        """
        final = self._directory / f"step-{step:08d}"
        building = self._directory / f".{final.name}.tmp" if final.is_local else final
        with place_errors(building), _own_errors():
            if self._world.leads:
                _remove(building)
                building.make_directory()
            self._world.wait()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a single process saves without a process group is meant
                writer = Writer(building)
                dcp.save(_tensors(model, optimizer), storage_writer=writer)
            random = f"random-{self._world.rank:05d}.pt"
            sums = {**writer.sums, random: write_tensor(building / random, torch.get_rng_state())}
            files = {name: sha256 for some in self._world.gather(sums) for name, sha256 in some.items()}
            if self._world.leads:
                (building / "state.json").write_bytes(_signed({**state, "files": dict(sorted(files.items()))}))
                if final.is_local:
                    _remove(final)
                    os.replace(building.uri, final.uri)
                for old in [n for n in self._directory.directories() if _WHOLE.fullmatch(n)][: -self._keep]:
                    _remove(self._directory / old)
            self._world.wait()

    def load(self, place: Location, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Bring model, optimiser and random numbers to where a checkpoint was; returns its `state`.

        Raises:
          DataError: the checkpoint is damaged, or its store fails.
          RequestError: its store refuses.
        """
        try:
            with _own_errors():
                state = _checked(json.loads((place / "state.json").read_bytes()))
                files = sorted(state.pop("files").items())
                for name, sha256 in files[self._world.rank :: self._world.size]:  # each process some of them
                    check_file(file_of(place, name), sha256)
                tensors = _tensors(model, optimizer)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    reader = Reader(place)
                    reader.read_metadata()  # DCP would tell what is wrong with it at greater length
                    dcp.load(tensors, storage_reader=reader)
                random = place / f"random-{self._world.rank:05d}.pt"
                if random.info():  # a process more than there were begins with the numbers of its seed
                    torch.set_rng_state(read_tensor(random))
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise DataError(
                "A checkpoint cannot be read",
                where=str(place),
                got=str(error)[:500],
                remedy="Remove it, and the run goes on from the one before; or start again with --overwrite",
            ) from error
        model = _own(model)
        set_model_state_dict(model, tensors["model"])
        groups = get_optimizer_state_dict(model, optimizer)["param_groups"]
        set_optimizer_state_dict(model, optimizer, {"state": tensors["optimizer"], "param_groups": groups})
        return state


def _remove(checkpoint: Location) -> None:
    """Remove a checkpoint, or what there is of one, so that at no moment a part of it counts as one."""
    (checkpoint / "state.json").remove()
    checkpoint.remove_directory()


def _signed(state: dict[str, Any]) -> bytes:
    """What `state.json` holds: the state and, as `sha256`, a checksum of it."""
    return (json.dumps({**state, "sha256": _sum_of(state)}) + "\n").encode()


def _sum_of(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _checked(state: Any) -> dict[str, Any]:
    """The state without its checksum."""
    kinds = {"step": int, "tokens": int, "stream": dict, "files": dict, "sha256": str}
    if not isinstance(state, dict) or any(not isinstance(state.get(k), kind) for k, kind in kinds.items()):
        raise ValueError("state.json holds no step, tokens, state of the stream and checksums")
    if state.pop("sha256") != _sum_of(state):
        raise ValueError("state.json is not as it was written: it differs from its own checksum")
    return state


def _own(model: nn.Module) -> nn.Module:
    """The model that DDP wraps; PyTorch looks for tables that two models share under the wrapper's names in vain."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    model = _own(model)
    return {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer)["state"],
    }


@contextlib.contextmanager
def _own_errors() -> Iterator[None]:
    """Let out of DCP's exceptions those that say what to do, or that `place_errors` knows; it adds tracebacks."""
    try:
        yield
    except dcp.CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values()]
        for cause in causes:
            if isinstance(cause, (ShardmillError, OSError)):
                raise cause from error
        # The first sentence: torch goes on to advise reading what may run code.
        raise ValueError(f"{type(causes[0]).__name__}: {re.split(_SENTENCE, str(causes[0]))[0]}") from error
