"""Whose turn it is: the order in which the buckets of a stage give their batches. Pure integer arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

CLOCK_BITS = 40
"""Resolution of the interleaving rule: batches fall due at times in [0, 2**40)."""


def interleave(counts: Sequence[int], phases: Sequence[int], index: int) -> tuple[int, int]:
    """Which bucket's which batch comes at `index` when buckets take turns in proportion to their counts.

    Batch j of a bucket with n batches and phase p falls due at time ((j << 40) + p) // n; batches come in order
    of (time, bucket). So a bucket's batches are evenly spread over the stage, one n-th of it apart, and the phase
    says where they begin. All numbers are integers, and finding a batch takes 40 halvings whatever the index.

    Args:
      counts: batches of each bucket, each at least 1.
      phases: of each bucket, in [0, 2**40).
      index: in [0, sum(counts)).

    Returns:
      (position in `counts`, ordinal of the batch within its bucket).

    >>> [interleave([4, 2], [0, 1 << 39], i)[0] for i in range(6)]
    [0, 0, 1, 0, 0, 1]
    """

    def due_before(time: int) -> list[int]:
        # ceil((time·n − p) / 2**40) for each bucket; in [0, n] because 0 <= p < 2**40 and time <= 2**40.
        return [-((p - time * n) >> CLOCK_BITS) for n, p in zip(counts, phases, strict=True)]

    low, high = 0, 1 << CLOCK_BITS
    while high - low > 1:
        middle = (low + high) // 2
        if sum(due_before(middle)) <= index:
            low = middle
        else:
            high = middle
    before, after = due_before(low), due_before(low + 1)
    due_now = [b for b in range(len(counts)) if after[b] > before[b]]
    turn = due_now[index - sum(before)]
    return turn, before[turn]


def one_after_another(counts: Sequence[int], index: int) -> tuple[int, int]:
    """Which bucket's which batch comes at `index` when buckets come whole, one after the other.

    >>> one_after_another([4, 2], 4)
    (1, 0)

    Raises:
      IndexError: there are not that many batches.
    """
    for turn, count in enumerate(counts):
        if index < count:
            return turn, index
        index -= count
    raise IndexError(f"index beyond the {sum(counts)} batches of the stage")
