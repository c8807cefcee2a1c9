"""Sentinels replace spans of a row's tokens, and the target gives them back: the rule of T5 (Raffel et al. 2020).

The rule is that of google-research/text-to-text-transfer-transformer, t5/data/preprocessors.py, with one rounding
(half to even in double) for the helper that finds the raw length and for the mask, where T5 has two that disagree.
Noise and non-noise are each cut into as many parts by a uniform random composition, and the parts interleave with
non-noise first; so the first token is never noise, the last always is, and every such mask is equally likely.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.errors import RequestError
from schemas.keys import draw
from transforms.objectives.selection import choose
from transforms.ragged import Int64, Ragged, offsets_of, tiles

_TILE_POSITIONS = 2**16
"""Positions corrupted at a time: the working set stays in the processor's cache."""

Rate = float | npt.NDArray[np.float64]
"""One figure for all rows, or one for each."""


def noise_counts(raw: npt.NDArray[np.integer], density: Rate, mean: Rate) -> tuple[Int64, Int64]:
    """(noise tokens, spans) of pieces of `raw` tokens each, int64 of the same shape; `raw` must be at least 2.

    noise = clamp(round(n·density), 1, n − 1); spans = clamp(round(noise / mean), 1, n − noise).

    >>> [int(c[0]) for c in noise_counts(np.array([70]), 0.2, 2.0)]
    [14, 7]
    """
    raw = np.asarray(raw, dtype=np.int64)
    noise = np.clip(np.rint(raw * density).astype(np.int64), 1, raw - 1)
    spans = np.maximum(1, np.rint(noise / mean).astype(np.int64))
    return noise, np.minimum(spans, np.minimum(noise, raw - noise))


def raw_tokens(density: float, mean: float, length: int) -> int:
    """The most corpus tokens whose inputs (n − noise + spans + EOS) fit into `length`, which must be at least 3."""
    # Non-noise alone is at most the length.
    most = np.arange(2, int(2 * length / (1 - density)) + 8)
    noise, spans = noise_counts(most, density, mean)
    return int(most[most - noise + spans + 1 <= length].max())


def require_sentinels(sentinel_ids: npt.NDArray[np.int32], spans: int, length: int, what: str) -> None:
    """Refuse a length whose rows have more spans than the vocabulary has sentinels.

    Raises:
      RequestError: with both numbers.
    """
    if spans > len(sentinel_ids):
        raise RequestError(
            f"A length of {length} needs more sentinels than the tokenizer has",
            where="curriculum lengths, objective, tokenizer",
            expected=f"at most {len(sentinel_ids)} spans, one for each of <extra_id_0> and on",
            got=f"{spans} spans in {what}",
            remedy="Give shorter lengths, longer or fewer spans, or a tokenizer with more sentinels",
        )


@dataclass(frozen=True)
class Corrupted:
    """Pairs of inputs and targets."""

    input_ids: Ragged
    target_ids: Ragged


