"""Which segments is a profile in, and when will time alone change that?

State, in the profile: the memberships, the next deadline of each segment that has one, and since
when a condition holds that has not led to a change yet. Every change is emitted once, with the
event that caused it, `timer`, or `policy`, and with the rule that matched and what it saw. A
definition that is gone takes its memberships with it.
"""

from __future__ import annotations

from hashlib import blake2b
from heapq import heapify, heappop, heappush
from typing import Final, Protocol

from operators.conditions import INTENT
from operators.explain import intent_of as intent_of
from operators.moment import NOTHING, Moment
from operators.outputs import Record
from operators.profile import Profile
from operators.segment_plan import CompiledSegment as CompiledSegment
from operators.segment_plan import SegmentIndex as SegmentIndex
from operators.segment_plan import compile_segments as compile_segments
from operators.segment_plan import index_segments as index_segments
from operators.verdicts import sooner
from operators.wording import span_text
from schemas.decisions import SCHEMA_VERSION
from schemas.events import Scalar
from schemas.time import rfc3339

TIMER: Final = "timer"
POLICY: Final = "policy"
_SPENT: Final = -1
"""Noted where a segment was left by age while its condition held: it must fail once first."""


class Planned(Protocol):
    """What is needed of a plan, which is compiled from the segments in turn."""

    @property
    def mark(self) -> int:
        """Changes with the policy."""
        ...

    @property
    def policy_digest(self) -> str:
        """Which policy it is."""
        ...

    @property
    def segments(self) -> tuple[CompiledSegment, ...]:
        """Each after those it asks about."""
        ...

    @property
    def segments_of(self) -> SegmentIndex:
        """What touches which."""
        ...


def update_segments(
    profile: Profile,
    plan: Planned,
    moment: Moment,
    cause: str,
    *,
    events: tuple[str, ...] | None = None,
    attributes: bool = False,
) -> list[Record]:
    """Bring the memberships up to a moment; the changes, in the order the segments need each other.

    `events` names what just happened (None: anything may have) and `attributes` says whether
    profile attributes changed: a segment that neither touches, and that no deadline calls for, is
    not evaluated. A profile last evaluated under another policy is evaluated for all segments.
    """
    adopts = profile.plan != plan.mark
    if adopts or events is None:
        queue = list(range(len(plan.segments)))
    else:
        queue = _touched(profile, plan, moment.now_ms, events, attributes)
        if not queue:
            return []  # as for most events: no segment asks about them
    if adopts:
        if profile.plan and cause == TIMER:
            cause = POLICY  # the deadline that fired was set under another policy
        _forget_waits(profile, plan)
    if moment.context:
        moment = moment._replace(context=NOTHING)  # known while deciding only
    changes: list[Record] = []
    waiting = set(queue)
    while queue:
        position = heappop(queue)
        segment = plan.segments[position]
        change = _evaluate(profile, plan, segment, position, moment, cause)
        if change is None:
            continue
        changes.append(change)
        for dependent in plan.segments_of.dependents.get(segment.name, ()):
            if dependent not in waiting:  # and it comes later: the order is that of need
                waiting.add(dependent)
                heappush(queue, dependent)
    if adopts:
        changes += _leave_undeclared(profile, plan, moment.now_ms)
        profile.plan = plan.mark
    return changes


def leave_segments(profile: Profile, plan: Planned, moment: Moment, cause: str) -> list[Record]:
    """End every membership: nothing may be told of this profile until it is evaluated anew."""
    left = list(profile.segments.items())
    profile.segments.clear()
    profile.deadlines.clear()
    profile.holding.clear()
    profile.plan = 0
    return [
        _record(
            profile,
            plan,
            name,
            moment.now_ms,
            cause,
            "nothing of it is kept",
            {},
            entered,
        )
        for name, entered in left
    ]


def pass_time(profile: Profile, plan: Planned, moment: Moment) -> list[Record]:
    """Let every deadline up to a moment fire, each at its own time."""
    changes: list[Record] = []
    while (due := profile.segment_deadline()) <= moment.now_ms:
        changes += update_segments(profile, plan, moment._replace(now_ms=due), TIMER, events=())
    return changes


def change_id(profile_id: str, segment: str, cause: str, direction: str, at_ms: int) -> str:
    """The identity of a change: what it is of, what made it, and when."""
    identity = f"{profile_id}\0{segment}\0{cause}\0{direction}\0{at_ms}"
    return blake2b(identity.encode(), digest_size=12).hexdigest()


def memberships(profile: Profile) -> list[str]:
    """The declared segments the profile is in, by name; its intent is not among them."""
    return sorted([name for name in profile.segments if not name.startswith(INTENT)])


def why(profile: Profile, segment: CompiledSegment, moment: Moment) -> list[str]:
    """What makes a profile a member of a segment, in words with what is seen; none: it is none."""
    if segment.name not in profile.segments:
        return []
    if moment.context:
        moment = moment._replace(context=NOTHING)
    found = segment.rule.reasons(profile, moment)
    if not found and segment.stay_ms:
        return [f"stays for at least {span_text(segment.stay_ms)}"]
    return found


