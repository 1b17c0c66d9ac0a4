"""What the flow carries: one decoded event, flat, with its coordinates and its watermark.

A tuple, not a pydantic model: it crosses processes by pickle, where a tuple is far cheaper.
"""

from __future__ import annotations

from typing import NamedTuple

from pydantic import JsonValue

from schemas.events import Scalar


class Arrived(NamedTuple):
    """One accepted event.

    Times are milliseconds since the epoch. `watermark_ms` is the watermark of the event's
    partition as of this event: the event is late where it is older than its shard's watermark.
    """

    event_id: str
    profile_id: str
    type: str
    occurred_ms: int
    received_ms: int
    watermark_ms: int
    partition: int
    content_id: str | None
    placement: str | None
    decision_id: str | None
    session_id: str | None
    value: float | None
    context: dict[str, Scalar]
    properties: dict[str, JsonValue]
    candidates: tuple[str, ...] | None
    slots: int | None
    contents: tuple[str, ...] | None
    feedback: str | None
    tag: str | None
    attributes: dict[str, Scalar] | None
    consent: dict[str, bool] | None

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which a policy may count it: a feedback's kind is a name of its own."""
        kind = self.feedback
        return (self.type, kind) if kind and kind != self.type else (self.type,)
