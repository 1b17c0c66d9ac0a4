"""What does a condition ask about, through segments and intents too?

It reads mappings as written (or as a model dumps them), so that a file with mistakes elsewhere can
be checked, and so that any kind of condition is followed without being named here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

INTENT_PREFIX: Final = "intent."
Definitions = Mapping[str, object]
"""Segment name to its condition."""


@dataclass(frozen=True, slots=True)
class Reads:
    """Names of what is asked about; `events` are the types that a done or not done counts."""

    signals: set[str] = field(default_factory=set)
    segments: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    predictions: set[str] = field(default_factory=set)
    events: set[str] = field(default_factory=set)


def reads(condition: object, conditions: Definitions) -> Reads:
    """All that a condition asks about, itself or through the segments it names."""
    found = Reads()
    waiting = [condition]
    while waiting:
        for part in _mappings(waiting.pop()):
            for names, key in (
                (found.signals, "signal"),
                (found.attributes, "attribute"),
                (found.predictions, "prediction"),
            ):
                if isinstance(name := part.get(key), str):
                    names.add(name)
            for counted in ("done", "not_done"):
                found.events.update(_texts(part.get(counted)))
            for named in _segments(part):
                if named not in found.segments:
                    found.segments.add(named)
                    waiting.append(conditions.get(named))
    return found


def definitions(segments: Mapping[str, object], intents: Mapping[str, object]) -> dict[str, object]:
    """Conditions by segment name; an intent is the segment `intent.NAME`, and none before it."""
    found: dict[str, object] = {
        name: segment.get("when") if isinstance(segment, Mapping) else None
        for name, segment in segments.items()
    }
    earlier: list[object] = []
    for name, condition in intents.items():
        found[INTENT_PREFIX + name] = {"all": [condition, *earlier]}
        earlier.append({"not": condition})
    return found


def hidden_from(
    look_alike: str | None, conditions: Definitions, signals: Mapping[str, object]
) -> Reads:
    """What a prediction's model must not see, `look_alike` being the segment it is to look like.

    `signals` are declarations as written. No model sees a segment that asks about a prediction:
    what it says would feed on itself. That of a look-alike sees neither what its segment asks about
    nor what is made of that. `events` are those its segment counts: not hidden by name, but what
    counts the same events in another window all but tells.
    """
    of = {name: reads(condition, conditions) for name, condition in conditions.items()}
    found = Reads(segments={name for name, asked in of.items() if asked.predictions})
    if look_alike is None or look_alike not in of:
        return found
    asked = of[look_alike]
    found.attributes.update(asked.attributes)
    found.signals.update(asked.signals)
    for name in sorted(asked.signals):
        found.signals.update(_parts(signals.get(name)))
    found.signals.update(name for name, signal in signals.items() if _parts(signal) & found.signals)
    found.events.update(asked.events, *(signal_events(signals, name) for name in asked.signals))
    found.segments.update(
        {look_alike, *asked.segments},
        (
            name
            for name, other in of.items()
            if look_alike in other.segments
            or other.signals & found.signals
            or other.attributes & found.attributes
        ),
    )
    return found


def counted_events(condition: object, conditions: Definitions, signals: Definitions) -> set[str]:
    """The event types that a condition's answer depends on."""
    asked = reads(condition, conditions)
    return asked.events.union(*(signal_events(signals, name) for name in asked.signals))


def signal_events(signals: Mapping[str, object], name: str) -> set[str]:
    """The event types that feed a declared signal, a ratio's through its parts."""
    found: set[str] = set()
    for part in _mappings(signals.get(name)):
        found.update(_texts(part.get("events")))
        if isinstance(weights := part.get("weights"), Mapping):
            found.update(key for key in weights if isinstance(key, str))
    for part_name in _parts(signals.get(name)) - {name}:
        for part in _mappings(signals.get(part_name)):
            found.update(_texts(part.get("events")))
    return found


def _parts(signal: object) -> set[str]:
    """The signals that a ratio is made of."""
    if not isinstance(signal, Mapping) or signal.get("kind") != "ratio":
        return set()
    return {part for key in ("of", "to") if isinstance(part := signal.get(key), str)}


def _segments(part: Mapping[object, object]) -> Iterator[str]:
    if isinstance(name := part.get("segment"), str):
        yield name
    if isinstance(name := part.get("intent"), str):
        yield INTENT_PREFIX + name


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value if isinstance(value, list | tuple) else ()
    return [item for item in items if isinstance(item, str)]


def _mappings(value: object) -> Iterator[Mapping[object, object]]:
    """Every mapping within a value, the outermost first; a filter (`where`) asks about events."""
    if isinstance(value, Mapping):
        yield value
        for key, item in value.items():
            if key != "where":
                yield from _mappings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _mappings(item)
