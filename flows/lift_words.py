"""How is a lift said? One wording for the terminal and the page."""

from __future__ import annotations

from typing import Final

from operators.lift import Lift, MetricLift, VariantLift
from operators.sequential import LEAST_NONZERO, LEAST_UNITS, Bounds

DASH: Final = "–"
RATIO_ALPHA: Final = 0.001
"""Below it the shares are called wrong: one in a thousand tests in order is, looked at for ever."""
_SHARES: Final = frozenset({"conversion", "retention"})


def value(metric: str, number: float | None, *, sign: bool = False) -> str:
    """A value of a metric, or with `sign` a difference of two: of shares, in percentage points.

    >>> value("conversion", 0.0512), value("session_time", 90.0), value("click", -0.2, sign=True)
    ('5.12 %', '90.0 s', '−0.2000')
    """
    if number is None:
        return DASH
    plus = "+" if sign else ""
    if is_share(metric):
        text = f"{100 * number:{plus}.2f} {'pp' if sign else '%'}"
    elif metric == "session_time":
        text = f"{number:{plus},.1f} s"
    else:
        digits = 2 if abs(number) >= 1 or metric.startswith("order_value") else 4
        text = f"{number:{plus},.{digits}f}"
    return text.replace("-", "−")


def is_share(metric: str) -> bool:
    """Whether a metric is a share of profiles."""
    return metric.partition(".")[0] in _SHARES


def lift(number: float | None) -> str:
    """A relative difference.

    >>> lift(0.123), lift(None)
    ('+12.3 %', '–')
    """
    return DASH if number is None else f"{100 * number:+,.1f} %".replace("-", "−")


def between(low: str, high: str) -> str:
    """The two ends of an interval."""
    return f"{low} to {high}"


def lift_between(bounds: Bounds) -> str:
    """The interval of a lift; a dash where it has no end on either side."""
    if bounds.low is None or bounds.high is None:
        return DASH
    return between(lift(bounds.low), lift(bounds.high))


def difference_between(metric: str, bounds: Bounds) -> str:
    """The interval of a difference."""
    return between(value(metric, bounds.low, sign=True), value(metric, bounds.high, sign=True))


def verdict(metric: MetricLift, variant: VariantLift) -> str:
    """What may be said of a variant by one metric."""
    said = variant.compared
    if said is None:
        return "too little"
    if metric.guardrail:
        return "got worse" if said.worst < 0.0 else "no harm shown"
    low, high = said.bounds
    if low is not None and low > 0.0:
        return "better"
    if high is not None and high < 0.0:
        return "worse"
    return "open"


def ratio(test: Lift) -> str:
    """What the sample-ratio check says."""
    if test.shares_moved:
        return "shares moved while it ran: profiles are weighted by 1 / share"
    if test.ratio_p is None:
        return "shares are not checked: the log does not tell them, a policy would (--policy)"
    if test.ratio_p <= RATIO_ALPHA:
        return (
            f"SHARES ARE NOT AS DECLARED (p = {test.ratio_p:.2g}): something loses or adds "
            "profiles in one arm, and no figure here can be trusted"
        )
    return f"shares are as declared (p = {test.ratio_p:.2g})"


def is_broken(test: Lift) -> bool:
    """Whether the shares are so far from those declared that nothing can be trusted."""
    return test.ratio_p is not None and test.ratio_p <= RATIO_ALPHA


def exposed(test: Lift) -> str:
    """How many profiles each arm has."""
    return ", ".join(f"{variant} {count:,}" for variant, count in test.exposed.items())


def confidence(test: Lift) -> str:
    """How sure an interval is.

    >>> from types import SimpleNamespace
    >>> confidence(SimpleNamespace(alpha=0.025))
    '97.5 %'
    """
    return f"{100 * (1 - test.alpha):.4g} %"


NEEDED: Final = (
    f"too little: an interval needs {LEAST_UNITS} finished profiles in each arm, and "
    f"{LEAST_NONZERO} in both together that are not at 0 and not all alike"
)
