"""What a person controls: what is not to be shown, and that what was observed is dropped."""

from __future__ import annotations

from operators.arrival import Arrived
from operators.profile import Profile


def hide(profile: Profile, event: Arrived) -> None:
    """Honour do-not-show on a content or a tag; a later like of the same takes it back."""
    keys = [f"c:{event.content_id}"] if event.content_id else []
    keys += [f"t:{event.tag}"] if event.tag else []
    for key in keys:
        if event.feedback in ("hide", "not_interested"):
            profile.hidden[key] = max(event.occurred_ms, profile.hidden.get(key, 0))
        elif event.feedback == "like" and profile.hidden.get(key, 0) <= event.occurred_ms:
            profile.hidden.pop(key, None)


def forget_behaviour(profile: Profile) -> None:
    """Drop what was observed, keep what the person stated (consent and do-not-show)."""
    profile.signals.clear()
    profile.attributes.clear()
    profile.shown.clear()
    profile.pending.clear()
    profile.last.clear()
