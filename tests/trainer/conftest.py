"""Fixtures of the trainer's tests: one small dataset of each of the commonest objectives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_datasets import write_dataset

torch.set_num_threads(1)


@pytest.fixture
def compiler() -> Iterator[None]:
    """A compiler that knows no graphs of other tests, and does not give up without saying so."""
    from torch import _dynamo  # takes longer to import than all else

    _dynamo.reset()
    with _dynamo.config.patch(recompile_limit=8, accumulated_recompile_limit=256, fail_on_recompile_limit_hit=True):
        yield
    torch.compiler.set_default_backend(None)
    _dynamo.reset()


@pytest.fixture(scope="session")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("causal"), objective="causal")


@pytest.fixture(scope="session")
def mlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("mlm"), objective="mlm")
