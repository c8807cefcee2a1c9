"""Fixtures that several suites share."""

from __future__ import annotations

import os

# Read before any library asks: no hub, and no threads of the tokenizer beside the tests' own processes.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A job file can name the objectives whose modules are imported; the command line imports them all.
import transforms.objectives.registry  # noqa: F401
