"""Can the segments and intents of a policy be evaluated, each after those it asks about?

Their conditions are checked by `schemas.check_conditions`; this looks at the spans beside them, and
at what they need of each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from schemas.check_conditions import (
    Declared,
    check_condition,
    check_window,
    mapping,
    mentioned_segments,
)
from schemas.conditions import INTENT
from schemas.documents import Document, Path
from schemas.mistakes import Mistake
from schemas.time import parse_duration

_SPANS: Final = ("for_at_least", "stay_at_least", "leave_after")


def check_segments(document: Document, declared: Declared) -> Iterator[Mistake]:
    """Every mistake of the segments and intents."""
    for name, raw in declared.segments.items():
        path: Path = ("segments", name)
        segment = mapping(raw)
        when = segment.get("when")
        yield from check_condition(document, declared, (*path, "when"), when, of_segment=True)
        yield from _spans(document, path, segment)
    for name, condition in declared.intents.items():
        yield from check_condition(
            document, declared, ("intents", name), condition, of_segment=True
        )
    yield from _cycles(document, declared)


def _spans(document: Document, path: Path, segment: Mapping[str, Any]) -> Iterator[Mistake]:
    for span in _SPANS:
        yield from check_window(document, (*path, span), segment.get(span), most_ms=None)
    try:
        stay, leave = (parse_duration(segment.get(span)) for span in _SPANS[1:])
    except ValueError:
        return
    if stay > leave:
        expected = f"at least stay_at_least, {segment['stay_at_least']}"
        yield document.unexpected((*path, "leave_after"), segment["leave_after"], expected=expected)


def _cycles(document: Document, declared: Declared) -> Iterator[Mistake]:
    """One mistake per way round, at the condition that closes it."""
    needs = {
        name: list(mentioned_segments(mapping(segment).get("when"), ("segments", name, "when")))
        for name, segment in declared.segments.items()
    }
    earlier: list[str] = []
    for name, condition in declared.intents.items():
        path: Path = ("intents", name)
        # An intent holds only where no earlier one does: it needs all of them.
        asked = mentioned_segments(condition, path)
        needs[INTENT + name] = [*asked, *((path, needed) for needed in earlier)]
        earlier.append(INTENT + name)
    finished: set[str] = set()
    route: list[str] = []

    def visit(name: str) -> Iterator[Mistake]:
        route.append(name)
        for path, needed in needs[name]:
            if needed in route:
                cycle = " -> ".join([*route[route.index(needed) :], needed])
                expected = "segments and intents that do not need each other"
                yield document.mistake(path, found=f"the cycle {cycle}", expected=expected)
            elif needed in needs and needed not in finished:
                yield from visit(needed)
        route.pop()
        finished.add(name)

    for name in needs:
        if name not in finished:
            yield from visit(name)
