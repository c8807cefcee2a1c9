"""Threads that work ahead. Daemon threads, so that a store which never answers cannot keep a process alive."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any

_Work = tuple["Future[Any]", Callable[[], Any]]


class DaemonPool:
    """Runs calls in the order in which they are submitted, on a few threads."""

    def __init__(self, threads: int, *, helpers: int = 0) -> None:
        """Start the threads.

        Args:
          threads: that work whenever there is work.
          helpers: threads that work too while somebody waits, see `helped`.
        """
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._stopped, self._needed = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []
        # The finaliser runs at the interpreter's exit too, before the modules that threads need are gone.
        self._stop = weakref.finalize(self, _stop, self._queue, self._stopped, self._needed, self._threads)
        for _ in range(threads):
            self.add_thread()
        for _ in range(helpers):
            self._start(_help, self._queue, self._needed, self._stopped)

    def add_thread(self) -> None:
        """One thread more, in the place of one that waits for a store in vain."""
        self._start(_serve, self._queue, self._stopped)

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, name="shardmill-ahead", daemon=True)
        thread.start()
        self._threads.append(thread)

    @contextlib.contextmanager
    def helped(self) -> Iterator[None]:
        """While the caller waits for a result, and so leaves a processor free, helpers work too."""
        self._needed.set()
        try:
            yield
        finally:
            self._needed.clear()

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Run the call on a thread as soon as there is one."""
        future: Future[Any] = Future()
        self._queue.put((future, call))
        return future

    def close(self) -> None:
        """Drop what has not begun, and wait a moment for what has."""
        self._stop()


def _serve(queue: SimpleQueue[_Work | None], stopped: threading.Event) -> None:
    while (work := queue.get()) is not None and not stopped.is_set():
        _run(*work)
        del work  # not kept while waiting for the next


def _help(queue: SimpleQueue[_Work | None], needed: threading.Event, stopped: threading.Event) -> None:
    while needed.wait() and not stopped.is_set():
        try:
            work = queue.get_nowait()
        except Empty:
            needed.clear()
            continue
        if work is not None:
            _run(*work)
        del work


def _run(future: Future[Any], call: Callable[[], Any]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(call())
        except BaseException as error:  # for whoever asks for the result
            future.set_exception(error)


def _stop(
    queue: SimpleQueue[_Work | None],
    stopped: threading.Event,
    needed: threading.Event,
    threads: list[threading.Thread],
) -> None:
    stopped.set()
    needed.set()
    for _ in threads:
        queue.put(None)
    deadline = time.monotonic() + 2
    for thread in threads:
        thread.join(timeout=max(0.0, deadline - time.monotonic()))
