"""Can audiences be compared, and can a threshold follow what it names?

It reads the document as written, like all of `schemas.check_policy`: what has the wrong shape is
passed over, because the model has reported it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from schemas.audiences import COMPARABLE
from schemas.check_conditions import Declared, mapping, texts
from schemas.documents import Document, Path
from schemas.mistakes import Mistake, one_of


def check_audiences(document: Document, declared: Declared) -> Iterator[Mistake]:
    """Every mistake of the section `audiences` and of the `follow` of segments."""
    yield from _compared(document, declared)
    for name, raw in declared.segments.items():
        segment = mapping(raw)
        follow = mapping(segment.get("follow"))
        if follow:
            path: Path = ("segments", name, "follow")
            yield from _follow(document, declared, path, follow, segment.get("when"))


def _compared(document: Document, declared: Declared) -> Iterator[Mistake]:
    section = mapping(document.value).get("audiences")
    if not isinstance(section, dict):
        return
    path: Path = ("audiences", "signals")
    comparable = [
        name
        for name, signal in declared.signals.items()
        if mapping(signal).get("kind") in COMPARABLE
    ]
    for at, name in texts(mapping(section).get("signals")):
        if name not in comparable:
            expected = f"a signal that is one number: {one_of(comparable, guess=name)}"
            yield document.unexpected((*path, *at), name, expected=expected)
    if not comparable:
        yield document.mistake(
            ("audiences",),
            found="no signal to compare profiles by",
            expected="a declared signal that is one number, such as a count",
        )


def _follow(
    document: Document, declared: Declared, path: Path, follow: Mapping[str, Any], when: object
) -> Iterator[Mistake]:
    signal, bound = follow.get("signal"), follow.get("bound", "at_least")
    reward = follow.get("reward")
    if isinstance(reward, str) and reward not in declared.rewards:
        expected = f"a declared reward: {one_of(declared.rewards, guess=reward)}"
        yield document.unexpected((*path, "reward"), reward, expected=expected)
    if not isinstance(signal, str) or bound not in ("at_least", "at_most"):
        return
    if signal not in declared.signals:
        expected = f"a declared signal: {one_of(declared.signals, guess=signal)}"
        yield document.unexpected((*path, "signal"), signal, expected=expected)
        return
    kind = mapping(declared.signals[signal]).get("kind")
    if isinstance(kind, str) and kind not in COMPARABLE:
        yield document.unexpected(
            (*path, "signal"), signal, expected=f"a signal that is one number: {kind} is not"
        )
        return
    bounds = [
        leaf[bound]
        for leaf in _leaves(when)
        if leaf.get("signal") == signal and bound in leaf and "key" not in leaf
    ]
    if len(bounds) != 1:
        expected = f"{bound} of {signal} once in the segment's condition, and not within a not"
        found = f"{bound} of {signal} {len(bounds)} times"
        yield document.mistake(path, found=found, expected=expected)
        return
    yield from _between(document, path, follow, bounds[0])


def _between(
    document: Document, path: Path, follow: Mapping[str, Any], declared: object
) -> Iterator[Mistake]:
    between = follow.get("between")
    numbers = [declared, *(between if isinstance(between, list) else ())]
    if len(numbers) != 3 or not all(isinstance(number, int | float) for number in numbers):
        return
    number, lowest, highest = numbers
    if not lowest <= number <= highest:
        expected = f"bounds that hold the declared threshold, {number}"
        yield document.unexpected((*path, "between"), between, expected=expected)


def _leaves(condition: object) -> Iterator[Mapping[str, Any]]:
    part = mapping(condition)
    if "signal" in part:
        yield part
    for name in ("all", "any"):
        inner = part.get(name)
        for one in inner if isinstance(inner, list) else ():
            yield from _leaves(one)
