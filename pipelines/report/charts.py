"""Charts of shares and lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from pipelines.report.canvas import MOST_BARS, VARIABLES, legend_below, new_figure, percent, to_svg


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
    figure, axes = new_figure(0.62 + 0.27 * len(bars))
    places = [len(bars) - 1 - i for i in range(len(bars))]
    axes.barh(places, [b.achieved for b in bars], height=0.62, color=VARIABLES["accent"], label="achieved")
    axes.plot([b.target for b in bars], places, "|", markersize=13, mew=2, color=VARIABLES["ink"], label="target")
    axes.set_yticks(places, [b.label for b in bars])
    axes.set_xlim(0, max([b.target for b in bars] + [b.achieved for b in bars] + [0.01]) * 1.15)
    axes.xaxis.set_major_formatter(percent)
    axes.set_ylim(-0.6, len(bars) - 0.4)
    legend_below(figure)
    return to_svg(figure, axes)


def lengths_chart(buckets: Sequence[Bucket]) -> str:
    """Cumulative rows by length, and by the bucket they are padded to; the area between the two is the padding.

    For the mean of a length is the area above its cumulative share, so the difference of the means, which is the
    padding of a row, is the area between the curves.
    """
    figure, axes = new_figure(2.5)
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
        places, padded_share, rows_share, step="post", color=VARIABLES["accent-soft"], linewidth=0, label="padding"
    )
    axes.step(places, padded_share, where="post", color=VARIABLES["muted"], linewidth=1, label="padded to the bucket")
    axes.step(places, rows_share, where="post", color=VARIABLES["accent"], linewidth=1.8, label="rows")
    axes.set_xlabel("tokens")
    axes.set_ylabel("share of rows up to here")
    axes.set_xlim(0, places[-1] * 1.02 or 1)
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter(percent)
    legend_below(figure)
    return to_svg(figure, axes)


def padding_chart(buckets: Sequence[Bucket]) -> str:
    """Tokens and padding of each bucket when its rows are padded to its length."""
    buckets = buckets[:MOST_BARS]
    figure, axes = new_figure(0.62 + 0.27 * len(buckets))
    places = [len(buckets) - 1 - i for i in range(len(buckets))]
    filled = [1 - b.padding for b in buckets]
    axes.barh(places, filled, height=0.62, color=VARIABLES["accent"], label="tokens")
    axes.barh(
        places,
        [b.padding for b in buckets],
        left=filled,
        height=0.62,
        color=VARIABLES["accent-soft"],
        label="padding",
    )
    axes.set_yticks(places, [f"{b.stage}, {b.length}" for b in buckets])
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.6, len(buckets) - 0.4)
    axes.xaxis.set_major_formatter(percent)
    legend_below(figure)
    return to_svg(figure, axes)
