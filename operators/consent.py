"""May this be done with this profile's data, and what did it say about that?

State: purpose to (granted, as of). A newer statement replaces an older one; an older-dated grant
never overrides a newer withdrawal, and of two of the same instant the refusal holds.
"""

from __future__ import annotations

from typing import Literal

from operators.profile import Profile
from schemas.policy import Consent

Use = Literal["collect", "personalise", "learn"]


def state_consent(profile: Profile, purposes: dict[str, bool], at_ms: int) -> bool:
    """Apply what was said at an instant; True where anything changed."""
    changed = False
    for purpose, granted in purposes.items():
        known = profile.consent.get(purpose)
        if known is None or at_ms > known[1] or (at_ms == known[1] and not granted):
            changed = changed or known is None or known[0] != granted
            profile.consent[purpose] = (granted, at_ms)
    return changed


def refusal(consent: Consent, profile: Profile, use: Use) -> str | None:
    """None where the use is allowed, else why not (a fallback reason)."""
    purpose = getattr(consent, use)
    if purpose is None:
        return None
    known = profile.consent.get(purpose)
    if known is None:
        return None if consent.before_known == "granted" else "consent_unknown"
    return None if known[0] else "consent_refused"
