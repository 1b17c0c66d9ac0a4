"""The lift as one HTML page: a table per test, and how each interval closed in over time.

No script, no address; whatever comes from logs is escaped where text becomes HTML. The same study
gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from itertools import cycle
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.ticker import FuncFormatter

from flows import lift_words as words
from flows.report.drawing import BANDS, MUTED, SERIES, date_axis, drawing, label_ends
from flows.report.figures import Drawn
from operators.lift import Lift, MetricLift, Point, VariantLift

_SHOWN: Final = 6
"""Half-widths of the newest interval that a figure is high: the first intervals are far wider."""


def write_page(path: Path, tests: Sequence[Lift], *, facts: dict[str, str]) -> None:
    """Write the page as one self-contained file (UTF-8)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_page(tests, facts=facts), encoding="utf-8")


def render_page(tests: Sequence[Lift], *, facts: dict[str, str]) -> str:
    """The page as HTML text."""
    style = (files("flows.report") / "style.css").read_text(encoding="utf-8")
    listed = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in facts.items()
    )
    sections = "\n".join(_section(number, test) for number, test in enumerate(tests))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>Lift</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        "<header>\n<h1>Lift</h1>\n"
        '<p class="lead">Intervals hold at all times together: look, stop and go on as you like.'
        f'</p>\n<dl class="facts">{listed}</dl>\n</header>\n{sections}\n</main>\n</body>\n</html>\n'
    )


def _section(number: int, test: Lift) -> str:
    layer = f" (layer {test.layer})" if test.layer else ""
    ratio = words.ratio(test)
    state = ' class="wrong"' if words.is_broken(test) else ' class="note"'
    figures = "".join(
        _figure(_course(f"lift-{number}-{n}", metric), metric)
        for n, metric in enumerate(test.metrics)
    )
    return (
        f"<section>\n<h2>{escape(test.test)}{escape(layer)}</h2>\n"
        f'<p class="note">Control: {escape(test.control)}. Exposed profiles: '
        f"{escape(words.exposed(test))}. Each interval: {words.confidence(test)}.</p>\n"
        f"<p{state}>{escape(ratio[:1].upper() + ratio[1:])}.</p>\n"
        f"{_table(test)}\n</section>\n"
        f'<div class="grid">{figures}</div>'
    )


def _table(test: Lift) -> str:
    rows = []
    for metric in test.metrics:
        name = metric.metric + (" (guardrail)" if metric.guardrail else "")
        if metric.missing is not None:
            rows.append(
                f'<tr><th scope="row">{escape(name)}</th>'
                f'<td class="text" colspan="6">{escape(metric.missing)}</td></tr>'
            )
        rows += [_row(name, metric, variant) for variant in metric.variants]
    return (
        '<div class="scroll"><table>\n<thead><tr><th>metric</th><th class="text">variant</th>'
        "<th>profiles</th><th>value</th><th>difference</th><th>lift</th><th>verdict</th></tr>"
        f"</thead>\n<tbody>{''.join(rows)}</tbody>\n</table></div>"
    )


def _row(name: str, metric: MetricLift, variant: VariantLift) -> str:
    said = variant.compared
    verdict = words.verdict(metric, variant)
    if variant is metric.variants[0]:
        cells = ["<td></td>", "<td></td>", "<td>control</td>"]
    elif said is None:
        cells = ["<td></td>", "<td></td>", f"<td>{escape(verdict)}</td>"]
    else:
        difference = words.value(metric.metric, said.difference, sign=True)
        cells = [
            _pair(difference, words.difference_between(metric.metric, said.bounds)),
            _pair(words.lift(said.lift), words.lift_between(said.lift_bounds)),
            f'<td class="wrong">{escape(verdict)}</td>'
            if verdict in ("worse", "got worse")
            else f"<td>{escape(verdict)}</td>",
        ]
    return (
        f'<tr><th scope="row">{escape(name)}</th><td class="text">{escape(variant.variant)}</td>'
        f"<td>{variant.profiles:,}</td><td>{escape(words.value(metric.metric, variant.value))}</td>"
        + "".join(cells)
        + "</tr>"
    )


def _pair(text: str, interval: str) -> str:
    return f"<td>{escape(text)}<small>{escape(interval)}</small></td>"


def _figure(drawn: Drawn | None, metric: MetricLift) -> str:
    if drawn is None:
        return ""
    kind = "guardrail" if metric.guardrail else "metric"
    return (
        f"<section>\n<h2>{escape(metric.metric)}</h2>\n"
        f'<p class="note">Difference to the control as profiles were finished ({kind}).</p>\n'
        f'<div class="figure" role="img" aria-label="{escape(drawn.says)}">{drawn.svg}</div>\n'
        "</section>"
    )


def _course(name: str, metric: MetricLift) -> Drawn | None:
    """The difference of each variant to the control over time, with its interval."""
    courses = [(v, _known(v.course)) for v in metric.variants[1:]]
    courses = [(variant, course) for variant, course in courses if len(course) > 1]
    if not courses:
        return None
    share = words.is_share(metric.metric)
    with drawing(name) as figure:
        axes = figure.axes
        ends = []
        reach = 0.0
        newest = 0
        for (variant, course), colour in zip(courses, cycle((*SERIES, *BANDS)), strict=False):
            times = np.array([at for at, _, _, _ in course], np.int64).astype("datetime64[ms]")
            middle, low, high = (np.array([point[part] for point in course]) for part in (1, 2, 3))
            axes.fill_between(times, low, high, color=colour, alpha=0.16, linewidth=0)
            axes.plot(times, middle, color=colour)
            said = words.value(metric.metric, float(middle[-1]), sign=True)
            ends.append((float(middle[-1]), f"{variant.variant}\n{said}", colour))
            half = float(high[-1] - low[-1]) / 2.0
            reach = max(reach, abs(float(middle[-1])) + half * _SHOWN / 2.0)
            newest = max(newest, course[-1][0])
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.set_ylim(-reach, reach)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _tick(y, share=share)))
        date_axis(axes)
        label_ends(axes, np.datetime64(newest, "ms"), ends, gap=0.17)
    says = ", ".join(text.replace("\n", " ") for _, text, _ in ends)
    return Drawn(figure.svg, f"{metric.metric}, difference to the control: {says}.")


def _known(course: Sequence[Point]) -> list[tuple[int, float, float, float]]:
    return [
        (point.at_ms, said.difference, said.bounds.low, said.bounds.high)
        for point in course
        if (said := point.compared) is not None
        and said.bounds.low is not None
        and said.bounds.high is not None
    ]


def _tick(number: float, *, share: bool) -> str:
    text = f"{100 * number:+.3g} pp" if share else f"{number:+.3g}"
    return "0" if number == 0 else text.replace("-", "−")
