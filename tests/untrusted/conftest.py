"""Fixtures of the tests on untrusted data."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent / folder) for folder in ("pipeline", "audit")]

from small_jobs import corpus, job, shardmill  # noqa: E402

__all__ = ["corpus", "job", "shardmill"]
