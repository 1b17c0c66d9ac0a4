"""Does a prediction name only what is declared, and could it ever learn?

It reads the document as written, like the rest of the checks; what has the wrong shape is passed
over, because the model has reported it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from schemas.check_conditions import (
    Declared,
    check_filter,
    is_sensitive,
    mapping,
    sensitive_use,
    texts,
)
from schemas.documents import Document, Path
from schemas.events import CONTROL_TYPES
from schemas.mistakes import Mistake, one_of
from schemas.policy import Retention
from schemas.predictions import MAX_CASES
from schemas.reads import definitions, hidden_from
from schemas.time import format_duration, parse_duration

_TARGETS: Final = ("done", "not_done", "sum")


def check_predictions(document: Document, declared: Declared) -> Iterator[Mistake]:
    """The mistakes of the section `predictions`."""
    whole = mapping(document.value)
    intents = mapping(whole.get("intents"))
    conditions = definitions(declared.segments, intents)
    kept_ms = _duration(mapping(whole.get("retention")).get("profile_ttl"), Retention().profile_ttl)
    for name, raw in mapping(whole.get("predictions")).items():
        prediction = mapping(raw)
        path: Path = ("predictions", name)
        target = mapping(prediction.get("target"))
        yield from _target(document, declared, (*path, "target"), target, conditions)
        yield from _horizon(document, path, prediction, target, kept_ms)
        yield from _features(
            document,
            declared,
            (*path, "features"),
            mapping(prediction.get("features")),
            conditions,
            target.get("segment"),
        )


def _target(
    document: Document,
    declared: Declared,
    path: Path,
    target: Mapping[str, Any],
    conditions: Mapping[str, object],
) -> Iterator[Mistake]:
    named = target.get("segment")
    if isinstance(named, str) and named not in conditions:
        expected = f"a declared segment: {one_of(conditions, guess=named)}"
        yield document.unexpected((*path, "segment"), named, expected=expected)
    for kind in _TARGETS:
        for at, event in texts(target.get(kind)):
            if event in CONTROL_TYPES:
                expected = "an event of behaviour: this one changes what is known of a profile"
                yield document.unexpected((*path, kind, *at), event, expected=expected)
    if is_sensitive(declared, of := target.get("of")):
        yield sensitive_use(document, (*path, "of"), of)
    yield from check_filter(document, declared, (*path, "where"), target.get("where"))


def _horizon(
    document: Document,
    path: Path,
    prediction: Mapping[str, Any],
    target: Mapping[str, Any],
    kept_ms: int,
) -> Iterator[Mistake]:
    within = _duration(target.get("within"), 0)
    if within >= kept_ms:
        expected = (
            f"a horizon shorter than retention.profile_ttl ({format_duration(kept_ms)}): "
            "an idle profile would be dropped before its label is known"
        )
        yield document.unexpected((*path, "target", "within"), target["within"], expected=expected)
    every = _duration(prediction.get("every"), 0)
    if 0 < every < (least := -(-within // MAX_CASES)):
        expected = (
            f"an eighth of the horizon or more ({format_duration(least)}): a profile keeps "
            f"{MAX_CASES} open cases, so it gives one that often at most"
        )
        yield document.mistake(
            (*path, "every"), found=str(prediction["every"]), expected=expected, severity="warning"
        )


def _features(
    document: Document,
    declared: Declared,
    path: Path,
    features: Mapping[str, Any],
    conditions: Mapping[str, object],
    look_alike: object,
) -> Iterator[Mistake]:
    segment = look_alike if isinstance(look_alike, str) else None
    hidden = hidden_from(segment, conditions, declared.signals)
    told = "something the segment does not ask about: it would only repeat its definition"
    fed_back = "a segment that asks about no prediction: it would feed on itself"
    for kind, known, refused in (
        ("signal", declared.signals, hidden.signals),
        ("segment", conditions, hidden.segments),
    ):
        for at, name in texts(features.get(f"{kind}s")):
            here = (*path, f"{kind}s", *at)
            if name not in known:
                expected = f"a declared {kind}: {one_of(known, guess=name)}"
                yield document.unexpected(here, name, expected=expected)
            elif name in refused:
                yield document.unexpected(here, name, expected=told if segment else fed_back)
    for at, name in texts(features.get("attributes")):
        here = (*path, "attributes", *at)
        if declared.hides("attributes", name):
            yield sensitive_use(document, here, name)
        elif name in hidden.attributes:
            yield document.unexpected(here, name, expected=told)


def _duration(value: object, otherwise: int) -> int:
    try:
        return parse_duration(value)
    except ValueError:
        return otherwise