def _touched(
    profile: Profile,
    plan: Planned,
    now_ms: int,
    events: tuple[str, ...],
    attributes: bool,
) -> list[int]:
    """The positions to evaluate, as a heap."""
    index = plan.segments_of
    due = bool(profile.deadlines) and profile.segment_deadline() <= now_ms
    if not (due or attributes or index.at_every_event):
        known = [name for name in events if name in index.of_event]
        if len(known) < 2:  # as nearly always; positions ascend, which makes a list a heap
            return list(index.of_event[known[0]]) if known else []
    found: set[int] = set()
    for name in events:
        found.update(index.of_event.get(name, ()))
    if events:
        found.update(index.at_every_event)
    if attributes:
        found.update(index.of_attributes)
    if due:
        found.update([i for i, at in profile.deadlines.items() if at <= now_ms])
    queue = list(found)
    heapify(queue)
    return queue


def _evaluate(
    profile: Profile,
    plan: Planned,
    segment: CompiledSegment,
    position: int,
    moment: Moment,
    cause: str,
) -> Record | None:
    """Bring one membership and its deadline up to a moment; the change, if there was one."""
    now_ms, name = moment.now_ms, segment.name
    verdict, until_ms = segment.evaluate(profile, moment)
    holds = verdict is True
    entered = profile.segments.get(name)
    if segment.timed:
        member, until_ms = _timed(profile, segment, now_ms, holds, until_ms)
    else:
        member = holds
    if until_ms is None:
        profile.deadlines.pop(position, None)
    else:
        # Never at or before now: a boundary that rounding puts there would fire for ever.
        profile.deadlines[position] = until_ms if until_ms > now_ms else now_ms + 1
    if member == (entered is not None):
        return None
    if member:
        profile.segments[name] = now_ms
    else:
        del profile.segments[name]
    rule = segment.rule.deciding(profile, moment, held=member).text
    if member and segment.for_ms:
        rule = f"{rule}, for at least {span_text(segment.for_ms)}"
    elif not member and holds and segment.leave_ms is not None:
        rule = f"left after {span_text(segment.leave_ms)}"
    values = segment.rule.values(profile, moment)
    return _record(profile, plan, name, now_ms, cause, rule, values, entered)


def _timed(
    profile: Profile,
    segment: CompiledSegment,
    now_ms: int,
    holds: bool,
    until_ms: int | None,
) -> tuple[bool, int | None]:
    """(member, next deadline) of a segment with spans; `holding` is kept up to date."""
    since = profile.holding.get(segment.waits)
    if not holds:
        profile.holding.pop(segment.waits, None)
    entered = profile.segments.get(segment.name)
    if entered is None:
        if not holds or since == _SPENT:
            return False, until_ms
        since = now_ms if since is None else since
        if now_ms < since + segment.for_ms:
            profile.holding[segment.waits] = since
            return False, sooner(until_ms, since + segment.for_ms)
        profile.holding.pop(segment.waits, None)
        entered = now_ms
    elif segment.leave_ms is not None and now_ms >= entered + segment.leave_ms:
        if holds:
            profile.holding[segment.waits] = _SPENT
        return False, until_ms
    elif not holds and now_ms >= entered + segment.stay_ms:
        return False, until_ms
    if not holds:
        until_ms = sooner(until_ms, entered + segment.stay_ms)
    if segment.leave_ms is not None:
        until_ms = sooner(until_ms, entered + segment.leave_ms)
    return True, until_ms


def _forget_waits(profile: Profile, plan: Planned) -> None:
    """Drop what was noted under another policy and means nothing under this one."""
    profile.deadlines.clear()
    for key in [key for key in profile.holding if key not in plan.segments_of.waits]:
        del profile.holding[key]


def _leave_undeclared(profile: Profile, plan: Planned, now_ms: int) -> list[Record]:
    gone = [item for item in profile.segments.items() if item[0] not in plan.segments_of.names]
    for name, _ in gone:
        del profile.segments[name]
    return [
        _record(profile, plan, name, now_ms, POLICY, "no longer declared", {}, entered)
        for name, entered in gone
    ]


def _record(
    profile: Profile,
    plan: Planned,
    segment: str,
    now_ms: int,
    cause: str,
    rule: str,
    values: dict[str, Scalar],
    entered_ms: int | None,
) -> Record:
    direction = "entered" if entered_ms is None else "left"
    return {
        "change_id": change_id(profile.profile_id, segment, cause, direction, now_ms),
        "profile_id": profile.profile_id,
        "segment": segment,
        "direction": direction,
        "changed_at": rfc3339(now_ms),
        "cause": cause,
        "rule": rule,
        "values": values,
        "entered_at": None if entered_ms is None else rfc3339(entered_ms),
        "policy_digest": plan.policy_digest,
        "schema_version": SCHEMA_VERSION,
    }
