"""Does a policy name only what it declares, and mean what it says?

What one field alone can show is the model's business. This looks across: signals, segments and
rewards that are named but not declared, conditions that do not suit a signal's kind, segments that
need each other, sensitive data in use. It reads the document as written, not the model, so that it
still works where other parts of the file are broken; what has the wrong shape is passed over,
because the model has reported it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from schemas.check_audiences import check_audiences
from schemas.check_conditions import (
    Declared,
    check_filter,
    check_window,
    mapping,
    sensitive_use,
    texts,
)
from schemas.check_experiments import check_experiments
from schemas.check_placements import check_placements, declared_names
from schemas.check_predictions import check_predictions
from schemas.check_rules import check_rules
from schemas.check_segments import check_segments
from schemas.check_signals import check_signal
from schemas.documents import Document, Path
from schemas.guidance import Reasons
from schemas.mistakes import Mistake, one_of, shown

_PLACEHOLDERS: Final = ("title", "value")
_BRACES: Final = re.compile(r"\{([^{}]*)\}|[{}]")


def check_policy(document: Document) -> list[Mistake]:
    """Every cross-reference mistake of a policy, warnings included."""
    declared = Declared.by(document)
    found: list[Mistake] = []
    for name, signal in declared.signals.items():
        found += check_signal(document, declared, ("signals", name), mapping(signal))
    found += check_segments(document, declared)
    found += check_predictions(document, declared)
    found += check_audiences(document, declared)
    found += check_placements(document, declared)
    found += check_rules(document, declared)
    found += check_experiments(document, declared)
    found += _consent(document)
    found += _reasons(document, declared)
    found += _monitoring(document, declared)
    used = _used_rewards(document, declared)
    for name, raw in declared.rewards.items():
        found += _reward(document, declared, ("rewards", name), mapping(raw))
        if name not in used:
            found.append(
                document.mistake(
                    ("rewards", name),
                    found="a reward that no placement uses",
                    expected=f"a placement with {name} among its rewards",
                    severity="warning",
                )
            )
    return found


def _used_rewards(document: Document, declared: Declared) -> set[str]:
    """The rewards of placements, and of what tests make of them."""
    learning = [mapping(placement) for placement in declared.placements.values()]
    tests = mapping(mapping(mapping(document.value).get("experiments")).get("tests"))
    for test in tests.values():
        for variant in mapping(mapping(test).get("variants")).values():
            learning.append(mapping(mapping(variant).get("changes")))
    return {name for fields in learning for _, name in texts(fields.get("rewards"))}


def _reward(
    document: Document, declared: Declared, path: Path, reward: Mapping[str, Any]
) -> Iterator[Mistake]:
    yield from check_window(document, (*path, "within"), reward.get("within"), most_ms=None)
    yield from check_filter(document, declared, (*path, "where"), reward.get("where"))
    times = reward.get("times")
    named = str(times).removeprefix("attributes.")
    if named != times and declared.hides("attributes", named):
        yield sensitive_use(document, (*path, "times"), times)
    if reward.get("at_most") is not None and times != "value":
        expected = "times: value, too: it is the event's value that counts as at most this"
        yield document.unexpected((*path, "at_most"), reward["at_most"], expected=expected)


def _consent(document: Document) -> Iterator[Mistake]:
    named: dict[str, Path] = {}
    for at, use in texts(mapping(mapping(document.value).get("consent")).get("gpc")):
        if use in named:
            expected = "each use once"
            yield document.unexpected(("consent", "gpc", *at), use, expected=expected)
        named.setdefault(use, at)


def _reasons(document: Document, declared: Declared) -> Iterator[Mistake]:
    reasons = mapping(mapping(document.value).get("reasons"))
    private = reasons.get("private")
    yield from declared_names(
        document, ("reasons", "private"), private, declared.signals, kind="signal"
    )
    language = reasons.get("language", Reasons.model_fields["language"].default)
    for code, raw in mapping(reasons.get("templates")).items():
        path: Path = ("reasons", "templates", code)
        sentences = mapping(raw)
        for spoken, template in sentences.items():
            if isinstance(template, str):
                yield from _template(document, (*path, spoken), template)
        if sentences and isinstance(language, str) and language not in sentences:
            yield document.mistake(
                path,
                found=f"no sentence in {shown(language)}",
                expected="one in reasons.language, for those whose language has none",
                severity="warning",
            )


def _template(document: Document, path: Path, template: str) -> Iterator[Mistake]:
    for found in _BRACES.finditer(template):
        if found[1] in _PLACEHOLDERS:
            continue
        known = [f"{{{name}}}" for name in _PLACEHOLDERS]
        expected = f"{one_of(known, guess=found[0])}: a sentence with anything else is not told"
        yield document.unexpected(path, found[0], expected=expected)


def _monitoring(document: Document, declared: Declared) -> Iterator[Mistake]:
    monitoring = mapping(mapping(document.value).get("monitoring"))
    every = monitoring.get("every")
    yield from check_window(document, ("monitoring", "every"), every, most_ms=None)
    for name, raw in mapping(monitoring.get("groups")).items():
        attribute = mapping(raw).get("attribute")
        if declared.hides("attributes", attribute):
            path: Path = ("monitoring", "groups", name, "attribute")
            yield sensitive_use(document, path, attribute)
