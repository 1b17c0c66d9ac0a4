"""May this be done with this profile's data, and what did it say about that?

State: purpose to (granted, as of, by whom). A newer statement replaces an older one; an older-dated
grant never overrides a newer withdrawal, and of two of the same instant the refusal holds.

Global Privacy Control (`context.gpc`) is a statement too: it withdraws the policy's purposes as of
when it was first seen. A browser repeats it with every request, so repeating it does not override a
grant stated after that; where it goes away and comes back, it is a new statement.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from operators.profile import Profile
from schemas.events import Scalar
from schemas.policy import Consent

Use = Literal["collect", "personalise", "learn"]

_ON: Final = (True, "1", "true")  # True equals 1
STATED: Final = 0
BY_GPC: Final = 1
MOST_PURPOSES: Final = 32
LONGEST_PURPOSE: Final = 128


def state_consent(
    profile: Profile,
    purposes: dict[str, bool],
    at_ms: int,
    *,
    asked: Iterable[str] = (),
    by: int = STATED,
) -> bool:
    """Apply what was said at an instant; True where anything changed.

    `asked` are the purposes that the policy knows: they are kept first, and at most 32 in all, of
    names of at most 128 characters.
    """
    changed = False
    known_to_policy = set(asked)
    for purpose in sorted(purposes, key=lambda name: (name not in known_to_policy, name)):
        granted = purposes[purpose]
        known = profile.consent.get(purpose)
        if known is None and (
            len(profile.consent) >= MOST_PURPOSES or len(purpose) > LONGEST_PURPOSE
        ):
            continue
        if known is None or at_ms > known[1] or (at_ms == known[1] and not granted):
            changed = changed or known is None or known[0] != granted
            profile.consent[purpose] = (granted, at_ms, by)
    return changed


def is_on(signal: Scalar) -> bool:
    """Whether what an event's context says of `gpc` means that the signal was sent."""
    return signal in _ON


def honour_gpc(profile: Profile, signal: Scalar, consent: Consent, at_ms: int) -> bool:
    """Apply an event's `gpc` (true, 1, "1"; absent says nothing); True where anything changed."""
    if signal is None or not consent.gpc:
        return False
    if not is_on(signal):
        # What is older than the newest event seen takes no signal back.
        if at_ms >= profile.now_ms:
            profile.gpc_ms = 0
        return False
    if profile.gpc_ms:
        return False
    profile.gpc_ms = at_ms
    purposes = [getattr(consent, use) for use in consent.gpc]
    refused = {purpose: False for purpose in purposes if purpose is not None}
    state_consent(profile, refused, at_ms, asked=refused, by=BY_GPC)
    return True


def refusal(consent: Consent, profile: Profile, use: Use) -> str | None:
    """None where the use is allowed, else why not (a fallback reason)."""
    purpose = getattr(consent, use)
    if purpose is None:
        # No purpose to withdraw: then the signal itself is what counts.
        return "privacy_signal" if profile.gpc_ms and use in consent.gpc else None
    known = profile.consent.get(purpose)
    if known is None:
        return None if consent.before_known == "granted" else "consent_unknown"
    return None if known[0] else "consent_refused"


def granted(profile: Profile, purpose: str) -> bool:
    """Whether a person has granted a purpose by name."""
    known = profile.consent.get(purpose)
    return known is not None and known[0]
