"""Which segments is a profile in, and when will time alone change that?

State: the memberships and one deadline, in the profile. Every change is emitted once, with the
event that caused it or `timer`. A definition that is gone takes its memberships with it.
"""

from __future__ import annotations

from hashlib import blake2b

from operators.outputs import Record
from operators.plan import Plan
from operators.profile import Profile
from schemas.decisions import SCHEMA_VERSION
from schemas.time import rfc3339

TIMER = "timer"


def update_segments(
    profile: Profile,
    plan: Plan,
    now_ms: int,
    cause: str,
    *,
    events: tuple[str, ...] | None = None,
    attributes: bool = False,
) -> list[Record]:
    """Bring the memberships up to now; the changes, in the order the segments need each other.

    `events` names what just happened (None: anything may have) and `attributes` says whether
    profile attributes changed: a segment that neither touches, and that no deadline calls for, is
    not evaluated.
    """
    if (
        events is not None
        and profile.plan == plan.mark
        and not attributes
        and plan.segment_events.isdisjoint(events)
        and profile.segment_deadline() > now_ms
    ):
        return []  # as for most events: no segment asks about them
    changes: list[Record] = []
    segments, deadlines = plan.segments, profile.deadlines
    if profile.plan != plan.mark:
        events = None
        deadlines = profile.deadlines = [0] * len(segments)
    changed: set[str] = set()
    for i, segment in enumerate(segments):
        if (
            events is not None
            and not 0 < deadlines[i] <= now_ms
            and segment.events.isdisjoint(events)
            and not (attributes and segment.of_attributes)
            and changed.isdisjoint(segment.segments)
        ):
            continue
        holds, until_ms = segment.evaluate(profile, now_ms, {})
        # Never at or before now: a boundary that rounding puts there would fire for ever.
        deadlines[i] = 0 if until_ms is None else max(until_ms, now_ms + 1)
        if holds != (segment.name in profile.segments):
            changed.add(segment.name)
            if holds:
                profile.segments[segment.name] = now_ms
            else:
                del profile.segments[segment.name]
            changes.append(_change(profile, plan, segment.name, holds, now_ms, cause))
    if profile.plan != plan.mark:
        known = plan.policy.segments
        for name in [name for name in profile.segments if name not in known]:
            del profile.segments[name]
            changes.append(_change(profile, plan, name, False, now_ms, cause))
        profile.plan = plan.mark
    return changes


def leave_segments(profile: Profile, plan: Plan, now_ms: int, cause: str) -> list[Record]:
    """End every membership: nothing may be told of this profile until it is evaluated anew."""
    left = list(profile.segments)
    profile.segments.clear()
    profile.deadlines, profile.plan = [], 0
    return [_change(profile, plan, name, False, now_ms, cause) for name in left]


def pass_time(profile: Profile, plan: Plan, until_ms: int) -> list[Record]:
    """Let every deadline up to an instant fire, each at its own time."""
    changes: list[Record] = []
    while (due := profile.segment_deadline()) <= until_ms:
        changes += update_segments(profile, plan, due, TIMER, events=())
    return changes


def _change(
    profile: Profile, plan: Plan, segment: str, entered: bool, now_ms: int, cause: str
) -> Record:
    direction = "entered" if entered else "left"
    identity = f"{profile.profile_id}\0{segment}\0{cause}\0{direction}\0{now_ms}"
    return {
        "change_id": blake2b(identity.encode(), digest_size=12).hexdigest(),
        "profile_id": profile.profile_id,
        "segment": segment,
        "direction": direction,
        "changed_at": rfc3339(now_ms),
        "cause": cause,
        "policy_digest": plan.policy_digest,
        "schema_version": SCHEMA_VERSION,
    }
