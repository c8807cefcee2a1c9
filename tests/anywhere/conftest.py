"""Fixtures: an S3 server on loopback for all tests, a bucket and a failing proxy for each."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "pipeline"))

from s3_server import KEY, SECRET, Proxy, S3Server
from small_jobs import corpus, job, shardmill, system_tmp

import schemas.object_store as object_store
import schemas.storage as storage

__all__ = ["corpus", "job", "shardmill", "system_tmp"]

_numbers = itertools.count()


@pytest.fixture(scope="session")
def s3_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server.start(tmp_path_factory.mktemp("moto") / "log")
    yield server
    server.stop()


@pytest.fixture
def proxy(s3_process: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The way to the server, for this process and those it starts."""
    proxy = Proxy(s3_process.port)
    for name, value in {
        "AWS_ENDPOINT_URL": proxy.url,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    }.items():
        monkeypatch.setenv(name, value)
    # Each bucket's file system is kept; these belong to another server.
    storage._filesystem.cache_clear()
    yield proxy
    storage._filesystem.cache_clear()
    proxy.close()


@pytest.fixture
def bucket(s3_process: S3Server, proxy: Proxy) -> str:
    name = f"bucket-{next(_numbers)}"
    s3_process.make_bucket(name)
    return name


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What goes on failing is given up after two attempts."""
    monkeypatch.setattr(object_store, "ATTEMPTS", 2)
    storage._filesystem.cache_clear()
    yield
    storage._filesystem.cache_clear()
