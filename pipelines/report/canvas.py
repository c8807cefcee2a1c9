"""Figures as inline SVG that takes its colours from the page, so that dark and print just work.

Figures are drawn in stand-in colours which are then replaced by CSS variables. Text stays text, in the reader's own
fonts. The same numbers give the same bytes.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VARIABLES = {
    "ink": "#010101",
    "muted": "#020202",
    "line": "#030303",
    "accent": "#040404",
    "accent-soft": "#050505",
    "mask": "#060606",
    "random": "#070707",
    "kept": "#080808",
    "bad": "#090909",
    **{f"series-{i}": f"#0a0a{i:02x}" for i in range(8)},
}
"""Names of CSS variables and the colours that stand for them while drawing."""

SERIES = tuple(name for name in VARIABLES if name.startswith("series-"))
"""Colours of things that are of one kind, such as sources; the last is for what is left."""

_WIDTH_INCHES = 5.6
"""Narrow, so that a phone shows a chart nearly at its own size and a wide screen two side by side."""

MOST_BARS = 40
"""Bars of a chart; a table has them all."""


def percent(value: float, _: float) -> str:
    """The label of a share on an axis."""
    return f"{value:.0%}" if value == 0 or value >= 0.0995 else f"{value:.1%}"


def legend_below(figure: Figure) -> None:
    """Put the legend under the axes, where nothing is drawn."""
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9, labelcolor=VARIABLES["ink"])


def new_figure(height_inches: float) -> tuple[Figure, Axes]:
    """An empty figure of the report's width."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_INCHES, height_inches), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def to_svg(figure: Figure, axes: Axes) -> str:
    """The figure as an `<svg>` element without a size of its own, scaled by the page."""
    import matplotlib as mpl

    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(VARIABLES["line"])
    axes.tick_params(colors=VARIABLES["muted"], labelcolor=VARIABLES["ink"], labelsize=9)
    for text in (axes.xaxis.label, axes.yaxis.label, *axes.texts):
        text.set_color(VARIABLES["ink"])
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
    for name, colour in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg
