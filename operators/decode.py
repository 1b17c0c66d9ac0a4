"""Is this record an event we can use, and as of when?

State: per source partition the clock and the newest event time (rebuilt after a resume; shards
keep the watermarks). Outputs: arrived events, dead letters, and the number of unknown fields.
It knows nothing of profiles. Any bytes at all give either an event or a dead letter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

import orjson
from pydantic import ValidationError

from operators.arrival import LIVE, Arrived
from schemas.dead_letters import Code, DeadLetter, Stage
from schemas.events import REQUIRED_BY_TYPE, Candidate, Event
from schemas.policy import Sensitive, Time
from schemas.records import RawBatch, RawRecord
from schemas.time import to_millis

MAX_EVENT_BYTES: Final = 1 << 20
_INT64: Final = 1 << 63
V = TypeVar("V")

NEVER: Final = -(1 << 62)
"""Before every instant: the watermark of a partition nothing was read from yet."""


@dataclass
class Refused(Exception):
    """Why a record is not an event: stage, code, and a message that quotes no value."""

    stage: Stage
    code: Code
    message: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """One batch decoded; `watermarks` lists (partition, watermark in ms) known after it."""

    arrived: list[Arrived]
    dead_letters: list[DeadLetter]
    unknown_fields: int
    watermarks: tuple[tuple[int, int], ...]
    partitions: int
    partition: int = 0


@dataclass(slots=True)
class _Clock:
    now_ms: int = NEVER
    newest_ms: int = NEVER


@dataclass(slots=True)
class Decoder:
    """Turns raw batches into arrived events, dead letters and watermarks.

    `placements` are those a `decision_requested` may name. `initial_clock_ms` helps a log without
    a clock of its own past a first event with an absurd date.
    """

    time: Time
    sensitive: Sensitive
    placements: frozenset[str]
    initial_clock_ms: int | None = None
    max_event_bytes: int = MAX_EVENT_BYTES
    _clocks: dict[int, _Clock] = field(default_factory=dict)

    def decode(self, batch: RawBatch) -> Decoded:
        """Decode every record of a batch, in order."""
        arrived: list[Arrived] = []
        dead: list[DeadLetter] = []
        unknown = 0
        clock = self._clocks.get(batch.partition)
        if clock is None:
            clock = self._clocks[batch.partition] = _Clock(
                NEVER if self.initial_clock_ms is None else self.initial_clock_ms
            )
        for record in batch.records:
            try:
                event = parse_event(record, max_event_bytes=self.max_event_bytes)
                arrived.append(self._accept(event, record, batch.partition, clock))
                unknown += len(event.__pydantic_extra__ or ())
            except Refused as why:
                dead.append(
                    DeadLetter(
                        batch.source,
                        batch.partition,
                        record.offset,
                        why.stage,
                        why.code,
                        why.message,
                        record.key,
                        record.value,
                        record.headers,
                    )
                )
        return Decoded(
            arrived,
            dead,
            unknown,
            self._watermarks(batch, clock),
            batch.partitions,
            batch.partition,
        )

    def _watermarks(self, batch: RawBatch, clock: _Clock) -> tuple[tuple[int, int], ...]:
        lateness = self.time.allowed_lateness
        # Every partition this reader knows is named each time: a shard that nothing is sent to for
        # a while then catches up on all of them with its next batch.
        known = {p: self._watermark(c) for p, c in self._clocks.items() if c.newest_ms != NEVER}
        if batch.final and clock.newest_ms != NEVER:
            # At the end of a log nothing more can come: what is due by its own clock fires.
            known[batch.partition] = clock.now_ms
        # A quiet partition holds no event back, so its watermark follows the clock; otherwise the
        # profiles of a busy partition would wait for it for ever.
        for partition, now_ms in batch.idle:
            known[partition] = max(known.get(partition, NEVER), now_ms - lateness)
        return tuple(known.items())

    def _watermark(self, clock: _Clock) -> int:
        return min(clock.now_ms, clock.newest_ms) - self.time.allowed_lateness

    def _accept(self, event: Event, record: RawRecord, partition: int, clock: _Clock) -> Arrived:
        if event.type == "decision_requested" and event.placement not in self.placements:
            raise Refused("decode", "unknown_placement", "the policy has no such placement")
        occurred = to_millis(event.occurred_at)
        received = record.received_ms
        if received is None:
            # A log's clock is what its producer wrote, or else the newest event time. One absurd
            # date must not drag it along, so a leap beyond the longest plausible gap is refused.
            sent = event.received_at
            received = max(clock.now_ms, occurred) if sent is None else to_millis(sent)
            if clock.now_ms != NEVER and received - clock.now_ms > self.time.max_age:
                raise Refused("time", "in_the_future", "the event leaps ahead of the log")
        if occurred > received + self.time.future_tolerance:
            raise Refused("time", "in_the_future", "occurred_at lies ahead of the clock")
        if occurred < received - self.time.max_age:
            raise Refused("time", "too_old", "occurred_at lies further back than max_age")
        clock.now_ms = max(clock.now_ms, received)
        clock.newest_ms = max(clock.newest_ms, occurred)
        candidates = event.candidates
        hidden = self.sensitive
        return Arrived(
            event.event_id,
            event.user_id or event.anonymous_id or "",
            event.type,
            occurred,
            received,
            self._watermark(clock),
            partition,
            event.content_id,
            event.placement,
            event.decision_id,
            event.session_id,
            event.value,
            _without(event.context, hidden.context),
            _without(event.properties, hidden.properties),
            None
            if candidates is None
            else tuple(c.content_id if isinstance(c, Candidate) else c for c in candidates),
            event.slots,
            None if event.contents is None else tuple(event.contents),
            event.feedback,
            event.tag if event.tag not in hidden.tags else None,
            None if event.attributes is None else _without(event.attributes, hidden.attributes),
            event.consent,
            event.source,
            event.user_id or event.anonymous_id or "",
            LIVE,
            event.anonymous_id,
            event.preferences,
        )


def _without(mapping: dict[str, V], names: tuple[str, ...]) -> dict[str, V]:
    if not names or mapping.keys().isdisjoint(names):
        return mapping
    return {key: value for key, value in mapping.items() if key not in names}


def parse_event(record: RawRecord, *, max_event_bytes: int = MAX_EVENT_BYTES) -> Event:
    """The event a record holds: plain JSON, or CloudEvents 1.0 in binary or structured mode.

    Raises Refused, whose message names fields and types but never a value.
    """
    value = record.value
    if value is None:
        raise Refused("decode", "not_an_object", "the record has no value")
    if len(value) > max_event_bytes:
        raise Refused("decode", "oversize", f"{len(value)} bytes, at most {max_event_bytes}")
    if record.headers:
        value = _from_cloud_event(value, dict(record.headers))
    try:
        event = Event.model_validate_json(value)
    except ValidationError as error:
        raise _refusal(error, value) from None
    if event.user_id is None and event.anonymous_id is None:
        raise Refused("decode", "missing_profile", "expected user_id or anonymous_id")
    for name in REQUIRED_BY_TYPE.get(event.type, ()):
        if getattr(event, name) is None:
            raise Refused("decode", "missing_field", f"{event.type} needs {name}")
    if event.type == "feedback" and event.content_id is None and event.tag is None:
        raise Refused("decode", "missing_field", "feedback needs content_id or tag")
    # JSON's integers have no limit, those of a snapshot have: one more would stop every snapshot.
    stated = event.attributes.values() if event.attributes else ()
    if any(isinstance(value, int) and not -_INT64 <= value < _INT64 for value in stated):
        raise Refused("decode", "invalid_field", "invalid: attributes (beyond 64 bits)")
    return event


def _refusal(error: ValidationError, value: bytes) -> Refused:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    first = problems[0]
    if first["type"] == "json_invalid":
        try:
            value.decode()
        except UnicodeDecodeError:
            return Refused("decode", "not_utf8", "the value is not UTF-8")
        return Refused("decode", "not_json", "the value is not JSON")
    if not first["loc"]:
        return Refused("decode", "not_an_object", "expected a JSON object")
    # Only the declared field's name is quoted: deeper keys are the sender's own words.
    fields = sorted({str(problem["loc"][0]) for problem in problems})
    missing = [str(p["loc"][0]) for p in problems if p["type"] == "missing" and len(p["loc"]) == 1]
    if missing:
        return Refused("decode", "missing_field", f"missing: {', '.join(sorted(missing))}")
    return Refused("decode", "invalid_field", f"invalid: {', '.join(fields)} ({first['type']})")


_STRUCTURED: Final = b"application/cloudevents+json"
_ATTRIBUTES: Final = {"id": "event_id", "type": "type", "time": "occurred_at"}


def _from_cloud_event(value: bytes, headers: Mapping[str, bytes]) -> bytes:
    """The event's own JSON, with CloudEvents attributes filling what the data leaves out."""
    structured = headers.get("content-type", b"").split(b";")[0].strip() == _STRUCTURED
    if not structured and "ce_specversion" not in headers:
        return value
    try:
        body = orjson.loads(value)
        if structured:
            attributes, data = body, body.get("data")
        else:
            data = body
            attributes = {
                name: headers[f"ce_{name}"].decode()
                for name in _ATTRIBUTES
                if f"ce_{name}" in headers
            }
        known = {
            field: attributes[name] for name, field in _ATTRIBUTES.items() if name in attributes
        }
        if not isinstance(data, dict):
            raise Refused("decode", "not_an_object", "expected a JSON object as CloudEvents data")
        return orjson.dumps({**known, **data})
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        # Encoding refuses what is nested beyond 254 levels, which decoding lets through.
        raise Refused("decode", "not_json", "the value is not JSON") from None
    except (AttributeError, UnicodeDecodeError):
        raise Refused("decode", "not_an_object", "not a CloudEvents record") from None
