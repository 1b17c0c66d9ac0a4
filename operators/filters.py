"""Does an event match a filter, and what does a field path of it say?

Compiled once per policy: a path becomes a function from (event, content) to a value, a filter a
function to a truth. A value that is absent never matches; a list (tags, a JSON list) matches where
any of its elements does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from operators.arrival import Arrived
from schemas.catalogue import Content
from schemas.conditions import Filter, FilterValue, NumberRange

Read = Callable[[Arrived, Content | None], object]
Matches = Callable[[Arrived, Content | None], bool]

_LONGEST: Final = 128
_SCALARS: Final = (str, int, float, bool)

_EVENT_FIELDS: Final[dict[str, Read]] = {
    "value": lambda event, _: event.value,
    "content_id": lambda event, _: event.content_id,
    "placement": lambda event, _: event.placement,
    "session_id": lambda event, _: event.session_id,
}


def content_reader(path: str) -> Callable[[Content], object] | None:
    """A function that reads a content's field; None for a path that is not a content's."""
    if path == "content.type":
        return lambda content: content.type
    if path == "content.tags":
        return lambda content: content.tags
    where, _, name = path.rpartition(".")
    return (lambda content: content.attributes.get(name)) if where == "content.attributes" else None


def reader(path: str) -> Read:
    """A function that reads a field path (`properties.tag`, `content.attributes.brand`)."""
    if path in _EVENT_FIELDS:
        return _EVENT_FIELDS[path]
    of_content = content_reader(path)
    if of_content is not None:
        return lambda _, content: of_content(content) if content else None
    where, _, name = path.rpartition(".")
    if where == "properties":
        return lambda event, _: event.properties.get(name)
    return lambda event, _: event.context.get(name)


def values_of(value: object) -> tuple[str, ...]:
    """The texts of a field: none, one, or several (tags). Long texts are cut at 128 characters."""
    if isinstance(value, str):
        return (value[:_LONGEST],)
    if value is None:
        return ()
    if isinstance(value, (tuple, list)):
        if all(type(item) is str for item in value):
            return tuple([item[:_LONGEST] for item in value])
        return tuple(text for item in value for text in values_of(item))
    if isinstance(value, bool):
        return ("true",) if value else ("false",)
    if isinstance(value, (int, float)):
        return (str(value)[:_LONGEST],)
    return ()


def number_of(value: object) -> float | None:
    """A finite number, or None: text and booleans are not numbers, and one NaN would poison all."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:  # JSON's integers have no limit
        return None
    return number if math.isfinite(number) else None


def compile_filter(conditions: Filter) -> Matches | None:
    """A function that says whether an event matches every entry; None where there is no entry."""
    if not conditions:
        return None
    tests = [(reader(path), _test(wanted)) for path, wanted in conditions.items()]
    return lambda event, content: all(test(read(event, content)) for read, test in tests)


def _test(wanted: FilterValue) -> Callable[[object], bool]:
    if isinstance(wanted, NumberRange):
        holds = wanted.holds

        def within(value: object) -> bool:
            items = value if isinstance(value, (tuple, list)) else (value,)
            return any((n := number_of(item)) is not None and holds(n) for item in items)

        return within
    allowed = set(wanted) if isinstance(wanted, list) else {wanted}

    def among(value: object) -> bool:
        if isinstance(value, (tuple, list)):
            # Element by element: a JSON list may hold what cannot be a member of a set.
            return any(isinstance(item, _SCALARS) and item in allowed for item in value)
        return isinstance(value, _SCALARS) and value in allowed

    return among
