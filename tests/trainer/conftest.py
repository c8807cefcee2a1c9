"""Fixtures of the trainer's tests: one small dataset of each of the commonest objectives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_datasets import write_dataset

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("causal"), objective="causal")


@pytest.fixture(scope="session")
def mlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("mlm"), objective="mlm")
