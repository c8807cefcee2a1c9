"""Threads that work ahead. Daemon threads, so that a store which never answers cannot keep a process alive."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

_Work = tuple["Future[Any]", Callable[[], Any]]


class DaemonPool:
    """Runs calls in the order in which they are submitted, on a few threads."""

    def __init__(self, threads: int) -> None:
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        # The finaliser runs at the interpreter's exit too, before the modules that threads need are gone.
        self._stop = weakref.finalize(self, _stop, self._queue, self._stopped, self._threads)
        for _ in range(threads):
            self.add_thread()

    def add_thread(self) -> None:
        """One thread more, in the place of one that waits for a store in vain."""
        thread = threading.Thread(
            target=_serve, args=(self._queue, self._stopped), name="shardmill-ahead", daemon=True
        )
        thread.start()
        self._threads.append(thread)

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
        future, call = work
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call())
            except BaseException as error:  # for whoever asks for the result
                future.set_exception(error)
        del work, future, call  # not kept while waiting for the next


def _stop(queue: SimpleQueue[_Work | None], stopped: threading.Event, threads: list[threading.Thread]) -> None:
    stopped.set()
    for _ in threads:
        queue.put(None)
    deadline = time.monotonic() + 2
    for thread in threads:
        thread.join(timeout=max(0.0, deadline - time.monotonic()))
