"""Does a condition hold for this profile now, and until when, if nothing else arrives?

A condition is compiled to a function from (profile, now, context) to a verdict: the truth, and the
first instant at which time alone may change it (None: never). A segment's timer is that instant.
`done` and `not_done` become signals of their own, compiled beside the declared ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from operators.filters import number_of
from operators.profile import Profile
from operators.signals import CompiledSignal, DecayedAffinity, LastTime, compile_signal
from schemas.conditions import (
    AllOf,
    AnyOf,
    AttributeIs,
    Condition,
    ContextIs,
    Done,
    FieldIs,
    InSegment,
    NotDone,
    NotOf,
    Range,
    SignalIs,
)
from schemas.events import Scalar
from schemas.signals import Count
from schemas.time import format_duration


class Verdict(NamedTuple):
    """Whether it holds, and when that may change by time alone (ms; None: never)."""

    holds: bool
    until_ms: int | None


Context = Mapping[str, Scalar]
Evaluate = Callable[[Profile, int, Context], Verdict]


class Compiler:
    """Compiles conditions against declared signals, collecting the signals that they imply.

    `signals` grows by an unnamed signal for each different `done`/`not_done`.
    """

    def __init__(self, signals: Mapping[str, CompiledSignal]) -> None:
        self.signals: dict[str, CompiledSignal] = dict(signals)

    def compile(self, condition: Condition) -> Evaluate:
        """The condition as a function; raises KeyError for a signal that is not declared."""
        match condition:
            case AllOf():
                return _all([self.compile(part) for part in condition.all])
            case AnyOf():
                return _any([self.compile(part) for part in condition.any])
            case NotOf():
                return _not(self.compile(condition.not_))
            case SignalIs():
                return _signal(condition, self.signals[condition.signal])
            case AttributeIs():
                name, test = condition.attribute, _field(condition)
                return lambda profile, _now, _context: Verdict(
                    test(profile.attributes.get(name)), None
                )
            case ContextIs():
                field, asked = condition.context, _field(condition)
                return lambda _profile, _now, context: Verdict(asked(context.get(field)), None)
            case InSegment():
                segment = condition.segment
                return lambda profile, _now, _context: Verdict(segment in profile.segments, None)
            case Done() | NotDone():
                return self._done(condition)

    def signal_of(self, condition: Condition) -> CompiledSignal | None:
        """The signal that a condition reads, implied ones included; None where it reads none."""
        match condition:
            case SignalIs():
                return self.signals[condition.signal]
            case Done() | NotDone():
                return self._implied(condition)
            case _:
                return None

    def _implied(self, condition: Done | NotDone) -> CompiledSignal:
        count = Count.model_validate(
            {
                "kind": "count",
                "events": condition.done if isinstance(condition, Done) else condition.not_done,
                "within": format_duration(condition.within),
                "where": condition.where,
            }
        )
        name = f"done:{count.model_dump_json(exclude_defaults=True)}"
        return self.signals.setdefault(name, compile_signal(name, count))

    def _done(self, condition: Done | NotDone) -> Evaluate:
        signal = self._implied(condition)
        if isinstance(condition, Done):
            bounds = SignalIs(
                signal=signal.name, at_least=condition.at_least, at_most=condition.at_most
            )
        else:
            bounds = SignalIs(signal=signal.name, at_most=0)
        return _signal(bounds, signal)


def _soonest(verdicts: list[Verdict]) -> int | None:
    return min((v.until_ms for v in verdicts if v.until_ms is not None), default=None)


def _all(parts: list[Evaluate]) -> Evaluate:
    def evaluate(profile: Profile, now_ms: int, context: Context) -> Verdict:
        verdicts = [part(profile, now_ms, context) for part in parts]
        return Verdict(all(v.holds for v in verdicts), _soonest(verdicts))

    return evaluate


def _any(parts: list[Evaluate]) -> Evaluate:
    def evaluate(profile: Profile, now_ms: int, context: Context) -> Verdict:
        verdicts = [part(profile, now_ms, context) for part in parts]
        return Verdict(any(v.holds for v in verdicts), _soonest(verdicts))

    return evaluate


def _not(part: Evaluate) -> Evaluate:
    def evaluate(profile: Profile, now_ms: int, context: Context) -> Verdict:
        verdict = part(profile, now_ms, context)
        return Verdict(not verdict.holds, verdict.until_ms)

    return evaluate


def _signal(condition: SignalIs, signal: CompiledSignal) -> Evaluate:
    slot, kind, within_bounds = signal.slot, signal.kind, _test(condition)
    if isinstance(kind, DecayedAffinity):
        key = condition.key or ""

        def of_affinity(profile: Profile, now_ms: int, _context: Context) -> Verdict:
            state = profile.signals.get(slot)
            return Verdict(
                within_bounds(kind.value_of(state, key, now_ms)),
                kind.next_change_of(state, key, now_ms, condition),
            )

        return of_affinity
    if isinstance(kind, LastTime):
        within, beyond = condition.within, condition.not_within

        def of_last(profile: Profile, now_ms: int, _context: Context) -> Verdict:
            state = profile.signals.get(slot)
            age = kind.value(state, now_ms)
            holds = (within is None or age < within) and (beyond is None or age >= beyond)
            if state is None:
                return Verdict(holds, None)
            turns = [int(state) + d for d in (within, beyond) if d is not None and age < d]
            return Verdict(holds, min(turns, default=None))

        return of_last

    def of_window(profile: Profile, now_ms: int, _context: Context) -> Verdict:
        return Verdict(*kind.outlook(profile.signals.get(slot), now_ms, within_bounds))

    return of_window


def _test(bounds: Range) -> Callable[[float], bool]:
    """`bounds.holds`; where there is one lower or upper bound, its comparison alone."""
    given = bounds.at_least, bounds.at_most, bounds.above, bounds.below, bounds.equals
    if sum(bound is not None for bound in given) == 1:
        if bounds.at_least is not None:
            return float(bounds.at_least).__le__
        if bounds.at_most is not None:
            return float(bounds.at_most).__ge__
    return bounds.holds


def _field(condition: FieldIs) -> Callable[[Scalar], bool]:
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
