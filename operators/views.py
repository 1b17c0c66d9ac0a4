"""What may others see of a profile? Its serving view, a plain record."""

from __future__ import annotations

import math
from typing import Final

from operators.affinity import DecayedAffinity
from operators.kinds import Value
from operators.moment import Moment
from operators.occurrences import TimeSince
from operators.outputs import Record
from operators.plan import Plan
from operators.profile import Profile
from operators.rfm import Rfm
from operators.segments import intent_of, why
from operators.signals import CompiledSignal
from schemas.events import Scalar
from schemas.signals import RFM_PARTS
from schemas.time import rfc3339

_TOP: Final = 10


def profile_view(profile: Profile, plan: Plan, moment: Moment) -> Record:
    """A profile as a plain record, as of its newest event.

    Signals appear by name: a number, a text or an instant (`last` and `first` without a field);
    durations in milliseconds; an affinity as its strongest values, an rfm as its parts. Signals
    that a condition implies (`done`) have no name and do not appear.
    """
    signals: Record = {}
    for signal in plan.signals:
        if signal.name not in plan.policy.signals:
            continue
        shown = _shown(signal, profile)
        if shown is not None:
            signals[signal.name] = shown
    return {
        "profile_id": profile.profile_id,
        "version": profile.version,
        "first_seen": rfc3339(profile.first_ms),
        "as_of": rfc3339(profile.now_ms),
        "signals": signals,
        "segments": {
            segment.name: {
                "since": rfc3339(profile.segments[segment.name]),
                "because": why(profile, segment, moment),
            }
            for segment in plan.segments
            if segment.name in profile.segments and segment.name in plan.policy.segments
        },
        "intent": intent_of(profile),
        "predictions": {
            prediction.name: round(value, 6)
            for prediction in plan.predictions
            if (value := moment.predict(prediction.name, profile, moment.now_ms)) is not None
        },
        "attributes": dict(profile.attributes),
        "consent": {purpose: stated[0] for purpose, stated in profile.consent.items()},
        "hidden": sorted(profile.hidden),
        "less_wanted": sorted(profile.less),
        "preferences": {key: level for key, (level, _) in sorted(profile.preferences.items())},
        "last_decisions": {
            placement: {"decision_id": identity, "contents": contents}
            for placement, (identity, contents) in sorted(profile.last.items())
        },
        "policy_digest": plan.policy_digest,
    }


def _shown(signal: CompiledSignal, profile: Profile) -> Scalar | Record:
    """A signal's value as a person may read it; None where there is none, or nothing is held."""
    state, kind, now_ms = profile.signals.get(signal.slot), signal.kind, profile.now_ms
    if isinstance(kind, DecayedAffinity):
        top = kind.top(state, now_ms, _TOP)
        return None if state is None else {text: round(weight, 4) for text, weight in top}
    if isinstance(kind, TimeSince):
        return None if state is None else rfc3339(int(state))
    if all(slot not in profile.signals for slot in signal.needs):
        return None
    if isinstance(kind, Rfm):
        parts = {part: signal.value(profile.signals, now_ms, part) for part in RFM_PARTS}
        return {part: _plain(value) for part, value in parts.items()}
    return _plain(signal.value(profile.signals, now_ms))


def _plain(value: Value) -> Scalar:
    if not isinstance(value, float):
        return value
    return int(value) if math.floor(value) == value else round(value, 6)
