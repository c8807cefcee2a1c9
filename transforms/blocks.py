"""Blocks: how many tokens one has, and where each ends in every source's stream. Exact, no I/O, no Beam."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from schemas.job import Job
from schemas.store import CHUNK_TOKENS
from transforms.apportion import apportion
from transforms.order import chairman

_LEAST_BLOCK_TOKENS, _MOST_BLOCK_TOKENS = 2**20, 2**25

_TURN_TOKENS = CHUNK_TOKENS // 4
"""To read a slice means to read its chunk; a source with less than this in a block takes turns."""

_TURN_PERIOD = 2**24
"""Turns are dealt by shares in whole numbers that add to this."""


def block_tokens_for(job: Job, available_tokens: int) -> int:
    """Corpus tokens of a block: the job's word, or a power of two near a 256th of the corpus.

    It follows from the corpus and not from the budget, so that a larger budget appends blocks and changes none.
    """
    if job.limits.block_tokens is not None:
        return job.limits.block_tokens
    wanted = 1 << max(0, available_tokens // 256).bit_length()
    return min(_MOST_BLOCK_TOKENS, max(_LEAST_BLOCK_TOKENS, wanted))


def block_ends(
    tokens: dict[str, int], shares: dict[str, Fraction], block_tokens: int
) -> dict[str, npt.NDArray[np.int64]]:
    """Where each block ends in each source's interval, int64 [blocks], the last at the interval's end.

    Args:
      tokens: the stage's tokens by source.
      shares: their exact shares, of which `tokens` are the rounded counts.
      block_tokens: tokens of a block.

    Block b ends at floor(share · block_tokens · (b + 1)): any run of blocks holds every source's share to within
    one token, and the ends do not move when the stage grows, but for the last block's, which is where the stage ends.

    A source that would have less than a turn in each block, a turn being a quarter of a chunk or less, is in some
    blocks only. There it gets all that it is owed, so it is never ahead, and behind by less than three turns. Which
    blocks these are is dealt by Tijdeman's rule, so that blocks have equally many. A turn is at most a share of a
    block for each source, so the last block, which pays what is owed, has at most three times its size.
    """
    total = sum(tokens.values())
    blocks = max(1, -(-total // block_tokens))
    ends, quotas = {}, {name: shares[name] * block_tokens for name in tokens}
    for name, count in tokens.items():
        share = quotas[name]
        ends[name] = np.array(
            [min(count, share.numerator * b // share.denominator) for b in range(1, blocks)] + [count],
            dtype=np.int64,
        )
    turn = min(_TURN_TOKENS, block_tokens // max(32, len(tokens)))
    for name, has_turn in _turns({n: q / turn for n, q in quotas.items() if q < turn}, blocks).items():
        has_turn[-1] = True
        latest = np.maximum.accumulate(np.where(has_turn, np.arange(blocks), -1))
        ends[name] = np.where(latest >= 0, ends[name][latest], 0)
    return ends


def _turns(rates: dict[str, Fraction], blocks: int) -> dict[str, npt.NDArray[np.bool_]]:
    """In which blocks each of these sources has a turn, bool [blocks]; rates are turns a block, below one."""
    if not rates:
        return {}
    together = sum(rates.values())
    until = np.array([together.numerator * b // together.denominator for b in range(1, blocks + 1)])
    shares = apportion(_TURN_PERIOD, rates)
    order = chairman({n: Fraction(s, _TURN_PERIOD) for n, s in shares.items()}, int(until[-1]))
    block = np.searchsorted(until, np.arange(len(order)), side="right")
    return {name: np.bincount(block[order == i], minlength=blocks) > 0 for i, name in enumerate(sorted(rates))}
