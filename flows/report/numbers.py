"""How does a number look to a reader? Short, with its unit, a dash where there is none."""

from __future__ import annotations

import math
from typing import Final

from flows.simulate.results import Interval

NONE: Final = "–"
_THIN: Final = "\u202f"
"""A narrow space that does not break: between thousands and before a unit."""


def count(value: float) -> str:
    """A whole number with thin spaces between thousands.

    >>> count(1234567).replace("\u202f", " ")
    '1 234 567'
    """
    return NONE if math.isnan(value) else f"{round(value):,}".replace(",", _THIN)


def signed(value: float) -> str:
    """A whole number with its sign.

    >>> signed(-1200).replace("\u202f", " ")
    '−1 200'
    """
    return ("−" if value < 0 else "+") + count(abs(value))


def amount(value: float, decimals: int = 2) -> str:
    """A number with decimals, or a dash."""
    return NONE if math.isnan(value) else f"{value:,.{decimals}f}".replace(",", _THIN)


def percent(share: float, decimals: int = 1) -> str:
    """A share as a percentage.

    >>> percent(0.0812).replace("\u202f", " ")
    '8.1 %'
    """
    return NONE if math.isnan(share) else f"{100 * share:.{decimals}f}{_THIN}%"


def change(relative: float) -> str:
    """A relative difference with its sign.

    >>> change(-0.051).replace("\u202f", " ")
    '−5 %'
    """
    return NONE if math.isnan(relative) else f"{100 * relative:+.0f}{_THIN}%".replace("-", "−")


def change_between(interval: Interval) -> str:
    """The ends of an interval of relative differences."""
    return f"{change(interval.low)} to {change(interval.high)}"


def duration_us(microseconds: float) -> str:
    """A duration in the unit that suits it.

    >>> [duration_us(x).replace("\u202f", " ") for x in (0.5, 42.0, 1500.0, 2e6)]
    ['0.5 µs', '42 µs', '1.5 ms', '2 s']
    """
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if microseconds >= size:
            return f"{microseconds / size:.3g}{_THIN}{unit}"
    return f"{microseconds:.3g}{_THIN}µs"
