"""`gs://` against gcp-storage-emulator, which pyarrow's client takes for Google Cloud Storage, and a proxy before it.

What is tested runs in processes of its own: pyarrow asks for the size of a `gs://` file while it holds the
interpreter's lock, so a proxy in the same process could never answer. The second request of an upload is left alone:
of one that brought nothing the emulator says that it has a byte, where Google says that there is none.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from s3_server import Fault, Proxy, free_port, wait_for_port
from small_jobs import Shardmill, job_for, shard_digests, write_job

ROOT = Path(__file__).resolve().parents[2]
SECRET = "ya29.not-so-secret"

CLIENT = """
import json, sys, time
import schemas.object_store
from schemas.errors import ShardmillError
from schemas.storage import Location
uri, schemas.object_store.REQUEST_SECONDS = sys.argv[1], float(sys.argv[2])
data = bytes(range(256)) * 1000
place = Location.of(uri)
def write(): place.write_bytes(data)
def read(): assert place.read_bytes() == data
def list(): assert "no-such" in uri or [f.uri for f in place.parent.files()] == [uri]
for name in sys.argv[3:]:
    began = time.monotonic()
    try:
        {"write": write, "read": read, "list": list}[name]()
        outcome = "good"
    except ShardmillError as error:
        outcome = f"{type(error).__name__}: {error.paragraph()}"
    except FileNotFoundError:
        outcome = "not found"
    print(json.dumps([name, outcome, time.monotonic() - began]))
