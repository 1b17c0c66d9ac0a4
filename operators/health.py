"""Is the input as it usually is? Rates, freshness, properties and dead letters, per event type.

State, never kept beyond the process: per event type (at most `types`, the rest together as
`other`) its rhythm and rate, when it last happened, which properties it bears and how often. After
a restart everything is watched anew for `warm_up` before anything is said. Time is the log's clock,
one minute after the other, so a log says the same whenever it is read.

Alarms name event types and properties and never a value or a profile. Both names are the sender's
words, so `legible` bounds and cleans them, and a property is named only once it came often.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from operators.health_rates import RateWatch
from operators.health_shares import ShareWatch
from schemas.health import ALL, OTHER, Health, HealthAlarm
from schemas.time import DAY, MINUTE

Shape = tuple[str, ...]
"""What events have in common: their type, then the names of the properties they bear, each once.

The one name `UNTOLD` instead says that the properties are not known.
"""
UNTOLD: Final = "*"
Tally = list[int]
"""Of one shape: how many events, how many dated beyond the allowed lateness, the newest date."""

NAMES: Final = 64
_WATCHED: Final = 16
_WATCHED_IN_ALL: Final = 1_024
_USUAL: Final = 0.5
_WARM_EVENTS: Final = 100
_OFTEN: Final = 20
"""Events that must have borne a new property before it is named."""
_FORGET: Final = 7 * DAY // MINUTE


class Alarm(NamedTuple):
    """Something changed (`began`), or is as usual again or accepted as such.

    `was` is the usual and `is_` the present: events per minute for rates, else a share.
    `subject` is the property's name, or empty.
    """

    event_type: str
    what: HealthAlarm
    began: bool
    was: float
    is_: float
    at_ms: int
    subject: str = ""


class Reading(NamedTuple):
    """One event type in the last minute. `newest_ms` is the newest date of any of its events.

    `missing` is the share of events that lack a property they usually bear, `old` of those dated
    beyond the allowed lateness; both None in a minute without events.
    """

    event_type: str
    came: int
    expected: float
    newest_ms: int
    missing: float | None
    old: float | None
    unknown: int


def legible(name: str) -> str:
    """A sender's word as it may stand in a log or a label: short, plain, without long numbers.

    >>> legible("user_48213@example.org")
    'user_#.example.org'
    """
    return re.sub(r"[0-9a-f]*[0-9]{3,}[0-9a-f]*", "#", re.sub(r"[^A-Za-z0-9_.\-]", ".", name[:64]))


class _Type:
    def __init__(self, name: str, minute: int, health: Health) -> None:
        self.name = name
        self.first = minute
        self.last = minute
        self.events = 0
        self.newest_ms = 0
        self.rate = RateWatch(health)
        self.old = ShareWatch(
            change=health.share, rising=True, accept_minutes=health.accept_after // MINUTE
        )
        self.known: dict[str, int] = {}
        self.fresh: dict[str, int] = {}
        self.told: dict[str, int] = {}
        self.usual: dict[str, ShareWatch] = {}
        self.crowded = False

    def on(self) -> list[HealthAlarm]:
        """The alarms that are on."""
        found: list[HealthAlarm] = [] if self.rate.alarm is None else [self.rate.alarm]
        if self.old.on:
            found.append("dated_old")
        if any(share.on for share in self.usual.values()):
            found.append("missing_property")
        return found + (["new_property"] if self.told else [])


class _Minute:
    """What one type brought in one minute; all but `count` of those that were looked at."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.looked = self.old = self.told = self.missing = self.unknown = 0
        self.bearing: dict[str, int] = {}


