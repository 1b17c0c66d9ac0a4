"""How is the ladder said? The same figures and sentences on the terminal, the page and as JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from flows.ladder import STEPS, Climbed
from flows.ladder_lift import (
    DRAWS,
    MEASURES,
    Lift,
    Measure,
    Sample,
    Verdict,
    least_that_pays,
    verdicts,
)
from flows.report.numbers import NONE, amount, change, percent
from flows.simulate.results import Interval

METHOD: Final = (
    "95 % intervals: paired bootstrap over shoppers, drawn again within each shop with all that "
    f"they did in every step ({DRAWS:,} draws, percentiles of the ratio of sums over all shops). "
    "They speak of these shops and of shoppers like theirs, each interval by itself; the lift "
    "in each shop stands beside them."
)


@dataclass(frozen=True)
class Told:
    """A ladder that was climbed, compared by one measure."""

    climbed: Climbed
    sample: Sample
    measure: Measure
    verdicts: tuple[Verdict, ...]

    @property
    def least(self) -> int:
        """The minimum complexity that pays."""
        return least_that_pays(self.verdicts)

    def below(self, measure: Measure, step: int) -> Lift | None:
        """The lift over the step below; None for the first."""
        return self.sample.lift(measure, step, step - 1) if step else None

    def baseline(self, measure: Measure, step: int) -> Lift | None:
        """The lift over the first step; None for the first."""
        return self.sample.lift(measure, step, 0) if step else None


def told(climbed: Climbed, *, measure: str = MEASURES[0].name, draws: int | None = None) -> Told:
    """Compare the steps; raises KeyError for a measure that there is not."""
    chosen = {m.name: m for m in MEASURES}[measure]
    sample = Sample(climbed.sums) if draws is None else Sample(climbed.sums, draws=draws)
    return Told(climbed, sample, chosen, tuple(verdicts(sample, chosen, steps=len(STEPS))))


def verdict(said: Verdict) -> str:
    """Whether one step pays over another, as a sentence.

    >>> verdict(Verdict(3, 2, Lift(0.05, 0.01, 0.09, (0.05,))))
    'real-time decisions pay over dynamic segments: +5.0 % [+1.0, +9.0]'
    """
    subject, other = STEPS[said.step].title, STEPS[said.over].title
    if said.pays:
        return f"{subject} pay over {other}: {between(said.lift)}"
    costs = said.lift.high < 0
    outcome = "earn less" if costs else "are not shown to pay"
    return f"{subject} {outcome} {'than' if costs else 'over'} {other}: {between(said.lift)}"


def conclusion(tale: Told) -> str:
    """The minimum complexity that pays, as a sentence."""
    if not tale.least:
        return (
            f"By {tale.measure.title}, no step was shown to pay over {STEPS[0].title}: "
            "more shoppers or more days may tell."
        )
    return f"The minimum complexity that pays, by {tale.measure.title}: {STEPS[tale.least].title}."


def between(lift: Lift) -> str:
    """A lift with its interval in percent.

    >>> between(Lift(-0.012, -0.05, 0.026, ()))
    '−1.2 % [−5.0, +2.6]'
    """
    if math.isnan(lift.value):
        return NONE
    text = f"{100 * lift.value:+.1f} % [{100 * lift.low:+.1f}, {100 * lift.high:+.1f}]"
    return text.replace("-", "−")


def by_shop(lift: Lift) -> str:
    """The lift of each shop, in percent."""
    return ", ".join(change(value) for value in lift.by_seed)


def value(measure: Measure, interval: Interval) -> str:
    """A measure's own value: a rate in percent, an amount with decimals."""
    return _number(measure, interval.value)


def _number(measure: Measure, number: float) -> str:
    return percent(number, 2) if measure.name in ("ctr", "conversion") else amount(number, 3)


def record(tale: Told) -> dict[str, Any]:
    """Everything as plain data; a number that does not exist is null."""
    climbed, sample = tale.climbed, tale.sample
    size = climbed.size
    steps = []
    for index, (step, cost, digest) in enumerate(
        zip(STEPS, climbed.costs, climbed.digests, strict=True)
    ):
        steps.append(
            {
                "name": step.name,
                "title": step.title,
                "sees": step.sees,
                "policy_digest": digest,
                "measures": {m.name: _interval(sample.value(m, index)) for m in MEASURES},
                "over_below": {m.name: _lift(tale.below(m, index)) for m in MEASURES},
                "over_baseline": {m.name: _lift(tale.baseline(m, index)) for m in MEASURES},
                "cost": {
                    "us_per_event": cost.us_per_event,
                    "profile_bytes": cost.profile_bytes,
                    "signals": cost.signals,
                    "segments": cost.segments,
                },
            }
        )
    return {
        "shops": {
            "seeds": list(size.seeds),
            "shoppers": size.shoppers,
            "contents": size.contents,
            "days": size.days,
        },
        "events": climbed.events,
        "unaccounted": climbed.unaccounted,
        "method": METHOD,
        "measures": {m.name: m.says for m in MEASURES},
        "steps": steps,
        "verdict": {
            "measure": tale.measure.name,
            "steps": [
                {
                    "step": STEPS[said.step].name,
                    "over": STEPS[said.over].name,
                    "pays": said.pays,
                    "lift": _lift(said.lift),
                    "says": verdict(said),
                }
                for said in tale.verdicts
            ],
            "least_that_pays": STEPS[tale.least].name,
            "says": conclusion(tale),
        },
    }


def _interval(interval: Interval) -> dict[str, float | None]:
    return {
        "value": _known(interval.value),
        "low": _known(interval.low),
        "high": _known(interval.high),
    }


def _lift(lift: Lift | None) -> dict[str, Any] | None:
    if lift is None:
        return None
    return {
        "value": _known(lift.value),
        "low": _known(lift.low),
        "high": _known(lift.high),
        "by_seed": [_known(value) for value in lift.by_seed],
    }


def _known(number: float) -> float | None:
    return None if math.isnan(number) else number
