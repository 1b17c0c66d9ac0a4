"""What may others see of a profile? Its serving view, a plain record."""

from __future__ import annotations

import math

from operators.outputs import Record
from operators.plan import Plan
from operators.profile import Profile
from operators.signals import DecayedAffinity, LastTime
from schemas.time import rfc3339


def profile_view(profile: Profile, plan: Plan) -> Record:
    """A profile as a plain record, as of its newest event.

    Signals appear by name: numbers for windows, an instant for `last`, the strongest values for
    an affinity. Signals that a condition implies (`done`) have no name and do not appear.
    """
    signals: Record = {}
    for signal in plan.signals:
        if signal.name not in plan.policy.signals:
            continue
        state, kind = profile.signals.get(signal.slot), signal.kind
        if state is None:
            continue
        if isinstance(kind, DecayedAffinity):
            top = kind.top(state, profile.now_ms, 10)
            signals[signal.name] = {text: round(weight, 4) for text, weight in top}
        elif isinstance(kind, LastTime):
            signals[signal.name] = rfc3339(int(state))
        else:
            value = kind.value(state, profile.now_ms)
            signals[signal.name] = int(value) if math.floor(value) == value else round(value, 6)
    return {
        "profile_id": profile.profile_id,
        "version": profile.version,
        "first_seen": rfc3339(profile.first_ms),
        "as_of": rfc3339(profile.now_ms),
        "signals": signals,
        "segments": {
            name: rfc3339(entered)
            for name, entered in sorted(profile.segments.items())
            if name in plan.policy.segments
        },
        "attributes": dict(profile.attributes),
        "consent": {purpose: granted for purpose, (granted, _) in profile.consent.items()},
        "hidden": sorted(profile.hidden),
        "last_decisions": {
            placement: {"decision_id": identity, "contents": contents}
            for placement, (identity, contents) in sorted(profile.last.items())
        },
        "policy_digest": plan.policy_digest,
    }
