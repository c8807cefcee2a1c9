"""Everything in deploy/ that a tool can check: syntax, and every option against the programs that take it."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml

from pipelines.cli import _parser
from pipelines.engine import beam_options

DEPLOY = Path(__file__).parent.parent / "deploy"
ROOT = DEPLOY.parent
TORCHRUN = {"nnodes", "nproc-per-node", "rdzv-backend", "rdzv-id", "rdzv-endpoint", "max-restarts"}


@cache
def known_to_beam() -> set[str]:
    return set(beam_options(["--runner=DataflowRunner"])) | set(beam_options(["--runner=dask"]))


def trainer_options() -> set[str]:
    pytest.importorskip("torch")
    command = [sys.executable, "-m", "trainer", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"--[a-z-]+", shown))


def flat(node: Any) -> list[Any]:
    """Every scalar and mapping of a document."""
    if isinstance(node, dict):
        return [node, *(x for value in node.values() for x in flat(value))]
    if isinstance(node, list):
        return [x for value in node for x in flat(value)]
    return [node]


def check_command(words: list[str]) -> None:
    """A `shardmill` command line has a known command, and options that it or Beam knows."""
    command, *rest = words
    parser = _parser()._subparsers._group_actions[0].choices[command]  # type: ignore[union-attr,index]
    own = {option for action in parser._actions for option in action.option_strings}
    for word in rest:
        if word.startswith("--"):
            assert word.split("=")[0] in own | known_to_beam(), word


def test_every_yaml_and_json_file_parses() -> None:
    found = [p for p in DEPLOY.rglob("*") if p.suffix in (".yaml", ".yml", ".json")]
    assert len(found) >= 3
    for path in found:
        text = path.read_text()
        documents = [json.loads(text)] if path.suffix == ".json" else list(yaml.safe_load_all(text))
        assert all(isinstance(d, dict) for d in documents), path


def test_kubernetes_manifests_name_what_they_use() -> None:
    for path in (DEPLOY / "kubernetes").glob("*.yaml"):
        documents = list(yaml.safe_load_all(path.read_text()))
        labels = [d["spec"]["template"]["metadata"]["labels"] for d in documents if "metadata" in _template(d)]
        for document in documents:
            assert {"apiVersion", "kind", "metadata", "spec"} <= set(document), path
            assert re.fullmatch(r"[a-z0-9-]+", document["metadata"]["name"])
            if document["kind"] == "Service":
                selector = document["spec"]["selector"].items()
                assert any(selector <= found.items() for found in labels), path
            if document["kind"] == "Deployment":
                assert document["spec"]["selector"]["matchLabels"] == _template(document)["metadata"]["labels"]
            for pod in (node for node in flat(document) if isinstance(node, dict) and "containers" in node):
                volumes = {v["name"] for v in pod.get("volumes", [])}
                assert {m["name"] for c in pod["containers"] for m in c.get("volumeMounts", [])} <= volumes, path


def _template(document: dict[str, Any]) -> dict[str, Any]:
    return dict(document["spec"].get("template") or {})


def _containers(path: Path) -> list[dict[str, Any]]:
    documents = yaml.safe_load_all(path.read_text())
    return [c for d in documents for node in flat(d) if isinstance(node, dict) for c in node.get("containers", [])]


def test_the_manifests_command_lines_are_ones_the_programs_take() -> None:
    commands = [c for path in (DEPLOY / "kubernetes").glob("*.yaml") for c in _containers(path) if "command" in c]
    assert {c["command"][0] for c in commands} == {"shardmill", "torchrun"}
    for container in commands:
        if container["command"] == ["shardmill"]:
            check_command(container["args"])
        else:
            check_torchrun(container["args"])


def check_torchrun(words: list[str]) -> None:
    """Options before `-m trainer` are torchrun's, those after it the trainer's."""
    at = words.index("-m")
    assert words[at + 1] == "trainer"
    assert {w.split("=")[0].removeprefix("--") for w in words[:at]} <= TORCHRUN
    assert {w.split("=")[0] for w in words[at + 3 :] if w.startswith("--")} <= trainer_options()


def test_torchrun_takes_the_options_that_are_given_to_it() -> None:
    pytest.importorskip("torch")
    command = [sys.executable, "-m", "torch.distributed.run", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"--([a-z-]+)", shown)) >= TORCHRUN


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.sbatch")), ids=lambda p: p.name)
def test_slurm_scripts_are_bash_and_say_what_they_need(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)
    lines = path.read_text().splitlines()
    directives = [i for i, line in enumerate(lines) if line.startswith("#SBATCH")]
    code = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert directives
    assert max(directives) < code  # Slurm reads none after the first command
    empty = subprocess.run(["bash", path], capture_output=True, text=True, check=False)
    assert empty.returncode != 0
    assert "usage: sbatch" in empty.stderr


@pytest.mark.parametrize("name", ["train", "prepare"])
def test_slurm_scripts_start_what_they_should(tmp_path: Path, name: str) -> None:
    """With stand-ins of Slurm's own commands that print what they are called with."""
    for command in ("srun", "shardmill", "scontrol"):
        script = tmp_path / command
        script.write_text(
            '#!/bin/sh\nprintf "%s\\n" "$@"\n' if command != "scontrol" else "#!/bin/sh\necho node7\necho node8\n"
        )
        script.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NNODES": "2",
        "SLURM_JOB_ID": "42", "SLURM_CPUS_PER_TASK": "32",
    }  # fmt: skip
    script = DEPLOY / "slurm" / f"{name}.sbatch"
    command = (
        ["bash", script, "s3://b/data", "out", "--steps=10"] if name == "train" else ["bash", script, "job.yaml"]
    )
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    words = done.stdout.split("\n")[:-1]
    if name == "prepare":
        check_command(words)
        assert words == ["prepare", "job.yaml", "--direct_num_workers=32"]
    else:
        assert words[:2] == ["--kill-on-bad-exit=1", "torchrun"]
        check_torchrun(words[2:])
        assert "--rdzv-endpoint=node7:29500" in words
        assert words[-3:] == ["s3://b/data", "--out=out", "--steps=10"]


