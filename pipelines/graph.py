"""The Beam graphs. Imported only when a pipeline runs, since importing Beam takes about a second."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from schemas.errors import ShardmillError
from schemas.storage import Location

_MERGED_AT_ONCE = 32


def run(
    label: str,
    options: list[str],
    bundles: Sequence[Sequence[int]],
    work: Callable[[int], bytes],
    merge: Callable[..., bytes] | None,
    result_uri: str | None,
    is_local: bool,
    worker_command: str | None,
) -> None:
    """Build the graph and run it to its end.

    Args:
      label: of the step.
      options: Beam's.
      bundles: runs of items; locally each is one worker's share, elsewhere they are spread one by one.
      work, merge, result_uri: as in `Engine`.
      is_local: whether the runner works on this machine.
      worker_command: what starts a worker of the default runner, if not Beam's own command.
    """
    runner = None
    if worker_command is not None:
        runner = FnApiRunner(SubprocessSDKEnvironment.from_command_string(worker_command))
    with beam.Pipeline(runner=runner, options=PipelineOptions(options)) as pipeline:
        results = (
            pipeline
            | f"List{label}"
            >> beam.Create([(lane, runs_of(items)) for lane, items in enumerate(bundles)], reshuffle=False)
            # The local runner deals groups to its workers in order, so one group is one worker's share.
            | f"Deal{label}" >> (beam.GroupByKey() if is_local else beam.Reshuffle())
            | f"Unpack{label}" >> beam.ParDo(_Unpack(is_local))
        )
        if not is_local:
            results = results | f"Spread{label}" >> beam.Reshuffle()
        results = results | label >> beam.ParDo(_Work(work))
        if merge is not None and result_uri is not None:
            merged = results | f"Merge{label}" >> beam.CombineGlobally(_Merge(merge)).without_defaults()
            merged | f"Write{label}" >> beam.ParDo(_Write(result_uri))


def runs_of(items: Sequence[int]) -> list[tuple[int, int]]:
    """The same items as half-open ranges, in order; a graph of a hundred thousand items stays small.

    >>> runs_of([0, 1, 2, 7, 8])
    [(0, 3), (7, 9)]
    """
    numbers = np.asarray(items, dtype=np.int64)
    ends = np.append(np.flatnonzero(np.diff(numbers) != 1), len(numbers) - 1) + 1
    begins = np.append(0, ends[:-1])
    return [(int(numbers[a]), int(numbers[b - 1]) + 1) for a, b in zip(begins, ends, strict=True)]


class _Unpack(beam.DoFn):
    """(lane, runs of items) → items."""

    def __init__(self, grouped: bool) -> None:
        self._grouped = grouped

    def process(self, element: tuple[int, Iterable[Any]]) -> Iterator[int]:
        runs = (run for group in element[1] for run in group) if self._grouped else element[1]
        for begin, end in runs:
            yield from range(begin, end)


class _Work(beam.DoFn):
    """Calls the work; makes our own errors survive the trip through a runner."""

    def __init__(self, work: Callable[[int], bytes]) -> None:
        self._work = work

    def process(self, element: int) -> Iterator[bytes]:
        try:
            yield self._work(element)
        except ShardmillError as error:
            raise RuntimeError(error.to_wire()) from error


class _Merge(beam.CombineFn):
    """An associative, commutative merge of bytes, many at a time, since decoding what is merged costs most."""

    def __init__(self, merge: Callable[..., bytes]) -> None:
        self._merge = merge

    def create_accumulator(self) -> list[bytes]:
        return []

    def add_input(self, mutable_accumulator: list[bytes], element: bytes) -> list[bytes]:
        mutable_accumulator.append(element)
        return (
            self.compact(mutable_accumulator) if len(mutable_accumulator) >= _MERGED_AT_ONCE else mutable_accumulator
        )

    def merge_accumulators(self, accumulators: Iterable[list[bytes]]) -> list[bytes]:
        merged: list[bytes] = []
        for accumulator in accumulators:
            merged += accumulator
            if len(merged) >= _MERGED_AT_ONCE:
                merged = self.compact(merged)
        return merged

    def compact(self, accumulator: list[bytes]) -> list[bytes]:
        """One in place of many, before it goes over the network."""
        return [self._merge(*accumulator)] if len(accumulator) > 1 else accumulator

    def extract_output(self, accumulator: list[bytes]) -> bytes:
        return self._merge(*accumulator)


class _Write(beam.DoFn):
    """Writes the result where the launcher reads it."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def process(self, element: bytes) -> None:
        Location(self._uri).write_bytes(element)
