"""What the flow carries: one decoded event, flat, with its coordinates and its watermark.

A tuple, not a pydantic model: it crosses processes by pickle, where a tuple is far cheaper.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pydantic import JsonValue

from operators.ids import shard_of
from schemas.events import Scalar

LIVE: Final = 0
HISTORY: Final = 1
OUTCOME: Final = 2


class Arrived(NamedTuple):
    """One accepted event.

    Times are milliseconds since the epoch. `watermark_ms` is the watermark of the event's
    partition as of this event: the event is late where it is older than its shard's watermark.
    `profile_id` is whose profile it is about, `raw_id` the id as sent; they differ once linked.
    `mode` is LIVE; HISTORY for a copy of an event from before a link, which folds into the profile
    and triggers nothing; or OUTCOME for one that is only matched with a decision made before it.
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
    source: str | None = None
    raw_id: str = ""
    mode: int = LIVE
    anonymous_id: str | None = None
    preferences: dict[str, int] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which a policy may count it: a feedback's kind is a name of its own."""
        kind = self.feedback
        return (self.type, kind) if kind and kind != self.type else (self.type,)


class ShardBatch(NamedTuple):
    """What a source batch holds for one shard, and how far its partitions have come.

    `watermarks` lists (partition, watermark in ms); `partitions` is how many feed the shard.
    """

    shard: int
    events: list[Arrived]
    watermarks: tuple[tuple[int, int], ...]
    partitions: int


def group_by_shard(arrived: list[Arrived], *, shards: int) -> dict[int, list[Arrived]]:
    """Events by shard, each list in order of arrival."""
    grouped: dict[int, list[Arrived]] = {}
    for event in arrived:
        grouped.setdefault(shard_of(event.profile_id, shards=shards), []).append(event)
    return grouped
