"""Does a policy name only what it declares, and mean what it says?

What one field alone can show is the model's business. This looks across: signals, segments and
rewards that are named but not declared, conditions that do not suit a signal's kind, segments that
need each other, sensitive data in use. It reads the document as written, not the model, so that it
still works where other parts of the file are broken; what has the wrong shape is passed over,
because the model has reported it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from schemas.check_audiences import check_audiences
from schemas.check_conditions import (
    Declared,
    check_condition,
    check_window,
    mapping,
    sensitive_use,
    texts,
)
from schemas.check_predictions import check_predictions
from schemas.check_segments import check_segments
from schemas.check_signals import check_signal
from schemas.documents import Document, Path
from schemas.events import CONTROL_TYPES
from schemas.mistakes import Mistake, one_of

_BEHAVIOURAL: Final = 2
_PREDICTIVE: Final = 4
_KINDS_WITH: Final = {
    "gamma": ("igw",),
    "epsilon": ("epsilon_greedy",),
    "floor": ("igw", "epsilon_greedy"),
}


def check_policy(document: Document) -> list[Mistake]:
    """Every cross-reference mistake of a policy, warnings included."""
    declared = Declared.by(document)
    found: list[Mistake] = []
    for name, signal in declared.signals.items():
        found += check_signal(document, declared, ("signals", name), mapping(signal))
    found += check_segments(document, declared)
    found += check_predictions(document, declared)
    found += check_audiences(document, declared)
    used: set[str] = set()
    for name, raw in declared.placements.items():
        placement = mapping(raw)
        found += _placement(document, declared, ("placements", name), placement)
        used.update(reward for _, reward in texts(placement.get("rewards")))
    for name, raw in declared.rewards.items():
        path: Path = ("rewards", name)
        found += check_window(document, (*path, "within"), mapping(raw).get("within"), most_ms=None)
        if name not in used:
            found.append(
                document.mistake(
                    path,
                    found="a reward that no placement uses",
                    expected=f"a placement with {name} among its rewards",
                    severity="warning",
                )
            )
    return found


def _placement(
    document: Document, declared: Declared, path: Path, placement: Mapping[str, Any]
) -> Iterator[Mistake]:
    for at, event_type in texts(placement.get("triggers")):
        if event_type in CONTROL_TYPES:
            expected = "a type of behaviour: this one controls the flow and triggers nothing"
            yield document.unexpected((*path, "triggers", *at), event_type, expected=expected)
    yield from check_condition(
        document, declared, (*path, "eligibility"), placement.get("eligibility"), of_segment=False
    )
    yield from _features(document, declared, (*path, "features"), placement)
    yield from _rewards(document, declared, path, placement)
    yield from _exploration(document, (*path, "exploration"), placement)
    caps = placement.get("caps")
    for i, cap in enumerate(caps if isinstance(caps, list) else ()):
        within = mapping(cap).get("within")
        yield from check_window(document, (*path, "caps", i, "within"), within, most_ms=None)


def _level(placement: Mapping[str, Any]) -> int:
    level = placement.get("level", _PREDICTIVE)
    return level if isinstance(level, int) else 0


def _features(
    document: Document, declared: Declared, path: Path, placement: Mapping[str, Any]
) -> Iterator[Mistake]:
    features = mapping(placement.get("features"))
    for part, names in (
        ("signals", declared.signals),
        ("segments", declared.segments),
        ("predictions", declared.predictions),
    ):
        for at, name in texts(features.get(part)):
            if name not in names:
                expected = f"a declared {part[:-1]}: {one_of(names, guess=name)}"
                yield document.unexpected((*path, part, *at), name, expected=expected)
    hidden = {"context": "context", "attributes": "attributes", "content": "attributes"}
    for part, listed in hidden.items():
        for at, name in texts(features.get(part)):
            if declared.hides(listed, name):
                yield sensitive_use(document, (*path, part, *at), name)
    seen = [
        features.get("signals") if features.get("signals") is not None else declared.signals,
        features.get("segments") if features.get("segments") is not None else declared.segments,
    ]
    if _level(placement) >= _BEHAVIOURAL and not any(seen):
        yield document.mistake(
            (*path[:-1], "level"),
            found=f"level {_level(placement)} without signals and segments",
            expected="signals or segments: without them every profile looks the same",
            severity="warning",
        )


def _rewards(
    document: Document, declared: Declared, path: Path, placement: Mapping[str, Any]
) -> Iterator[Mistake]:
    named = texts(placement.get("rewards"))
    for at, name in named:
        if name not in declared.rewards:
            expected = f"a declared reward: {one_of(declared.rewards, guess=name)}"
            yield document.unexpected((*path, "rewards", *at), name, expected=expected)
    values = [mapping(declared.rewards.get(name)).get("value") for _, name in named]
    if values and all(isinstance(value, int | float) and value < 0 for value in values):
        yield document.mistake(
            (*path, "rewards"),
            found="negative rewards only",
            expected="a positive one too: otherwise the best is what nobody reacts to",
            severity="warning",
        )
    if not placement.get("rewards") and _level(placement) >= _PREDICTIVE:
        yield document.mistake(
            (*path, "rewards"),
            found="nothing",
            expected=f"a reward: without one, level {_level(placement)} has nothing to learn from",
            severity="warning",
        )


def _exploration(document: Document, path: Path, placement: Mapping[str, Any]) -> Iterator[Mistake]:
    exploration = mapping(placement.get("exploration"))
    kind = exploration.get("kind", "igw")
    if kind not in ("igw", "epsilon_greedy", "uniform", "greedy"):
        return
    for field, suited in _KINDS_WITH.items():
        if exploration.get(field) is not None and kind not in suited:
            expected = f"no {field}: it belongs to {' and '.join(suited)}, the kind is {kind}"
            yield document.unexpected((*path, field), exploration[field], expected=expected)
