"""What the Flex Template's launcher starts: parameters of the template become the command line of `shardmill`."""

from __future__ import annotations

import sys

from pipelines.cli import main


def command_line(args: list[str]) -> list[str]:
    """`--command=C --job=J` and options of Beam → `C J` and the options.

    >>> command_line(["--job=gs://b/job.yaml", "--command=tokenize", "--region=europe-west4"])
    ['tokenize', 'gs://b/job.yaml', '--region=europe-west4', '--runner=DataflowRunner']
    """
    ours = {"command": "prepare", "job": ""}
    rest = []
    for arg in args:
        name, _, value = arg.removeprefix("--").partition("=")
        if name in ours and arg.startswith("--"):
            ours[name] = value
        else:
            rest.append(arg)
    if not any(a.startswith("--runner") for a in rest):
        rest.append("--runner=DataflowRunner")
    return [ours["command"], ours["job"], *rest]


if __name__ == "__main__":
    sys.exit(main(command_line(sys.argv[1:])))
