"""The ladder as one HTML page: what each step earns, and what it takes, in one picture.

No script, no address; every text is escaped where it becomes HTML. The same ladder gives the same
bytes, but for the processor time that a machine took.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Final

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from flows import ladder_words as words
from flows.ladder import STEPS, Cost
from flows.ladder_lift import MEASURES, Lift, Measure
from flows.ladder_words import Told
from flows.report.drawing import ACCENT, INK, MUTED, SECOND, drawing
from flows.report.figures import Drawn
from flows.report.numbers import NONE, change, count, duration_us

_HALF: Final = 0.32
"""Half the width of a step in the picture."""
_NARROW: Final = ("same for all", "static", "dynamic", "real-time")
"""The steps where there is little room."""


def render_page(tale: Told) -> str:
    """The page as HTML text."""
    climbed = tale.climbed
    size = climbed.size
    style = (files("flows.report") / "style.css").read_text(encoding="utf-8")
    facts = {
        "shops (seeds)": ", ".join(map(str, size.seeds)),
        "shoppers each": f"{size.shoppers:,}",
        "contents": f"{size.contents:,}",
        "days": f"{size.days:,}",
        "events": f"{climbed.events:,}",
    }
    listed = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in facts.items()
    )
    others = [measure for measure in MEASURES if measure is not tale.measure]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>The ladder</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"<header>\n<h1>The ladder</h1>\n"
        f'<p class="lead">{escape(words.conclusion(tale))}</p>\n'
        f'<dl class="facts">{listed}</dl>\n</header>\n'
        f"{_main_figure(tale)}\n{_verdicts(tale)}\n{_table(tale)}\n"
        f'<div class="grid">{"".join(_small_figure(tale, m) for m in others)}</div>\n'
        f"{_notes()}\n</main>\n</body>\n</html>\n"
    )


def _main_figure(tale: Told) -> str:
    measure = tale.measure
    drawn = _stairs(f"ladder-{measure.name}", tale, measure, wide=True)
    return _section(
        f"{measure.title[:1].upper()}{measure.title[1:]}: lift over {STEPS[0].title}",
        f"{measure.says[:1].upper()}{measure.says[1:]}. The bar is the lift, the line its 95 % "
        "interval, a dot is one shop. Below: what the step takes.",
        drawn,
        wide=True,
    )


def _small_figure(tale: Told, measure: Measure) -> str:
    drawn = _stairs(f"ladder-{measure.name}", tale, measure, wide=False)
    title = f"{measure.title[:1].upper()}{measure.title[1:]}"
    return _section(title, f"Lift over {STEPS[0].title}: {measure.says}.", drawn, wide=False)


def _section(title: str, note: str, drawn: Drawn | None, *, wide: bool) -> str:
    if drawn is None:
        body = '<p class="note">Nothing to compare: the first step has none of it.</p>'
    else:
        kind = "figure wide" if wide else "figure"
        body = f'<div class="{kind}" role="img" aria-label="{escape(drawn.says)}">{drawn.svg}</div>'
    return (
        f'<section>\n<h2>{escape(title)}</h2>\n<p class="note">{escape(note)}</p>\n{body}\n'
        "</section>"
    )


def _stairs(name: str, tale: Told, measure: Measure, *, wide: bool) -> Drawn | None:
    """The lift of every step over the first, with interval and shops."""
    lifts = [tale.baseline(measure, step) for step in range(len(STEPS))]
    known = [lift for lift in lifts if lift is not None and math.isfinite(lift.value)]
    if len(known) < len(STEPS) - 1:
        return None
    with drawing(name, wide=wide) as figure:
        axes = figure.axes
        box = axes.get_position()
        foot = 0.23 if wide else box.y0
        axes.set_position((box.x0, foot, box.width, box.y1 - foot))
        axes.axhline(0, color=MUTED, linewidth=0.8)
        for step, lift in enumerate(lifts):
            _stair(axes, step, lift, stands=step == tale.least and measure is tale.measure)
        ends = [0.0] + [y for lift in known for y in (lift.low, lift.high, *lift.by_seed)]
        least, most = min(ends), max(ends)
        room = max(most - least, 0.01)
        axes.set_ylim(least - 0.06 * room, most + 0.16 * room)
        axes.set_xlim(-0.5, len(STEPS) - 0.4)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: change(y) if y else "0"))
        axes.set_xticks(range(len(STEPS)))
        axes.set_xticklabels(
            [f"{s.title}\n{_takes(c)}" for s, c in zip(STEPS, tale.climbed.costs, strict=True)]
            if wide
            else _NARROW
        )
        for label in axes.get_xticklabels():
            label.set_linespacing(1.6)
    says = "; ".join(
        f"{step.title} {words.between(lift)}"
        for step, lift in zip(STEPS, lifts, strict=True)
        if lift is not None
    )
    return Drawn(figure.svg, f"{measure.title}, lift over {STEPS[0].title}: {says}.")


def _stair(axes: Axes, step: int, lift: Lift | None, *, stands: bool) -> None:
    height = 0.0 if lift is None else lift.value
    colour = ACCENT if stands else SECOND if lift is not None and lift.high < 0 else MUTED
    axes.bar(step, height, width=2 * _HALF, color=colour, alpha=0.3, linewidth=0)
    axes.plot([step - _HALF, step + _HALF], [height, height], color=colour, linewidth=2.4)
    if lift is None:
        axes.annotate(
            "baseline",
            xy=(step, 0),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            color=MUTED,
        )
        return
    axes.plot([step, step], [lift.low, lift.high], color=INK, linewidth=1.4)
    count_of = len(lift.by_seed)
    for number, value in enumerate(lift.by_seed):
        # Beside the line, apart from each other, so that equal ones are both seen.
        x = step + 0.18 + 0.12 * (number + 1) / (count_of + 1)
        axes.plot([x], [value], color=INK, marker="o", markersize=3.2, alpha=0.6, linestyle="")
    axes.annotate(
        change(lift.value),
        xy=(step, lift.high),
        xytext=(0, 4),
        textcoords="offset points",
        ha="center",
        color=INK,
        fontweight="bold" if stands else "normal",
    )


def _takes(cost: Cost) -> str:
    return f"{duration_us(cost.us_per_event)} an event\n{count(cost.profile_bytes)} bytes a profile"


def _verdicts(tale: Told) -> str:
    lines = "".join(f"<li>{escape(_sentence(words.verdict(v)))}.</li>" for v in tale.verdicts)
    return (
        f"<section>\n<h2>Does the step pay?</h2>\n"
        '<p class="note">Each step against the highest one below it that was shown to pay.</p>\n'
        f"<ul>{lines}</ul>\n</section>"
    )


def _table(tale: Told) -> str:
    head = "".join(f"<th>{escape(m.title)}</th>" for m in MEASURES)
    rows = []
    for index, (step, cost) in enumerate(zip(STEPS, tale.climbed.costs, strict=True)):
        cells = [_measured(tale, measure, index) for measure in MEASURES]
        takes = (
            f"{count(cost.profile_bytes)} bytes a profile",
            f"{cost.signals} signals, {cost.segments} segments",
        )
        rows.append(
            f'<tr><th scope="row">{index}. {escape(step.title)}</th>'
            + "".join(cells)
            + _cell(f"{duration_us(cost.us_per_event)} an event", *takes)
            + "</tr>"
        )
    return (
        "<section>\n<h2>What each step earns, and what it takes</h2>\n"
        '<p class="note">Under each value: the lift over the step below with its interval, then '
        "that lift in each shop.</p>\n"
        '<div class="scroll"><table>\n'
        f"<thead><tr><th>step</th>{head}<th>what it takes</th></tr></thead>\n"
        f"<tbody>{''.join(rows)}</tbody>\n</table></div>\n</section>"
    )


def _measured(tale: Told, measure: Measure, step: int) -> str:
    own = words.value(measure, tale.sample.value(measure, step))
    lift = tale.below(measure, step)
    if lift is None:
        return _cell(own, NONE)
    return _cell(own, words.between(lift), words.by_shop(lift))


def _cell(text: str, *small: str) -> str:
    return f"<td>{escape(text)}{''.join(f'<small>{escape(s)}</small>' for s in small)}</td>"


def _notes() -> str:
    notes: Sequence[str] = (
        words.METHOD,
        "Every step plays the same shops: visits and what shoppers do of their own accord are "
        "equal, and a reaction differs only where what was shown differs.",
        "Every step has the same learner, exploration, caps and rewards; they differ in what may "
        "be seen: " + "; ".join(f"{step.title}: {step.sees}" for step in STEPS) + ".",
        "Processor time is that of the whole flow on one machine, with learning and files, without "
        "the simulated shoppers. Bytes are those of a typical profile under the policy "
        "(nextbest check --estimate).",
    )
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<section><h2>Notes</h2><ul>{items}</ul></section>"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"