def test_terraform_parses_and_refers_only_to_what_it_declares() -> None:
    path = DEPLOY / "dataflow" / "terraform" / "main.tf"
    text = path.read_text()
    found = hcl2.loads(text)
    declared = {
        f"{kind.strip(chr(34))}.{name.strip(chr(34))}"
        for block in found["resource"]
        for kind, named in block.items()
        for name in named
    }
    used = set(re.findall(r"\b(google_[a-z0-9_]+\.[a-z_]+)\.", text)) | set(
        re.findall(r"\[(google_[a-z0-9_]+\.[a-z_]+)\]", text)
    )
    assert used <= declared
    variables = {name.strip('"') for block in found["variable"] for name in block}
    assert set(re.findall(r"\bvar\.([a-z_]+)", text)) == variables
    (arguments,) = re.findall(r"args = \[(.*?)\n        \]", text, re.DOTALL)
    words = [w.strip().strip('",') for w in arguments.split("\n") if w.strip()]
    check_command([w.strip('"') for w in words])
    if terraform := shutil.which("terraform"):
        subprocess.run([terraform, "fmt", "-check", "-diff", path], check=True, capture_output=True)


def _flex_main() -> Any:
    spec = importlib.util.spec_from_file_location("flex_template_main", DEPLOY / "dataflow" / "flex_template_main.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_templates_parameters_are_options_of_the_program() -> None:
    metadata = json.loads((DEPLOY / "dataflow" / "flex_template_metadata.json").read_text())
    assert {"name", "description", "parameters"} <= set(metadata)
    names = [p["name"] for p in metadata["parameters"]]
    assert len(names) == len(set(names))
    for parameter in metadata["parameters"]:
        assert set(parameter) <= {"name", "label", "helpText", "isOptional", "regexes", "paramType"}
        assert {"name", "label", "helpText"} <= set(parameter)
        for regex in parameter.get("regexes", []):
            re.compile(regex)
        assert parameter["name"] in ("job", "command") or f"--{parameter['name']}" in known_to_beam()
    regexes = {p["name"]: p.get("regexes", [""])[0] for p in metadata["parameters"]}
    for command in ("prepare", "tokenize", "materialize"):
        assert re.fullmatch(regexes["command"], command)
        words = _flex_main().command_line([f"--command={command}", "--job=gs://b/j.yaml", "--sdk_location=container"])
        assert words[:2] == [command, "gs://b/j.yaml"]
        check_command(words)
    assert re.fullmatch(regexes["job"], "gs://bucket/jobs/job.yaml")
    assert not re.fullmatch(regexes["job"], "job.yaml")


def test_commands_in_the_notes_are_ones_the_program_takes() -> None:
    count = 0
    for path in DEPLOY.rglob("*.md"):
        for block in re.findall(r"```sh\n(.*?)```", path.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("shardmill "):
                    check_command(line.split("#")[0].split()[1:])
                    count += 1
        for option in re.findall(r"`(--[a-z_]+)=", path.read_text()):
            assert option in known_to_beam() | {"--runner", "--spark-master-url"}, (path, option)
    assert count >= 4


def test_links_in_the_notes_lead_to_files() -> None:
    for path in DEPLOY.rglob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / link).exists(), (path, link)


def _steps(path: Path) -> list[tuple[str, str]]:
    lines = [line for line in path.read_text().replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


def test_the_container_has_the_versions_that_are_pinned() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    pins = dict(line.split("==") for line in (DEPLOY / "constraints.txt").read_text().splitlines() if "==" in line)
    assert f"apache/beam_python3.11_sdk:{pins['apache-beam']}" in text
    for path in [*DEPLOY.rglob("*.md"), *DEPLOY.rglob("*.yaml")]:
        assert set(re.findall(r"job_server:([0-9.]+)", path.read_text())) <= {pins["apache-beam"]}, path
    steps = _steps(DEPLOY / "Containerfile")
    assert steps[0][0] == "FROM"
    assert steps[-1] == ("ENTRYPOINT", '["/opt/apache/beam/boot"]')


@pytest.mark.slow
def test_the_containers_steps_make_a_working_package(tmp_path: Path) -> None:
    """COPY and RUN replayed in a scratch folder; fails if the image would lack a file the package needs."""
    image = tmp_path / "image"
    image.mkdir()
    for kind, rest in _steps(DEPLOY / "Containerfile"):
        if kind == "COPY" and not rest.startswith("--from"):
            *sources, target = rest.split()
            for source in sources:
                place = image / target / Path(source).name if target == "./" else image / target
                place.parent.mkdir(parents=True, exist_ok=True)
                copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
                copy(ROOT / source, place)
        elif kind == "RUN":
            assert rest.startswith("pip install --no-cache-dir -c deploy/constraints.txt '.[gcp,dask]'")
    project = tomllib.loads((image / "pyproject.toml").read_text())["project"]
    assert {"gcp", "dask"} <= set(project["optional-dependencies"])
    wheels = tmp_path / "wheels"
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", wheels, "."], cwd=image, check=True
    )
    (wheel,) = wheels.glob("shardmill-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "pipelines/recipes/bert.yaml" in names
    assert "pipelines/templates/report.html" in names
    site = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel], check=True)
    # The image's package alone, with this environment's other packages.
    run = "import sys; sys.path.insert(0, sys.argv[1]); from pipelines.cli import main; sys.exit(main(sys.argv[2:]))"
    command = [sys.executable, "-P", "-c", run, site, "recipe", "bert"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert yaml.safe_load(shown)["objective"]["kind"] == "sentence_pair"
