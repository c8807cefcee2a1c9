"""The Beam graphs. Imported only when a pipeline runs, since importing Beam takes about a second."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from schemas.errors import ShardmillError
from schemas.storage import Location


def run(
    label: str,
    options: list[str],
    bundles: Sequence[Sequence[int]],
    work: Callable[[int], bytes],
    merge: Callable[[bytes, bytes], bytes] | None,
    result_uri: str | None,
) -> None:
    """Build the graph and run it to its end.

    Args:
      label: of the step.
      options: Beam's.
      bundles: runs of items; locally each is one worker's share, elsewhere they are spread one by one.
      work, merge, result_uri: as in `Engine`.
    """
    is_local = any(o.startswith("--direct_running_mode") for o in options)
    with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
        results = (
            pipeline
            | f"List{label}" >> beam.Create(list(enumerate(map(list, bundles))), reshuffle=False)
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


class _Unpack(beam.DoFn):
    """(lane, items) → items."""

    def __init__(self, grouped: bool) -> None:
        self._grouped = grouped

    def process(self, element: tuple[int, Iterable[list[int]] | list[int]]) -> Iterator[int]:
        if self._grouped:
            for items in element[1]:
                yield from items  # type: ignore[misc]
        else:
            yield from element[1]  # type: ignore[misc]


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
    """An associative, commutative merge of bytes; empty bytes are its neutral element."""

    def __init__(self, merge: Callable[[bytes, bytes], bytes]) -> None:
        self._merge = merge

    def create_accumulator(self) -> bytes:
        return b""

    def add_input(self, mutable_accumulator: bytes, element: bytes) -> bytes:
        return self._merge(mutable_accumulator, element) if mutable_accumulator else element

    def merge_accumulators(self, accumulators: Iterable[bytes]) -> bytes:
        merged = b""
        for accumulator in accumulators:
            if accumulator:
                merged = self._merge(merged, accumulator) if merged else accumulator
        return merged

    def extract_output(self, accumulator: bytes) -> bytes:
        return accumulator


class _Write(beam.DoFn):
    """Writes the result where the launcher reads it."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def process(self, element: bytes) -> None:
        Location(self._uri).write_bytes(element)
