"""Which of a model's rules does a document break, and at which of its fields?

pydantic names the place of an error by its own route through the model, in which the members of
unions appear as if they were keys. The route is followed through the model and the document side by
side, so that a mistake points at a field that is really there, in the words of the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError, WithJsonSchema
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from schemas.documents import Document, Path
from schemas.mistakes import Mistake, did_you_mean, one_of, shown

M = TypeVar("M", bound=BaseModel)
_ABSENT: Final = object()


def validate(model: type[M], document: Document) -> tuple[M | None, list[Mistake]]:
    """The document as a model, or every rule it breaks."""
    try:
        return model.model_validate(document.value), []
    except ValidationError as error:
        mistakes = {
            mistake: None
            for problem in error.errors(include_url=False)
            if (mistake := _mistake(model, document, problem)) is not None
        }
        return None, list(mistakes)


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where an error lies in the document, and what the model wants there."""

    path: Path
    value: Any
    wanted: Any
    is_key: bool = False
    in_union: bool = False


def _follow(model: type[BaseModel], document: Document, route: Sequence[str | int]) -> _Spot | None:
    """The spot at the end of a route; None where it leads into a union member that is not meant.

    A mapping written where a text or a mapping may stand breaks the rules of both; only what the
    mapping breaks is worth telling.
    """
    path: Path = ()
    value: Any = document.value
    wanted: Any = model
    for step in route:
        kind = _bare(wanted)
        if step == "[key]":
            return _Spot(path, path[-1], wanted, is_key=True)
        if _is_model(kind):
            wanted = _field(kind, step)
            path, value = (*path, step), _part(value, step)
        elif get_origin(kind) is dict:
            wanted = get_args(kind)[1]
            path, value = (*path, step), _part(value, step)
        elif get_origin(kind) in (tuple, list):
            wanted = get_args(kind)[0]
            if isinstance(value, list):
                path, value = (*path, step), _part(value, step)
        elif (member := _tagged(kind, str(step))) is not None:
            wanted = member
        else:
            fitting = _fitting(kind, value)
            if fitting is None:
                return _Spot(path, value, wanted, in_union=True)
            if _label(fitting) not in str(step):
                return None
            wanted = fitting
    return _Spot(path, value, wanted)


def _part(value: Any, step: str | int) -> Any:
    if isinstance(value, Mapping):
        return value.get(step, _ABSENT)
    if isinstance(value, list) and isinstance(step, int) and step < len(value):
        return value[step]
    return _ABSENT


def _bare(wanted: Any) -> Any:
    """The type without its annotations and without "or None"."""
    while True:
        if isinstance(wanted, FieldInfo):
            wanted = wanted.annotation
        elif get_origin(wanted) is Annotated:
            wanted = get_args(wanted)[0]
        elif _is_union(wanted):
            members = [m for m in get_args(wanted) if m is not type(None)]
            if len(members) > 1:
                return wanted
            wanted = members[0]
        else:
            return wanted


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _members(union: Any) -> list[Any]:
    if not _is_union(union):
        return []
    return [member for member in get_args(union) if member is not type(None)]


