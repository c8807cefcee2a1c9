"""Charts of what became of the corpus: its ledger, its order through training, and its words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipelines.report.canvas import SERIES, VARIABLES, legend_below, new_figure, percent, to_svg
from schemas.counts import format_count

_MOST_COLUMNS = 120
_MOST_POINTS = 160


def waterfall_chart(steps: Sequence[tuple[str, int, bool]]) -> str:
    """From what was read to what is in the shards.

    Args:
      steps: (name, tokens, is a level), where what is no level is added to the level before it.
    """
    figure, axes = new_figure(0.5 + 0.3 * len(steps))
    places = [len(steps) - 1 - i for i in range(len(steps))]
    level, most = 0, 1
    for place, (_, count, is_level) in zip(places, steps, strict=True):
        left = 0 if is_level else min(level, level + count)
        level = count if is_level else level + count
        most = max(most, left + abs(count))
        name = "accent" if is_level else "bad" if count < 0 else "kept"
        axes.barh(place, abs(count), left=left, height=0.62, color=VARIABLES[name])
        text = format_count(count) if is_level else f"{'+' if count > 0 else '−'}{format_count(abs(count))}"
        axes.annotate(text, (left + abs(count), place), (5, 0), textcoords="offset points", va="center")
    axes.set_yticks(places, [name for name, _, _ in steps])
    axes.set_xlim(0, 1.16 * most)
    axes.xaxis.set_major_formatter(_short)
    return to_svg(figure, axes)


def _short(value: float, _: float) -> str:
    return format_count(value)


def training_chart(blocks: Sequence[Mapping[str, int]], names: Sequence[str], edges: Mapping[str, int]) -> str:
    """Shares of the names through training, block by block, joined into at most 120 columns.

    Args:
      blocks: tokens of each name in each block, in the order of training.
      names: that are shown apart, at most seven; all others are one.
      edges: first block of each stage, by the stage's name.
    """
    figure, axes = new_figure(2.4)
    step = max(1, -(-len(blocks) // _MOST_COLUMNS))
    rows = []
    for begin in range(0, len(blocks), step):
        joined: dict[str, int] = {}
        for block in blocks[begin : begin + step]:
            for name, count in block.items():
                key = name if name in names else "others"
                joined[key] = joined.get(key, 0) + count
        rows.append(joined)
    shown = [*names, *(["others"] if any("others" in row for row in rows) else [])]
    at = [i * step for i in range(len(rows))] + [len(blocks)]
    below = [0.0] * len(rows)
    for i, name in enumerate(shown):
        shares = [row.get(name, 0) / max(1, sum(row.values())) for row in rows]
        above = [a + b for a, b in zip(below, shares, strict=True)]
        colour = VARIABLES[SERIES[-1] if name == "others" else SERIES[i]]
        axes.stairs(above, at, baseline=below, fill=True, color=colour, label=name, linewidth=0)
        below = above
    for name, first in edges.items():
        axes.axvline(first, color=VARIABLES["ink"], linewidth=0.8, linestyle=":")
        axes.annotate(name, (first, 1.0), (3, 3), textcoords="offset points", va="bottom")
    axes.set_xlim(0, max(1, len(blocks)))
    axes.set_ylim(0, 1)
    axes.set_xlabel("block of training")
    axes.yaxis.set_major_formatter(percent)
    legend_below(figure)
    return to_svg(figure, axes)


def ranks_chart(curves: Mapping[str, Sequence[int]]) -> str:
    """Frequency of tokens by rank, both logarithmic; one curve a name, at most seven.

    Args:
      curves: counts by name, descending, zeros left out.
    """
    figure, axes = new_figure(2.4)
    for colour, (name, counts) in zip(SERIES, curves.items(), strict=False):
        total = sum(counts) or 1
        last = len(counts)
        ranks = sorted({round(last ** (i / (_MOST_POINTS - 1))) for i in range(_MOST_POINTS)}) if last else []
        axes.plot(ranks, [counts[r - 1] / total for r in ranks], color=VARIABLES[colour], linewidth=1.5, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.set_xlabel("rank of the token")
    axes.set_ylabel("share of text tokens")
    legend_below(figure)
    return to_svg(figure, axes)
