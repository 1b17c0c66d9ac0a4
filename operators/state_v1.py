"""What did 0.1.0 keep of a profile, and what is it now? The upgrade of state version 1.

A profile is upgraded under the plan it is resumed with: a signal that the policy still defines as
it did is carried over, others were not kept by 0.1.0's successor either.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import msgspec

from operators.profile import Pending, Profile
from operators.signals import CompiledSignal
from schemas.events import Scalar

_HEAD: Final = struct.Struct(">qq")


class ProfileV1(msgspec.Struct, array_like=True, gc=False):
    """A profile as version 1 encoded it."""

    profile_id: str
    first_ms: int
    now_ms: int
    version: int = 0
    plan: int = 0
    deadlines: list[int] = msgspec.field(default_factory=list)
    signals: dict[int, Any] = msgspec.field(default_factory=dict)
    segments: dict[str, int] = msgspec.field(default_factory=dict)
    attributes: dict[str, Scalar] = msgspec.field(default_factory=dict)
    consent: dict[str, tuple[bool, int]] = msgspec.field(default_factory=dict)
    hidden: dict[str, int] = msgspec.field(default_factory=dict)
    shown: dict[str, list[int]] = msgspec.field(default_factory=dict)
    pending: list[Pending] = msgspec.field(default_factory=list)
    last: dict[str, tuple[str, list[str]]] = msgspec.field(default_factory=dict)


class ShardV1(msgspec.Struct, array_like=True):
    """A shard as version 1 encoded it."""

    shard: int
    shards: int
    watermarks: dict[int, int]
    partitions: int
    swept_day: int
    seen: dict[int, list[int]]
    profiles: dict[str, bytes]
    watermark: int


_DECODER: Final = msgspec.msgpack.Decoder(ProfileV1)


def upgrade_profile(block: bytes, signals: tuple[CompiledSignal, ...]) -> tuple[Profile, int]:
    """A profile from version 1's bytes, and when its timer is set for.

    Its segments are evaluated anew by the shard's sweep: version 1 did not know which conditions
    were watched for long enough, and so nobody leaves or enters merely by the upgrade itself.
    """
    due, _ = _HEAD.unpack_from(block)
    old = _DECODER.decode(memoryview(block)[_HEAD.size :])
    kept = {signal.slot: signal.upgrade_v1(old.signals) for signal in signals}
    profile = Profile(
        profile_id=old.profile_id,
        first_ms=old.first_ms,
        now_ms=old.now_ms,
        version=old.version,
        # Deadlines are not carried over, so that it must not pass for this policy's.
        plan=old.plan and (old.plan ^ 1 or 2),
        signals={slot: state for slot, state in kept.items() if state is not None},
        segments=old.segments,
        attributes=old.attributes,
        consent={purpose: (granted, at, 0) for purpose, (granted, at) in old.consent.items()},
        hidden=old.hidden,
        shown=old.shown,
        pending=old.pending,
        last=old.last,
    )
    return profile, min(int(due), profile.deadline())
