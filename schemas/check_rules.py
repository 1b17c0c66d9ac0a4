"""Do rules name only what exists, and can what they ask for be done?

With the policy alone: placements, conditions, ranks, reasons, rules that contradict themselves.
With its catalogue: contents, tags, types and attributes that no content has. It reads the document
as written, like all of `schemas.check_policy`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from schemas.check_conditions import (
    Declared,
    changeable_placements,
    check_condition,
    mapping,
    sensitive_use,
    texts,
)
from schemas.check_placements import is_shared, personal_reads
from schemas.documents import Document, Path
from schemas.mistakes import Mistake, did_you_mean, one_of, shown
from schemas.placements import Placement

BUILT_IN_REASONS: Final = (
    *("affinity", "predicted", "explored", "popular", "sticky", "incumbent"),
    *("forced", "pinned", "prompt", "fallback"),
)
"""Reasons that have a sentence without a template of the policy."""

_SELECTIONS: Final = ("only", "exclude", "boost", "bury")


def check_rules(document: Document, declared: Declared) -> Iterator[Mistake]:
    """Every mistake of the section `rules` that shows without a catalogue."""
    whole = mapping(document.value)
    templates = mapping(mapping(whole.get("reasons")).get("templates"))
    for name, raw in mapping(whole.get("rules")).items():
        path: Path = ("rules", name)
        rule = mapping(raw)
        when = rule.get("when")
        yield from check_condition(document, declared, (*path, "when"), when, of_segment=False)
        yield from _placements(document, declared, path, rule)
        yield from _pins(document, declared, path, rule)
        yield from _selections(document, declared, path, rule)
        reason = rule.get("reason")
        known = dict.fromkeys([*templates, *BUILT_IN_REASONS])
        if isinstance(reason, str) and reason not in known:
            yield document.mistake(
                (*path, "reason"),
                found=shown(reason),
                expected=f"a template of reasons: {one_of(known, guess=reason)}",
                severity="warning",
            )


def _of_rule(declared: Declared, rule: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The declared placements that a rule is about."""
    named = [name for _, name in texts(rule.get("placements"))]
    among = declared.placements if rule.get("placements") is None else named
    return {name: mapping(declared.placements.get(name)) for name in among}


def _placements(
    document: Document, declared: Declared, path: Path, rule: Mapping[str, Any]
) -> Iterator[Mistake]:
    yield from changeable_placements(
        document, declared, path, rule.get("placements"), wanted="a placement that rules may change"
    )
    shared = [name for name, of in _of_rule(declared, rule).items() if is_shared(of)]
    asked = personal_reads(rule.get("when"))
    if shared and asked:
        yield document.mistake(
            (*path, "when"),
            found=f"a condition on {', '.join(asked)}",
            expected=f"segments only, or other placements: in {shared[0]} everybody "
            "in the same segments gets the same answer",
        )


def _pins(
    document: Document, declared: Declared, path: Path, rule: Mapping[str, Any]
) -> Iterator[Mistake]:
    slots = [
        of.get("slots", Placement.model_fields["slots"].default)
        for of in _of_rule(declared, rule).values()
    ]
    known = [number for number in slots if type(number) is int]
    pins = rule.get("pin")
    ranks: dict[int, int] = {}
    contents: dict[str, int] = {}
    for i, raw in enumerate(pins if isinstance(pins, list) else ()):
        here, pin = (*path, "pin", i), mapping(raw)
        rank, content = pin.get("rank", 1), pin.get("content")
        if type(rank) is int:
            if known and len(known) == len(slots) and rank > max(known):
                expected = f"a rank of at most {max(known)}: no placement of it has more slots"
                yield document.unexpected((*here, "rank"), rank, expected=expected)
            if ranks.setdefault(rank, i) != i:
                expected = f"another rank: pin {ranks[rank]} of this rule has it"
                yield document.unexpected((*here, "rank"), rank, expected=expected)
        if isinstance(content, str) and contents.setdefault(content, i) != i:
            expected = f"it once: pin {contents[content]} of this rule has it"
            yield document.unexpected((*here, "content"), content, expected=expected)


def _selections(
    document: Document, declared: Declared, path: Path, rule: Mapping[str, Any]
) -> Iterator[Mistake]:
    for part in _SELECTIONS:
        select, here = mapping(rule.get(part)), (*path, part)
        for at, tag in texts(select.get("tags")):
            if declared.hides("tags", tag):
                yield sensitive_use(document, (*here, "tags", *at), tag)
        for attribute in mapping(select.get("attributes")):
            if declared.hides("attributes", attribute):
                yield sensitive_use(document, (*here, "attributes", attribute), attribute)
        by = select.get("by")
        if part in ("boost", "bury") and isinstance(by, int | float) and 0 < by <= 1:
            other = "bury" if part == "boost" else "boost"
            expected = f"a number above 1: for the other direction there is {other}"
            yield document.unexpected((*here, "by"), by, expected=expected)
    excluded = {name for _, name in texts(mapping(rule.get("exclude")).get("contents"))}
    for where, name in _placed(rule):
        if name in excluded:
            expected = "a content that the same rule does not exclude"
            yield document.unexpected((*path, *where), name, expected=expected)


def _placed(rule: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """The contents that a rule puts in place, each with its path within the rule."""
    for at, name in texts(rule.get("force")):
        yield ("force", *at), name
    pins = rule.get("pin")
    for i, pin in enumerate(pins if isinstance(pins, list) else ()):
        content = mapping(pin).get("content")
        if isinstance(content, str):
            yield ("pin", i, "content"), content


def check_rules_with_catalogue(
    document: Document,
    *,
    contents: Mapping[str, object],
    tags: Mapping[str, object],
    types: Mapping[str, object],
    attributes: Mapping[str, object],
) -> Iterator[Mistake]:
    """What rules name that the catalogue does not have; a content is an error, the rest warnings.

    The mappings have what occurs in the catalogue as keys.
    """
    for name, raw in mapping(mapping(document.value).get("rules")).items():
        path: Path = ("rules", name)
        rule = mapping(raw)
        for at, content in _placed(rule):
            yield from _content(document, (*path, *at), content, contents)
        for part in _SELECTIONS:
            select, here = mapping(rule.get(part)), (*path, part)
            for at, content in texts(select.get("contents")):
                yield from _content(document, (*here, "contents", *at), content, contents)
            for at, tag in texts(select.get("tags")):
                yield from _absent(document, (*here, "tags", *at), "a tag", tag, tags)
            for at, kind in texts(select.get("types")):
                yield from _absent(document, (*here, "types", *at), "a type", kind, types)
            for attribute in mapping(select.get("attributes")):
                where = (*here, "attributes", attribute)
                yield from _absent(document, where, "an attribute", attribute, attributes)


def _content(
    document: Document, path: Path, content: str, contents: Mapping[str, object]
) -> Iterator[Mistake]:
    if content not in contents:
        yield document.unexpected(path, content, expected=a_content(contents, guess=content))


def a_content(contents: Mapping[str, object], *, guess: str) -> str:
    """What is expected where a content is named; the ids may be thousands: a hint is enough."""
    return f"a content of the catalogue{did_you_mean(guess, contents)}"


def _absent(
    document: Document, path: Path, what: str, name: str, known: Mapping[str, object]
) -> Iterator[Mistake]:
    if name not in known:
        yield document.mistake(
            path,
            found=f"{shown(name)}, which no content has",
            expected=f"{what} of the catalogue: {one_of(known, guess=name)}",
            severity="warning",
        )