@dataclass(frozen=True)
class Corruptor:
    """Replaces spans by sentinels.

    Law: inputs have n − noise + spans + 1 tokens and targets noise + spans + 1, both end with EOS; sentinels are
    `<extra_id_0>` and on in both; a span has k tokens with probability C(noise − k − 1, spans − 2) / C(noise − 1,
    spans − 1).
    """

    eos_id: int
    sentinel_ids: npt.NDArray[np.int32]

    def corrupt(
        self,
        rows: Ragged,
        names: npt.NDArray[np.uint64],
        noise: Int64,
        spans: Int64,
        seed: int,
        lead: npt.NDArray[np.int32] | None = None,
    ) -> Corrupted:
        """Inputs and targets of rows; rows of like length should be neighbours.

        Args:
          rows: int32 corpus tokens, at least two a row.
          names: uint64 [rows], under which draws are made.
          noise, spans: of each row, int64 [rows].
          seed: the job's.
          lead: a special token that leads each input, int32 [rows]; −1 for none.
        """
        n = rows.lengths
        leads = np.zeros(len(n), np.int64) if lead is None else (lead >= 0).astype(np.int64)
        inputs, targets = offsets_of(n - noise + spans + 1 + leads), offsets_of(noise + spans + 1)
        # EOS stands where nothing else does: at the ends of inputs and targets.
        input_ids = np.full(int(inputs[-1]), self.eos_id, dtype=np.int32)
        target_ids = np.full(int(targets[-1]), self.eos_id, dtype=np.int32)
        if lead is not None:
            input_ids[inputs[:-1][leads > 0]] = lead[leads > 0]
        for tile in tiles(n, _TILE_POSITIONS):
            begin, stop = tile.start, tile.stop
            text = rows.flat[rows.offsets[begin] : rows.offsets[stop]]
            into, out_of = slice(inputs[begin], inputs[stop]), slice(targets[begin], targets[stop])
            self._tile(
                (text, n[tile], names[tile], noise[tile], spans[tile], leads[tile]),
                input_ids[into],
                target_ids[out_of],
                seed,
            )
        return Corrupted(Ragged(input_ids, inputs), Ragged(target_ids, targets))

    def _tile(
        self,
        rows: tuple[npt.NDArray[np.generic], Int64, npt.NDArray[np.uint64], Int64, Int64, Int64],
        input_ids: npt.NDArray[np.int32],
        target_ids: npt.NDArray[np.int32],
        seed: int,
    ) -> None:
        """Write inputs and targets of a few rows, given as (tokens, lengths, names, noise, spans, leads)."""
        tokens, n, names, noise, spans, leads = rows
        kept = n - noise
        noise_begins = _part_begins(draw(seed, "sentinels.noise", names[:, None], _columns(noise)), noise, spans)
        kept_begins = _part_begins(draw(seed, "sentinels.kept", names[:, None], _columns(kept)), kept, spans)

        # Spans of all rows end to end: parts of noise and parts of non-noise take turns, non-noise first.
        noise_sizes, kept_sizes = _sizes(noise_begins, noise), _sizes(kept_begins, kept)
        ends = np.cumsum(noise_sizes + kept_sizes)
        starts = ends - noise_sizes
        step = np.zeros(len(tokens) + 1, dtype=np.int8)
        step[starts] = 1
        step[ends] -= 1
        is_noise = np.cumsum(step[:-1], dtype=np.int8).astype(bool)
        ordinal = np.arange(len(starts)) - np.repeat(offsets_of(spans)[:-1], spans)
        sentinel = self.sentinel_ids[ordinal]

        # An input keeps the first place of each span for its sentinel; a target puts one before each span's tokens.
        keep = ~is_noise
        keep[starts] = True
        shown = tokens.astype(np.int32, copy=True)
        shown[starts] = sentinel
        input_lengths, target_lengths = kept + spans + 1 + leads, noise + spans + 1
        is_token = np.ones(len(input_ids), dtype=bool)
        stops = np.cumsum(input_lengths)
        is_token[stops - 1] = False
        is_token[(stops - input_lengths)[leads > 0]] = False
        input_ids[is_token] = shown[keep]
        is_token = np.ones(len(target_ids), dtype=bool)
        stops = np.cumsum(target_lengths)
        is_token[stops - 1] = False
        row_of_span = np.repeat(np.arange(len(n)), spans)
        # Before a span's sentinel there are the row's earlier spans with their sentinels, and earlier rows with EOS.
        at = np.cumsum(noise_sizes + 1) - (noise_sizes + 1) + row_of_span
        is_token[at] = False
        target_ids[at] = sentinel
        target_ids[is_token] = tokens[is_noise]


def _columns(counts: Int64) -> npt.NDArray[np.int64]:
    return np.arange(int(counts.max(initial=0)))


def _part_begins(order: npt.NDArray[np.uint64], counts: Int64, parts: Int64) -> npt.NDArray[np.bool_]:
    """Where the parts of a uniform random composition of `counts[i]` into `parts[i]` begin, bool [rows, columns]."""
    columns = _columns(counts)
    # A composition is a choice of parts − 1 of the count − 1 places where a new part can begin.
    begins = choose(order, (columns < counts[:, None]) & (columns > 0), parts - 1)
    begins[:, 0] = True
    return begins


def _sizes(begins: npt.NDArray[np.bool_], counts: Int64) -> Int64:
    """Sizes of all parts of all rows, end to end."""
    row, column = np.nonzero(begins)
    at = offsets_of(counts)[row] + column
    return np.diff(np.append(at, int(counts.sum())))
