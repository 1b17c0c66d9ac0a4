"""What is held of one profile, and how it is encoded.

A profile is cold (bytes) or hot (a `Profile`). Bytes are a 20-byte head (its timer, its newest
event time, its plan: what a sweep needs without decoding) and a msgpack array whose fields are only
ever appended, each with a default, so that older bytes decode as they are. Anything else is a new
`VERSION` of the shard's snapshot, with an upgrade (see `operators.shard_state`).
"""

from __future__ import annotations

import struct
from typing import Any, Final

import msgspec

from operators.predict_state import Case
from schemas.events import Scalar

_HEAD: Final = struct.Struct(">qqI")
FAR: Final = 1 << 62
"""A deadline that never comes."""


class PendingItem(msgspec.Struct, array_like=True, gc=False):
    """One item of a decision whose attribution window is open."""

    content_id: str
    rank: int
    propensity: float
    shown_ms: int = 0
    rewards: dict[str, float] = msgspec.field(default_factory=dict)
    learnable: bool = True
    score: float | None = None
    nth: int = 0
    explored: bool = False


class Pending(msgspec.Struct, array_like=True, gc=False):
    """A decision whose attribution window is open: what was seen when it was made.

    `features` holds the profile's feature cells (uint32, little-endian) as logged at the decision,
    `stood` of a segment whose threshold follows feedback the signal's value and the membership,
    `model` which learner it teaches, `tests` the variant by test, `groups` the profile's value of
    each group compared for fairness.
    """

    decision_id: str
    placement: str
    decided_ms: int
    closes_ms: int
    learnable: bool
    variant: str | None
    slate_propensity: float
    features: bytes
    items: list[PendingItem]
    stood: dict[str, tuple[float | None, bool]] = msgspec.field(default_factory=dict)
    model: str = ""
    tests: dict[str, str] = msgspec.field(default_factory=dict)
    groups: dict[str, str] = msgspec.field(default_factory=dict)


# Without `gc` (nothing here can be part of a cycle) a collection need not walk every hot profile.
class Profile(msgspec.Struct, array_like=True, gc=False):
    """Everything held of one profile.

    `signals` maps a signal's slot to its state, `segments` a segment's name to when it was entered,
    `holding` to since when a condition holds that has not led to a change yet. `deadlines` maps a
    segment's position in the plan to when its membership may next change by time alone; `plan`
    tells the policy under which that holds.

    `attributes` are the chosen ones; `provenance` says of each the source and as of when,
    `records` what every source said (only where sources must be weighed).
    `consent` maps a purpose to (granted, as of, 0 stated or 1 by Global Privacy Control), `gpc_ms`
    is when that signal was first seen. `hidden` maps `c:<content>` or `t:<tag>` to when, `shown`
    the same keys to impression times (for caps), `last` a placement to its latest decision id and
    contents, `last_ms` the same to when, `turned` to when its contents last changed (coherence).
    `preferences` are the levels a person allows, `less` is what less is wanted of, `prompted` maps
    a prompt to when it was decided on. `cases` await the label of a prediction; `sampled` says when
    one was last taken.
    """

    profile_id: str
    first_ms: int
    now_ms: int
    version: int = 0
    plan: int = 0
    deadlines: dict[int, int] = msgspec.field(default_factory=dict)
    signals: dict[int, Any] = msgspec.field(default_factory=dict)
    segments: dict[str, int] = msgspec.field(default_factory=dict)
    holding: dict[str, int] = msgspec.field(default_factory=dict)
    attributes: dict[str, Scalar] = msgspec.field(default_factory=dict)
    provenance: dict[str, tuple[str, int]] = msgspec.field(default_factory=dict)
    records: dict[str, dict[str, tuple[Scalar, int]]] = msgspec.field(default_factory=dict)
    consent: dict[str, tuple[bool, int, int]] = msgspec.field(default_factory=dict)
    gpc_ms: int = 0
    hidden: dict[str, int] = msgspec.field(default_factory=dict)
    shown: dict[str, list[int]] = msgspec.field(default_factory=dict)
    pending: list[Pending] = msgspec.field(default_factory=list)
    last: dict[str, tuple[str, list[str]]] = msgspec.field(default_factory=dict)
    cases: list[Case] = msgspec.field(default_factory=list)
    sampled: dict[str, int] = msgspec.field(default_factory=dict)
    preferences: dict[str, tuple[int, int]] = msgspec.field(default_factory=dict)
    less: dict[str, list[int]] = msgspec.field(default_factory=dict)
    last_ms: dict[str, int] = msgspec.field(default_factory=dict)
    turned: dict[str, list[int]] = msgspec.field(default_factory=dict)
    prompted: dict[str, list[int]] = msgspec.field(default_factory=dict)

    def deadline(self) -> int:
        """When time alone next does something to this profile."""
        # Plain loops, here and below: asked several times per event, and a generator costs more.
        least = self.segment_deadline()
        for open_ in self.pending:
            if open_.closes_ms < least:
                least = open_.closes_ms
        for case in self.cases:
            if case.closes_ms < least:
                least = case.closes_ms
        return least

    def segment_deadline(self) -> int:
        """When time alone may next change a membership."""
        return min(self.deadlines.values()) if self.deadlines else FAR


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Profile)


def encode_profile(profile: Profile, *, due_ms: int) -> bytes:
    """The bytes of a profile whose timer is set for `due_ms`."""
    return _HEAD.pack(due_ms, profile.now_ms, profile.plan) + _ENCODER.encode(profile)


def decode_profile(block: bytes) -> Profile:
    """The profile of its bytes; raises msgspec.MsgspecError where they are damaged."""
    return _DECODER.decode(memoryview(block)[_HEAD.size :])


def head_of(block: bytes) -> tuple[int, int, int]:
    """(when its timer is set for, newest event time, plan) of an encoded profile, not decoded."""
    due, newest, plan = _HEAD.unpack_from(block)
    return due, newest, plan
