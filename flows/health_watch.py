"""Is a tracker broken? What decode read, minute by minute, to metrics and log lines.

On the hot path an event costs one look-up: events of one type with the same properties are counted
together. Everything else happens when a minute of the log's clock is over on every partition that
this process reads. Nothing is kept: after a restart the input is watched anew before anything is
said of it. Processes of a cluster each watch their own partitions.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Final

from flows.telemetry import Telemetry
from operators.arrival import Arrived
from operators.decode import Decoded
from operators.health import UNTOLD, Alarm, InputHealth, Reading, Shape, Tally
from schemas.health import Health, HealthAlarm
from schemas.policy import Policy
from schemas.records import RawBatch
from schemas.time import MINUTE, rfc3339

_LOG = logging.getLogger("nextbest.health")

_SHAPES: Final = 4_096
"""Different sets of properties kept apart in one minute; further ones count by type only."""
_OPEN: Final = 120
"""Minutes that wait for a slower partition, and that a silent log is followed for."""

_FACTS: Final = itemgetter(
    *map(
        Arrived._fields.index,
        ("type", "occurred_ms", "received_ms", "content_id", "value", "properties"),
    )
)
_CLOSELY: Final = 64
"""Events of one type and minute that are all looked at; of more, every eighth, for eight."""

_Key = tuple[object, ...]
"""Type, whether content and value are absent, names of properties; or the type alone."""


class _Minute:
    """What was counted in a minute: events by type, and tallies by shape."""

    __slots__ = ("counts", "shapes")

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.shapes: dict[_Key, Tally] = {}

    def new(self, key: _Key) -> Tally:
        """The tally of a shape first seen, or of its type once there are too many."""
        if len(self.shapes) >= _SHAPES:
            key = key[:1]
        return self.shapes.setdefault(key, [0, 0, 0])


_NOTHING: Final = _Minute()
_FIELDS: Final = ("event.content_id", "event.value")


class HealthWatch:
    """Watches what is decoded; `saw` is called once per batch, of any partition."""

    def __init__(
        self,
        health: Health,
        telemetry: Telemetry,
        *,
        lateness_ms: int,
        named: frozenset[str] = frozenset(),
    ) -> None:
        """`named` are the event types of the policy; older than `lateness_ms` is dated old."""
        self._input = InputHealth(health, named=named)
        self._telemetry = telemetry
        self._lateness_ms = lateness_ms
        self._clocks: dict[int, int] = {}
        self._minutes: dict[int, _Minute] = {}
        self._dead: dict[int, int] = {}
        self._over: int | None = None
        self._heard = 0
        self._on: set[tuple[str, HealthAlarm]] = set()

    def saw(self, batch: RawBatch, decoded: Decoded) -> list[Alarm]:
        """Take in a batch and what decode made of it; the alarms that this began or ended."""
        if decoded.arrived:
            self._count(decoded.arrived)
        clocks = self._clocks
        clock = clocks.get(batch.partition)
        for record in batch.records[-1:]:
            if record.received_ms is not None and (clock is None or record.received_ms > clock):
                clock = record.received_ms
        for event in decoded.arrived[-1:]:
            if clock is None or event.received_ms > clock:
                clock = event.received_ms
        if clock is not None:
            clocks[batch.partition] = clock
            if decoded.dead_letters:
                minute = self._minute_of(clock)
                self._dead[minute] = self._dead.get(minute, 0) + len(decoded.dead_letters)
        for partition, now_ms in batch.idle:
            clocks[partition] = max(now_ms, clocks.get(partition, now_ms))
        return self._advance() if clocks else []

    def _minute_of(self, received_ms: int) -> int:
        minute = received_ms // MINUTE
        # What a slower partition brings after all counts in the first minute still open.
        return minute if self._over is None or minute > self._over else self._over + 1

    def _count(self, arrived: list[Arrived]) -> None:
        lateness = self._lateness_ms
        minute, since, until = _Minute(), 0, 0
        for type_, occurred, received, content, value, properties in map(_FACTS, arrived):
            # Hot: once per event. A busy type is looked at closely once in eight.
            if not since <= received < until:
                minute = self._minutes.setdefault(self._minute_of(received), _Minute())
                since = received // MINUTE * MINUTE
                until = since + MINUTE
            counts = minute.counts
            n = counts[type_] = counts.get(type_, 0) + 1
            weight = 1
            if n > _CLOSELY:
                if n & 7:
                    continue
                weight = 8
            key = (type_, content is None, value is None, *properties)
            tally = minute.shapes.get(key)
            if tally is None:
                tally = minute.new(key)
            tally[0] += weight
            if received - occurred > lateness:
                tally[1] += weight
            if occurred > tally[2]:
                tally[2] = occurred

    def _advance(self) -> list[Alarm]:
        newest = max(self._clocks.values()) // MINUTE
        clock_ms = max(min(self._clocks.values()), (newest - _OPEN) * MINUTE)
        upto = clock_ms // MINUTE - 1
        if self._over is None:
            self._over = self._heard = min([upto, *(minute - 1 for minute in self._minutes)])
        if upto <= self._over:
            return []
        alarms: list[Alarm] = []
        for minute in sorted(m for m in self._minutes.keys() | self._dead.keys() if m <= upto):
            self._pass(minute, alarms)
            alarms += self._close(minute)
            self._over = self._heard = minute
        self._pass(upto + 1, alarms)
        self._report(alarms, (upto + 1) * MINUTE)
        return alarms

    def _pass(self, until: int, alarms: list[Alarm]) -> None:
        # What is silent for longer is the log, not a tracker: that gap is left out.
        assert self._over is not None  # set before any minute is passed
        for minute in range(self._over + 1, min(until, self._heard + 1 + _OPEN)):
            alarms += self._close(minute)
        self._over = until - 1

    def _close(self, minute: int) -> list[Alarm]:
        counted = self._minutes.pop(minute, _NOTHING)
        shapes = {_shape(key): tally for key, tally in counted.shapes.items()}
        alarms = self._input.minute(minute, counted.counts, shapes, self._dead.pop(minute, 0))
        for reading in self._input.readings:
            if reading.unknown:
                self._telemetry.count(
                    "input_unknown_properties_total",
                    reading.unknown,
                    event_type=reading.event_type,
                )
        return alarms

    def _report(self, alarms: list[Alarm], at_ms: int) -> None:
        telemetry = self._telemetry
        for reading in self._input.readings:
            self._show(reading, at_ms)
        telemetry.set("input_dead_letter_ratio", self._input.dead_share)
        on = set(self._input.on)
        for event_type, what in on ^ self._on:
            telemetry.set(
                "input_alarm", (event_type, what) in on, event_type=event_type, alarm=what
            )
        self._on = on
        for alarm in alarms:
            if alarm.began:
                telemetry.count("input_alarms_total", event_type=alarm.event_type, alarm=alarm.what)
            level = logging.WARNING if alarm.began else logging.INFO
            _LOG.log(level, "%s", in_words(alarm))

    def _show(self, reading: Reading, at_ms: int) -> None:
        telemetry, name = self._telemetry, reading.event_type
        telemetry.set("input_events_per_minute", reading.came, event_type=name)
        telemetry.set("input_expected_events_per_minute", reading.expected, event_type=name)
        fresh = (at_ms - reading.newest_ms) / 1_000
        telemetry.set("input_freshness_seconds", fresh, event_type=name)
        if reading.missing is not None:
            telemetry.set("input_missing_ratio", reading.missing, event_type=name)
        if reading.old is not None:
            telemetry.set("input_dated_old_ratio", reading.old, event_type=name)


def _shape(key: _Key) -> Shape:
    """A shape by names: fields of the event itself stand among its properties."""
    if len(key) == 1:
        return (str(key[0]), UNTOLD)
    fields = [name for name, absent in zip(_FIELDS, key[1:3], strict=True) if not absent]
    return (str(key[0]), *fields, *map(str, key[3:]))


def in_words(alarm: Alarm) -> str:
    """An alarm as a line of log: what, of which event type, how much, and as of when."""
    subject = f" {alarm.subject}" if alarm.subject else ""
    what = f"{alarm.event_type}: {alarm.what}{subject}"
    at = rfc3339(alarm.at_ms)
    if not alarm.began:
        return f"input: {what}: over, at {at}"
    if alarm.what in ("silent", "rate_up", "rate_down"):
        return f"input: {what}: {alarm.is_:.4g} a minute, expected {alarm.was:.4g}, at {at}"
    if alarm.what == "new_property":
        return f"input: {what}: never seen before, at {at}"
    return f"input: {what}: share {alarm.is_:.3f}, usually {alarm.was:.3f}, at {at}"


def watch_of(policy: Policy, telemetry: Telemetry) -> HealthWatch:
    """The watch that a policy asks for; the event types that it names are always watched."""
    return HealthWatch(
        policy.health,
        telemetry,
        lateness_ms=policy.time.allowed_lateness,
        named=frozenset(named_types(policy)),
    )


def named_types(policy: Policy) -> Iterator[str]:
    """Every event type that a signal, a reward or a placement of a policy names."""
    for signal in policy.signals.values():
        yield from _named(signal)
    for reward in policy.rewards.values():
        yield from reward.events
    for placement in policy.placements.values():
        yield from placement.triggers


def _named(signal: object) -> Iterable[str]:
    named: Iterable[str] | None = getattr(signal, "events", None)
    return getattr(signal, "weights", ()) if named is None else named
