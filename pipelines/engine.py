"""Runs a function over work items on any Beam runner, locally on one process a core by default.

Items are integers that name rows of a table the workers read for themselves, so the graph stays small and no
payload crosses a stage edge. Functions write their own files and are idempotent, since a runner may repeat them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from pipelines import fork_server
from pipelines.orphans import no_orphans
from pipelines.runners import HandedOver, Runner
from pipelines.shares import HelpingWork, Work, balance, descriptors
from schemas.errors import DataError, RequestError, error_from_wire

Merge = Callable[..., bytes]
"""Any number of results, at least one, into one; associative and commutative."""

_DASK_PARTITIONS = 10_000
"""At most so many tasks: Dask's scheduler takes about a millisecond for each."""
_GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Engine:
    """How and where pipelines run.

    >>> Engine(("--direct_num_workers=1",)).local_workers
    1
    """

    beam_args: tuple[str, ...] = ()
    """Beam's own command line options."""
    debug: bool = False
    """Show the runner's log."""

    @property
    def runner(self) -> Runner:
        """The runner; `FnApiRunner` unless an option says otherwise.

        Beam's `DirectRunner` first looks for another runner on the network, so it is not the default.
        """
        return Runner(self._option("runner") or "FnApiRunner")

    @property
    def is_local(self) -> bool:
        """True where the work happens on this machine."""
        return self.runner.is_local

    @property
    def local_workers(self) -> int:
        """Processes of a local run; one a core by default."""
        text = self._option("direct_num_workers")
        if text is None:
            return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if not text.isdigit():
            raise RequestError(
                "The number of workers is wrong",
                where="--direct_num_workers",
                expected="a whole number, 0 for one a core",
                got=text,
            )
        return int(text) or os.cpu_count() or 1

    def run_each(self, label: str, items: Sequence[int], costs: Sequence[int], work: Work) -> None:
        """Call `work` once (or, after a failure, more than once) for every item.

        Args:
          label: of the step, for a runner's console.
          items: what `work` is called with.
          costs: rough size of each item, to balance local workers, which do not steal work from each other.
          work: picklable; writes its own results.
        """
        if items:
            self._run(label, items, costs, work, None, None)

    def map_reduce(
        self, label: str, items: Sequence[int], costs: Sequence[int], work: Work, merge: Merge, result_uri: str
    ) -> None:
        """Merge what `work` returns for every item into one value, and write it to `result_uri`."""
        self._run(label, items, costs, work, merge, result_uri)

    def _bundles(self, items: Sequence[int], costs: Sequence[int]) -> list[list[int]]:
        """The runs of items that the graph holds."""
        if self.is_local:
            return balance(items, costs, self.local_workers)
        # Dask leaves elements where they are, so each is one item there.
        return [[item] for item in items] if self.runner.is_dask else descriptors(items)

    def _job_name(self, label: str) -> str:
        """Each step is a job of its own in a runner's console; two active jobs of Dataflow may not share a name."""
        given = self._option("job_name")
        return f"{given}-{label.lower()}" if given else f"shardmill-{label.lower()}-{time.time_ns() // 10**6:x}"

    def _option(self, name: str) -> str | None:
        found = None
        for i, arg in enumerate(self.beam_args):
            if arg.startswith(f"--{name}="):
                found = arg.split("=", 1)[1]
            elif arg == f"--{name}" and i + 1 < len(self.beam_args):
                found = self.beam_args[i + 1]
        return found

    def _run(
        self,
        label: str,
        items: Sequence[int],
        costs: Sequence[int],
        work: Work,
        merge: Merge | None,
        result_uri: str | None,
    ) -> None:
        with _quiet(self.debug):
            bundles = self._bundles(items, costs)
            workers = len(bundles)
            # The server imports Beam while this process does.
            forks = self.runner.is_default and workers > 1 and self._option("direct_running_mode") is None
            worker_command = fork_server.worker_command() if forks else None
            from pipelines import graph

            self.runner.load()
            options = [*self.beam_args, f"--runner={self.runner.beam_name}"]  # the last one counts
            if not self.is_local:
                options.append(f"--job_name={self._job_name(label)}")
            if self.runner.is_dask and not any(o.startswith(("--dask_npart", "--dask_partition")) for o in options):
                # By default 128 items share a partition, and no other worker gets any of them.
                options.append(f"--dask_partition_size={-(-len(items) // _DASK_PARTITIONS)}")
            if self.is_local:
                options = [o for o in options if not o.startswith("--direct_num_workers")]
                options.append(f"--direct_num_workers={workers}")
                if self._option("direct_running_mode") is None and worker_command is None:
                    mode = "multi_processing" if workers > 1 else "in_memory"
                    options.append(f"--direct_running_mode={mode}")
            # The tokenizer must not start threads of its own beside one process a core.
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
            # A repeated bundle must do its work again, or its repetition would prove nothing.
            repeats = self._option("direct_runner_bundle_repeat") is not None
            helps = self.is_local and workers > 1 and merge is None and not repeats
            try:
                with (
                    _watch_workers() as died,
                    no_orphans() if self.is_local and workers > 1 else nullcontext(),
                    tempfile.TemporaryDirectory(prefix="taken-") as taken,
                ):
                    if helps:
                        work = HelpingWork(work, bundles, taken, os.getpid())
                    graph.run(label, options, bundles, work, merge, result_uri, self.is_local, worker_command)
                if self._option("template_location"):
                    raise HandedOver(label)
            except HandedOver:
                raise
            except KeyboardInterrupt:
                if died.is_set():
                    raise _worker_died(label) from None
                raise
            except Exception as error:
                raise _readable(error, label) from error


