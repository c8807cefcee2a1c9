"""The command line `shardmill`. Parses, calls, and turns every error into one paragraph and an exit code."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape

from pipelines.runners import HandedOver
from schemas.errors import RequestError, ShardmillError, did_you_mean
from schemas.temporaries import own_temporary_directory
from schemas.version import shardmill_version

Command = Callable[[argparse.Namespace, tuple[str, ...], Console], int]

_EPILOG = """examples:
  shardmill quickstart                      text that is already here → an audited dataset → a few training steps
  shardmill recipe bert > bert.yaml         a job file with BERT's numbers, to put your files in
  shardmill plan job.yaml                   what a job will produce, before any data moves
  shardmill prepare job.yaml                do it; run it again to go on after a stop
  shardmill show out/bert-small -n 5        look at examples
  shardmill-train out/bert-small            train on them

exit codes: 0 good, 1 the data or a gate is bad, 2 the request is bad"""


class _Parser(argparse.ArgumentParser):
    """argparse with our error format: one paragraph and exit code 2."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise RequestError(
            f"The command line is wrong: {message}", remedy=f"`{self.prog} --help` shows what it takes"
        )


@dataclass(frozen=True)
class _Common:
    """Arguments that several commands share."""

    def job(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("job", metavar="JOB", help="job file (YAML), local, s3:// or gs://")

    def dataset(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("dataset", metavar="DATASET", help="directory of a dataset, local, s3:// or gs://")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="shardmill",
        description="Corpora in, finished pretraining examples out.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"shardmill {shardmill_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)

    def add(name: str, run: Command, text: str, example: str, *, beam: bool = False) -> argparse.ArgumentParser:
        beam_text = "\n\nUnknown options go to Beam: --runner=…, --direct_num_workers=N." if beam else ""
        command = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + "." + beam_text,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.set_defaults(run=run, beam=beam)
        command.add_argument("--debug", action="store_true", help="show tracebacks and the runner's log")
        return command

    common = _Common()
    quickstart = add(
        "quickstart",
        _quickstart,
        "make a dataset of text this Python carries, audit it and train a few steps",
        "shardmill quickstart demo",
        beam=True,
    )
    quickstart.add_argument("directory", metavar="DIR", nargs="?", default="quickstart", help="default: quickstart")
    recipes = add(
        "recipe",
        _recipe,
        "print a job file with the numbers of a published model; without NAME, list them",
        "shardmill recipe bert --files 'corpus/*.jsonl' --budget 2M --vocab-size 8000 > bert.yaml",
    )
    recipes.add_argument("name", metavar="NAME", nargs="?", help="bert, t5 …; none lists all")
    recipes.add_argument("--files", metavar="FILE", nargs="+", help="files or globs in place of the recipe's sources")
    recipes.add_argument("--text", metavar="FIELD", help="their field or column that holds the text (default text)")
    recipes.add_argument("--output", metavar="DIR", help="directory of the dataset (default out/NAME)")
    recipes.add_argument("--budget", metavar="B", help="training tokens such as 2M, or passes such as '1.5 epochs'")
    recipes.add_argument("--vocab-size", metavar="N", help="entries of the vocabulary to train")
    for name, run, text in (
        ("tokenizer", _tokenizer, "train the vocabulary the job describes"),
        ("tokenize", _tokenize, "fill the token store, the first phase of prepare"),
        ("materialize", _materialize, "make the shards from a complete token store, the second phase of prepare"),
        ("prepare", _prepare, "tokenize, plan, materialize and audit; run again to resume"),
    ):
        common.job(add(name, run, text, f"shardmill {name} job.yaml", beam=name != "tokenizer"))
    planned = add("plan", _plan, "show what the job will produce, before any data moves", "shardmill plan job.yaml")
    common.job(planned)
    planned.add_argument("--json", action="store_true", help="as JSON")
    planned.add_argument("--explain", type=int, metavar="BLOCK", help="whose documents a block of the plan holds")
    audited = add(
        "audit",
        _audit,
        "measure the shards and check every gate; exit 1 if one fails",
        "shardmill audit out/bert-small --against out/bert-last-week",
        beam=True,
    )
    common.dataset(audited)
    audited.add_argument("--against", metavar="OTHER", help="a dataset to compare with: what moved, and why")
    for kind in ("html", "json", "junit"):
        audited.add_argument(
            f"--{kind}", metavar="FILE", help=f"where to write the {kind} report; default: DATASET/audit"
        )
    shown = add("show", _show, "print decoded, coloured examples", "shardmill show out/bert-small -n 5 --length 128")
    common.dataset(shown)
    shown.add_argument("-n", type=int, default=3, metavar="N", help="how many (default 3)")
    shown.add_argument("--split", default="train", help="train or validation (default train)")
    shown.add_argument("--stage", help="number or name of the stage")
    shown.add_argument("--length", type=int, help="length bucket")
    shown.add_argument("--gate", metavar="NAME", help="rows that show what a gate of the audit judges")
    common.dataset(add("verify", _verify, "check every checksum and row count", "shardmill verify out/bert-small"))
    add("schema", _schema, "print the JSON Schema of job files", "shardmill schema > job.schema.json")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    console, errors = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)
    debug = "--debug" in (sys.argv[1:] if argv is None else argv)
    try:
        return _main(argv, console)
    except HandedOver as done:
        console.print(str(done), highlight=False)
        return 0
    except ShardmillError as error:
        if debug:
            traceback.print_exc()
        errors.print(f"[bold red]error:[/] {escape(error.paragraph())}", highlight=False)
        return error.exit_code
    except KeyboardInterrupt:
        errors.print("\nstopped; run the same command again to go on", highlight=False)
        return 130
    except BrokenPipeError:
        sys.stdout = None  # the reader has gone; nothing more can be said
        return 0
    except Exception as error:
        if debug:
            raise
        message = escape(" ".join(str(error).split())[-300:])
        errors.print(
            f"[bold red]error:[/] shardmill failed unexpectedly. Got: {type(error).__name__}: {message}. What is "
            "finished is kept. Run again with --debug for the traceback, and please report it.",
            highlight=False,
        )
        return 1


def _main(argv: Sequence[str] | None, console: Console) -> int:
    options, rest = _parser().parse_known_args(argv)
    if rest:
        _check_beam_options(options, rest)
    # Beam and its workers leave folders behind when they are killed, and sometimes when they are not.
    with own_temporary_directory() if options.beam else nullcontext():
        code: int = options.run(options, tuple(rest), console)
    return code


def _check_beam_options(options: argparse.Namespace, rest: list[str]) -> None:
    """Refuse an option that neither we nor Beam know, which Beam itself would silently drop."""
    stray = [a for a in rest if not a.startswith("-")]
    names = [a.split("=", 1)[0] for a in rest if a.startswith("-")]
    known: list[str] = []
    if options.beam and all(n.startswith("--") for n in names) and names:
        from pipelines.engine import beam_options

        known = beam_options(rest)
        names = [n for n in names if n not in known]
        stray = []
    if names or stray:
        bad = (names or stray)[0]
        raise RequestError(
            f"The command line is wrong: {options.command} takes no {bad!r}",
            expected=f"the options of `shardmill {options.command} --help`" + (" or of Beam" if options.beam else ""),
            got=bad,
            remedy=did_you_mean(bad, known).capitalize() if known else "",
        )


def _load(options: argparse.Namespace, beam_args: tuple[str, ...], console: Console):  # type: ignore[no-untyped-def]
    from pipelines.engine import Engine
    from pipelines.run import Run

    return Run.load(options.job, Engine(beam_args, options.debug), console)


def _quickstart(options: argparse.Namespace, beam_args: tuple[str, ...], console: Console) -> int:
    from pipelines.engine import Engine
    from pipelines.quickstart import quickstart

    return quickstart(options.directory, Engine(beam_args, options.debug), console)


def _recipe(options: argparse.Namespace, beam_args: tuple[str, ...], console: Console) -> int:
    from pipelines.recipe import Changes, recipe

    changes = Changes(
        files=tuple(options.files) if options.files else None,
        text=options.text,
        output=options.output,
        budget=options.budget,
        vocab_size=options.vocab_size,
    )
    return recipe(options.name, changes, console)


def _tokenizer(options: argparse.Namespace, beam_args: tuple[str, ...], console: Console) -> int:
    from pipelines.prepare import train_only

    return train_only(_load(options, beam_args, console))


def _tokenize(options: argparse.Namespace, beam_args: tuple[str, ...], console: Console) -> int:
    from pipelines.prepare import tokenize_only

    return tokenize_only(_load(options, beam_args, console))


def _materialize(options: argparse.Namespace, beam_args: tuple[str, ...], console: Console) -> int:
    from pipelines.prepare import materialize_only

    return materialize_only(_load(options, beam_args, console))


def _prepare(options: argparse.Namespace, beam_args: tuple[str, ...], console: Console) -> int:
    from pipelines.prepare import prepare

    return prepare(_load(options, beam_args, console))


def _plan(options: argparse.Namespace, beam_args: tuple[str, ...], console: Console) -> int:
    from pipelines.explain import explain, show_explained
    from pipelines.plan import preview
    from pipelines.plan_table import show_preview

    run = _load(options, beam_args, console)
    report = preview(run) if options.explain is None else explain(run, options.explain)
    if options.json:
        sys.stdout.write(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    else:
        (show_preview if options.explain is None else show_explained)(report, console)
    return 0


def _audit(options: argparse.Namespace, beam_args: tuple[str, ...], console: Console) -> int:
    from pipelines.audit_command import audit_command
    from pipelines.engine import Engine

    engine = Engine(beam_args, options.debug)
    places = {"html": options.html, "json": options.json, "junit": options.junit}
    return audit_command(options.dataset, console, engine, against=options.against, **places)


def _show(options: argparse.Namespace, beam_args: tuple[str, ...], console: Console) -> int:
    from pipelines.show import show
    from schemas.storage import Location

    if options.gate is not None:
        from pipelines.show_gate import show_gate

        narrowed = [f"--{k}" for k in ("stage", "length") if getattr(options, k) is not None]
        if narrowed or options.split != "train":
            raise RequestError(
                "A gate says by itself which rows it judges",
                where="--gate",
                got=f"{(narrowed or ['--split'])[0]} beside it",
                remedy="Leave one of them out",
            )
        show_gate(Location.of(options.dataset), options.gate, n=options.n, console=console)
        return 0
    show(
        Location.of(options.dataset),
        n=options.n,
        split=options.split,
        stage=options.stage,
        length=options.length,
        console=console,
    )
    return 0


def _verify(options: argparse.Namespace, beam_args: tuple[str, ...], console: Console) -> int:
    from pipelines.verify import verify
    from schemas.storage import Location

    return verify(Location.of(options.dataset), console)


def _schema(options: argparse.Namespace, beam_args: tuple[str, ...], console: Console) -> int:
    import transforms.objectives.registry  # noqa: F401  the schema lists the objectives that are known
    from schemas.jobfile import job_schema

    sys.stdout.write(json.dumps(job_schema(), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
