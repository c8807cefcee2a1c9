"""The rules of the house, checked: lint, types, the direction of imports, and the README's commands."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "schemas": set(),
    "transforms": {"schemas"},
    "pipelines": {"schemas", "transforms"},
    "trainer": {"schemas"},
}


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]],
    ids=lambda command: " ".join(command),
)
def test_lint_and_types_are_clean(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_only_point_down(package: str) -> None:
    """Fails if the trainer would drag in Beam, or the data model would depend on what uses it."""
    beam = {"pipelines": set()}.get(package, {"apache_beam"})
    forbidden = (set(ALLOWED) - ALLOWED[package] - {package}) | beam
    for path in (ROOT / package).rglob("*.py"):
        assert not _imports(path) & forbidden, path


def test_the_help_is_quick_since_it_imports_neither_beam_nor_torch() -> None:
    code = (
        "import sys, contextlib\n"
        "from pipelines.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "sys.exit(any(m in sys.modules for m in ('apache_beam', 'torch', 'matplotlib', 'pyarrow')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "shardmill prepare job.yaml" in done.stdout


def test_ci_runs_exactly_the_readmes_commands() -> None:
    blocks = re.findall(r"```sh\n(python3 -m venv .*?)\n```", (ROOT / "README.md").read_text())
    assert len(blocks) == 2
    script = (ROOT / ".ci" / "run").read_text()
    for command in blocks:
        assert f"\n{command}\n" in script


def test_the_readmes_job_file_is_valid() -> None:
    from schemas.jobfile import parse_job

    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert [s.name for s in parse_job(text).sources] == ["wikipedia", "books", "code"]


def test_every_pinned_version_is_exact_and_every_dependency_is_pinned() -> None:
    import tomllib

    lines = (ROOT / "deploy" / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9A-Za-z.]*", pin) for pin in pins)
    pinned = {re.sub(r"[-_.]+", "-", pin.split("==")[0]).lower() for pin in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [d for extra in project["optional-dependencies"].values() for d in extra]
    names = {re.sub(r"[-_.]+", "-", re.split(r"[>=<\[; ]", d)[0]).lower() for d in wanted}
    assert names <= pinned
