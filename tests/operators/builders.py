"""What do tests of the core build on? Valid defaults for everything the flow takes in.

Each builder gives something valid on its own; a test names only what it is about. Times are
milliseconds since the epoch, counted from `T0`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any, Final

import orjson

from operators.arrival import LIVE, Arrived
from operators.decide import Decide
from operators.decode import Decoder
from operators.ids import shard_of
from operators.outputs import Record
from operators.parameters import LocalParameters, Parameters
from operators.plan import Plan, compile_plan
from operators.profile import Profile
from operators.shard import Shard, ShardBatch
from schemas.catalogue import Content
from schemas.digest import catalogue_version, policy_digest
from schemas.policy import Policy
from schemas.records import RawBatch, RawRecord
from schemas.time import rfc3339

T0: Final = 1_767_225_600_000
"""2026-01-01T00:00:00Z: a midnight, so that days and hours begin at round numbers."""

USER: Final = "u1"
_LATENESS: Final = 60_000
_ids = count(1)


def fresh_id(prefix: str = "e") -> str:
    """An id that no other call of this test gives; draws depend on it, so tests start alike."""
    return f"{prefix}{next(_ids)}"


def begin_ids() -> None:
    """Start over with `e1`: before each test, so that none depends on which ran before it."""
    global _ids
    _ids = count(1)


def event(*, at: int = T0, type: str | None = "view", **fields: Any) -> dict[str, Any]:
    """An event as a producer sends it; a field given as None is left out."""
    sent: dict[str, Any] = {
        "event_id": fresh_id(),
        "user_id": USER,
        "type": type,
        "occurred_at": rfc3339(at),
        **fields,
    }
    return {name: value for name, value in sent.items() if value is not None}


def record(
    value: Mapping[str, Any] | bytes | None = None,
    *,
    offset: int = 0,
    received_ms: int | None = T0,
    headers: Mapping[str, bytes] | None = None,
) -> RawRecord:
    """A record as it was read: an event (or raw bytes) with coordinates."""
    body = value if isinstance(value, bytes) else orjson.dumps(event() if value is None else value)
    return RawRecord(offset, received_ms, None, body, tuple((headers or {}).items()))


def raw_batch(
    records: Iterable[RawRecord | Mapping[str, Any] | bytes],
    *,
    partition: int = 0,
    partitions: int = 1,
    idle: tuple[tuple[int, int], ...] = (),
    final: bool = False,
    received_ms: int | None = T0,
) -> RawBatch:
    """A batch of records; an event or bytes become a record with the next offset."""
    read = [
        r if isinstance(r, RawRecord) else record(r, offset=offset, received_ms=received_ms)
        for offset, r in enumerate(records)
    ]
    return RawBatch("events", partition, partitions, read, idle, final)


def arrived(
    type: str = "view",
    *,
    at: int = T0,
    watermark: int | None = None,
    received: int | None = None,
    **fields: Any,
) -> Arrived:
    """A decoded event; unless told otherwise it is on time, with a minute of lateness allowed."""
    blank: dict[str, Any] = dict.fromkeys(Arrived._fields)
    blank |= {
        "event_id": fresh_id(),
        "profile_id": USER,
        "type": type,
        "occurred_ms": at,
        "received_ms": at if received is None else received,
        "watermark_ms": at - _LATENESS if watermark is None else watermark,
        "partition": 0,
        "context": {},
        "properties": {},
        "mode": LIVE,
    }
    made = {**blank, **fields}
    return Arrived(**{**made, "raw_id": made["raw_id"] or made["profile_id"]})


def request(placement: str = "home", **fields: Any) -> Arrived:
    """A `decision_requested` for a placement."""
    return arrived("decision_requested", placement=placement, **fields)


def content(content_id: str = "c1", **fields: Any) -> Content:
    """A content that may be shown anywhere, at any time, to anyone."""
    return Content.model_validate({"content_id": content_id, "type": "product", **fields})


def contents(number: int = 6, **fields: Any) -> list[Content]:
    """Contents c1, c2, … of alternating tags (`red`, `blue`)."""
    return [
        content(f"c{i}", **{"tags": ["red" if i % 2 else "blue"], **fields})
        for i in range(1, number + 1)
    ]


def policy(**sections: Any) -> Policy:
    """A policy with one placement `home` that learns from clicks; sections replace their default.

    Sections are written as in a policy file (`{"kind": "count", "within": "7d", ...}`).
    """
    default: dict[str, Any] = {
        "name": "test",
        "rewards": {"click": {"events": "click", "value": 1, "within": "30m"}},
        "placements": {"home": {"slots": 1, "rewards": ["click"], "expires_after": "15m"}},
    }
    return Policy.model_validate({**default, **sections})


def placement_policy(
    *, rewards: Any = None, top: Mapping[str, Any] | None = None, **home: Any
) -> Policy:
    """A policy whose placement `home` has these fields; `top` are sections beside it."""
    sections: dict[str, Any] = {
        "placements": {
            "home": {"slots": 1, "rewards": ["click"], "expires_after": "15m", **home},
        },
        **(top or {}),
    }
    if rewards is not None:
        sections["rewards"] = rewards
    return policy(**sections)


def plan(
    of: Policy | None = None, catalogue: Iterable[Content] | None = None, **sections: Any
) -> Plan:
    """A compiled policy and catalogue; sections are those of `policy` where none is given."""
    asked = of or policy(**sections)
    listed = contents() if catalogue is None else list(catalogue)
    return compile_plan(
        asked,
        listed,
        policy_digest=policy_digest(asked),
        catalogue_version=catalogue_version(listed),
    )


def nothing_recorded(_decision_id: str) -> Record | None:
    """No decision was recorded before: the first run of a topic."""
    return None


def decide(of: Plan | None = None, *, parameters: Parameters | None = None) -> Decide:
    """The machine that applies events to profiles, with no parameter set published."""
    return Decide(of or plan(), parameters or LocalParameters(), adopt=nothing_recorded)


def decoder(of: Policy | None = None, **fields: Any) -> Decoder:
    """A decoder for a policy."""
    asked = of or policy()
    return Decoder(asked.time, asked.sensitive, frozenset(asked.placements), **fields)


def profile(profile_id: str = USER, *, at: int = T0, **fields: Any) -> Profile:
    """A profile nothing is known of yet."""
    return Profile(profile_id, at, at, **fields)


def shard(of: Plan | None = None, *, number: int = 0, shards: int = 1, **fields: Any) -> Shard:
    """A shard that holds nothing yet; by default the only one, so that every profile is its."""
    return Shard(number, shards, decide(of), **fields)


def shard_batch(
    events: Iterable[Arrived] = (),
    *,
    shard: int = 0,
    watermarks: tuple[tuple[int, int], ...] = (),
    partitions: int = 1,
) -> ShardBatch:
    """A batch for one shard, by default from a topic of one partition."""
    return ShardBatch(shard, list(events), watermarks, partitions)


def tick(watermark: int, *, partition: int = 0, partitions: int = 1) -> ShardBatch:
    """Nothing but time: a batch that moves one partition's watermark."""
    return shard_batch(watermarks=((partition, watermark),), partitions=partitions)


def profile_in(shard_number: int, *, shards: int) -> str:
    """A profile id that belongs to a shard."""
    return next(u for i in count() if shard_of(u := f"u{i}", shards=shards) == shard_number)
