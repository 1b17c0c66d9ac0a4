"""What a person controls: what is not to be shown, and that what was observed is dropped."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from operators.arrival import Arrived
from operators.profile import Profile

MOST_HIDDEN: Final = 512


def hide(profile: Profile, event: Arrived) -> None:
    """Honour do-not-show on a content or a tag; a later like of the same takes it back.

    At most 512 are kept: beyond that the oldest gives way.
    """
    keys = [f"c:{event.content_id}"] if event.content_id else []
    keys += [f"t:{event.tag}"] if event.tag else []
    for key in keys:
        if event.feedback in ("hide", "not_interested"):
            liked = profile.less.get(key)  # which remembers likes: an older hide undoes none
            if liked is None or event.occurred_ms > liked[0]:
                profile.hidden[key] = max(event.occurred_ms, profile.hidden.get(key, 0))
        elif event.feedback == "like" and profile.hidden.get(key, 0) <= event.occurred_ms:
            profile.hidden.pop(key, None)
    while len(profile.hidden) > MOST_HIDDEN:
        del profile.hidden[min(profile.hidden, key=lambda k: (profile.hidden[k], k))]


def reset_taste(profile: Profile, tastes: Iterable[int]) -> None:
    """Drop what was inferred of the taste, and what would still teach or repeat it.

    `tastes` are the slots of affinities; what less is wanted of goes with them. Counts, consent,
    do-not-show and caps stay; open decisions stay for the books, without the features that they
    were made with.
    """
    for slot in tastes:
        profile.signals.pop(slot, None)
    profile.last.clear()
    profile.last_ms.clear()
    profile.turned.clear()
    profile.less.clear()
    profile.cases.clear()
    profile.sampled.clear()
    for pending in profile.pending:
        pending.features = b""
        pending.learnable = False


def holds_behaviour(profile: Profile) -> bool:
    """Whether there is anything that `forget_behaviour` or leaving all segments would drop."""
    return any(
        (
            profile.signals,
            profile.attributes,
            profile.provenance,
            profile.records,
            profile.shown,
            profile.pending,
            profile.last,
            profile.last_ms,
            profile.turned,
            profile.cases,
            profile.sampled,
            profile.holding,
            profile.segments,
        )
    )


def states_something(profile: Profile) -> bool:
    """Whether a person has stated what outlives the behaviour: consent, what not to show, levels.

    That a prompt was shown counts too: who answers nothing must not be asked at each request.
    """
    stated = (profile.consent, profile.hidden, profile.less, profile.preferences, profile.prompted)
    return any(stated)


def forget_behaviour(profile: Profile) -> None:
    """Drop what was observed, keep what the person stated (consent, do-not-show, levels)."""
    profile.signals.clear()
    profile.attributes.clear()
    profile.provenance.clear()
    profile.records.clear()
    profile.shown.clear()
    profile.pending.clear()
    profile.last.clear()
    profile.last_ms.clear()
    profile.turned.clear()
    profile.cases.clear()
    profile.sampled.clear()
    profile.holding.clear()
