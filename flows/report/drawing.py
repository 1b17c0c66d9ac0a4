"""How does a figure become a piece of the page? As inline SVG that takes its colours from CSS.

Figures are drawn with placeholder colours, which become CSS variables in the SVG: one drawing is
readable in light and in dark. Text stays text (`svg.fonttype` none), in the reader's own font.
Nothing global is touched: no pyplot, no rcParams outside the context. The same numbers give the
same bytes: no date, and ids from a salt.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl
import matplotlib.dates
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK: Final = "#010101"
MUTED: Final = "#020202"
GRID: Final = "#030303"
PAPER: Final = "#040404"
ACCENT: Final = "#050505"
SECOND: Final = "#060606"
THIRD: Final = "#070707"
FOURTH: Final = "#080808"
SERIES: Final = (ACCENT, SECOND, THIRD, FOURTH)
BANDS: Final = tuple(f"#1{number}1{number}1{number}" for number in range(9))
"""Placeholders; `style.css` says what they look like in light and in dark."""

_LETTER: Final = 5.0
"""Points that a letter takes at most on average; the reader's font is not known here."""

_VARIABLES: Final = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    PAPER: "var(--paper)",
    ACCENT: "var(--series-1)",
    SECOND: "var(--series-2)",
    THIRD: "var(--series-3)",
    FOURTH: "var(--series-4)",
} | {colour: f"var(--band-{number})" for number, colour in enumerate(BANDS, start=1)}

_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    # A segment called "$x$" is a name, not a formula.
    "text.parse_math": False,
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "lines.linewidth": 1.7,
    "lines.solid_capstyle": "round",
}


@dataclass
class Drawing:
    """A figure being drawn; `svg` holds the result once the `drawing` block has ended."""

    axes: Axes
    svg: str = ""


@contextmanager
def drawing(name: str, *, wide: bool = False) -> Iterator[Drawing]:
    """Draw one figure: `with drawing("ctr") as d: d.axes.plot(...)`, then `d.svg`.

    `name` salts the ids inside the SVG and must be unique on the page. `label_ends` makes room for
    its labels on the right.
    """
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        size = (10.6, 3.1) if wide else (5.6, 2.9)
        figure = Figure(figsize=size)
        canvas: Any = FigureCanvasSVG(figure)
        left = 0.047 if wide else 0.095
        axes = figure.add_axes((left, 0.13, 0.97 - left, 0.8))
        result = Drawing(axes)
        yield result
        buffer = io.StringIO()
        canvas.print_svg(buffer, metadata={"Date": None, "Creator": None})
        result.svg = _inline(buffer.getvalue())


def date_axis(axes: Axes) -> None:
    """Label the x axis with dates, few and short."""
    dates: Any = matplotlib.dates  # its classes are not typed
    locator = dates.AutoDateLocator(minticks=3, maxticks=8)
    axes.xaxis.set_major_locator(locator)
    formatter = dates.ConciseDateFormatter(
        locator,
        formats=["%Y", "%b", "%-d %b", "%H:%M", "%H:%M", "%H:%M:%S"],
        zero_formats=["", "%b", "%-d %b", "%-d %b", "%H:%M", "%H:%M"],
        show_offset=False,
    )
    axes.xaxis.set_major_formatter(formatter)
    axes.margins(x=0.0)


def label_ends(
    axes: Axes, x: Any, ends: Sequence[tuple[float, str, str]], *, gap: float = 0.075
) -> None:
    """Write (y, text, colour) labels right of the last point, moved apart where they would touch.

    `gap` is the least distance as a share of the height of the axes. Labels longer than a third of
    the figure are cut with an ellipsis.
    """
    figure = axes.figure
    assert isinstance(figure, Figure)
    points = figure.get_figwidth() * 72.0
    longest = int(points / 3.0 / _LETTER)
    ends = [
        (y, "\n".join(_cut(line, longest) for line in text.split("\n")), colour)
        for y, text, colour in ends
    ]
    letters = max(len(line) for _, text, _ in ends for line in text.split("\n"))
    box = axes.get_position()
    right = 1.0 - (letters * _LETTER + 8.0) / points
    axes.set_position((box.x0, box.y0, right - box.x0, box.height))
    low, high = axes.get_ylim()
    step = (high - low) * gap
    order = sorted(range(len(ends)), key=lambda index: ends[index][0])
    places: list[float] = []
    for index in order:
        y = max(ends[index][0], low + step / 2)
        places.append(max(y, places[-1] + step) if places else y)
    # Pushed out at the top: take the whole pile down again.
    limit = high
    for position in reversed(range(len(places))):
        places[position] = min(places[position], limit)
        limit = places[position] - step
    for index, y in zip(order, places, strict=True):
        _, text, colour = ends[index]
        axes.annotate(
            text,
            xy=(x, y),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            annotation_clip=False,
        )


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _inline(svg: str) -> str:
    """An SVG document as an element of an HTML page: no prolog, no namespaces, no foreign ids.

    Only tags are rewritten, never text between them: a segment may be called anything.
    """
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return re.sub(r"<[a-z][^>]*>", _tag, svg).strip()


def _tag(match: re.Match[str]) -> str:
    tag = match[0]
    if tag.startswith("<svg"):
        view_box = re.search(r'viewBox="[^"]*"', tag)
        return f'<svg aria-hidden="true" {view_box[0] if view_box else ""}>'
    if tag.startswith("<g "):
        # Group names such as axes_1 occur in every figure; an id may occur once in a page.
        tag = re.sub(r' id="[^"]*"', "", tag)
    return re.sub(r'style="[^"]*"', _style, tag.replace("xlink:href", "href"))


def _style(match: re.Match[str]) -> str:
    style = match[0]
    for placeholder, variable in _VARIABLES.items():
        style = style.replace(placeholder, variable)
    # The page's own font: matplotlib names DejaVu, which most readers do not have.
    style = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", style)
    return re.sub(r"font-family: [^;\"]*;?", "", style)
