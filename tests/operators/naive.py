"""What is true of a person, worked out from scratch from everything that ever arrived?

The yardstick of the machine that keeps a few numbers: this one keeps every event, reads the
policy's own words and recomputes. It shares the schemas with the product and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from schemas import conditions as asked
from schemas import signals as kinds
from schemas.events import Scalar
from schemas.policy import Policy

Value = float | str | None
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Happened:
    """One event: the how-manieth to arrive, and what it said."""

    number: int
    type: str
    at_ms: int
    value: float | None = None
    content_id: str | None = None
    tags: tuple[str, ...] = ()


@dataclass
class Person:
    """Everything that ever happened to one person, as far as it may be kept."""

    first_ms: int
    events: list[Happened] = field(default_factory=list)
    attributes: dict[str, Scalar] = field(default_factory=dict)
    allowed: bool = True
    taste_from: int = 0


@dataclass
class World:
    """What is watched under a policy: of each definition, from which arrival and instant on."""

    policy: Policy
    from_number: dict[str, int] = field(default_factory=dict)
    since_ms: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.from_number = dict.fromkeys(self._definitions(self.policy), 0)

    def adopt(self, policy: Policy, *, number: int, newest_ms: int) -> None:
        """Go on under another policy: what was not watched before starts with nothing."""
        known, self.policy = self.from_number, policy
        definitions = self._definitions(policy)
        self.from_number = {key: known.get(key, number) for key in definitions}
        self.since_ms = {
            key: self.since_ms[key] if key in known else newest_ms + 1
            for key in definitions
            if key not in known or key in self.since_ms
        }

    @staticmethod
    def _definitions(policy: Policy) -> set[str]:
        leaves = [leaf for s in policy.segments.values() for leaf in leaves_of(s.when)]
        return {_key(n, s) for n, s in policy.signals.items()} | {
            _watched(leaf) for leaf in leaves if isinstance(leaf, asked.Done | asked.NotDone)
        }

    def segments(self, person: Person, now_ms: int) -> set[str]:
        """The segments a person is in at an instant."""
        if not person.allowed:
            return set()
        return {name for name in self.policy.segments if self.member(person, name, now_ms)}

    def member(self, person: Person, name: str, now_ms: int) -> bool:
        """Whether a person is in a segment at an instant: what is unknown lets nobody in."""
        return self.holds(self.policy.segments[name].when, person, now_ms) is True

    def holds(self, condition: asked.Condition, person: Person, now_ms: int) -> bool | None:
        """Whether a condition holds at an instant; None: it is unknown."""
        match condition:
            case asked.AllOf():
                parts = [self.holds(part, person, now_ms) for part in condition.all]
                return False if False in parts else None if None in parts else True
            case asked.AnyOf():
                parts = [self.holds(part, person, now_ms) for part in condition.any]
                return True if True in parts else None if None in parts else False
            case asked.NotOf():
                truth = self.holds(condition.not_, person, now_ms)
                return None if truth is None else not truth
            case asked.InSegment():
                return self.member(person, condition.segment, now_ms)
            case asked.AttributeIs():
                return person.attributes.get(condition.attribute) == condition.is_
            case asked.LocalTimeIs():
                return _in_hours(condition, now_ms)
            case asked.SignalIs():
                return self._of_signal(condition, person, now_ms)
            case asked.Done() | asked.NotDone():
                return self._of_done(condition, person, now_ms)
            case _:
                raise NotImplementedError(type(condition))

    def _of_signal(self, condition: asked.SignalIs, person: Person, now_ms: int) -> bool | None:
        value = self.value(condition.signal, person, now_ms, condition.key)
        if condition.not_within is not None:
            if value is None:
                key = _key(condition.signal, self.policy.signals[condition.signal])
                watched = self._watched_ms(key, person, now_ms)
                return True if watched >= condition.not_within else None
            assert isinstance(value, (int, float))
            return value >= condition.not_within
        if condition.is_ is not None:
            return value == condition.is_
        return isinstance(value, (int, float)) and condition.holds(value)

    def _of_done(
        self, condition: asked.Done | asked.NotDone, person: Person, now_ms: int
    ) -> bool | None:
        within, gap = condition.within or 0, 0
        events = self._kept(_watched(condition), person)
        least: int
        most: int | None
        if isinstance(condition, asked.NotDone):
            least, most = 0, 0
            number = len(_in_window(_of(events, condition.not_done), within, now_ms))
        else:
            least, most = condition.times
            first = _of(events, condition.done)
            if condition.then is not None:
                gap = condition.then.gap
                second = _of(events, condition.then.done)
                number = _followed(first, second, gap, within, now_ms)
            elif condition.not_then is not None:
                second = _of(events, condition.not_then.done)
                number = _not_followed(first, second, condition.not_then.gap, within, now_ms)
            else:
                number = len(_in_window(first, within, now_ms))
        if self._watched_ms(_watched(condition), person, now_ms) >= within + gap:
            return least <= number and (most is None or number <= most)
        # Something may have happened before anybody watched: more is possible, less is not.
        if most is not None and number > most:
            return False
        if number < least or (number == 0 and most is not None):
            return None
        return True

    def _watched_ms(self, key: str, person: Person, now_ms: int) -> int:
        return now_ms - max(person.first_ms, self.since_ms.get(key, person.first_ms))

    def _kept(self, key: str, person: Person) -> list[Happened]:
        start = self.from_number[key]
        return [event for event in person.events if event.number > start]

    def value(self, name: str, person: Person, now_ms: int, key: str | None = None) -> Value:
        """What a signal is worth at an instant."""
        signal = self.policy.signals[name]
        if isinstance(signal, kinds.Ratio):
            of, to = (self.value(part, person, now_ms) for part in (signal.of, signal.to))
            assert not isinstance(of, str)
            assert not isinstance(to, str)
            return of / to if of is not None and to else None
        events = [e for e in self._kept(_key(name, signal), person) if e.at_ms <= now_ms]
        if isinstance(signal, kinds.Affinity):
            return math.fsum(
                signal.weights[e.type] * 2.0 ** ((e.at_ms - now_ms) / signal.half_life)
                for e in events
                if e.number > person.taste_from and e.type in signal.weights and key in e.tags
            )
        if isinstance(signal, kinds.Sequence):
            return _sequence(signal, events, now_ms)
        if signal.events is not None:
            events = _of(events, signal.events)
        match signal:
            case kinds.Last() | kinds.First():
                return _first_or_last(signal, events, now_ms)
            case kinds.Streak():
                return _streak(signal, events, now_ms)
            case kinds.Session():
                return _session(signal, events, now_ms)
            case kinds.Rfm():
                return _rfm(signal, _in_window(events, signal.within, now_ms), now_ms, key)
            case _:
                return _of_window(signal, _in_window(events, signal.within, now_ms))

    def in_window(self, name: str, person: Person, now_ms: int) -> int:
        """How many events a windowed signal has to keep at an instant."""
        signal = self.policy.signals[name]
        if isinstance(signal, kinds.Ratio):
            return max(self.in_window(part, person, now_ms) for part in (signal.of, signal.to))
        events = self._kept(_key(name, signal), person)
        if isinstance(signal, kinds.Sequence | kinds.Affinity):
            return len(events)
        within = getattr(signal, "within", None)
        chosen = _of(events, signal.events) if signal.events else events
        return len(_in_window(chosen, within, now_ms)) if within else len(chosen)


def leaves_of(condition: asked.Condition) -> Iterable[asked.Condition]:
    """The conditions within a condition that are not made of others."""
    match condition:
        case asked.AllOf():
            for part in condition.all:
                yield from leaves_of(part)
        case asked.AnyOf():
            for part in condition.any:
                yield from leaves_of(part)
        case asked.NotOf():
            yield from leaves_of(condition.not_)
        case _:
            yield condition


def _key(name: str, signal: kinds.Signal) -> str:
    return f"{name} {signal.model_dump_json()}"


def _watched(condition: asked.Condition) -> str:
    """What has to be watched to know it: the bounds on its number change nothing of that."""
    said = condition.model_dump(mode="json", exclude={"at_least", "at_most", "exactly"})
    events = said.pop("not_done", None) or said.pop("done")
    return f"{sorted(events)} {sorted((k, str(v)) for k, v in said.items() if v)}"


def _of(events: Iterable[Happened], types: Sequence[str]) -> list[Happened]:
    return [event for event in events if event.type in types]


def _in_window(events: Iterable[Happened], within: int, now_ms: int) -> list[Happened]:
    return [event for event in events if now_ms - within < event.at_ms <= now_ms]


def _followed(
    first: list[Happened], second: list[Happened], gap: int, within: int, now_ms: int
) -> int:
    return sum(
        any(0 < b.at_ms - a.at_ms <= gap for a in first) for b in _in_window(second, within, now_ms)
    )


def _not_followed(
    first: list[Happened], second: list[Happened], gap: int, within: int, now_ms: int
) -> int:
    return sum(
        not any(0 < b.at_ms - a.at_ms <= gap for b in second)
        for a in _in_window(first, within, now_ms)
        if now_ms - a.at_ms > gap
    )


def _sequence(signal: kinds.Sequence, events: list[Happened], now_ms: int) -> float:
    first = _of(events, signal.first.events)
    if signal.then is not None:
        second = _of(events, signal.then.events)
        return float(_followed(first, second, signal.gap, signal.within, now_ms))
    assert signal.not_then is not None
    second = _of(events, signal.not_then.events)
    return float(_not_followed(first, second, signal.gap, signal.within, now_ms))


def _of_window(signal: kinds.Signal, events: list[Happened]) -> Value:
    values = [event.value for event in events if event.value is not None]
    match signal:
        case kinds.Count():
            return float(len(events))
        case kinds.Sum():
            return math.fsum(values)
        case kinds.Mean():
            return math.fsum(values) / len(values) if values else None
        case kinds.Min():
            return min(values, default=None)
        case kinds.Max():
            return max(values, default=None)
        case kinds.Distinct():
            return float(len({e.content_id for e in events if e.content_id is not None}))
        case _:
            raise NotImplementedError(type(signal))


def _first_or_last(signal: kinds.Last | kinds.First, events: list[Happened], now_ms: int) -> Value:
    if signal.of is not None:
        events = [event for event in events if event.content_id is not None]
    if not events:
        return None
    choose: Callable[[Iterable[int]], int] = max if isinstance(signal, kinds.Last) else min
    at = choose(event.at_ms for event in events)
    if signal.of is None:
        return float(now_ms - at)
    return max(event.content_id or "" for event in events if event.at_ms == at)


def _local(at_ms: int, zone: str) -> datetime:
    return (_EPOCH + timedelta(milliseconds=at_ms)).astimezone(ZoneInfo(zone))


def _streak(signal: kinds.Streak, events: list[Happened], now_ms: int) -> float:
    def period(at_ms: int) -> int:
        day = _local(at_ms, signal.zone).date()
        return day.toordinal() if signal.per == "day" else (day.toordinal() - 1) // 7

    had = {period(event.at_ms) for event in events}
    last = period(now_ms)
    if last not in had:
        last -= 1  # today may still bring one
    length = 0
    while last - length in had:
        length += 1
    return float(length)


def _session(signal: kinds.Session, events: list[Happened], now_ms: int) -> float:
    events = sorted(events, key=lambda event: event.at_ms)
    sessions: list[list[Happened]] = [events[:1]] if events else []
    for before, event in pairwise(events):
        if event.at_ms - before.at_ms >= signal.gap:
            sessions.append([])
        sessions[-1].append(event)
    if signal.measure == "sessions":
        assert signal.within is not None
        return float(sum(now_ms - session[-1].at_ms < signal.within for session in sessions))
    if not sessions or now_ms - sessions[-1][-1].at_ms >= signal.gap:
        return 0.0
    current = sessions[-1]
    length = current[-1].at_ms - current[0].at_ms
    match signal.measure:
        case "events":
            return float(len(current))
        case "length":
            return float(length)
        case "depth":
            return float(len({e.content_id for e in current if e.content_id is not None}))
        case _:
            return length / (len(current) - 1) if len(current) > 1 else 0.0


def _rfm(signal: kinds.Rfm, events: list[Happened], now_ms: int, key: str | None) -> Value:
    if not events:
        return None if key == "recency" else 0.0
    recency = now_ms - max(event.at_ms for event in events)
    monetary = math.fsum(event.value or 0.0 for event in events)
    match key:
        case "recency":
            return float(recency)
        case "frequency":
            return float(len(events))
        case "monetary":
            return monetary
        case _:
            return float(
                5
                - sum(recency >= bound for bound in signal.recency)
                + 1
                + sum(len(events) >= bound for bound in signal.frequency)
                + 1
                + sum(monetary >= bound for bound in signal.monetary)
            )


def _in_hours(condition: asked.LocalTimeIs, now_ms: int) -> bool:
    local = _local(now_ms, condition.zone or "UTC")
    of_day = local.hour * 60 + local.minute
    begin, end = condition.local_time.from_, condition.local_time.to
    return begin <= of_day < end if begin < end else of_day >= begin or of_day < end