"""


@dataclass
class Google:
    """The emulator, and the proxy through which all that is tested comes to it."""

    proxy: Proxy

    def environment(self, **changes: str) -> dict[str, str]:
        return {**os.environ, "STORAGE_EMULATOR_HOST": self.proxy.url, **changes}

    def ask(self, *names: str, uri: str = "gs://bucket/deep/file", seconds: float = 60) -> dict[str, str]:
        """Outcomes of operations on one object, by name."""
        command = [sys.executable, "-c", CLIENT, uri, str(seconds), *names]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment(), capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return {name: outcome for name, outcome, _ in map(json.loads, done.stdout.splitlines())}

    def run(self, module: str, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=self.environment(OMP_NUM_THREADS="1"),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        text = done.stdout + done.stderr
        assert done.returncode == code, text
        assert "Traceback" not in text
        return " ".join(text.split())


@pytest.fixture
def google(tmp_path: Path) -> Iterator[Google]:
    port = free_port()
    command = [Path(sys.executable).parent / "gcp-storage-emulator", "start", "--host=127.0.0.1", f"--port={port}"]
    with (tmp_path / "emulator.log").open("wb") as log:
        emulator = subprocess.Popen([*command, "--in-memory", "--default-bucket=bucket"], stdout=log, stderr=log)
    try:
        wait_for_port(port, emulator)
        proxy = Proxy(port)
        yield Google(proxy)
        proxy.close()
    finally:
        emulator.terminate()
        emulator.wait(timeout=30)


def answer(status: int, reason: str, message: str) -> str:
    """An error as Google Cloud Storage words it."""
    error = {
        "code": status,
        "message": message,
        "errors": [{"message": message, "domain": "global", "reason": reason}],
    }
    return json.dumps({"error": error})


def always(number: int, method: str, path: str) -> bool:
    return True


def every(count: int) -> Callable[[int, str, str], bool]:
    return lambda number, method, path: number % count == 0 and method != "PUT"


def first(count: int) -> Callable[[int, str, str], bool]:
    left = iter(range(count))
    return lambda number, method, path: method != "PUT" and next(left, None) is not None


BUSY = answer(429, "rateLimitExceeded", "The rate of requests is too high")
PASSING = {
    "error 500": Fault("status", always, body=answer(500, "backendError", "Backend Error")),
    "error 502 of a gateway": Fault("status", always, 502, ""),
    "throttling": Fault("status", always, 429, body=BUSY),
    "throttling for a second": Fault("status", always, 429, body=BUSY, retry_after="1"),
    "connection reset": Fault("reset", always),
    "slow answers": Fault("slow", always, seconds=0.3),
}


@pytest.mark.parametrize(
    "name", [n if n == "throttling" else pytest.param(n, marks=pytest.mark.slow) for n in PASSING]
)
def test_a_passing_failure_is_tried_again(google: Google, name: str) -> None:
    """The first requests of each operation fail, except that of slow answers all are slow."""
    for operation in ("write", "read", "list") if name != "throttling" else ("write", "read"):
        google.proxy.fault = fault = replace(PASSING[name], hits=0)
        if fault.kind != "slow":
            fault.picks = first(1)
        assert google.ask(operation) == {operation: "good"}
        assert fault.hits >= 1


@pytest.mark.slow
def test_an_answer_that_is_cut_off_is_asked_for_again(google: Google) -> None:
    assert google.ask("write") == {"write": "good"}
    cut = iter(range(2))
    google.proxy.fault = Fault("cut", lambda n, m, path: "alt=media" in path and next(cut, None) is not None)
    assert google.ask("read") == {"read": "good"}
    assert google.proxy.fault.hits == 2


LASTING = {
    "error 500": (Fault("status", always, body=answer(500, "backendError", "No")), "DataError", "storage failed"),
    "throttling": (Fault("status", always, 429, body=BUSY), "DataError", "fewer requests"),
    "reset": (Fault("reset", always), "DataError", "cannot be reached"),
    "unknown token": (
        Fault("status", always, 401, body=answer(401, "authError", f"Invalid Credentials: token={SECRET}")),
        *("RequestError", "does not accept the credentials"),
    ),
    "no rights": (
        Fault("status", always, 403, body=answer(403, "forbidden", "me@x.com does not have access to the bucket")),
        *("RequestError", "refuses access"),
    ),
}


@pytest.mark.parametrize(
    "name", [n if n == "no rights" else pytest.param(n, marks=pytest.mark.slow) for n in LASTING]
)
def test_a_lasting_failure_is_one_paragraph(google: Google, name: str) -> None:
    google.proxy.fault, kind, words = LASTING[name]
    for outcome in google.ask("write", "read", "list", seconds=3).values():
        assert outcome.startswith(f"{kind}: ")
        assert words in outcome
        assert "gs://bucket/deep" in outcome
        assert outcome.count("Got:") == 1
        assert "error_info" not in outcome
        assert SECRET not in outcome


def test_an_absent_bucket_and_an_absent_object(google: Google) -> None:
    found = google.ask("write", "read", "list", uri="gs://no-such-bucket/deep/file")
    assert "There is no such bucket" in found["write"]
    assert found["read"] == "not found"
    assert google.ask("read") == {"read": "not found"}


@pytest.mark.parametrize("content", [None, '{"type": "service_account", "private_key": "ya29.not-so-secret"}', "{"])
def test_credentials_that_cannot_be_used_are_one_paragraph(tmp_path: Path, content: str | None) -> None:
    key = tmp_path / "key.json"
    if content is not None:
        key.write_text(content)
    environment = {k: v for k, v in os.environ.items() if k != "STORAGE_EMULATOR_HOST"}
    command = [sys.executable, "-m", "pipelines.cli", "verify", "gs://bucket/out"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**environment, "GOOGLE_APPLICATION_CREDENTIALS": str(key)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "There are no credentials for the storage that can be used" in done.stderr
    assert "GOOGLE_APPLICATION_CREDENTIALS" in done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr


@pytest.mark.slow
def test_a_job_and_a_training_run_on_gs_are_those_of_the_local_disk(
    google: Google, corpus: Path, shardmill: Shardmill
) -> None:
    """Also with one in a hundred requests failing, after each of which Google's client waits for a second or more."""
    shardmill("prepare", write_job(corpus.parent, job_for(corpus, output="good")), "--direct_num_workers=1")
    good = shard_digests(corpus.parent / "good")
    job = corpus.parent / "gs.yaml"
    job.write_text(yaml.safe_dump(job_for(corpus)))
    upload = "import sys; from pathlib import Path; from schemas.storage import Location\n"
    upload += "for here, there in zip(sys.argv[1::2], sys.argv[2::2]):\n"
    upload += "    Location.of('gs://bucket/' + there).write_bytes(Path(here).read_bytes())"
    pairs = [part for p in corpus.iterdir() for part in (str(p), f"corpus/{p.name}")] + [str(job), "job.yaml"]
    subprocess.run([sys.executable, "-c", upload, *pairs], cwd=ROOT, env=google.environment(), check=True)
    google.proxy.fault = fault = Fault("status", every(100), 503, body=answer(503, "backendError", "Backend Error"))
    google.run("pipelines.cli", "prepare", "gs://bucket/job.yaml", "--direct_num_workers=2")
    assert fault.hits > 3
    google.proxy.fault = None
    digest = "import sys, hashlib; from schemas.storage import Location\n"
    digest += "for path in sys.argv[1:]:\n"
    digest += "    print(hashlib.sha256(Location.of('gs://bucket/out').join(path).read_bytes()).hexdigest())"
    found = subprocess.check_output(
        [sys.executable, "-c", digest, *good], cwd=ROOT, env=google.environment(), text=True
    )
    assert found.split() == list(good.values())
    assert "nothing to do" in google.run("pipelines.cli", "prepare", "gs://bucket/job.yaml")
    google.run("pipelines.cli", "verify", "gs://bucket/out")
    options = ["--steps", "10", "--tokens-per-batch", "256", "--device", "cpu", "--log-every", "1"]
    options += ["--checkpoint-every", "4", "--eval-batches", "2", "--no-tensorboard"]
    google.proxy.fault = fault
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", "gs://bucket/out", "--out", "gs://bucket/run", *options],
        cwd=ROOT,
        env=google.environment(OMP_NUM_THREADS="1"),
        stdout=subprocess.DEVNULL,
    )
    while not any("step-00000008" in request for request in google.proxy.seen):  # so that of step 4 is whole
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    google.proxy.fault = None
    text = google.run("trainer", "gs://bucket/out", "--out", "gs://bucket/run", *options)
    assert "Going on from the checkpoint of step 4" in text
    assert "gcloud storage cp --recursive 'gs://bucket/run/final/*' final && python -c" in text
    whole = corpus.parent / "run"
    google.run("trainer", str(corpus.parent / "good"), "--out", str(whole), *options)
    compare: dict[str, Any] = {}
    for name in ("final/model.safetensors", "metrics.jsonl"):
        script = "import sys; from schemas.storage import Location\n"
        script += "sys.stdout.buffer.write(Location.of(sys.argv[1]).read_bytes())"
        compare[name] = subprocess.check_output(
            [sys.executable, "-c", script, f"gs://bucket/run/{name}"], cwd=ROOT, env=google.environment()
        )
    assert compare["final/model.safetensors"] == (whole / "final/model.safetensors").read_bytes()
    losses = [
        [json.loads(line).get("loss") for line in text.splitlines()]
        for text in (compare["metrics.jsonl"].decode(), (whole / "metrics.jsonl").read_text())
    ]
    assert losses[0] == losses[1]
