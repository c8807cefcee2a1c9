"""The installed version of shardmill."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def shardmill_version() -> str:
    """As in `0.1.0`; `unknown` where the package runs without being installed."""
    try:
        return version("shardmill")
    except PackageNotFoundError:
        return "unknown"
