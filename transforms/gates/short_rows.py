"""The gate on rows that are short by chance: their share, as far as the packing fixes it, and their targets."""

from __future__ import annotations

from typing import Literal

from transforms.gates.chance import FALSE_ALARM, SHARE_FLOOR, Share
from transforms.gates.gate import Evidence, Gate
from transforms.statistics.significance import detectable_proportion

_FRAME = 2
"""Special tokens of a row beside those between its pieces."""


def short_rows(e: Evidence, rate: float, pack: Literal["document", "sentences", "full", "pairs"]) -> list[Gate]:
    """`short_rows`, where any are expected.

    Of pieces of documents and of full rows, whose lengths are their targets unless the text ends, the share of short
    ones is tested too: each is short with probability rate · (1 − 1 / (room − 1)), since the uniform draw from
    [2, room] may give room. So many as texts end may be short for that reason alone, which leaves an interval for the
    number of coins; its nearest end is tested. A full row may miss its target by two, separators that would be its
    first unit and its last; so it counts as short below room − 2, and its target may be up to two more.
    """
    if rate == 0:
        return []
    wrong, told = (e.found.total(f) for f in ("short_target_errors", "short_targets_told"))
    expected = "no row longer than the target that its beginning draws"
    observed = f"{wrong:,} exceptions in {told:,} rows that tell it"
    bound, passed, n, effect = "0 exceptions", wrong == 0, told, float(wrong)
    if pack in ("document", "full"):
        share, least, most = _share_by_chance(e, rate, pack)
        level = FALSE_ALARM / 2
        passed &= not share.fails(level, SHARE_FLOOR)
        expected = f"{share.probability:.3%} of rows short by chance, and {expected}"
        observed = f"{least / max(1, share.n):.3%} to {most / max(1, share.n):.3%} of {share.n:,}; {observed}"
        bound = (
            f"binomial tail ≥ {level:.0e} or deviation ≤ {SHARE_FLOOR:.1%}, at the nearest end; {bound}; smallest "
            f"deviation detectable: {detectable_proportion(share.n, share.probability, level):.2%} beyond an end"
        )
        n, effect = share.n, max(share.effect, effect)
    return [
        Gate(
            name="short_rows",
            passed=passed,
            expected=expected,
            observed=observed,
            bound=bound,
            n=n,
            effect=effect,
            worst_shard=e.worst("short_target_errors"),
            figures=("short_target_errors",),
        )
    ]


def _share_by_chance(e: Evidence, rate: float, pack: str) -> tuple[Share, int, int]:
    """The number of short rows nearest to the law that the train split allows, and the least and the most."""
    rows = short = 0
    mean = 0.0
    for stage, lengths in sorted(e.context.lengths.items()):
        n = e.found.total("rows", split="train", stage=stage)
        room = lengths[-1] - _FRAME
        long = 1 if pack == "document" else 3  # targets with which a row does not count as short
        rows, mean = rows + n, mean + n * rate * max(0.0, 1 - long / max(2, room - 1))
        short += e.found.total("short_rows", split="train", stage=stage)
    if pack == "document":  # a document ends once for each time that it begins, or is taken up behind a stage's edge
        ends = e.found.total("short_targets_told", split="train") + len(e.context.cuts)
    else:  # the text of a source, block and pass ends once
        passes = 1 + e.found.greatest("copy", split="train")
        ends = e.found.shards["read"] * len(e.context.sources) * passes
        ends += e.found.total("short_rows_by_separators", split="train")
    least = max(0, short - ends)
    nearest = min(max(round(mean), least), short)
    return Share(nearest, rows, mean / rows if rows else rate), least, short
