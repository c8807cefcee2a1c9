"""Datasets that tests read and do not change; those that spoil one make their own."""

from __future__ import annotations

import pytest
from tiny_dataset import make_dataset

from schemas.storage import Location
from transforms.objectives.causal import Causal
from transforms.objectives.mlm import Mlm


@pytest.fixture(scope="session")
def mlm_dataset(tmp_path_factory: pytest.TempPathFactory) -> Location:
    return make_dataset(tmp_path_factory.mktemp("mlm"), Mlm())


@pytest.fixture(scope="session")
def causal_dataset(tmp_path_factory: pytest.TempPathFactory) -> Location:
    return make_dataset(tmp_path_factory.mktemp("causal"), Causal())
