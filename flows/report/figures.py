"""Which figures does a report show, and what do they say? One function per figure, numbers to SVG.

Every function returns a `Drawn` (SVG and a sentence for those who cannot see it), or None where
there is too little to draw. Lines are labelled at their ends rather than in a legend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from flows.report.data import (
    DecisionSeries,
    Latency,
    Learned,
    SegmentSeries,
    ShownSeries,
    Throughput,
)
from flows.report.drawing import (
    ACCENT,
    BANDS,
    INK,
    MUTED,
    PAPER,
    SECOND,
    SERIES,
    date_axis,
    drawing,
    label_ends,
)
from flows.report.numbers import count, duration_us, percent, signed
from flows.simulate.results import ArmResult

_WINDOW: Final = 3
"""Rushes in a moving mean: a day, because people click otherwise in the evening than at noon."""

_LINES: Final = 6
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Drawn:
    """A figure as SVG, and the same in a sentence."""

    svg: str
    says: str


def reward_over_time(arms: Sequence[ArmResult]) -> Drawn | None:
    """Click rate per arm, a moving mean over a day with its 95 % band."""
    if not arms or len(arms[0].rush_ms) < 2:
        return None
    with drawing("reward", wide=True) as figure:
        axes = figure.axes
        times = _dates(arms[0].rush_ms)
        ends = []
        for arm, colour in zip(arms, SERIES, strict=False):
            shown, clicks = (
                _moving_sum(table.sum(axis=1).astype(float)) for table in (arm.shown, arm.clicked)
            )
            rate = np.divide(clicks, shown, out=np.full_like(clicks, np.nan), where=shown > 0)
            error = 1.96 * np.sqrt(rate * (1 - rate) / np.maximum(shown, 1))
            axes.fill_between(
                times, rate - error, rate + error, color=colour, alpha=0.14, linewidth=0
            )
            subject = arm is arms[0]
            axes.plot(times, rate, color=colour, linewidth=2.2 if subject else 1.5)
            ends.append((float(rate[-1]), f"{arm.name} {percent(float(rate[-1]))}", colour))
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        date_axis(axes)
        label_ends(axes, times[-1], ends)
    says = "Click rate over the last day of the run: " + ", ".join(text for _, text, _ in ends)
    return Drawn(figure.svg, says + ".")


def clicks_gained(arms: Sequence[ArmResult]) -> Drawn | None:
    """Cumulative clicks of the first arm minus those of each other arm."""
    if len(arms) < 2 or len(arms[0].rush_ms) < 2:
        return None
    with drawing("gained") as figure:
        axes = figure.axes
        times = _dates(arms[0].rush_ms)
        own = np.cumsum(arms[0].clicked.sum(axis=1))
        ends = []
        for arm, colour in zip(arms[1:], SERIES[1:], strict=False):
            gained = own - np.cumsum(arm.clicked.sum(axis=1))
            axes.plot(times, gained, color=colour)
            ends.append((float(gained[-1]), f"over {arm.name}\n{signed(gained[-1])}", colour))
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
        date_axis(axes)
        label_ends(axes, times[-1], ends, gap=0.17)
    says = ", ".join(text.replace("\n", " ") for _, text, _ in ends)
    return Drawn(figure.svg, f"Clicks of {arms[0].name} {says}.")


def exploration_and_fallback(series: DecisionSeries) -> Drawn | None:
    """Share of decisions that explored, and share that fell back."""
    if len(series.times_ms) < 2:
        return None
    decisions = np.asarray(series.decisions, dtype=float)
    with drawing("exploration") as figure:
        axes = figure.axes
        times = _dates(series.times_ms)
        ends = []
        for name, part, colour in (
            ("explored", series.explored, ACCENT),
            ("fallback", series.fallback, SECOND),
        ):
            share = _moving_sum(np.asarray(part, dtype=float))
            whole = _moving_sum(decisions)
            share = np.divide(share, whole, out=np.full_like(share, np.nan), where=whole > 0)
            axes.plot(times, share, color=colour)
            ends.append((float(share[-1]), f"{name} {percent(float(share[-1]), 0)}", colour))
        axes.set_ylim(bottom=0, top=max(axes.get_ylim()[1], 0.02))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        date_axis(axes)
        label_ends(axes, times[-1], ends)
    says = "At the end, of all decisions: " + ", ".join(text for _, text, _ in ends)
    return Drawn(figure.svg, says + ".")


def shown_over_time(series: ShownSeries) -> Drawn | None:
    """Share of each group of contents among what was shown, stacked, greatest at the bottom."""
    if len(series.times_ms) < 2 or not series.groups:
        return None
    order = sorted(series.groups, key=lambda name: (-sum(series.groups[name]), name))
    names, rest = order[: len(BANDS) - 1], order[len(BANDS) - 1 :]
    table = [np.asarray(series.groups[name], dtype=float) for name in names]
    if rest:
        names = [*names, "other"]
        table.append(np.sum([series.groups[name] for name in rest], axis=0).astype(float))
    sums = np.stack([_moving_sum(row) for row in table])
    total = sums.sum(axis=0)
    shares = np.divide(sums, total, out=np.zeros_like(sums), where=total > 0)
    with drawing("shown") as figure:
        axes = figure.axes
        times = _dates(series.times_ms)
        axes.stackplot(times, shares, colors=BANDS, edgecolor=PAPER, linewidth=0.8)
        axes.grid(visible=False)
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        date_axis(axes)
        middle = np.cumsum(shares[:, -1]) - shares[:, -1] / 2
        label_ends(
            axes,
            times[-1],
            [
                (float(y), f"{name} {percent(float(share), 0)}", INK)
                for y, name, share in zip(middle, names, shares[:, -1], strict=True)
            ],
        )
    says = ", ".join(
        f"{name} {percent(float(share), 0)}"
        for name, share in zip(names, shares[:, -1], strict=True)
    )
    return Drawn(figure.svg, f"Shown at the end: {says}.")


def segments_over_time(series: SegmentSeries) -> Drawn | None:
    """Members of the largest segments over time."""
    if len(series.times_ms) < 2 or not series.members:
        return None
    order = sorted(series.members, key=lambda name: (-series.members[name][-1], name))[:_LINES]
    with drawing("segments") as figure:
        axes = figure.axes
        times = _dates(series.times_ms)
        ends = []
        for name, colour in zip(order, BANDS, strict=False):
            members = series.members[name]
            axes.plot(times, members, color=colour)
            ends.append((float(members[-1]), f"{name} {count(members[-1])}", INK))
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
        date_axis(axes)
        label_ends(axes, times[-1], ends)
    says = ", ".join(text for _, text, _ in ends)
    return Drawn(figure.svg, f"Members at the end: {says}.")


def latency_distribution(latency: Latency) -> Drawn | None:
    """Histogram of durations on a logarithmic axis, with the median, 95 % and 99 % marked."""
    samples = np.asarray(latency.samples_us, dtype=float)
    samples = samples[samples > 0]
    if len(samples) < 10:
        return None
    marks = np.quantile(samples, [0.5, 0.95, 0.99])
    low, high = np.quantile(samples, [0.0005, 0.9995])
    low, high = low / 1.2, max(high, marks[2]) * 1.3
    with drawing("latency") as figure:
        axes = figure.axes
        axes.hist(
            samples,
            bins=np.geomspace(low, high, 48).tolist(),
            color=ACCENT,
            alpha=0.75,
            edgecolor=PAPER,
            linewidth=0.6,
        )
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axes.grid(visible=False)
        axes.set_yticks([])
        _log_duration_ticks(axes, low, high)
        top = axes.get_ylim()[1]
        axes.set_ylim(0, top * 1.32)
        for level, (name, mark) in enumerate(zip(("p50", "p95", "p99"), marks, strict=True)):
            height = top * (1.26 - 0.115 * level)
            axes.plot([mark, mark], [0, height], color=INK, linewidth=0.9)
            axes.annotate(
                f"{name} {duration_us(float(mark))}",
                xy=(mark, height),
                xytext=(4, 0),
                textcoords="offset points",
                va="top",
                color=INK,
            )
    says = f"Half within {duration_us(float(marks[0]))}, 99 % within {duration_us(float(marks[2]))}"
    return Drawn(figure.svg, says + ".")


def throughput_over_time(series: Throughput) -> Drawn | None:
    """Events per second of wall time since the start, with the median."""
    if len(series.elapsed_s) < 2:
        return None
    rates = np.asarray(series.events_per_second, dtype=float)
    median = float(np.median(rates))
    with drawing("throughput") as figure:
        axes = figure.axes
        axes.plot(np.asarray(series.elapsed_s), rates, color=ACCENT, linewidth=1.2, alpha=0.7)
        axes.axhline(median, color=INK, linewidth=0.9, linestyle=(0, (3, 3)))
        axes.set_ylim(bottom=0)
        axes.margins(x=0.0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} s"))
        label_ends(axes, series.elapsed_s[-1], [(median, f"median {count(median)}/s", INK)])
    return Drawn(figure.svg, f"Median {count(median)} events per second.")


def learning_over_time(learned: Learned) -> Drawn | None:
    """Examples learned per decision, a moving mean."""
    if len(learned.times_ms) < 2:
        return None
    examples = _moving_sum(np.asarray(learned.examples_over_time, dtype=float))
    decisions = _moving_sum(np.asarray(learned.decisions_over_time, dtype=float))
    ratio = np.divide(examples, decisions, out=np.full_like(examples, np.nan), where=decisions > 0)
    with drawing("learning") as figure:
        axes = figure.axes
        times = _dates(learned.times_ms)
        axes.plot(times, ratio, color=ACCENT)
        axes.set_ylim(bottom=0)
        date_axis(axes)
        label_ends(axes, times[-1], [(float(ratio[-1]), f"{ratio[-1]:.2f}", ACCENT)])
    return Drawn(figure.svg, f"At the end {ratio[-1]:.2f} examples per decision.")


def _dates(times_ms: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.datetime64]:
    return np.asarray(times_ms, dtype=np.int64).astype("datetime64[ms]")


def _moving_sum(values: _Floats) -> _Floats:
    """Sum of the last `_WINDOW` values; the first ones have fewer.

    >>> _moving_sum(np.array([1.0, 1.0, 1.0, 2.0])).tolist()
    [1.0, 2.0, 3.0, 4.0]
    """
    return np.convolve(values, np.ones(_WINDOW))[: len(values)]


def _log_duration_ticks(axes: Axes, low: float, high: float) -> None:
    ticks = [
        factor * 10.0**power
        for power in range(-2, 9)
        for factor in (1, 2, 5)
        if low <= factor * 10.0**power <= high
    ]
    # At most seven labels fit under a figure of half the width.
    axes.xaxis.set_major_locator(FixedLocator(ticks[:: len(ticks) // 8 + 1]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: duration_us(value)))
