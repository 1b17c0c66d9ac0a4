"""Everything held of one person as one portable document (`schemas.subject`)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from flows.subject import Linked, Stored, Subject
from operators.consent import BY_GPC
from operators.outputs import Record
from operators.plan import Plan
from operators.predict_state import UNPREDICTED, Case
from operators.profile import FAR, Pending, Profile
from schemas.events import Scalar
from schemas.subject import (
    AttributeHeld,
    CaseHeld,
    ConsentHeld,
    LastDecision,
    LessHeld,
    LinksHeld,
    PendingHeld,
    PendingItemHeld,
    ProfileHeld,
    SegmentHeld,
    ServedHeld,
    SignalHeld,
    SubjectExport,
)
from schemas.time import rfc3339

ELSEWHERE: Final = (
    "the topics events, decisions, segment-changes, outcomes, late, dead-letters and suggestions, "
    "until their retention ends",
)
SAYS: Final = {
    "profile_id": ("profile_id",),
    "first_ms": ("first_seen",),
    "now_ms": ("as_of",),
    "version": ("version",),
    "plan": ("policy",),
    "deadlines": ("due",),
    "signals": ("signals",),
    "segments": ("segments", "intent"),
    "holding": ("waiting",),
    "attributes": ("attributes",),
    "provenance": ("attributes",),
    "records": ("records",),
    "consent": ("consent",),
    "gpc_ms": ("privacy_signal_since",),
    "hidden": ("hidden",),
    "shown": ("shown",),
    "pending": ("pending",),
    "last": ("last_decisions",),
    "cases": ("cases",),
    "sampled": ("sampled",),
    "preferences": ("preferences",),
    "less": ("less_wanted",),
    "last_ms": ("last_decisions",),
    "turned": ("turned",),
    "prompted": ("prompted",),
}
"""Field of a profile to the fields of the export that say it; a test holds it to be complete."""


def export(subject: Subject, *, now_ms: int) -> SubjectExport:
    """The export as of `now_ms` (the wall clock)."""
    stored = subject.stored
    written = None if stored is None else f"{stored.written_at.replace(' ', 'T')}Z"
    return SubjectExport.model_validate(
        {
            "exported_at": rfc3339(now_ms),
            "user_id": subject.user_id,
            "state_written_at": written,
            "profile": None if stored is None else _profile(stored, subject.plan, subject.view),
            "links": None if subject.links is None else _links(subject.links),
            "redis": None
            if subject.served is None
            else {
                key: ServedHeld(version=served.version, value=served.value)
                for key, served in subject.served.items()
            },
            "elsewhere": list(ELSEWHERE),
        }
    )


def _profile(stored: Stored, plan: Plan, view: Record | None) -> ProfileHeld:
    profile = stored.profile
    seen: Record = view or {}
    return ProfileHeld.model_validate(
        {
            "profile_id": profile.profile_id,
            "first_seen": rfc3339(profile.first_ms),
            "as_of": rfc3339(profile.now_ms),
            "version": profile.version,
            "policy": profile.plan,
            "signals": _signals(profile, plan, seen),
            "segments": {
                name: SegmentHeld.model_validate(
                    {
                        "since": rfc3339(since),
                        "because": seen.get("segments", {}).get(name, {}).get("because", []),
                    }
                )
                for name, since in profile.segments.items()
            },
            "waiting": {name: _instant(at) for name, at in profile.holding.items()},
            "due": [rfc3339(at) for at in sorted(profile.deadlines.values())],
            "intent": seen.get("intent"),
            "attributes": {
                name: _attribute(value, profile.provenance.get(name))
                for name, value in profile.attributes.items()
            },
            "records": {
                source: {
                    name: _attribute(value, (source, at)) for name, (value, at) in held.items()
                }
                for source, held in profile.records.items()
            },
            "consent": {purpose: _consent(*said) for purpose, said in profile.consent.items()},
            "privacy_signal_since": _instant(profile.gpc_ms) if profile.gpc_ms else None,
            "hidden": _instants(profile.hidden),
            "shown": {key: [rfc3339(at) for at in times] for key, times in profile.shown.items()},
            "pending": [_pending(pending) for pending in profile.pending],
            "last_decisions": {
                placement: LastDecision.model_validate(
                    {
                        "decision_id": identity,
                        "contents": contents,
                        "at": _instant(profile.last_ms.get(placement, 0)),
                    }
                )
                for placement, (identity, contents) in profile.last.items()
            },
            "cases": [_case(case) for case in profile.cases],
            "sampled": _instants(profile.sampled),
            "preferences": {
                key: {"level": level, "as_of": rfc3339(at)}
                for key, (level, at) in profile.preferences.items()
            },
            "less_wanted": {
                key: LessHeld.model_validate(
                    {"liked_at": _instant(at[0]), "at": [rfc3339(one) for one in at[1:]]}
                )
                for key, at in profile.less.items()
            },
            "turned": {
                name: [rfc3339(at) for at in times] for name, times in profile.turned.items()
            },
            "prompted": {
                name: [rfc3339(at) for at in times] for name, times in profile.prompted.items()
            },
        }
    )


def _signals(profile: Profile, plan: Plan, view: Record) -> list[SignalHeld]:
    values = view.get("signals", {})
    names = {signal.slot: signal.name for signal in plan.signals}
    held = [
        SignalHeld(
            name=names.get(slot, f"(no signal of this policy: {slot})"),
            declared=names.get(slot) in plan.policy.signals,
            value=values.get(names.get(slot)),
            state=plain(state),
        )
        for slot, state in profile.signals.items()
    ]
    kept = {signal.name for signal in held}
    # A ratio keeps nothing of its own: it is a value all the same.
    computed = [
        SignalHeld(name=name, declared=True, value=value, state=None)
        for name, value in values.items()
        if name not in kept
    ]
    return sorted([*held, *computed], key=lambda signal: signal.name)


def _attribute(value: Scalar, said: tuple[str, int] | None) -> AttributeHeld:
    source, at = said or (None, None)
    return AttributeHeld.model_validate(
        {"value": value, "source": source, "as_of": None if at is None else rfc3339(at)}
    )


def _consent(granted: bool, at_ms: int, by: int = 0) -> ConsentHeld:
    who = "global privacy control" if by == BY_GPC else "statement"
    return ConsentHeld.model_validate({"granted": granted, "as_of": rfc3339(at_ms), "by": who})


def _pending(pending: Pending) -> PendingHeld:
    return PendingHeld.model_validate(
        {
            "decision_id": pending.decision_id,
            "placement": pending.placement,
            "decided_at": rfc3339(pending.decided_ms),
            "closes_at": rfc3339(pending.closes_ms),
            "learnable": pending.learnable,
            "variant": pending.variant,
            "slate_propensity": pending.slate_propensity,
            "features": _cells(pending.features),
            "followed": plain(pending.stood),
            "model": pending.model,
            "tests": pending.tests,
            "groups": pending.groups,
            "items": [
                PendingItemHeld.model_validate(
                    {
                        "content_id": item.content_id,
                        "rank": item.rank,
                        "propensity": item.propensity,
                        "shown_at": rfc3339(item.shown_ms) if item.shown_ms else None,
                        "rewards": item.rewards,
                        "learnable": item.learnable,
                        "score": item.score,
                        "nth": item.nth,
                        "explored": item.explored,
                    }
                )
                for item in pending.items
            ],
        }
    )


def _case(case: Case) -> CaseHeld:
    return CaseHeld.model_validate(
        {
            "prediction": case.prediction,
            "at": rfc3339(case.at_ms),
            "closes_at": rfc3339(case.closes_ms),
            "predicted": None if case.predicted == UNPREDICTED else case.predicted,
            "total": case.total,
            "features": _cells(case.features),
        }
    )


def _links(links: Linked) -> LinksHeld:
    return LinksHeld.model_validate(
        {
            "canonical": links.canonical,
            "aliases": _instants(links.aliases),
            "recent_events": [
                {
                    name: rfc3339(value) if name == "occurred_ms" else plain(value)
                    for name, value in msgspec.structs.asdict(event).items()
                    if value not in (None, {}, ())
                }
                for event in links.events
            ],
            "collection_allowed": None if links.consent is None else _consent(*links.consent),
        }
    )


def plain(value: Any) -> Any:
    """State as JSON has it: keys are texts, bytes are hexadecimal digits."""
    if isinstance(value, Mapping):
        return {
            key if isinstance(key, str) else str(plain(key)): plain(held)
            for key, held in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(held) for held in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, msgspec.Struct):
        return plain(msgspec.structs.asdict(value))
    return value


def _cells(features: bytes) -> list[int]:
    return [cell for (cell,) in struct.iter_unpack("<I", features)]


def _instants(times: Mapping[str, int]) -> dict[str, str]:
    return {name: rfc3339(at) for name, at in times.items()}


def _instant(at_ms: int) -> str | None:
    return rfc3339(at_ms) if 0 < at_ms < FAR else None
