"""Fixtures that several suites share."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

# Read before any library asks: no hub, and no threads of the tokenizer beside the tests' own processes.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A job file can name the objectives whose modules are imported; the command line imports them all.
import transforms.objectives.registry  # noqa: F401

_FIGURES: list[str] = []


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Takes what a fault test counted; shown after the run, since a passing test says nothing else."""

    def say(text: str) -> None:
        _FIGURES.append(f"{request.node.name}: {text}")

    return say


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what was counted."""
    for line in _FIGURES:
        terminalreporter.write_line(line)