class InputHealth:
    """Watches the input; `minute` is called for every minute of the log's clock, in order."""

    def __init__(self, health: Health, *, named: frozenset[str] = frozenset()) -> None:
        """`named` are the types that the policy names: they are watched whatever else comes."""
        self._health = health
        self._named = named
        self._types: dict[str, _Type] = {}
        self._dead = ShareWatch(
            change=health.dead_letters,
            rising=True,
            accept_minutes=health.accept_after // MINUTE,
        )
        self._watched = 0
        self.readings: list[Reading] = []
        self.dead_share = 0.0

    @property
    def on(self) -> list[tuple[str, HealthAlarm]]:
        """Every alarm that is on: event type and what."""
        found: list[tuple[str, HealthAlarm]] = [(ALL, "dead_letters")] if self._dead.on else []
        return found + [(one.name, what) for one in self._types.values() for what in one.on()]

    def minute(
        self, minute: int, counts: Mapping[str, int], shapes: Mapping[Shape, Tally], dead: int
    ) -> list[Alarm]:
        """Take in a minute (since the epoch) that is over, and its dead letters; its alarms.

        `counts` says how many events of each type came; `shapes` may be a sample of them.
        """
        at_ms = (minute + 1) * MINUTE
        brought: dict[str, _Minute] = {}
        for name, count in counts.items():
            one = self._of(name, minute)
            brought.setdefault(one.name, _Minute(0)).count += count
        for shape, tally in shapes.items():
            one = self._of(shape[0], minute)
            self._fold(one, brought[one.name], shape[1:], tally, warm=self._warm(one, minute))
        alarms: list[Alarm] = []
        self.readings = []
        for one in list(self._types.values()):
            now = brought.get(one.name)
            if now is None and minute - one.last >= _FORGET:
                alarms += [Alarm(one.name, what, False, 0.0, 0.0, at_ms) for what in one.on()]
                self._watched -= len(one.usual)
                del self._types[one.name]
                continue
            self._judge(one, now, minute, at_ms, alarms)
        self._judge_dead(sum(b.count for b in brought.values()), dead, minute, at_ms, alarms)
        return alarms

    def _of(self, name: str, minute: int) -> _Type:
        label = legible(name)
        one = self._types.get(label)
        if one is None:
            if (
                label != OTHER
                and len(self._types) >= self._health.types
                and name not in self._named
            ):
                return self._of(OTHER, minute)
            one = self._types[label] = _Type(label, minute, self._health)
        return one

    def _warm(self, one: _Type, minute: int) -> bool:
        long_enough = (minute - one.first) * MINUTE >= self._health.warm_up
        return long_enough and one.events >= _WARM_EVENTS

    def _fold(
        self, one: _Type, now: _Minute, names: tuple[str, ...], tally: Tally, *, warm: bool
    ) -> None:
        count, old, newest_ms = tally
        now.looked += count
        now.old += old
        one.newest_ms = max(one.newest_ms, newest_ms)
        if names == (UNTOLD,):
            return
        now.told += count
        unknown = False
        for name in names:
            if name in one.known:
                one.known[name] += count
                now.bearing[name] = now.bearing.get(name, 0) + count
            elif not warm and len(one.known) < NAMES:
                one.known[name] = count
                now.bearing[name] = count
            elif not warm:
                one.crowded = True
            else:
                unknown = True
                if name in one.fresh or len(one.fresh) < NAMES:
                    one.fresh[name] = one.fresh.get(name, 0) + count
        now.unknown += count if unknown else 0
        now.missing += count if not one.usual.keys() <= set(names) else 0

    def _judge(
        self, one: _Type, now: _Minute | None, minute: int, at_ms: int, alarms: list[Alarm]
    ) -> None:
        warm = self._warm(one, minute)
        count = 0 if now is None else now.count
        for change in one.rate.minute(minute, count, warm=warm):
            alarms.append(
                Alarm(one.name, change.verdict, change.began, change.was, change.is_, at_ms)
            )
        if now is not None:
            one.last = minute
            one.events += count
            self._judge_shares(one, now, minute, at_ms, alarms)
        self._judge_new(one, minute, at_ms, alarms)
        if warm and minute % 60 == 0:
            self._choose_usual(one)
        self.readings.append(
            Reading(
                one.name,
                count,
                one.rate.expected,
                one.newest_ms,
                now.missing / now.told if now is not None and now.told else None,
                now.old / now.looked if now is not None and now.looked else None,
                0 if now is None else now.unknown,
            )
        )

    def _judge_shares(
        self, one: _Type, now: _Minute, minute: int, at_ms: int, alarms: list[Alarm]
    ) -> None:
        if not now.looked:
            return
        old = one.old.minute(minute, now.old, now.looked)
        if old is not None:
            alarms.append(Alarm(one.name, "dated_old", old.began, old.was, old.is_, at_ms))
        for name, share in one.usual.items() if now.told else ():
            told = share.minute(minute, now.bearing.get(name, 0), now.told)
            if told is not None:
                alarms.append(
                    Alarm(
                        one.name,
                        "missing_property",
                        told.began,
                        told.was,
                        told.is_,
                        at_ms,
                        legible(name),
                    )
                )

    def _judge_new(self, one: _Type, minute: int, at_ms: int, alarms: list[Alarm]) -> None:
        accept = self._health.accept_after // MINUTE
        for name in [n for n, since in one.told.items() if minute - since >= accept]:
            del one.told[name]
            alarms.append(Alarm(one.name, "new_property", False, 0.0, 0.0, at_ms, legible(name)))
        if not one.crowded:
            for name in [n for n, count in one.fresh.items() if count >= _OFTEN]:
                if len(one.known) < NAMES:
                    one.told[name] = minute
                    one.known[name] = one.fresh[name]
                    alarms.append(
                        Alarm(one.name, "new_property", True, 0.0, 1.0, at_ms, legible(name))
                    )
                del one.fresh[name]
        if minute % 1_440 == 0:
            one.fresh.clear()

    def _choose_usual(self, one: _Type) -> None:
        for name, count in one.known.items():
            if name in one.usual or count < _USUAL * one.events:
                continue
            if len(one.usual) >= _WATCHED or self._watched >= _WATCHED_IN_ALL:
                return
            self._watched += 1
            one.usual[name] = ShareWatch(
                change=self._health.share,
                rising=False,
                accept_minutes=self._health.accept_after // MINUTE,
            )

    def _judge_dead(
        self, good: int, dead: int, minute: int, at_ms: int, alarms: list[Alarm]
    ) -> None:
        if good + dead == 0:
            return
        self.dead_share = dead / (good + dead)
        change = self._dead.minute(minute, dead, good + dead)
        if change is not None:
            alarms.append(Alarm(ALL, "dead_letters", change.began, change.was, change.is_, at_ms))
