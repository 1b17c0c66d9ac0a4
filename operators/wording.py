"""What does a leaf of a condition say, in words?

>>> from schemas.conditions import InSegment
>>> leaf_text(InSegment(segment="vip"))
'in segment vip'
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from schemas.conditions import (
    AttributeIs,
    Condition,
    ContextIs,
    Done,
    FilterValue,
    Following,
    HasIntent,
    InSegment,
    LocalTimeIs,
    NotDone,
    PredictionIs,
    Range,
    SignalIs,
    ValueIs,
    WeekdayIs,
)
from schemas.dates import format_time_of_day
from schemas.time import DAY, format_duration, rfc3339


def leaf_text(condition: Condition) -> str:
    """The words of a condition that is no combination; empty for one that is."""
    match condition:
        case SignalIs():
            name = (
                condition.signal
                if condition.key is None
                else f"{condition.signal} of {condition.key}"
            )
            ages = (("within", condition.within), ("not within", condition.not_within))
            return f"{name} {' and '.join([*_asked(condition), *_spans(ages)])}"
        case AttributeIs():
            spans = (
                ("anniversary within", condition.anniversary_within),
                ("within next", condition.within_next),
                ("within last", condition.within_last),
            )
            asked = [*_exists(condition.exists), *_asked(condition), *_spans(spans)]
            return f"attribute {condition.attribute} {' and '.join(asked)}"
        case ContextIs():
            asked = [*_exists(condition.exists), *_asked(condition)]
            return f"context {condition.context} {' and '.join(asked)}"
        case InSegment():
            return f"in segment {condition.segment}"
        case HasIntent():
            return f"intent is {condition.intent}"
        case PredictionIs():
            return f"prediction {condition.prediction} {' and '.join(_bounds(condition))}"
        case Done():
            return _done(condition)
        case NotDone():
            return f"{_doing(condition.not_done, condition.where)} not done{_when(condition)}"
        case LocalTimeIs():
            hours = condition.local_time
            begin, end = format_time_of_day(hours.from_), format_time_of_day(hours.to)
            days = "" if condition.weekday is None else f" on {', '.join(condition.weekday)}"
            return f"local time {begin} to {end}{days}{_zone(condition.zone)}"
        case WeekdayIs():
            return f"local weekday {', '.join(condition.weekday)}{_zone(condition.zone)}"
        case _:
            return ""


def span_text(span_ms: int) -> str:
    """A duration as one says it: a week is 7 days.

    >>> span_text(604_800_000), span_text(5_400_000)
    ('7d', '90m')
    """
    return f"{span_ms // DAY}d" if span_ms and span_ms % DAY == 0 else format_duration(span_ms)


def _done(condition: Done) -> str:
    least, most = condition.times
    if condition.exactly is not None:
        times = f" exactly {_times(least)}"
    elif most is not None:
        times = f" {least} to {_times(most)}"
    else:
        times = "" if least == 1 else f" at least {_times(least)}"
    text = f"{_doing(condition.done, condition.where)} done{times}{_when(condition)}"
    if condition.then is not None:
        return f"{text}, then {_following(condition.then)}"
    if condition.not_then is not None:
        return f"{text}, then no {_following(condition.not_then)}"
    return text


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _following(after: Following) -> str:
    return f"{_doing(after.done, after.where)} within {span_text(after.gap)}"


def _doing(events: Iterable[str], where: Mapping[str, FilterValue]) -> str:
    text = " or ".join(events)
    if not where:
        return text
    tests = [f"{field} {_wanted(wanted)}" for field, wanted in where.items()]
    return f"{text} ({' and '.join(tests)})"


def _wanted(wanted: FilterValue) -> str:
    if isinstance(wanted, Range):
        return " and ".join(_bounds(wanted))
    if isinstance(wanted, list):
        return f"one of {', '.join(map(_plain, wanted))}"
    return _plain(wanted)


def _when(condition: Done | NotDone) -> str:
    if condition.from_ is None:
        return f" within {span_text(condition.within or 0)}"
    until = "" if condition.until is None else f" until {_date(condition.until)}"
    return f" from {_date(condition.from_)}{until}"


def _date(instant_ms: int) -> str:
    text = rfc3339(instant_ms)
    return text[:10] if instant_ms % DAY == 0 else text


def _zone(zone: str | None) -> str:
    return "" if zone is None else f" in {zone}"


def _exists(exists: bool | None) -> list[str]:
    return [] if exists is None else ["exists" if exists else "does not exist"]


def _asked(condition: ValueIs) -> list[str]:
    asked = []
    if "is_" in condition.model_fields_set:
        asked.append(f"is {_plain(condition.is_)}")
    if condition.one_of is not None:
        asked.append(f"is one of {', '.join(map(_plain, condition.one_of))}")
    return [*asked, *_bounds(condition)]


def _bounds(bounds: Range) -> list[str]:
    return [
        f"{name.replace('_', ' ')} {number:g}"
        for name in Range.model_fields
        if (number := getattr(bounds, name)) is not None
    ]


def _spans(spans: Iterable[tuple[str, int | None]]) -> list[str]:
    return [f"{word} {span_text(span)}" for word, span in spans if span is not None]


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "nothing" if value is None else str(value)
