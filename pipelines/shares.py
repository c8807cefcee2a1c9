"""How items are shared out to workers: beforehand, and to those that are done early. Runs nothing by itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Work = Callable[[int], bytes]

_ITEMS_A_DESCRIPTOR = 1000


def balance(items: Sequence[int], costs: Sequence[int], lanes: int) -> list[list[int]]:
    """Deal items to lanes of nearly equal cost, largest first (Graham's LPT rule); no lane is empty.

    >>> balance([0, 1, 2, 3], [9, 5, 4, 1], 2)
    [[0, 3], [1, 2]]
    """
    dealt: list[list[int]] = [[] for _ in range(max(1, min(lanes, len(items))))]
    loads = [0] * len(dealt)
    for i in sorted(range(len(items)), key=lambda i: (-costs[i], i)):
        lane = min(range(len(dealt)), key=lambda lane: (loads[lane], lane))
        dealt[lane].append(items[i])
        loads[lane] += costs[i]
    return dealt


@dataclass(frozen=True)
class HelpingWork:
    """Work of which a local worker, when it has done its own share, takes what is left of the others'.

    The local runner deals shares beforehand and costs are estimates, so without it the last worker ends long after
    the first. An item is taken by creating a file that nobody else has created.
    """

    work: Work
    """Writes its own results; what it returns is dropped."""
    lanes: list[list[int]]
    """The shares, each in the order in which it is done."""
    taken: str
    """Folder on this machine, empty when the run begins."""
    launcher: int
    """Process that began the run; when it has been killed, a worker it leaves behind begins nothing more."""

    def __call__(self, item: int) -> bytes:
        """Do an item unless it is taken, and after the last of a share whatever is not."""
        self._take(item)
        if any(item == lane[-1] for lane in self.lanes):
            # The largest first, as in each share: what is left last is small.
            for rank in range(max(map(len, self.lanes))):
                for lane in self.lanes:
                    if rank < len(lane):
                        self._take(lane[rank])
        return b""

    def _take(self, item: int) -> None:
        try:
            os.kill(self.launcher, 0)
        except ProcessLookupError:
            return
        try:
            os.close(os.open(os.path.join(self.taken, str(item)), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        self.work(item)


def descriptors(items: Sequence[int]) -> list[list[int]]:
    """Runs of items for a runner that balances by itself; the graph holds one short element a thousand."""
    return [list(items[i : i + _ITEMS_A_DESCRIPTOR]) for i in range(0, len(items), _ITEMS_A_DESCRIPTOR)]
