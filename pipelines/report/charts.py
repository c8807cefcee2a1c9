"""The report's charts as inline SVG that takes its colours from the page, so that dark and print just work.

Figures are drawn in stand-in colours which are then replaced by CSS variables. Text stays text, in the reader's own
fonts. The same numbers give the same bytes.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_VARIABLES = {
    "ink": "#010101",
    "muted": "#020202",
    "line": "#030303",
    "accent": "#040404",
    "accent-soft": "#050505",
    "mask": "#060606",
    "random": "#070707",
    "kept": "#080808",
}
"""Names of CSS variables and the colours that stand for them while drawing."""

_WIDTH_INCHES = 5.6
"""Narrow, so that a phone shows a chart nearly at its own size and a wide screen two side by side."""

MOST_BARS = 40
"""Bars of the chart of shares; the table has them all."""


@dataclass(frozen=True)
class ShareBar:
    """Target and achieved share of one source in one stage, in [0, 1]."""

    label: str
    target: float
    achieved: float


@dataclass(frozen=True)
class Bucket:
    """One length bucket of one stage, train split."""

    stage: str
    length: int
    histogram: Sequence[int]
    """Rows by equal parts of (0, length]."""
    padding: float
    """Share of padding."""


def shares_chart(bars: Sequence[ShareBar]) -> str:
    """Achieved shares as bars, targets as ticks across them."""
    bars = bars[:MOST_BARS]
    figure, axes = _figure(0.62 + 0.27 * len(bars))
    places = [len(bars) - 1 - i for i in range(len(bars))]
    axes.barh(places, [b.achieved for b in bars], height=0.62, color=_VARIABLES["accent"], label="achieved")
    axes.plot([b.target for b in bars], places, "|", markersize=13, mew=2, color=_VARIABLES["ink"], label="target")
    axes.set_yticks(places, [b.label for b in bars])
    axes.set_xlim(0, max([b.target for b in bars] + [b.achieved for b in bars] + [0.01]) * 1.15)
    axes.xaxis.set_major_formatter(_percent)
    axes.set_ylim(-0.6, len(bars) - 0.4)
    _legend_below(figure)
    return _svg(figure, axes)


def lengths_chart(buckets: Sequence[Bucket]) -> str:
    """Cumulative rows by length, and by the bucket they are padded to; the area between the two is the padding.

    For the mean of a length is the area above its cumulative share, so the difference of the means, which is the
    padding of a row, is the area between the curves.
    """
    figure, axes = _figure(2.5)
    counts: Counter[float] = Counter()
    padded: Counter[float] = Counter()
    for bucket in buckets:
        bins = len(bucket.histogram)
        for j, rows in enumerate(bucket.histogram):
            counts[bucket.length * (j + 1) / bins] += rows
            padded[float(bucket.length)] += rows
    total = sum(counts.values()) or 1
    places = sorted({0.0, *counts})
    rows_share = list(accumulate(counts[x] / total for x in places))
    padded_share = list(accumulate(padded[x] / total for x in places))
    axes.fill_between(
        places, padded_share, rows_share, step="post", color=_VARIABLES["accent-soft"], linewidth=0, label="padding"
    )
    axes.step(
        places, padded_share, where="post", color=_VARIABLES["muted"], linewidth=1, label="padded to the bucket"
    )
    axes.step(places, rows_share, where="post", color=_VARIABLES["accent"], linewidth=1.8, label="rows")
    axes.set_xlabel("tokens")
    axes.set_ylabel("share of rows up to here")
    axes.set_xlim(0, places[-1] * 1.02 or 1)
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter(_percent)
    _legend_below(figure)
    return _svg(figure, axes)


def padding_chart(buckets: Sequence[Bucket]) -> str:
    """Tokens and padding of each bucket when its rows are padded to its length."""
    buckets = buckets[:MOST_BARS]
    figure, axes = _figure(0.62 + 0.27 * len(buckets))
    places = [len(buckets) - 1 - i for i in range(len(buckets))]
    filled = [1 - b.padding for b in buckets]
    axes.barh(places, filled, height=0.62, color=_VARIABLES["accent"], label="tokens")
    axes.barh(
        places,
        [b.padding for b in buckets],
        left=filled,
        height=0.62,
        color=_VARIABLES["accent-soft"],
        label="padding",
    )
    axes.set_yticks(places, [f"{b.stage}, {b.length}" for b in buckets])
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.6, len(buckets) - 0.4)
    axes.xaxis.set_major_formatter(_percent)
    _legend_below(figure)
    return _svg(figure, axes)


def replacement_chart(expected: dict[str, float], counts: dict[str, int]) -> str:
    """Observed shares of masked places as bars, the law as ticks with the 95 % interval around it."""
    figure, axes = _figure(1.75)
    total = sum(counts.values()) or 1
    names = list(expected)
    for i, name in enumerate(names):
        place, law = len(names) - 1 - i, expected[name]
        share = counts[name] / total
        axes.barh(place, share, height=0.6, color=_VARIABLES[{"unchanged": "kept"}.get(name, name)])
        half = 1.96 * (law * (1 - law) / total) ** 0.5
        axes.errorbar(law, place, xerr=half, fmt="none", elinewidth=1.5, capsize=5, color=_VARIABLES["ink"])
        axes.annotate(
            f"{share:.2%}, law {law:.2%}",
            (max(share, law + half), place),
            (8, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks([len(names) - 1 - i for i in range(len(names))], names)
    axes.set_xlim(0, 1.35 * max(expected.values()))
    axes.xaxis.set_major_formatter(_percent)
    return _svg(figure, axes)


def positions_chart(observed: Sequence[int], expected: Sequence[float]) -> str:
    """Masked places by relative position, over what the law expects there."""
    figure, axes = _figure(2.1)
    bins = len(observed)
    ratios = [o / x if x else 1.0 for o, x in zip(observed, expected, strict=True)]
    spread = [1.96 / x**0.5 if x else 0.0 for x in expected]
    edges = [i / bins for i in range(bins + 1)]
    axes.stairs(
        [1 + s for s in spread],
        edges,
        baseline=[1 - s for s in spread],
        fill=True,
        color=_VARIABLES["accent-soft"],
        label="95 % interval of the law",
    )
    axes.stairs(ratios, edges, baseline=None, color=_VARIABLES["accent"], linewidth=1.8, label="observed")
    reach = 1.5 * max([0.02, *spread, *(abs(r - 1) for r in ratios)])
    axes.set_ylim(1 - reach, 1 + reach)
    axes.set_xlim(0, 1)
    axes.set_xlabel("place in the row, from its start to its end")
    axes.set_ylabel("observed / expected")
    _legend_below(figure)
    return _svg(figure, axes)


def _percent(value: float, _: float) -> str:
    return f"{value:.0%}" if value == 0 or value >= 0.0995 else f"{value:.1%}"


def _legend_below(figure: Figure) -> None:
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9, labelcolor=_VARIABLES["ink"])


def _figure(height_inches: float) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_INCHES, height_inches), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def _svg(figure: Figure, axes: Axes) -> str:
    """The figure as an `<svg>` element without a size of its own, scaled by the page."""
    import matplotlib as mpl

    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(_VARIABLES["line"])
    axes.tick_params(colors=_VARIABLES["muted"], labelcolor=_VARIABLES["ink"], labelsize=9)
    for text in (axes.xaxis.label, axes.yaxis.label, *axes.texts):
        text.set_color(_VARIABLES["ink"])
        text.set_fontsize(9)
    target = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "shardmill", "svg.fonttype": "none"}):
        figure.savefig(
            target, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    svg = target.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg [^>]*?)\s+width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?)\s+height="[^"]*"', r'\1 role="img"', svg, count=1)
    svg = re.sub(r"font: (\S+) '[^;\"]*", r"font: \1 var(--font)", svg)
    for name, colour in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg
