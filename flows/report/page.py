"""How do the parts become a page? One HTML file: inline CSS, inline SVG, no script, no address.

Whatever comes from data (names, ids, reasons) is escaped here, at the only place where text becomes
HTML. The same data gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Final

import numpy as np

from flows.report import figures
from flows.report.data import DecisionSeries, ReportData, ShownContent, ShownSeries
from flows.report.figures import Drawn
from flows.report.numbers import (
    NONE,
    amount,
    change,
    change_between,
    count,
    duration_us,
    percent,
)
from flows.simulate.results import ArmResult, Estimates, Interval, estimates, uplift

_TOP: Final = 12


def write_report(path: Path | str, data: ReportData) -> None:
    """Write the report as one self-contained HTML file (UTF-8)."""
    Path(path).write_text(render_report(data), encoding="utf-8")


def render_report(data: ReportData) -> str:
    """The report as HTML text."""
    data = _with_what_the_subject_tells(data)
    against = [(arm, uplift(data.arms[0], arm)) for arm in data.arms[1:]]
    style = (files("flows.report") / "style.css").read_text(encoding="utf-8")
    sections = [
        _header(data),
        _tiles(data, against),
        _arms(data.arms, against),
        _figure(
            figures.reward_over_time(data.arms),
            "Click rate over time",
            "Clicks per content shown, moving mean of a day; the band is the 95 % range of chance.",
            wide=True,
        ),
        _grid(data),
        _notes(data.notes),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(data.title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def _with_what_the_subject_tells(data: ReportData) -> ReportData:
    """Fill the parts that the first arm knows and the caller has not given."""
    if not data.arms:
        return data
    subject = data.arms[0]
    categories = np.asarray(subject.categories)
    if data.shown is None:
        groups = {
            str(name): subject.shown[:, categories == name].sum(axis=1).tolist()
            for name in sorted(set(subject.categories))
        }
        data = replace(data, shown=ShownSeries(subject.rush_ms.tolist(), groups))
    if not data.contents:
        shown, clicked = subject.shown.sum(axis=0), subject.clicked.sum(axis=0)
        contents = tuple(
            ShownContent(
                subject.content_ids[number],
                subject.categories[number],
                int(shown[number]),
                int(clicked[number]),
            )
            for number in np.argsort(-shown, kind="stable")[:_TOP]
        )
        data = replace(data, contents=contents)
    if data.decisions is None:
        data = replace(data, decisions=_decisions_per_rush(subject))
    return data


def _decisions_per_rush(arm: ArmResult) -> DecisionSeries:
    rush = np.searchsorted(arm.rush_ms, arm.tick_ms, side="right") - 1
    pages, explored, fallback = (
        np.bincount(rush, weights=column, minlength=len(arm.rush_ms)).astype(int).tolist()
        for column in (arm.pages, arm.explored, arm.fallback)
    )
    return DecisionSeries(arm.rush_ms.tolist(), pages, explored, fallback)


def _header(data: ReportData) -> str:
    facts = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in data.facts.items()
    )
    return (
        f"<header>\n<h1>{escape(data.title)}</h1>\n"
        + (f'<p class="lead">{escape(data.subtitle)}</p>\n' if data.subtitle else "")
        + (f'<dl class="facts">{facts}</dl>\n' if facts else "")
        + "</header>"
    )


def _tiles(data: ReportData, against: Sequence[tuple[ArmResult, Estimates]]) -> str:
    tiles: list[tuple[str, str, str]] = []
    if data.arms:
        subject = data.arms[0]
        tiles.append(
            (f"click rate of {subject.name}", percent(subject.ctr), "clicks per content shown")
        )
        tiles += [
            (f"clicks over {arm.name}", change(gain.ctr.value), change_between(gain.ctr))
            for arm, gain in against[:2]
        ]
    if data.latency is not None and len(data.latency.samples_us):
        median, high = np.quantile(np.asarray(data.latency.samples_us, dtype=float), [0.5, 0.99])
        tiles.append(
            (
                f"median for {data.latency.of}",
                duration_us(float(median)),
                f"99 % within {duration_us(float(high))}",
            )
        )
    if data.learned is not None and data.learned.decisions:
        per = data.learned.examples / data.learned.decisions
        tiles.append(
            (
                "examples learned per decision",
                amount(per),
                f"{count(data.learned.examples)} for {count(data.learned.decisions)} decisions",
            )
        )
    if data.accounting is not None and not data.arms:
        tiles.insert(0, ("events read", count(data.accounting.read), _booked(data)))
    if not tiles:
        return ""
    return (
        '<section class="tiles">'
        + "".join(
            f'<div class="tile"><div class="label">{escape(label)}</div>'
            f'<div class="number">{escape(number)}</div>'
            f'<div class="label">{escape(more)}</div></div>'
            for label, number, more in tiles
        )
        + "</section>"
    )


def _booked(data: ReportData) -> str:
    assert data.accounting is not None
    missing = data.accounting.missing
    return "all accounted for" if missing == 0 else f"{count(missing)} not accounted for"


def _arms(arms: Sequence[ArmResult], against: Sequence[tuple[ArmResult, Estimates]]) -> str:
    if not arms:
        return ""
    rows = []
    gains = {id(arm): gain for arm, gain in against}
    for arm in arms:
        own = estimates(arm)
        cells = [
            f'<th scope="row">{escape(arm.name)}</th>',
            _with_interval(percent(own.ctr.value, 2), _shares(own.ctr)),
            _with_interval(percent(own.conversion.value, 2), _shares(own.conversion)),
            _with_interval(
                amount(own.revenue.value),
                f"{amount(own.revenue.low)} to {amount(own.revenue.high)}",
            ),
            _cell(count(int(arm.impressions.sum()))),
            _cell(count(int(arm.clicks.sum()))),
            _cell(count(int(arm.purchases.sum()))),
        ]
        gain = gains.get(id(arm))
        for interval in (gain.ctr, gain.conversion, gain.revenue) if gain else ():
            cells.append(_with_interval(change(interval.value), change_between(interval)))
        cells += [_cell("")] * (0 if gain else 3)
        rows.append("<tr>" + "".join(cells) + "</tr>")
    subject = escape(arms[0].name)
    return f"""<section>
<h2>Result</h2>
<p class="note">Every arm met the same shoppers with the same draws. Click rate: clicks per content
shown. Conversion: purchases per page requested. Small figures: 95 % bootstrap over shoppers.</p>
<div class="scroll"><table>
<thead>
<tr><td></td><th colspan="6"></th><th colspan="3" class="span">{subject} is ahead by</th></tr>
<tr><th>arm</th><th>click rate</th><th>conversion</th><th>revenue per shopper</th><th>shown</th>
<th>clicks</th><th>purchases</th><th>click rate</th><th>conversion</th><th>revenue</th></tr>
</thead>
<tbody>{"".join(rows)}</tbody>
</table></div>
</section>"""


def _grid(data: ReportData) -> str:
    panels = [
        (
            figures.clicks_gained(data.arms),
            "Clicks gained",
            "More clicks than the other arm had by then.",
        ),
        (
            figures.shown_over_time(data.shown) if data.shown else None,
            "What was shown",
            "Share of each group among the contents shown, moving mean.",
        ),
        (
            figures.exploration_and_fallback(data.decisions) if data.decisions else None,
            "Exploration and fallback",
            "Share of decisions in which some item was not the greedy choice, and in which the "
            "default was shown.",
        ),
        (
            figures.segments_over_time(data.segments) if data.segments else None,
            "Segments",
            "Members of the largest segments.",
        ),
        (
            figures.latency_distribution(data.latency) if data.latency else None,
            "Latency",
            f"Time for {data.latency.of}, logarithmic." if data.latency else "",
        ),
        (
            figures.throughput_over_time(data.throughput) if data.throughput else None,
            "Throughput",
            "Events per second since the start of the run.",
        ),
        (
            figures.learning_over_time(data.learned) if data.learned else None,
            "Learning",
            "Examples learned per decision: unrewarded ones are sampled and weighted.",
        ),
    ]
    cells = [_figure(figure, title, note) for figure, title, note in panels]
    cells += [_accounting(data), _contents(data.contents), _rejections(data)]
    return '<div class="grid">' + "".join(cells) + "</div>" if any(cells) else ""


def _figure(drawn: Drawn | None, title: str, note: str, *, wide: bool = False) -> str:
    if drawn is None:
        return ""
    kind = "figure wide" if wide else "figure"
    return (
        f"<section>\n<h2>{escape(title)}</h2>\n"
        f'<p class="note">{escape(note)}</p>\n'
        f'<div class="{kind}" role="img" aria-label="{escape(drawn.says)}">{drawn.svg}</div>\n'
        "</section>"
    )


def _contents(contents: Sequence[ShownContent]) -> str:
    if not contents:
        return ""
    top = contents[:_TOP]
    most = max(content.shown for content in top) or 1
    with_clicks = any(content.clicks is not None for content in top)
    rows = [
        f'<tr><th scope="row">{escape(content.content_id)}</th>'
        f'<td class="text">{escape(content.group)}</td>'
        + _bar(content.shown, most)
        + (_cell(_click_rate(content)) if with_clicks else "")
        + "</tr>"
        for content in top
    ]
    rate = "<th>click rate</th>" if with_clicks else ""
    return _table(
        "Shown most",
        f'<th>content</th><th class="text">group</th><th>times shown</th><th></th>{rate}',
        rows,
    )


def _click_rate(content: ShownContent) -> str:
    if content.clicks is None or not content.shown:
        return NONE
    return percent(content.clicks / content.shown)


def _rejections(data: ReportData) -> str:
    top = sorted(data.rejections.items(), key=lambda item: (-item[1], item[0]))[:_TOP]
    if not top:
        return ""
    most = top[0][1] or 1
    rows = [
        f'<tr><th scope="row">{escape(reason)}</th>{_bar(times, most)}</tr>'
        for reason, times in top
    ]
    return _table("Candidates refused", "<th>reason</th><th>candidates</th><th></th>", rows)


def _accounting(data: ReportData) -> str:
    books = data.accounting
    if books is None:
        return ""
    parts = (
        ("used", books.used),
        ("suppressed", books.suppressed),
        ("duplicates", books.duplicates),
        ("late", books.late),
        ("dead letters", books.dead_letters),
    )
    rows = [
        f'<tr><th scope="row">{name}</th>{_cell(count(number))}'
        f"{_cell(percent(number / books.read, 2) if books.read else NONE)}</tr>"
        for name, number in parts
    ]
    state = "" if books.missing == 0 else ' class="wrong"'
    rows.append(
        f'<tr class="sum"><th scope="row">events read</th>{_cell(count(books.read))}'
        f"<td{state}>{escape(_booked(data))}</td></tr>"
    )
    return _table("Where every event went", "<th>events</th><th>number</th><th>share</th>", rows)


def _notes(notes: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<section><h2>Notes</h2><ul>{items}</ul></section>" if items else ""


def _table(title: str, head: str, rows: Sequence[str]) -> str:
    return (
        f'<section>\n<h2>{escape(title)}</h2>\n<div class="scroll"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{''.join(rows)}</tbody>\n</table></div>\n</section>"
    )


def _cell(text: str) -> str:
    return f"<td>{escape(text)}</td>"


def _bar(number: int, most: int) -> str:
    width = 100 * number / most
    return f'{_cell(count(number))}<td class="bar"><i style="width:{width:.1f}%"></i></td>'


def _with_interval(text: str, interval: str) -> str:
    return f"<td>{escape(text)}<small>{escape(interval)}</small></td>"


def _shares(interval: Interval) -> str:
    return f"{percent(interval.low, 2)} to {percent(interval.high, 2)}"
