"""How does a benchmark get a shard's state of hundreds of thousands of profiles in seconds?

A few thousand profiles are made by real events; the others are copies of them under other ids,
encoded as the flow encodes them. State: a folder with one snapshot per shard.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import orjson

from benchmarks.workload import (
    SHARDS,
    batches,
    decoder_of,
    machines,
    plan,
    visits,
)
from operators.arrival import group_by_shard
from operators.decide import Decide
from operators.ids import shard_of
from operators.parameters import LocalParameters
from operators.plan import Plan
from operators.profile import Profile, encode_profile
from operators.shard import Shard, ShardBatch
from schemas.records import RawBatch, RawRecord
from schemas.time import rfc3339

CONTENTS: Final = 300
_MADE: Final = 1_000
_VISITS_EACH: Final = 8
_OPEN_FOR_MS: Final = 9_000_000
"""How long a decision of the policy waits for its outcome: 30 minutes, then 2 hours."""
_WAITING: Final = 0.2
"""The share of profiles that have a decision waiting."""


def user(number: int) -> str:
    """The id of a profile of the population."""
    return f"user-{number:07d}"


def _templates(of: Plan, count: int) -> tuple[list[Profile], int]:
    """Profiles made by real events, and the event time at which they are."""
    step = int(_OPEN_FOR_MS / (_WAITING * count))
    log = visits(count * _VISITS_EACH, profiles=count, contents=CONTENTS, step_ms=step, bought=0.3)
    made = machines(of, LocalParameters())
    decoder = decoder_of(of)
    for batch in batches(log):
        decoded = decoder.decode(batch)
        for shard, events in group_by_shard(decoded.arrived, shards=SHARDS).items():
            made.shards[shard].process(ShardBatch(shard, events, decoded.watermarks, 1))
    found = (made.shards[shard_of(u, shards=SHARDS)].look(u) for u in map(user, range(count)))
    return [profile for profile in found if profile is not None], log[-1].at_ms


def populate(folder: Path, profiles: int) -> int:
    """Write a snapshot per shard of so many profiles; the event time at which they are."""
    of = plan(CONTENTS)
    templates, at_ms = _templates(of, min(_MADE, max(20, profiles // 10)))
    decide = Decide(of, LocalParameters(), adopt=lambda _decision_id: None)
    shards = [Shard(number, SHARDS, decide) for number in range(SHARDS)]
    for n in range(profiles):
        name = user(n)
        copy = msgspec.structs.replace(templates[n % len(templates)], profile_id=name)
        block = encode_profile(copy, due_ms=copy.deadline())
        shards[shard_of(name, shards=SHARDS)]._cold[name] = block
    for shard in shards:
        (folder / f"{shard.number:04d}").write_bytes(shard.snapshot())
    return at_ms


def waiting_share(shards: list[Shard], profiles: int) -> float:
    """Decisions that wait for an outcome, per profile."""
    seen = [
        shards[shard_of(name, shards=SHARDS)].look(name)
        for name in map(user, range(0, profiles, max(1, profiles // 2_000)))
    ]
    return sum(len(profile.pending) for profile in seen if profile) / max(1, len(seen))


def views(numbers: Iterator[int], *, at_ms: int, name: str) -> Iterator[RawBatch]:
    """A view of a content by each of the profiles, in batches."""
    records = []
    for n in numbers:
        event = {
            "event_id": f"{name}-{n}",
            "user_id": user(n),
            "type": "view",
            "content_id": f"c{n % CONTENTS:04d}",
            "occurred_at": rfc3339(at_ms),
        }
        records.append(RawRecord(n, at_ms, None, orjson.dumps(event)))
        if len(records) == 1_000:
            yield RawBatch("events", 0, 1, records)
            records = []
    if records:
        yield RawBatch("events", 0, 1, records)
