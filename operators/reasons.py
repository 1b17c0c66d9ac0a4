"""Why is this item shown? A code for machines and a sentence that a person may read.

Only what the person did in the open (the tags of what it touched) is ever named; segments,
predictions and anything sensitive are not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from operators.affinity import DecayedAffinity
from operators.filters import values_of
from operators.plan import Plan
from operators.profile import Profile
from schemas.catalogue import Content

Reason = dict[str, str]

_TOP: Final = 5

_FALLBACK: Final = {
    "consent_refused": "Our pick for everyone: personalisation is switched off",
    "consent_unknown": "Our pick for everyone",
    "no_eligible_candidate": "Our pick for everyone",
    "holdout": "Our pick for everyone",
    "not_personalised": "Our pick for everyone",
    "not_eligible": "Our pick for everyone",
    "privacy_signal": "Our pick for everyone: your browser asked not to personalise",
}
EXPLORED: Final[Reason] = {"code": "explored", "text": "Something new to discover"}
PREDICTED: Final[Reason] = {"code": "predicted", "text": "Picked for you"}


def fallback_reason(why: str) -> list[Reason]:
    """The reason of every item of a fallback."""
    return [{"code": f"fallback:{why}", "text": _FALLBACK[why]}]


Liking = tuple[str, Callable[[Content], object], dict[str, float]]
"""A signal's name, how it reads a content, and the profile's strongest values of it."""


def likes(profile: Profile, *, plan: Plan, now_ms: int) -> list[Liking]:
    """What the person likes about contents now, by affinity signal."""
    found: list[Liking] = []
    for signal in plan.tastes:
        kind = signal.kind
        if isinstance(kind, DecayedAffinity) and kind.read_content is not None:
            top = kind.top(profile.signals.get(signal.slot), now_ms, _TOP)
            if top:
                found.append((signal.name, kind.read_content, dict(top)))
    return found


def item_reasons(content: Content, *, liked: list[Liking], greedy: bool) -> list[Reason]:
    """The reasons of one chosen item: what the person likes about it, else how it was chosen."""
    if not greedy:
        return [EXPLORED]
    found: list[Reason] = []
    if not content.sensitive:
        for name, read, strengths in liked:
            own = [value for value in values_of(read(content)) if value in strengths]
            if own:
                best = max(own, key=lambda value: (strengths[value], value))
                found.append(
                    {"code": f"affinity:{name}={best}", "text": f"Because you like {best}"}
                )
    return found or [PREDICTED]