def _names(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _field(model: type[BaseModel], step: str | int) -> FieldInfo | None:
    return _names(model).get(str(step)) or model.model_fields.get(str(step))


def _tag(member: Any) -> str | None:
    """What selects a member of a union: its tag, or the one value of its field `kind`."""
    if get_origin(member) is Annotated:
        for note in get_args(member)[1:]:
            if isinstance(note, Tag):
                return note.tag
    bare = _bare(member)
    if _is_model(bare) and (kind := bare.model_fields.get("kind")) is not None:
        values = get_args(kind.annotation)
        return str(values[0]) if len(values) == 1 else None
    return None


def _tags(union: Any) -> list[str]:
    return [tag for member in _members(union) if (tag := _tag(member))]


def _tagged(union: Any, tag: str) -> Any | None:
    return next((member for member in _members(union) if _tag(member) == tag), None)


def _fitting(union: Any, value: Any) -> Any | None:
    """The member of an untagged union that a mapping or list must be meant for."""
    for member in _members(union):
        bare = _bare(member)
        if isinstance(value, Mapping) and _is_model(bare):
            return member
        if isinstance(value, list) and get_origin(bare) in (tuple, list):
            return member
    return None


def _label(member: Any) -> str:
    bare = _bare(member)
    return str(bare.__name__) if _is_model(bare) else str(get_origin(bare).__name__)


def _mistake(model: type[BaseModel], document: Document, problem: ErrorDetails) -> Mistake | None:
    spot = _follow(model, document, problem["loc"])
    if spot is None:
        return None
    path = spot.path
    value = problem["input"] if spot.value is _ABSENT else spot.value
    context = problem.get("ctx", {})
    if spot.is_key:
        expected = _rule(problem, "text as a name")
        return document.unexpected(path, value, expected=expected)
    if spot.in_union:
        return document.unexpected(path, value, expected=describe(spot.wanted))
    match problem["type"]:
        case "missing":
            expected = describe(spot.wanted)
            return document.mistake(path, found="nothing", expected=expected)
        case "extra_forbidden":
            owner = _follow(model, document, problem["loc"][:-1])
            kind = _bare(owner.wanted) if owner else None
            known = _names(kind) if isinstance(kind, type) and _is_model(kind) else {}
            expected = one_of(known, guess=path[-1])
            return document.unexpected(path, path[-1], expected=expected)
        case "invalid_key":
            return document.unexpected(path, path[-1], expected="text as a name (in quotes)")
        case "union_tag_invalid" | "union_tag_not_found":
            path = (*path, "kind")
            tags = _tags(_bare(spot.wanted))
            found = shown(value["kind"]) if "kind" in _given(value) else "nothing"
            expected = one_of(tags, guess=context.get("tag"))
            return document.mistake(path, found=found, expected=expected)
        case "condition_kind":
            return _not_a_condition(document, spot)
        case "literal_error":
            expected = one_of(get_args(_bare(spot.wanted)), guess=value)
            return document.unexpected(path, value, expected=expected)
        case "too_short":
            least = context.get("min_length", 1)
            # Items that are wrong themselves are not counted; they have their own mistake.
            if not isinstance(value, list | dict) or len(value) >= least:
                return None
            expected = f"at least {least} {'entry' if least == 1 else 'entries'}"
            return document.unexpected(path, value, expected=expected)
        case _:
            expected = _rule(problem, describe(spot.wanted))
            return document.unexpected(path, value, expected=expected)


def _given(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _not_a_condition(document: Document, spot: _Spot) -> Mistake:
    tags = _tags(_bare(spot.wanted))
    hints = (did_you_mean(key, tags) for key in _given(spot.value))
    expected = f"a condition: a mapping with {one_of(tags)}{next(filter(None, hints), '')}"
    return document.unexpected(spot.path, spot.value, expected=expected)


def _rule(problem: ErrorDetails, kind: str) -> str:
    """What a rule wants, after "expected"."""
    context = problem.get("ctx", {})
    match problem["type"]:
        case "value_error":
            return _own_words(str(context["error"]))
        case "string_pattern_mismatch":
            return _PATTERNS.get(context["pattern"], f"text that matches {context['pattern']}")
        case "string_too_short":
            return f"text of at least {context['min_length']} characters"
        case "string_too_long":
            return f"text of at most {context['max_length']} characters"
        case "too_long":
            return f"at most {context['max_length']} entries"
        case "greater_than":
            return f"a number above {context['gt']:g}"
        case "greater_than_equal":
            return f"a number of at least {context['ge']:g}"
        case "less_than":
            return f"a number below {context['lt']:g}"
        case "less_than_equal":
            return f"a number of at most {context['le']:g}"
        case "string_type" if isinstance(problem["input"], int | float):
            return f"{kind} (in quotes)"
    return kind


def _own_words(message: str) -> str:
    before, expected, after = message.partition("expected ")
    if expected:
        return f"{after} ({before.rstrip(': ')})" if before else after
    return message.replace(" must be ", " to be ", 1)


_NAME: Final = "a name: small letters, digits and _, a letter first"
_FIELD_PATH: Final = (
    "a field: value, content_id, placement, session_id, content.type, content.tags, "
    "content.attributes.NAME, properties.NAME or context.NAME"
)
_PATTERNS: Final = {
    r"^[a-z][a-z0-9_]*$": _NAME,
    r"^(value|content_id|placement|session_id|content\.(type|tags)"
    r"|(content\.attributes|properties|context)\.[A-Za-z0-9_]+)$": _FIELD_PATH,
}
_SCALARS: Final = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
}


def describe(wanted: Any) -> str:
    """What a field holds, in plain words.

    >>> describe(int | None), describe(Literal["a", "b"]), describe(str | float)
    ('a whole number', 'one of a, b', 'text or a number')
    """
    if isinstance(wanted, FieldInfo):
        for note in wanted.metadata:
            if isinstance(note, WithJsonSchema) and note.json_schema:
                return _duration(note.json_schema) or describe(wanted.annotation)
    kind = _bare(wanted)
    if kind in _SCALARS:
        return _SCALARS[kind]
    if _is_model(kind):
        needed = [name for name, field in _names(kind).items() if field.is_required()]
        return f"a mapping with {', '.join(needed)}" if needed else "a mapping"
    if tags := _tags(kind):
        telling = "with" if get_origin(_members(kind)[0]) is Annotated else "whose kind is"
        return f"a mapping {telling} {one_of(tags)}"
    if members := _members(kind):
        words = dict.fromkeys(describe(member) for member in members)
        # A whole number is a number: saying both only lengthens the line.
        if "a number" in words:
            words.pop("a whole number", None)
        *most, last = words
        return f"{', '.join(most)} or {last}" if most else last
    if get_origin(kind) is Literal:
        return one_of(get_args(kind))
    if get_origin(kind) in (tuple, list):
        return "a list"
    if get_origin(kind) is dict:
        return "a mapping"
    if re.search("datetime", str(kind), re.IGNORECASE):
        return "a date and time with an offset, as in 2026-01-31T12:00:00Z"
    return "another value"


def _duration(schema: Mapping[str, Any]) -> str | None:
    is_one = "duration" in str(schema.get("description", "")).lower()
    return "a duration: a whole number and a unit, as in 30m" if is_one else None
