"""Does one leaf of a condition hold: a signal, what was done, an attribute, the time of day?

Each function compiles one kind of leaf to a function from (profile, moment) to a verdict. What was
not watched for all of its window is unknown where an event missed could make the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, get_args
from zoneinfo import ZoneInfo

from operators import calendar
from operators.filters import number_of, values_of
from operators.ids import hash32
from operators.kinds import Value
from operators.moment import Moment
from operators.profile import Profile
from operators.signals import CompiledSignal
from operators.verdicts import Evaluate, Verdict, all_of, sooner
from schemas.conditions import (
    AttributeIs,
    ContextIs,
    Done,
    FieldIs,
    LocalTimeIs,
    NotDone,
    PredictionIs,
    Range,
    SignalIs,
    WeekdayIs,
)
from schemas.dates import Weekday, zone_of
from schemas.events import Scalar

_WEEKDAYS: Final = get_args(Weekday)
_DateOutlook = Callable[[object, int, int, ZoneInfo], calendar.Outlook]


def membership_leaf(segment: str) -> Evaluate:
    """Whether the profile is in a segment; changes come by events and timers of the segment."""
    return lambda profile, _moment: Verdict(segment in profile.segments, None)


def context_leaf(condition: ContextIs) -> Evaluate:
    """Whether a field of the moment's context is as asked."""
    field, test = condition.context, _field_test(condition)
    return lambda _profile, moment: Verdict(test(moment.context.get(field)), None)


def signal_leaf(condition: SignalIs, signal: CompiledSignal) -> Evaluate:
    """Whether a signal's value is as asked, or its age.

    A value is plain: it is what was seen. That something never happened is unknown until it would
    have been seen.
    """
    key, slot, bounds = condition.key, signal.slot, numbers_of(condition)
    within, beyond = condition.within, condition.not_within
    if within is None and beyond is None:
        test = _value_test(condition)
        return lambda profile, moment: Verdict(
            *signal.outlook(profile.signals, moment.now_ms, test, key, bounds=bounds)
        )
    watched = within if within is not None else beyond or 0

    def is_of_age(age: Value) -> bool:
        if not isinstance(age, (int, float)):
            return within is None
        return (within is None or age < within) and (beyond is None or age >= beyond)

    def evaluate(profile: Profile, moment: Moment) -> Verdict:
        now = moment.now_ms
        holds, until = signal.outlook(profile.signals, now, is_of_age, key, bounds=bounds)
        if signal.value(profile.signals, now, key) is None:
            settled = _watched_since(profile, moment, slot) + watched
            if now < settled:
                return Verdict(None, sooner(settled, until))
        return Verdict(holds, until)

    return evaluate


def moving_leaf(
    condition: SignalIs, signal: CompiledSignal, bound: str, moved: Callable[[], float | None]
) -> Evaluate:
    """A signal leaf one bound of which moves: `moved` gives it as of now (None: as declared).

    A bound that moved is seen when the profile is next evaluated, not before.
    """
    declared = signal_leaf(condition, signal)
    latest: dict[float, Evaluate] = {}

    def evaluate(profile: Profile, moment: Moment) -> Verdict:
        number = moved()
        if number is None:
            return declared(profile, moment)
        if number not in latest:
            latest.clear()
            latest[number] = signal_leaf(condition.model_copy(update={bound: number}), signal)
        return latest[number](profile, moment)

    return evaluate


def done_leaf(condition: Done | NotDone, signal: CompiledSignal) -> Evaluate:
    """Whether something was done so many times; `signal` counts it.

    Before the profile was watched for all of the window, too few is unknown, and so is "at most"
    of none; too many is false, and an upper bound is plain as soon as there is one. A range of
    dates that has not begun is unknown.
    """
    least, most = condition.times if isinstance(condition, Done) else (0, 0)
    follows = condition.then if isinstance(condition, Done) else None
    watched = (condition.within or 0) + (follows.gap if follows else 0)
    begins, slot = condition.from_, signal.slot
    bounds = (least,) if most is None else (least, most)
    # Unknown up to none at all, where that might yet turn out to be one of those asked for.
    bounds_seen = bounds if most is None else (0, *bounds)

    def as_asked(number: Value) -> bool:
        times = number if isinstance(number, (int, float)) else 0
        return least <= times and (most is None or times <= most)

    def as_far_as_seen(number: Value) -> Any:  # unknown, too: an outlook compares, whatever it is
        times = number if isinstance(number, (int, float)) else 0
        if most is not None and times > most:
            return False
        return None if times < least or (times == 0 and most is not None) else True

    def evaluate(profile: Profile, moment: Moment) -> Verdict:
        now, since = moment.now_ms, _watched_since(profile, moment, slot)
        settled: int | None = since + watched
        if begins is not None:
            if now < begins:
                return Verdict(None, begins)
            settled = begins if since <= begins else None
        if settled is not None and settled <= now:
            return Verdict(*signal.outlook(profile.signals, now, as_asked, bounds=bounds))
        holds, until = signal.outlook(profile.signals, now, as_far_as_seen, bounds=bounds_seen)
        return Verdict(holds, sooner(until, settled))

    return evaluate


