"""`shardmill quickstart`: from nothing to a trained-on dataset with one command, without a network."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time

from rich.console import Console
from rich.markup import escape

from pipelines.engine import Engine
from pipelines.harvest import harvest
from pipelines.prepare import prepare
from pipelines.run import Run
from pipelines.show import show
from schemas.errors import RequestError
from schemas.storage import Location

_SOURCES = {
    "code.jsonl.gz": "{name: code, files: corpus/code.jsonl.gz, text: content, id: path, weight: 0.4}",
    "docstrings.parquet": "{name: docstrings, files: corpus/docstrings.parquet, id: id, weight: 0.3}",
    "topics.txt": "{name: topics, files: corpus/topics.txt, weight: 0.1}",
    "packages.jsonl": "{name: packages, files: corpus/packages.jsonl, id: id, weight: 0.2}",
}

_JOB = """\
# A job file: what to read, how to mix it, which examples to make. `shardmill schema` prints all keys.
name: quickstart
seed: 17                          # all order and all masks follow from it
output: dataset
tokenizer:
  train: {model: wordpiece, vocab_size: 8192, lowercase: true, sample_bytes: 6MB}
sources:                          # weights are shares of the tokens, not of the documents
SOURCES
budget: {tokens: 2M}              # training tokens; a small source is seen more than once, with fresh masks
splits: {validation: 0.02}        # of the documents
objective: {kind: mlm, mask_rate: 0.15, whole_word: true}
curriculum:                       # first short rows, then longer ones, each stage with the same mixture
  - {stage: short, share: 0.4, lengths: [32, 64]}
  - {stage: long, share: 0.6, lengths: [64, 128]}
"""


def quickstart(directory: str, engine: Engine, console: Console) -> int:
    """Gather text, prepare a dataset, show an example, train a few steps.

    Args:
      directory: where everything goes; made if need be, gone on with if it is an earlier quickstart's.
      engine: how the pipelines run.
      console: where to tell about it.

    Returns:
      The exit code.

    Raises:
      RequestError: the directory holds something else.
    """
    began = time.monotonic()
    home = Location.of(directory)
    job = home / "job.yaml"
    if not home.is_local:
        raise RequestError("quickstart writes to a local directory", got=directory)
    if not job.info():
        _refuse_strangers(home)
        with console.status("  gathering text from this Python installation"):
            found = harvest(home / "corpus")
        sources = "\n".join(f"  - {line}" for name, line in _SOURCES.items() if name in found)
        job.write_bytes(_JOB.replace("SOURCES", sources).encode())
        counts = ", ".join(f"{count:,} {name.split('.')[0]}" for name, count in found.items())
        console.print(f"[bold]corpus[/]       {counts} from this Python installation", highlight=False)
    run = Run.load(job.uri, engine, console)
    code = prepare(run)
    if code:
        return code
    console.print("\n[bold]an example[/]", highlight=False)
    show(run.output, n=1, console=console)
    code = _train(run.output, home, console)
    here = os.path.relpath(home.uri)
    console.print(
        f"\n[bold]report[/]       {escape((run.output / 'audit' / 'report.html').uri)}\n"
        f"[bold]next[/]         shardmill show {here}/dataset -n 5          more examples\n"
        f"             shardmill plan {here}/job.yaml            what the job file asks for\n"
        f"             shardmill-train {here}/dataset --steps 500\n"
        f"             edit {here}/job.yaml: your own files, another `output`, then `shardmill prepare` it\n"
        f"[dim]{time.monotonic() - began:.0f} s in all[/]",
        highlight=False,
    )
    return code


def _refuse_strangers(home: Location) -> None:
    strangers = sorted(set(os.listdir(home.uri)) - {"corpus"}) if os.path.isdir(home.uri) else []
    if strangers:
        raise RequestError(
            "The directory is not empty",
            where=str(home),
            expected="a new directory, or one of an earlier quickstart",
            got=", ".join(strangers[:5]),
            remedy="Name another one: `shardmill quickstart DIR`",
        )


def _train(dataset: Location, home: Location, console: Console) -> int:
    """A few steps in a process of its own, since the trainer and the pipelines never import each other."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        console.print("\n[bold]training[/]     needs torch: pip install 'shardmill\\[train]'", highlight=False)
        return 0
    console.print("\n[bold]training[/]     a few steps of a tiny model, to see the dataset work", highlight=False)
    sys.stdout.flush()
    command = [
        sys.executable,
        "-m",
        "trainer",
        dataset.uri,
        "--steps",
        "60",
        "--out",
        (home / "run").uri,
        "--overwrite",
    ]
    return subprocess.run(command, check=False).returncode