def _readable(error: Exception, label: str) -> Exception:
    text = str(error)
    if wired := error_from_wire(text):
        return wired
    if re.search(r"Channel closed prematurely|worker sdk .* failed|Socket closed|StatusCode\.CANCELLED", text):
        return _worker_died(label)
    return error


def _worker_died(label: str) -> DataError:
    return DataError(
        "A worker process died",
        where=label,
        got="the connection to it closed, most often since it was killed or ran out of memory",
        remedy="Run the same command again, what is finished is kept; with less memory use fewer workers "
        "(--direct_num_workers=1)",
    )


@contextlib.contextmanager
def _watch_workers() -> Iterator[threading.Event]:
    """End the run if a local worker process dies, which Beam waits for without end if it dies before it connects.

    Beam raises for such a process in the thread that waits for it, where nobody listens; that is noticed here, and
    if Beam does not end by itself soon, the main thread is interrupted: again and again, since an interruption that
    falls into a finaliser is lost, and not by SIGINT, which a shell's background jobs are started to ignore.
    """
    died, ended, before = threading.Event(), threading.Event(), threading.excepthook
    is_main = threading.current_thread() is threading.main_thread()

    def notice(args: threading.ExceptHookArgs) -> None:
        if "Worker subprocess exited" not in str(args.exc_value):
            before(args)
            return
        while is_main and not ended.wait(_GRACE_SECONDS):
            died.set()
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    handler = signal.signal(signal.SIGUSR1, signal.default_int_handler) if is_main else None
    threading.excepthook = notice
    try:
        yield died
    finally:
        ended.set()
        threading.excepthook = before
        if is_main:
            signal.signal(signal.SIGUSR1, handler)


@contextlib.contextmanager
def _quiet(debug: bool) -> Iterator[None]:
    """Keep Beam's log, and what its worker processes print at every start, off the terminal unless asked for."""
    if debug:
        yield
        return
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    sys.stderr.flush()
    terminal = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # workers inherit the descriptor; errors come back over their own channel
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        logging.disable(before)


def beam_options(beam_args: Sequence[str]) -> list[str]:
    """Every option that some part of Beam, or the runner these options name, knows; imports Beam."""
    with _quiet(False):
        return Engine(tuple(beam_args)).runner.options()
