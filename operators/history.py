"""What is held of an anonymous id, in case it is linked? Its newest events, encoded, for a while.

State: of each id at most `events` events of the last `carry` of event time, and whether it allows
collecting. What is held is the newest by date, whatever order events arrive in. Where a policy asks
for consent to collect, nothing but statements (consent, feedback) is held before it is given.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections import Counter
from typing import Any, Final

import msgspec

from operators.arrival import Arrived
from operators.consent import is_on
from operators.decode import NEVER
from operators.ids import hash64
from schemas.events import LINK_TYPES, Scalar
from schemas.identity import Identity
from schemas.policy import Consent

MOST_EVENT_BYTES: Final = 2_048
"""A larger event is held without its context and properties, or not at all."""
_STATEMENTS: Final = frozenset({"consent_changed", "feedback"})
_NOT_HELD: Final = LINK_TYPES | {"erasure_requested", "taste_reset"}
_NEWEST: Final = struct.Struct(">q")


class Held(msgspec.Struct, array_like=True, gc=False):
    """One event of an anonymous id, without what is meaningless once it is history."""

    event_id: str
    type: str
    occurred_ms: int
    content_id: str | None
    placement: str | None
    decision_id: str | None
    session_id: str | None
    value: float | None
    context: dict[str, Scalar]
    properties: dict[str, Any]
    contents: tuple[str, ...] | None
    feedback: str | None
    tag: str | None
    attributes: dict[str, Scalar] | None
    consent: dict[str, bool] | None
    source: str | None


_Entry = tuple[int, int, bool, bytes]
"""(occurred at in ms, hash of the event id, whether a statement, encoded event)."""


class HistoriesWire(msgspec.Struct, array_like=True):
    """The state, for a snapshot. Fields are only ever appended, each with a default."""

    swept_ms: int
    buffers: dict[str, bytes]
    consents: dict[str, tuple[bool, int]]


_ENCODER: Final = msgspec.msgpack.Encoder()
_ENTRIES: Final = msgspec.msgpack.Decoder(list[_Entry])
_EVENT: Final = msgspec.msgpack.Decoder(Held)


class Histories:
    """The histories of at most `most` anonymous ids; the stalest give way.

    What is counted: `not_held` (too large, or one id too many) and `expired`.
    """

    def __init__(self, policy: Identity, consent: Consent, *, most: int) -> None:
        self._policy = policy
        self._consent = consent
        self._most = most
        # Bytes, not objects: an id that is quiet costs what its events take, and a snapshot copies.
        self._buffers: dict[str, bytes] = {}
        self._consents: dict[str, tuple[bool, int]] = {}
        self._swept_ms = NEVER

    def __len__(self) -> int:
        return len(self._buffers)

    def hold(self, event: Arrived, watermark_ms: int, counts: Counter[str]) -> None:
        """Add an event of an id that is linked to nobody."""
        if not self._policy.events:
            return
        member = event.raw_id
        allowed = self._may_hold(event)
        entries = _entries(self._buffers.get(member))
        if not allowed or event.type == "taste_reset":
            entries = [entry for entry in entries if entry[2]]
        statement = event.type in _STATEMENTS
        recent = event.occurred_ms > watermark_ms - self._policy.carry
        if recent and event.type not in _NOT_HELD and (allowed or statement):
            encoded = _encoded(event)
            if encoded is None:
                counts["not_held"] += 1
            else:
                _insert(entries, (event.occurred_ms, hash64(event.event_id), statement, encoded))
        entries = entries[-self._policy.events :]
        if entries:
            self._buffers[member] = _NEWEST.pack(entries[-1][0]) + _ENCODER.encode(entries)
        else:
            self._buffers.pop(member, None)
        self._hold_bounds(counts)

    def take(self, member: str, *, since_ms: int) -> list[Held]:
        """What an id did after an instant, oldest first; nothing of it is held from then on."""
        self._consents.pop(member, None)
        entries = _entries(self._buffers.pop(member, None))
        return [_EVENT.decode(entry[3]) for entry in entries if entry[0] > since_ms]

    def sweep(self, watermark_ms: int, counts: Counter[str]) -> None:
        """Let go of ids that were quiet for `carry`; looks for them eight times in that time."""
        if watermark_ms < self._swept_ms + max(1, self._policy.carry // 8):
            return
        self._swept_ms = watermark_ms
        oldest = watermark_ms - self._policy.carry
        for member in [m for m, block in self._buffers.items() if _newest(block) <= oldest]:
            del self._buffers[member]
            counts["expired"] += 1
        stated_since = watermark_ms - self._policy.keep
        for member in [m for m, stated in self._consents.items() if stated[1] <= stated_since]:
            del self._consents[member]

    def wire(self) -> HistoriesWire:
        """The state."""
        return HistoriesWire(
            self._swept_ms,
            dict(sorted(self._buffers.items())),
            dict(sorted(self._consents.items())),
        )

    def restore(self, wire: HistoriesWire) -> None:
        """Take over a state."""
        self._swept_ms = wire.swept_ms
        self._buffers = wire.buffers
        self._consents = wire.consents

    def _may_hold(self, event: Arrived) -> bool:
        """Whether behaviour of this id may be kept; notes what the event itself says of that."""
        signalled = "collect" in self._consent.gpc and is_on(event.context.get("gpc"))
        purpose = self._consent.collect
        if purpose is None:
            return not signalled
        granted = (event.consent or {}).get(purpose) if event.type == "consent_changed" else None
        known = self._consents.get(event.raw_id)
        # As in a profile: the newer statement holds, and of one instant the refusal.
        if granted is not None and (
            known is None or (event.occurred_ms, not granted) > (known[1], not known[0])
        ):
            known = self._consents[event.raw_id] = (granted, event.occurred_ms)
        if signalled:
            return False
        return self._consent.before_known == "granted" if known is None else known[0]

    def _hold_bounds(self, counts: Counter[str]) -> None:
        # Many at once: finding the stalest takes a sort.
        if len(self._buffers) > self._most:
            stalest = sorted(self._buffers, key=lambda m: (_newest(self._buffers[m]), m))
            for member in stalest[: max(1, self._most // 64)]:
                del self._buffers[member]
                counts["not_held"] += 1
        if len(self._consents) > self._most:
            oldest = sorted(self._consents, key=lambda m: (self._consents[m][1], m))
            for member in oldest[: max(1, self._most // 64)]:
                del self._consents[member]


def _insert(entries: list[_Entry], entry: _Entry) -> None:
    position = bisect_left(entries, entry[:2], key=lambda held: held[:2])
    if position == len(entries) or entries[position][:2] != entry[:2]:
        entries.insert(position, entry)


def _entries(block: bytes | None) -> list[_Entry]:
    return [] if block is None else _ENTRIES.decode(memoryview(block)[_NEWEST.size :])


def _newest(block: bytes) -> int:
    (newest,) = _NEWEST.unpack_from(block)
    return int(newest)


def _encoded(event: Arrived) -> bytes | None:
    """The bytes of an event to hold; None where even its bare fields are too many."""
    whole = Held(
        event.event_id,
        event.type,
        event.occurred_ms,
        event.content_id,
        event.placement,
        event.decision_id,
        event.session_id,
        event.value,
        event.context,
        event.properties,
        event.contents,
        event.feedback,
        event.tag,
        event.attributes,
        event.consent,
        event.source,
    )
    for held in (whole, msgspec.structs.replace(whole, context={}, properties={})):
        try:
            encoded = _ENCODER.encode(held)
        except (OverflowError, ValueError, RecursionError):
            continue  # a number beyond 64 bits, or nested too deeply: JSON has no such limits
        if len(encoded) <= MOST_EVENT_BYTES:
            return encoded
    return None
