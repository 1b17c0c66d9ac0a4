"""Why is this item shown? A code for machines and a sentence that a person may read.

Only what the person did in the open (the tags and attributes of what it touched) is ever named;
segments, predictions, signals declared private and anything sensitive are not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from operators.affinity import DecayedAffinity
from operators.filters import values_of
from operators.plan import Plan
from operators.profile import Profile
from operators.reason_texts import ENGLISH, Languages, Reason, Texts
from schemas.catalogue import Content
from schemas.policy import Policy

__all__ = ["Liking", "Reason", "fallback_reason", "item_reasons", "likes"]

_TOP: Final = 5
_PLAIN: Final = Texts()
_ENGLISH: Final[Languages] = (ENGLISH,)
_ATTRIBUTE: Final = "content.attributes."
_TOLD_BY_LIKING: Final = ("model", "sticky")


def fallback_reason(
    why: str,
    content: Content | None = None,
    *,
    languages: Languages = _ENGLISH,
    texts: Texts = _PLAIN,
) -> list[Reason]:
    """The reason of an item of a fallback; without a content, in words that fit any."""
    code = f"fallback:{why}"
    if content is None:
        return [texts.tell(code, languages)]
    if content.asks_consent is not None:
        return [texts.tell("prompt", languages, title=_title_of(content))]
    return [texts.tell(code, languages, title=_title_of(content))]


Liking = tuple[str, Callable[[Content], object], dict[str, float]]
"""A signal's name, how it reads a content, and the profile's strongest values of it."""


def likes(profile: Profile, *, plan: Plan, now_ms: int) -> list[Liking]:
    """What the person likes about contents now, by affinity signal that may be named."""
    found: list[Liking] = []
    for signal in plan.tastes:
        kind = signal.kind
        if isinstance(kind, DecayedAffinity) and kind.read_content is not None:
            top = kind.top(profile.signals.get(signal.slot), now_ms, _TOP)
            if top and _may_be_named(signal.name, plan.policy):
                found.append((signal.name, kind.read_content, dict(top)))
    return found


def _may_be_named(signal: str, policy: Policy) -> bool:
    if signal in policy.reasons.private:
        return False
    of = getattr(policy.signals[signal], "of", "")
    return not (
        of.startswith(_ATTRIBUTE) and of.removeprefix(_ATTRIBUTE) in policy.sensitive.attributes
    )


def item_reasons(
    content: Content,
    *,
    liked: list[Liking],
    greedy: bool,
    source: str = "model",
    rule: str | None = None,
    popular: bool = False,
    languages: Languages = _ENGLISH,
    texts: Texts = _PLAIN,
) -> list[Reason]:
    """The reasons of one chosen item: what the person likes about it, else how it was chosen.

    `source` is who put it there (as the record has it), `rule` what the rule calls its reason.
    `popular` says that nothing of the person was asked, only what others like. `liked` is to be
    empty where the level in force does not let behaviour be used.
    """
    title = _title_of(content)
    if content.asks_consent is not None:
        return [texts.tell("prompt", languages, title=title)]
    if source not in _TOLD_BY_LIKING:
        code = source if rule is None else rule
        template = source if rule is None or not texts.has(rule) else rule
        return [texts.tell(code, languages, title=title, template=template)]
    if not greedy:
        return [texts.tell("explored", languages, title=title)]
    found: list[Reason] = []
    if not content.sensitive:
        for name, read, strengths in liked:
            own = [value for value in values_of(read(content)) if value in strengths]
            if own:
                best = max(own, key=lambda value: (strengths[value], value))
                found.append(
                    texts.tell(
                        f"affinity:{name}={best}",
                        languages,
                        title=title,
                        value=best,
                        template="affinity",
                        instead="predicted",
                    )
                )
    if found:
        return found
    code = "popular" if popular else "predicted" if source == "model" else source
    return [texts.tell(code, languages, title=title)]


def _title_of(content: Content) -> str | dict[str, str] | None:
    # The sentence of a sensitive content says nothing about it.
    return None if content.sensitive else content.title
