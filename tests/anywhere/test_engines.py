"""The same job on other engines, each with several worker processes: the bytes of the local run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from s3_server import free_port, wait_for_port
from small_jobs import Shardmill, job_for, shard_digests, write_job

from pipelines.engine import Engine, descriptors
from pipelines.graph import runs_of
from pipelines.runners import Runner


@pytest.mark.parametrize(
    ("name", "local", "dask"),
    [
        ("FnApiRunner", True, False),
        ("direct", True, False),
        ("DIRECTRUNNER", True, False),
        ("PortableRunner", False, False),
        ("DataflowRunner", False, False),
        ("dask", False, True),
        ("DaskRunner", False, True),
        ("apache_beam.runners.dask.dask_runner.DaskRunner", False, True),
    ],
)
def test_a_runner_is_known_by_every_name_beam_takes(name: str, local: bool, dask: bool) -> None:
    runner = Runner(name)
    assert (runner.is_local, runner.is_dask) == (local, dask)
    assert runner.beam_name == (name if not dask else "apache_beam.runners.dask.dask_runner.DaskRunner")


def test_the_graph_holds_ranges_and_not_items() -> None:
    """A hundred thousand blocks are a hundred short elements; also after a kill that left holes."""
    items = [i for i in range(100_000) if i % 7]
    bundles = descriptors(items)
    runs = [runs_of(bundle) for bundle in bundles]
    assert [i for group in runs for begin, end in group for i in range(begin, end)] == items
    assert runs_of([5]) == [(5, 6)]
    assert runs_of([3, 1, 2]) == [(3, 4), (1, 3)]
    assert [runs_of(b) for b in descriptors(range(2500))] == [[(0, 1000)], [(1000, 2000)], [(2000, 2500)]]


def test_dask_gets_one_item_an_element_since_it_moves_none() -> None:
    assert Engine(("--runner=dask",))._bundles([3, 4, 5], [1, 1, 1]) == [[3], [4], [5]]
    assert Engine(("--runner=PortableRunner",))._bundles([3, 4, 5], [1, 1, 1]) == [[3, 4, 5]]


def test_a_runner_that_is_not_there_is_one_paragraph(job: Path, shardmill: Shardmill) -> None:
    text = shardmill("prepare", job, "--runner=no.such.module.Runner", expect=2)
    assert "cannot be loaded" in text
    assert "no.such.module.Runner" in text


@pytest.fixture
def good(corpus: Path, shardmill: Shardmill) -> dict[str, str]:
    shardmill(
        "prepare", write_job(corpus.parent, job_for(corpus, output="good"), "good.yaml"), "--direct_num_workers=1"
    )
    return shard_digests(corpus.parent / "good")


@pytest.mark.slow
def test_dask_on_worker_processes_gives_the_same_bytes(
    corpus: Path, shardmill: Shardmill, good: dict[str, str]
) -> None:
    from distributed import Client, LocalCluster

    job = write_job(corpus.parent, job_for(corpus))
    with (
        LocalCluster(n_workers=3, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        shardmill("prepare", job, "--runner=dask", f"--dask_client_address={cluster.scheduler_address}")
        # Fails if one worker gets all the work, as with Beam's 128 elements a partition.
        worked = client.run(lambda: "transforms.materialize" in sys.modules)
    assert len(worked) == 3
    assert sum(worked.values()) >= 2
    assert shard_digests(corpus.parent / "out") == good
    shardmill("verify", corpus.parent / "out")


@pytest.fixture
def job_service(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """Ports of Beam's job service and of a pool that starts workers, each in a process of its own."""
    with ExitStack() as stack:
        # The pool starts what `python` the path finds.
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        log = stack.enter_context((tmp_path / "log").open("wb"))

        def start(module: str, *args: str, port: int) -> None:
            process = subprocess.Popen([sys.executable, "-m", module, *args], stdout=log, stderr=log, env=environment)
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)
            wait_for_port(port, process)

        service, pool = free_port(), free_port()
        start("apache_beam.runners.worker.worker_pool_main", f"--service_port={pool}", port=pool)
        start(
            "apache_beam.runners.portability.local_job_service_main",
            f"--port={service}",
            f"--staging_dir={tmp_path / 'staging'}",
            port=service,
        )
        yield service, pool


@pytest.mark.slow
def test_a_job_service_with_external_workers_gives_the_same_bytes(
    corpus: Path, shardmill: Shardmill, good: dict[str, str], job_service: tuple[int, int]
) -> None:
    service, pool = job_service
    job = write_job(corpus.parent, job_for(corpus))
    shardmill(
        "prepare",
        job,
        "--runner=PortableRunner",
        f"--job_endpoint=localhost:{service}",
        "--environment_type=EXTERNAL",
        f"--environment_config=localhost:{pool}",
        "--direct_num_workers=2",
    )
    assert shard_digests(corpus.parent / "out") == good
    shardmill("verify", corpus.parent / "out")


@pytest.mark.slow
def test_an_error_of_a_worker_elsewhere_comes_back_as_one_paragraph(
    corpus: Path, shardmill: Shardmill, job_service: tuple[int, int]
) -> None:
    service, pool = job_service
    (corpus / "web-0.jsonl").write_bytes(b"{\n" * 500)
    text = shardmill(
        "prepare",
        write_job(corpus.parent, job_for(corpus)),
        "--runner=PortableRunner",
        f"--job_endpoint=localhost:{service}",
        "--environment_type=EXTERNAL",
        f"--environment_config=localhost:{pool}",
        expect=1,
    )
    assert "Too many records" in text
    assert text.count("error:") == 1
