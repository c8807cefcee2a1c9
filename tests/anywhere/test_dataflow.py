"""Dataflow as far as it goes without Google: the job that a stand-in of the service receives, and what is staged."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from dataflow_service import DataflowService
from s3_server import free_port, wait_for_port
from small_jobs import Shardmill, job_for

import schemas.storage as storage
from pipelines.engine import Engine
from pipelines.materialize import MaterializeWork
from schemas.jobfile import parse_job
from schemas.storage import Location
from transforms.materialize import MaterializeOptions

pytest.importorskip("google.cloud.dataflow", reason="the packages of the extra gcp are not installed")

IMAGE = "europe-docker.pkg.dev/project/repository/shardmill:0.1.0"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Location]:
    """A bucket of a GCS emulator, for us and for Google's own client."""
    port = free_port()
    command = [Path(sys.executable).parent / "gcp-storage-emulator", "start", "--host=127.0.0.1", f"--port={port}"]
    with (tmp_path / "emulator.log").open("wb") as log:
        emulator = subprocess.Popen([*command, "--in-memory", "--default-bucket=bucket"], stdout=log, stderr=log)
    wait_for_port(port, emulator)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    storage._filesystem.cache_clear()
    yield Location.of("gs://bucket")
    storage._filesystem.cache_clear()
    emulator.terminate()
    emulator.wait(timeout=30)


@pytest.fixture
def service() -> Iterator[DataflowService]:
    service = DataflowService()
    yield service
    service.close()


def options(service: DataflowService) -> list[str]:
    return [
        "--runner=DataflowRunner",
        "--project=project",
        "--region=europe-west4",
        "--temp_location=gs://bucket/temp",
        "--staging_location=gs://bucket/staging",
        "--no_auth",
        f"--dataflow_endpoint={service.url}",
        f"--sdk_container_image={IMAGE}",
        "--sdk_location=container",
        "--machine_type=n2-standard-8",
        "--max_num_workers=50",
        "--disk_size_gb=50",
    ]


def staged_pipeline(bucket: Location):  # type: ignore[no-untyped-def]
    from apache_beam.portability.api import beam_runner_api_pb2

    (found,) = [f for f in (bucket / "staging").files(recursive=True) if f.uri.endswith("/pipeline.pb")]
    return beam_runner_api_pb2.Pipeline.FromString(Location(found.uri).read_bytes()), found.size_bytes


@pytest.mark.slow
def test_a_job_of_a_hundred_thousand_blocks_is_small_and_readable(
    bucket: Location, service: DataflowService, corpus: Path, figures: Callable[[str], None]
) -> None:
    """Fails if blocks go into the graph one by one, a step gets a cryptic name, or an option does not arrive."""
    work = MaterializeWork(
        MaterializeOptions(
            job=parse_job(yaml.safe_dump(job_for(corpus))),
            store="gs://bucket/tokens",
            dataset="gs://bucket/out",
            fingerprint="f" * 32,
            tokenizer_sha256="0" * 64,
            lengths=((16, 32), (32, 64)),
        )
    )
    Engine(tuple(options(service))).run_each("Materialize", range(100_000), [1] * 100_000, work)
    (job,) = service.jobs
    assert job["name"].startswith("shardmill-materialize-")
    (pool,) = job["environment"]["workerPools"]
    assert pool["machineType"] == "n2-standard-8"
    assert pool["diskSizeGb"] == 50
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 50
    assert [i["containerImage"] for i in pool["sdkHarnessContainerImages"]] == [IMAGE]
    assert not [p for p in pool["packages"] if p["name"].endswith((".whl", ".tar.gz"))]  # the image has the package
    pipeline, size = staged_pipeline(bucket)
    figures(f"job of {service.job_bytes[0]:,} bytes, graph of {size:,} bytes")
    assert service.job_bytes[0] + size < 2**20
    names = {t.unique_name for t in pipeline.components.transforms.values()}
    top = {name for name in names if name and not name.startswith("ref_") and "/" not in name}
    assert top == {"ListMaterialize", "DealMaterialize", "UnpackMaterialize", "SpreadMaterialize", "Materialize"}
    images = {e.payload for e in pipeline.components.environments.values() if IMAGE.encode() in e.payload}
    assert images


@pytest.mark.slow
def test_prepare_submits_its_first_step_and_does_not_take_a_service_at_its_word(
    bucket: Location, service: DataflowService, corpus: Path, shardmill: Shardmill
) -> None:
    """The stand-in calls the job done and has done nothing: what counts is what lies in the store."""
    for path in corpus.iterdir():
        (bucket / "corpus" / path.name).write_bytes(path.read_bytes())
    (bucket / "job.yaml").write_bytes(yaml.safe_dump(job_for(corpus)).encode())
    text = shardmill("prepare", "gs://bucket/job.yaml", *options(service), expect=1)
    assert "Some input ranges are not tokenized" in text
    (job,) = service.jobs
    assert job["name"].startswith("shardmill-tokenize-")


@pytest.mark.slow
def test_a_template_launcher_gets_the_graph_and_the_table_it_reads(
    bucket: Location, service: DataflowService, corpus: Path, shardmill: Shardmill
) -> None:
    for path in corpus.iterdir():
        (bucket / "corpus" / path.name).write_bytes(path.read_bytes())
    (bucket / "job.yaml").write_bytes(yaml.safe_dump(job_for(corpus)).encode())
    template = "--template_location=gs://bucket/template/job.json"
    text = shardmill("prepare", "gs://bucket/job.yaml", *options(service), template)
    assert "handed to the template launcher" in text
    assert not service.jobs
    graph = json.loads((bucket / "template" / "job.json").read_bytes())
    assert graph["name"].startswith("shardmill-tokenize-")
    assert [f for f in (bucket / "out").files() if "/.ranges-" in f.uri]
