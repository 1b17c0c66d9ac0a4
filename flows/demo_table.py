"""The closing lines of `demo` and `replay`: the arms side by side, and where every event went."""

from __future__ import annotations

from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table

from flows.report import Accounting
from flows.simulate.results import ArmResult, Interval, estimates, uplift


def arms_table(arms: tuple[ArmResult, ...]) -> Table:
    """The arms beside each other; the first is the subject, the uplift is its own over each."""
    table = Table(
        title="same shoppers, same draws; \\[95 % bootstrap interval over shoppers]",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in ("arm", "CTR", "conv.", "revenue", "CTR uplift", "conv. uplift"):
        justify: Literal["left", "right"] = "left" if heading == "arm" else "right"
        table.add_column(heading, justify=justify, no_wrap=True)
    for arm in arms:
        own = estimates(arm)
        over = None if arm is arms[0] else uplift(arms[0], arm)
        table.add_row(
            arm.name,
            _percent(own.ctr),
            _percent(own.conversion, digits=2),
            f"{own.revenue.value:,.2f}",
            "" if over is None else _signed(over.ctr),
            "" if over is None else _signed(over.conversion),
        )
    return table


def accounting_line(accounting: Accounting) -> str:
    """The accounting identity as one line, and whether it holds."""
    a = accounting
    return (
        f"events read {a.read:,} = used {a.used:,} + suppressed {a.suppressed:,} + duplicates "
        f"{a.duplicates:,} + late {a.late:,} + dead letters {a.dead_letters:,}"
        + ("" if a.missing == 0 else f"  BROKEN: {a.missing:,} unaccounted for")
    )


def _percent(interval: Interval, *, digits: int = 1) -> str:
    return f"{interval.value * 100:.{digits}f} %"


def _signed(interval: Interval) -> str:
    low, high = interval.low * 100, interval.high * 100
    # Escaped: a bracket would be read as markup.
    return f"{interval.value * 100:+.0f} % \\[{low:.0f}, {high:.0f}]"
