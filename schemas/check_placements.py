"""Does a placement name only what is declared, and do its fields suit each other?

What a variant of a test changes of a placement is checked by the same rules. It reads the document
as written, like all of `schemas.check_policy`: what has the wrong shape is passed over, because the
model has reported it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from schemas.check_conditions import (
    Declared,
    check_condition,
    check_window,
    mapping,
    sensitive_use,
    texts,
)
from schemas.documents import Document, Path
from schemas.events import CONTROL_TYPES
from schemas.mistakes import Mistake, one_of
from schemas.placements import Placement
from schemas.time import format_duration, parse_duration

_BEHAVIOURAL: Final = 2
_PREDICTIVE: Final = 4
_SHARED: Final = 1
_EXPLORING: Final = ("igw", "epsilon_greedy", "softmax", "thompson")
_KINDS_WITH: Final = {
    # Thompson draws by inverse gaps where the model does not know how sure it is.
    "gamma": ("igw", "thompson"),
    "epsilon": ("epsilon_greedy",),
    "temperature": ("softmax",),
    "draws": ("thompson",),
    "spread": ("thompson",),
    "optimism": (*_EXPLORING, "greedy"),
    "floor": _EXPLORING,
    "budget": (*_EXPLORING, "uniform"),
}
_EXPLORATIONS: Final = (*_EXPLORING, "uniform", "greedy")
_FACTORISED: Final = ("shared", "factorised")
_MODELS: Final = (*_FACTORISED, "per_content", "popularity")
_ASKED: Final = (
    *("signal", "attribute", "context", "intent", "prediction", "done", "not_done"),
    *("local_time", "weekday"),
)
"""What conditions ask of, segments aside."""
_SHARDS: Final = 64
"""Unless NEXTBEST_SHARDS says otherwise."""
_PERSONAL: Final = ("rewards", "features", "model", "exploration", "needs", "coherence")
"""What only a placement that is personalised has."""


def check_placements(document: Document, declared: Declared) -> Iterator[Mistake]:
    """Every mistake of the placements, and of what tests change of them."""
    for name, raw in declared.placements.items():
        yield from _placement(document, declared, ("placements", name), mapping(raw))
    yield from _lone_pages(document, declared)
    tests = mapping(mapping(mapping(document.value).get("experiments")).get("tests"))
    for name, test in tests.items():
        for variant, arm in mapping(mapping(test).get("variants")).items():
            changes = mapping(mapping(arm).get("changes"))
            path = ("experiments", "tests", name, "variants", variant, "changes")
            yield from _of_choice(document, declared, path, changes)


def declared_names(
    document: Document, path: Path, value: object, names: Iterable[str], *, kind: str
) -> Iterator[Mistake]:
    """A mistake for each text of a list that is not among the declared names."""
    known = list(names)
    for at, name in texts(value):
        if name not in known:
            expected = f"a declared {kind}: {one_of(known, guess=name)}"
            yield document.unexpected((*path, *at), name, expected=expected)


def is_shared(placement: Mapping[str, Any]) -> bool:
    """Whether everybody in the same segments gets the same answer."""
    return placement.get("shared") is True


def personal_reads(condition: object) -> list[str]:
    """What a condition asks of beside segments, such as `signal views`: no shared answer may.

    A segment may ask of whatever it likes: a shared answer is kept by segments.
    """
    found: dict[str, None] = {}
    waiting = [condition]
    while waiting:
        part = mapping(waiting.pop())
        for name in ("all", "any"):
            inner = part.get(name)
            waiting += inner if isinstance(inner, list) else []
        waiting += [part["not"]] if "not" in part else []
        for kind in _ASKED:
            if kind in part:
                what = ", ".join(text for _, text in texts(part[kind]))
                found[f"{kind} {what}".strip()] = None
    return sorted(found)


def _placement(
    document: Document, declared: Declared, path: Path, placement: Mapping[str, Any]
) -> Iterator[Mistake]:
    for at, event_type in texts(placement.get("triggers")):
        if event_type in CONTROL_TYPES:
            expected = "a type of behaviour: this one controls the flow and triggers nothing"
            yield document.unexpected((*path, "triggers", *at), event_type, expected=expected)
    for part in ("entering", "leaving"):
        yield from declared_names(
            document, (*path, part), placement.get(part), declared.segments, kind="segment"
        )
    yield from check_condition(
        document, declared, (*path, "eligibility"), placement.get("eligibility"), of_segment=False
    )
    yield from _of_choice(document, declared, path, placement)
    yield from _seen(document, declared, path, placement)
    yield from _worth(document, declared, path, placement)
    yield from _caps(document, path, placement)
    yield from _needs(document, declared, path, placement)
    yield from _never_personalised(document, path, placement)
    yield from _shared(document, path, placement)
    if "page_within" in placement:
        here, span = (*path, "page_within"), placement["page_within"]
        yield from check_window(document, here, span, most_ms=None)
        if placement.get("page") is None:
            yield document.unexpected(here, span, expected="page, too: it says of which page")


def _of_choice(
    document: Document, declared: Declared, path: Path, fields: Mapping[str, Any]
) -> Iterator[Mistake]:
    """What placements and the changes of variants have in common."""
    yield from _exploration(document, (*path, "exploration"), mapping(fields.get("exploration")))
    yield from _model(document, (*path, "model"), mapping(fields.get("model")))
    yield from _diversity(document, declared, path, fields)
    yield from _coherence(document, (*path, "coherence"), mapping(fields.get("coherence")))
    yield from _fallback(document, declared, path, fields)


def level_of(placement: Mapping[str, Any]) -> int:
    """The level as written; 0 where it is not a number, or nothing is ever personalised."""
    if placement.get("never_personalised") is True:
        return 0
    level = placement.get("level", _PREDICTIVE)
    return level if isinstance(level, int) else 0


def _seen(
    document: Document, declared: Declared, path: Path, placement: Mapping[str, Any]
) -> Iterator[Mistake]:
    features, here = mapping(placement.get("features")), (*path, "features")
    for part, names in (
        ("signals", declared.signals),
        ("segments", declared.segments),
        ("predictions", declared.predictions),
    ):
        yield from declared_names(
            document, (*here, part), features.get(part), names, kind=part[:-1]
        )
    hidden = {"context": "context", "attributes": "attributes", "content": "attributes"}
    for part, listed in hidden.items():
        for at, name in texts(features.get(part)):
            if declared.hides(listed, name):
                yield sensitive_use(document, (*here, part, *at), name)
    seen = [
        features.get("signals") if features.get("signals") is not None else declared.signals,
        features.get("segments") if features.get("segments") is not None else declared.segments,
    ]
    if level_of(placement) >= _BEHAVIOURAL and not any(seen):
        yield document.mistake(
            (*path, "level"),
            found=f"level {level_of(placement)} without signals and segments",
            expected="signals or segments: without them every profile looks the same",
            severity="warning",
        )


def _worth(
    document: Document, declared: Declared, path: Path, placement: Mapping[str, Any]
) -> Iterator[Mistake]:
    named = texts(placement.get("rewards"))
    yield from declared_names(
        document, (*path, "rewards"), placement.get("rewards"), declared.rewards, kind="reward"
    )
    values = [mapping(declared.rewards.get(name)).get("value") for _, name in named]
    if values and all(isinstance(value, int | float) and value < 0 for value in values):
        yield document.mistake(
            (*path, "rewards"),
            found="negative rewards only",
            expected="a positive one too: otherwise the best is what nobody reacts to",
            severity="warning",
        )
    if placement.get("rewards"):
        return
    if placement.get("learning") == "apprentice":
        expected = "rewards, too: an apprentice without them has nothing to learn from"
        yield document.unexpected((*path, "learning"), "apprentice", expected=expected)
    elif level_of(placement) >= _PREDICTIVE:
        yield document.mistake(
            (*path, "rewards"),
            found="nothing",
            expected=f"a reward: without one, level {level_of(placement)} has nothing to learn "
            "from",
            severity="warning",
        )


def _exploration(
    document: Document, path: Path, exploration: Mapping[str, Any]
) -> Iterator[Mistake]:
    kind = exploration.get("kind", "igw")
    if kind not in _EXPLORATIONS:
        return
    for field, suited in _KINDS_WITH.items():
        if exploration.get(field) is not None and kind not in suited:
            expected = f"no {field}: it belongs to {' and '.join(suited)}, the kind is {kind}"
            yield document.unexpected((*path, field), exploration[field], expected=expected)


def _model(document: Document, path: Path, model: Mapping[str, Any]) -> Iterator[Mistake]:
    kind = model.get("kind", "shared")
    if model.get("factors") and kind in _MODELS and kind not in _FACTORISED:
        expected = f"no factors: they belong to {' and '.join(_FACTORISED)}, the kind is {kind}"
        yield document.unexpected((*path, "factors"), model["factors"], expected=expected)


def _diversity(
    document: Document, declared: Declared, path: Path, fields: Mapping[str, Any]
) -> Iterator[Mistake]:
    limits = fields.get("diversity")
    slots = fields.get("slots", Placement.model_fields["slots"].default)
    for i, raw in enumerate(limits if isinstance(limits, list) else ()):
        here, limit = (*path, "diversity", i), mapping(raw)
        by, most = limit.get("by"), limit.get("most", 1)
        attribute = str(by).removeprefix("attributes.")
        if attribute != by and declared.hides("attributes", attribute):
            yield sensitive_use(document, (*here, "by"), by)
        whole_numbers = type(slots) is int and type(most) is int
        if path[0] == "placements" and whole_numbers and most >= slots:
            yield document.mistake(
                here,
                found=f"at most {most} of {slots} {'slot' if slots == 1 else 'slots'}",
                expected="fewer than there are slots: this limits nothing",
                severity="warning",
            )


def _coherence(document: Document, path: Path, coherence: Mapping[str, Any]) -> Iterator[Mistake]:
    within = coherence.get("within")
    yield from check_window(document, (*path, "within"), within, most_ms=None)
    kept = mapping(mapping(document.value).get("retention")).get("profile_ttl", "90d")
    if duration(within) > (kept_ms := duration(kept)) > 0:
        expected = (
            f"at most retention.profile_ttl ({format_duration(kept_ms)}): "
            "what was shown before is not known any more"
        )
        yield document.unexpected((*path, "within"), within, expected=expected)


def _fallback(
    document: Document, declared: Declared, path: Path, fields: Mapping[str, Any]
) -> Iterator[Mistake]:
    fallback, here = mapping(fields.get("fallback")), (*path, "fallback")
    if path[0] == "placements":  # of a variant `check_experiments` tells it
        for name in mapping(fallback.get("segments")):
            if name not in declared.segments:
                expected = f"a declared segment: {one_of(declared.segments, guess=name)}"
                yield document.unexpected((*here, "segments", name), name, expected=expected)
        if fallback.get("popular") is True and not fields.get("rewards"):
            yield document.mistake(
                (*here, "popular"),
                found="true without rewards",
                expected="a reward: popular is what earns the most of it per impression",
                severity="warning",
            )
    if fallback.get("none") is True:
        for part in ("segments", "popular", "contents"):
            if fallback.get(part):
                expected = f"no {part}: with none: true nothing is shown"
                yield document.unexpected((*here, part), fallback[part], expected=expected)


def _caps(document: Document, path: Path, placement: Mapping[str, Any]) -> Iterator[Mistake]:
    caps = placement.get("caps")
    for i, raw in enumerate(caps if isinstance(caps, list) else ()):
        here, cap = (*path, "caps", i), mapping(raw)
        yield from check_window(document, (*here, "within"), cap.get("within"), most_ms=None)
        per, over = cap.get("per", "content"), cap.get("over", "profile")
        if per == "channel" and placement.get("channel") is None:
            expected = "a channel of the placement: without one there is none to count"
            yield document.unexpected((*here, "per"), per, expected=expected)
        if over == "everybody" and per in ("placement", "channel"):
            expected = f"over: profile: everybody is counted per content or tag, not per {per}"
            yield document.unexpected((*here, "over"), over, expected=expected)
        if cap.get("hard") is True and over == "profile":
            expected = "over: everybody, too: the cap of one profile is never exceeded anyway"
            yield document.unexpected((*here, "hard"), True, expected=expected)
        elif cap.get("hard") is True and isinstance(most := cap.get("max"), int) and most < _SHARDS:
            yield document.mistake(
                (*here, "max"),
                found=f"{most} for everybody, divided among {_SHARDS} shards",
                expected=f"{_SHARDS} and more: below that most shards never show it",
                severity="warning",
            )


def _needs(
    document: Document, declared: Declared, path: Path, placement: Mapping[str, Any]
) -> Iterator[Mistake]:
    needs, here = mapping(placement.get("needs")), (*path, "needs")
    yield from declared_names(
        document, (*here, "signals"), needs.get("signals"), declared.signals, kind="signal"
    )
    if needs.get("rewarded") and not placement.get("rewards"):
        expected = "rewards of the placement: without one its model never learns from any"
        yield document.unexpected((*here, "rewarded"), needs["rewarded"], expected=expected)
    holdout = mapping(mapping(mapping(document.value).get("experiments")).get("holdout"))
    alone = not holdout or holdout.get("serve") == "fallback"
    if needs.get("rewarded") and placement.get("rewards") and alone:
        yield document.mistake(
            (*here, "rewarded"),
            found="a model that must have learned first, and nobody it could learn from",
            expected="a holdout that is served uniformly: until then the fallback answers, and a "
            "fallback teaches nothing",
            severity="warning",
        )


def _never_personalised(
    document: Document, path: Path, placement: Mapping[str, Any]
) -> Iterator[Mistake]:
    if placement.get("never_personalised") is not True:
        return
    for part in _PERSONAL:
        if placement.get(part):
            expected = f"no {part}: this placement is never personalised"
            yield document.unexpected((*path, part), placement[part], expected=expected)


def _shared(document: Document, path: Path, placement: Mapping[str, Any]) -> Iterator[Mistake]:
    if not is_shared(placement):
        return
    if level_of(placement) > _SHARED:
        yield document.mistake(
            (*path, "shared"),
            found=f"shared at level {level_of(placement)}",
            expected="level: 0 or 1: what one person did must not show in everybody's answer",
        )
    everybodys = "everybody gets the same answer"
    caps = placement.get("caps")
    for i, raw in enumerate(caps if isinstance(caps, list) else ()):
        if mapping(raw).get("over", "profile") == "profile":
            expected = f"over: everybody: {everybodys}, whatever one profile was shown"
            yield document.mistake((*path, "caps", i), found="a cap per profile", expected=expected)
    needs = mapping(placement.get("needs"))
    for part, asked in (("coherence", placement.get("coherence")), ("page", placement.get("page"))):
        if asked:
            expected = f"no {part}: {everybodys}, whatever one profile was shown"
            yield document.unexpected((*path, part), asked, expected=expected)
    if needs.get("signals"):
        expected = f"no signals: {everybodys}, whatever is known of one profile"
        yield document.unexpected((*path, "needs", "signals"), needs["signals"], expected=expected)
    if asked_of := personal_reads(placement.get("eligibility")):
        yield document.mistake(
            (*path, "eligibility"),
            found=f"a condition on {', '.join(asked_of)}",
            expected=f"segments only: {everybodys} in the same segments",
        )


def _lone_pages(document: Document, declared: Declared) -> Iterator[Mistake]:
    pages = {
        name: page
        for name, raw in declared.placements.items()
        if isinstance(page := mapping(raw).get("page"), str)
    }
    times = Counter(pages.values())
    for name, page in pages.items():
        if times[page] == 1:
            others = [other for other in times if other != page]
            hint = f": {one_of(others, guess=page)}" if others else ""
            yield document.mistake(
                ("placements", name, "page"),
                found=f"{page!r} of this placement alone",
                expected=f"a page of two placements or more{hint}",
                severity="warning",
            )


def duration(value: object) -> int:
    """A duration in ms; 0 where it is none (the model has said so)."""
    try:
        return parse_duration(value)
    except ValueError:
        return 0
