"""Charts of what was drawn beside the law by which it was drawn."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.report.canvas import VARIABLES, legend_below, new_figure, percent, to_svg


def replacement_chart(expected: dict[str, float], counts: dict[str, int]) -> str:
    """Observed shares of masked places as bars, the law as ticks with the 95 % interval around it."""
    figure, axes = new_figure(1.75)
    total = sum(counts.values()) or 1
    names = list(expected)
    for i, name in enumerate(names):
        place, law = len(names) - 1 - i, expected[name]
        share = counts[name] / total
        axes.barh(place, share, height=0.6, color=VARIABLES[{"unchanged": "kept"}.get(name, name)])
        half = 1.96 * (law * (1 - law) / total) ** 0.5
        axes.errorbar(law, place, xerr=half, fmt="none", elinewidth=1.5, capsize=5, color=VARIABLES["ink"])
        axes.annotate(
            f"{share:.2%}, law {law:.2%}",
            (max(share, law + half), place),
            (8, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks([len(names) - 1 - i for i in range(len(names))], names)
    axes.set_xlim(0, 1.35 * max(expected.values()))
    axes.xaxis.set_major_formatter(percent)
    return to_svg(figure, axes)


def positions_chart(observed: Sequence[int], expected: Sequence[float]) -> str:
    """Masked places by relative position, over what the law expects there."""
    figure, axes = new_figure(2.1)
    bins = len(observed)
    ratios = [o / x if x else 1.0 for o, x in zip(observed, expected, strict=True)]
    spread = [1.96 / x**0.5 if x else 0.0 for x in expected]
    edges = [i / bins for i in range(bins + 1)]
    axes.stairs(
        [1 + s for s in spread],
        edges,
        baseline=[1 - s for s in spread],
        fill=True,
        color=VARIABLES["accent-soft"],
        label="95 % interval of the law",
    )
    axes.stairs(ratios, edges, baseline=None, color=VARIABLES["accent"], linewidth=1.8, label="observed")
    reach = 1.5 * max([0.02, *spread, *(abs(r - 1) for r in ratios)])
    axes.set_ylim(1 - reach, 1 + reach)
    axes.set_xlim(0, 1)
    axes.set_xlabel("place in the row, from its start to its end")
    axes.set_ylabel("observed / expected")
    legend_below(figure)
    return to_svg(figure, axes)


def spans_chart(edges: Sequence[int], observed: Sequence[int], expected: Sequence[float]) -> str:
    """Share of spans by their length as bars, under the exact curve of the law.

    Args:
      edges: tokens from which on each bin counts.
      observed: spans in each bin.
      expected: of each bin by the law.
    """
    figure, axes = new_figure(2.3)
    total = sum(observed) or 1
    shown = 1 + max(
        (i for i, (o, x) in enumerate(zip(observed, expected, strict=True)) if max(o, x) > total / 2000), default=0
    )
    widths = [b - a for a, b in zip(edges, [*edges[1:], 2 * edges[-1]], strict=True)]
    labels = [f"{e}" if w == 1 else f"{e}–{e + w - 1}" for e, w in zip(edges, widths, strict=True)]
    places = list(range(shown))
    axes.bar(
        places, [o / total for o in observed[:shown]], width=0.8, color=VARIABLES["accent-soft"], label="observed"
    )
    law = [x / total for x in expected[:shown]]
    axes.plot(places, law, "o-", color=VARIABLES["ink"], markersize=3.5, linewidth=1.2, label="law")
    axes.set_xticks(places, labels[:shown])
    if shown > 12:
        axes.tick_params(axis="x", rotation=60)
    axes.set_xlabel("tokens of a span")
    axes.yaxis.set_major_formatter(percent)
    legend_below(figure)
    return to_svg(figure, axes)
