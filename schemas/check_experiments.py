"""Do the tests of a policy name only what is declared, and can what they measure be measured?

It reads the document as written, like the rest of the checks; what has the wrong shape is passed
over, because the model has reported it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any, Final

from schemas.check_conditions import (
    Declared,
    changeable_placements,
    check_condition,
    mapping,
    sensitive_use,
    texts,
)
from schemas.documents import Document, Path
from schemas.experiments import Changes, Promotion
from schemas.mistakes import Mistake, one_of

METRICS: Final = ("conversion", "order_value", "retention", "session_time", "satisfaction")
OF_A_REWARD: Final = ("conversion", "order_value")
"""Metrics that may name one reward kind: conversion.purchase."""
_HOLDOUT: Final = "holdout"


def check_experiments(document: Document, declared: Declared) -> Iterator[Mistake]:
    """The mistakes of the section `experiments`."""
    whole = mapping(document.value)
    rules = mapping(whole.get("rules"))
    tests = mapping(mapping(whole.get("experiments")).get("tests"))
    for name, raw in tests.items():
        test = mapping(raw)
        path: Path = ("experiments", "tests", name)
        if name == _HOLDOUT:
            expected = "another name: records call the holdout so"
            yield document.unexpected(path, name, expected=expected)
        yield from changeable_placements(
            document, declared, path, test.get("placements"), wanted="a placement that may change"
        )
        yield from check_condition(
            document, declared, (*path, "when"), test.get("when"), of_segment=False
        )
        yield from _metrics(document, declared, path, test)
        yield from _promotion(document, declared, path, test)
        for variant, arm in mapping(test.get("variants")).items():
            changes = mapping(mapping(arm).get("changes"))
            here = (*path, "variants", variant, "changes")
            yield from _changes(document, declared, here, changes, rules)
    yield from _crossings(document, declared, tests)


def _metrics(
    document: Document, declared: Declared, path: Path, test: Mapping[str, Any]
) -> Iterator[Mistake]:
    known = (*METRICS, *declared.rewards)
    for part in ("metrics", "guardrails"):
        for at, name in texts(test.get(part)):
            metric, _, reward = name.partition(".")
            here = (*path, part, *at)
            if name in known or (metric in OF_A_REWARD and reward in declared.rewards):
                continue
            if reward and metric in OF_A_REWARD:
                found = one_of(declared.rewards, guess=reward)
                expected = f"a declared reward after {metric}: {found}"
            else:
                expected = f"a metric or a declared reward: {one_of(known, guess=name)}"
            yield document.unexpected(here, name, expected=expected)


def _promotion(
    document: Document, declared: Declared, path: Path, test: Mapping[str, Any]
) -> Iterator[Mistake]:
    promote = mapping(test.get("promote"))
    if not promote:
        return
    reward = promote.get("reward")
    if isinstance(reward, str) and reward not in declared.rewards:
        expected = f"a declared reward: {one_of(declared.rewards, guess=reward)}"
        yield document.unexpected((*path, "promote", "reward"), reward, expected=expected)
    floor = promote.get("floor", Promotion.model_fields["floor"].default)
    variants = len(mapping(test.get("variants")))
    if isinstance(floor, int | float) and not isinstance(floor, bool) and floor * variants >= 1:
        expected = f"less than 1/{variants}: {variants} variants with this floor leave no share"
        yield document.mistake((*path, "promote", "floor"), found=str(floor), expected=expected)


def _changes(
    document: Document,
    declared: Declared,
    path: Path,
    changes: Mapping[str, Any],
    rules: Mapping[str, Any],
) -> Iterator[Mistake]:
    for part, names, kind in (("rewards", declared.rewards, "reward"), ("rules", rules, "rule")):
        for at, name in texts(changes.get(part)):
            if name not in names:
                expected = f"a declared {kind}: {one_of(names, guess=name)}"
                yield document.unexpected((*path, part, *at), name, expected=expected)
    features = mapping(changes.get("features"))
    for part, names in (
        ("signals", declared.signals),
        ("segments", declared.segments),
        ("predictions", declared.predictions),
    ):
        for at, name in texts(features.get(part)):
            if name not in names:
                expected = f"a declared {part[:-1]}: {one_of(names, guess=name)}"
                yield document.unexpected((*path, "features", part, *at), name, expected=expected)
    for part, listed in (
        ("context", "context"),
        ("attributes", "attributes"),
        ("content", "attributes"),
    ):
        for at, name in texts(features.get(part)):
            if declared.hides(listed, name):
                yield sensitive_use(document, (*path, "features", part, *at), name)
    for name in mapping(mapping(changes.get("fallback")).get("segments")):
        if name not in declared.segments:
            expected = f"a declared segment: {one_of(declared.segments, guess=name)}"
            here = (*path, "fallback", "segments", name)
            yield document.unexpected(here, name, expected=expected)


def _crossings(
    document: Document, declared: Declared, tests: Mapping[str, Any]
) -> Iterator[Mistake]:
    """Tests of two layers that change the same: a profile in both gets the later one's change."""
    for (_, one), (name, other) in combinations(tests.items(), 2):
        first, second = mapping(one), mapping(other)
        if first.get("layer", "main") == second.get("layer", "main"):
            continue
        both = _where(declared, first) & _where(declared, second)
        same = sorted(_changed(first) & _changed(second))
        if both and same:
            yield document.mistake(
                ("experiments", "tests", name),
                found=f"a change of {', '.join(same)} of {sorted(both)[0]}, as in a test of "
                f"layer {first.get('layer', 'main')}",
                expected="one layer for both: who is in both gets the later test's change",
                severity="warning",
            )


def _where(declared: Declared, test: Mapping[str, Any]) -> set[str]:
    named = {name for _, name in texts(test.get("placements"))}
    return named if test.get("placements") is not None else set(declared.placements)


def _changed(test: Mapping[str, Any]) -> set[str]:
    return {
        field
        for variant in mapping(test.get("variants")).values()
        for field, value in mapping(mapping(variant).get("changes")).items()
        if field in Changes.model_fields and value is not None
    }
