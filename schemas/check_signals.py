"""Does a signal read only what may be read, and does a ratio divide what can be divided?

Like the check of conditions it reads the document as written: what has the wrong shape is passed
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
)
from schemas.documents import Document, Path
from schemas.mistakes import Mistake, one_of
from schemas.time import parse_duration

DIVISIBLE: Final = (
    *("count", "sum", "mean", "min", "max", "distinct"),
    *("sequence", "streak", "session"),
)
"""Kinds whose value is one plain number: what a ratio can be made of."""

_STEPS: Final = ("first", "then", "not_then")


def check_signal(
    document: Document, declared: Declared, path: Path, signal: Mapping[str, Any]
) -> Iterator[Mistake]:
    """The mistakes of one declared signal."""
    yield from check_filter(document, declared, (*path, "where"), signal.get("where"))
    if signal.get("kind") == "ratio":
        for part in ("of", "to"):
            yield from _part(document, declared, (*path, part), signal.get(part))
    elif is_sensitive(declared, of := signal.get("of")):
        yield sensitive_use(document, (*path, "of"), of)
    if signal.get("kind") == "sequence":
        for step in _STEPS:
            where = mapping(signal.get(step)).get("where")
            yield from check_filter(document, declared, (*path, step, "where"), where)
        yield from _gap(document, path, signal)


def _gap(document: Document, path: Path, signal: Mapping[str, Any]) -> Iterator[Mistake]:
    """What did not follow is counted once its gap has passed: the window must outlast it."""
    if signal.get("not_then") is None:
        return
    try:
        gap, within = parse_duration(signal.get("gap")), parse_duration(signal.get("within"))
    except ValueError:
        return
    if gap >= within:
        expected = f"a gap shorter than within {signal['within']}"
        yield document.unexpected((*path, "gap"), signal["gap"], expected=expected)


def _part(document: Document, declared: Declared, path: Path, name: object) -> Iterator[Mistake]:
    if not isinstance(name, str):
        return
    numbers = [
        other
        for other, signal in declared.signals.items()
        if mapping(signal).get("kind") in DIVISIBLE
    ]
    if name not in declared.signals:
        expected = f"a declared signal: {one_of(numbers, guess=name)}"
        yield document.unexpected(path, name, expected=expected)
    elif name not in numbers:
        kind = mapping(declared.signals[name]).get("kind")
        expected = f"a signal that is one number, {one_of(numbers)}: {name} is of kind {kind}"
        yield document.unexpected(path, name, expected=expected)