def attribute_leaf(condition: AttributeIs) -> Evaluate:
    """Whether an attribute is as asked; its date, if it is one, may lie near the present."""
    name, test = condition.attribute, _field_test(condition)
    dates = [
        _date_leaf(name, span, outlook)
        for span, outlook in (
            (condition.anniversary_within, calendar.anniversary_outlook),
            (condition.within_next, calendar.next_outlook),
            (condition.within_last, calendar.last_outlook),
        )
        if span is not None
    ]

    def of_value(profile: Profile, _moment: Moment) -> Verdict:
        return Verdict(test(profile.attributes.get(name)), None)

    return all_of([of_value, *dates]) if dates else of_value


def _date_leaf(name: str, span_ms: int, outlook: _DateOutlook) -> Evaluate:
    def evaluate(profile: Profile, moment: Moment) -> Verdict:
        value = profile.attributes.get(name)
        if value is None:
            return Verdict(False, None)
        zone = zone_for(None, profile)
        if zone is None:
            return Verdict(None, None)
        try:
            return Verdict(*outlook(value, span_ms, moment.now_ms, zone))
        except (OverflowError, ValueError):  # a day next to it lies outside the calendar
            return Verdict(False, None)

    return evaluate


def local_time_leaf(condition: LocalTimeIs | WeekdayIs) -> Evaluate:
    """Whether it is that time of day, or weekday, where the person is."""
    hours = None
    if isinstance(condition, LocalTimeIs):
        hours = condition.local_time.from_, condition.local_time.to
    days = None
    if condition.weekday is not None:
        days = [_WEEKDAYS.index(day) for day in condition.weekday]
    asked, named = calendar.LocalHours(hours, days), condition.zone

    def evaluate(profile: Profile, moment: Moment) -> Verdict:
        zone = zone_for(named, profile)
        if zone is None:
            return Verdict(None, None)
        return Verdict(*asked.outlook(moment.now_ms, zone))

    return evaluate


def zone_for(named: str | None, profile: Profile) -> ZoneInfo | None:
    """The time zone named, else the profile's own, else UTC; None: there is none of that name."""
    own = profile.attributes.get("timezone") if named is None else named
    return zone_of("UTC" if own is None else str(own))


def prediction_leaf(condition: PredictionIs, refresh_ms: int) -> Evaluate:
    """Whether a prediction is as asked; unknown while nothing was learned.

    It is asked again every `refresh_ms`, each profile in its own instant of that period, so that
    not all are asked at once.
    """
    name, test = condition.prediction, _range_test(condition)

    def evaluate(profile: Profile, moment: Moment) -> Verdict:
        now = moment.now_ms
        value = moment.predict(name, profile, now)
        until = now + refresh_ms - (now - hash32(profile.profile_id)) % refresh_ms
        return Verdict(None if value is None else test(value), until)

    return evaluate


def _watched_since(profile: Profile, moment: Moment, slot: int) -> int:
    """Since when (ms) the events of a signal were watched for a profile."""
    return max(profile.first_ms, moment.since.get(slot, profile.first_ms))


def numbers_of(condition: SignalIs) -> tuple[float, ...]:
    """The numbers at which the truth about a signal's value may turn."""
    asked = (condition.is_, *(condition.one_of or ()), condition.within, condition.not_within)
    bounds = (getattr(condition, bound) for bound in Range.model_fields)
    found = (number_of(number) for number in (*asked, *bounds))
    return tuple(number for number in found if number is not None)


def _range_test(bounds: Range) -> Callable[[float], bool]:
    """`bounds.holds`; where there is one lower or upper bound, its comparison alone."""
    given = bounds.at_least, bounds.at_most, bounds.above, bounds.below, bounds.equals
    if sum(bound is not None for bound in given) == 1:
        if bounds.at_least is not None:
            return float(bounds.at_least).__le__
        if bounds.at_most is not None:
            return float(bounds.at_most).__ge__
    return bounds.holds


def _value_test(condition: SignalIs) -> Callable[[Value], bool]:
    """The test of a signal's value: a number, a text (which true and false are, too), or none."""
    in_range = _range_test(condition)
    allowed = [
        {form for value in values for form in _forms(value)}
        for field, values in (("is_", (condition.is_,)), ("one_of", condition.one_of or ()))
        if field in condition.model_fields_set
    ]
    if not allowed:
        return lambda value: isinstance(value, (int, float)) and in_range(value)
    bounded = condition.bounded

    def test(value: Value) -> bool:
        if bounded and not (isinstance(value, (int, float)) and in_range(value)):
            return False
        return all(value in forms for forms in allowed)

    return test


def _forms(asked: Scalar) -> tuple[Scalar, ...]:
    return values_of(asked) if isinstance(asked, bool) else (asked, *values_of(asked))


def _field_test(condition: FieldIs) -> Callable[[Scalar], bool]:
    asked = condition.model_fields_set

    def test(value: Scalar) -> bool:
        if condition.exists is not None and (value is not None) != condition.exists:
            return False
        if "is_" in asked and value != condition.is_:
            return False
        if condition.one_of is not None and value not in condition.one_of:
            return False
        if condition.bounded:
            number = number_of(value)
            return number is not None and condition.holds(number)
        return True

    return test
