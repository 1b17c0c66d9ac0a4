"""Does a condition name only what is declared, and ask what its signal can answer?

Used for segments, placements and contents alike. It reads the document as written, not the model,
so that it still works where other parts of the file are broken; what has the wrong shape is passed
over, because the model has reported it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from pydantic import Tag

from schemas.conditions import Condition, Range
from schemas.documents import Document, Path
from schemas.mistakes import Mistake, one_of
from schemas.signals import MAX_WINDOW
from schemas.time import SECOND, format_duration, parse_duration

_KINDS: Final = tuple(
    note.tag
    for member in get_args(get_args(Condition)[0])
    for note in get_args(member)
    if isinstance(note, Tag)
)
_BOUNDS: Final = tuple(Range.model_fields)


@dataclass(frozen=True, slots=True)
class Declared:
    """What a policy declares, as far as it can be read: names to raw values."""

    signals: Mapping[str, Any]
    segments: Mapping[str, Any]
    rewards: Mapping[str, Any]
    placements: Mapping[str, Any]
    sensitive: Mapping[str, frozenset[str]]

    @classmethod
    def by(cls, document: Document) -> Declared:
        """What the document declares."""
        whole = mapping(document.value)
        hidden = mapping(whole.get("sensitive"))
        return cls(
            mapping(whole.get("signals")),
            mapping(whole.get("segments")),
            mapping(whole.get("rewards")),
            mapping(whole.get("placements")),
            {
                part: frozenset(name for _, name in texts(hidden.get(part)))
                for part in ("tags", "attributes", "context", "properties")
            },
        )

    def hides(self, part: str, name: object) -> bool:
        """Whether a name is listed as sensitive; what is not text is no name."""
        return isinstance(name, str) and name in self.sensitive.get(part, ())


def mapping(value: object) -> Mapping[str, Any]:
    """The value where it is a mapping, else an empty one; names that are not text are left out."""
    if not isinstance(value, dict):
        return {}
    return {key: item for key, item in value.items() if isinstance(key, str)}


def texts(value: object) -> list[tuple[Path, str]]:
    """The texts of a list, or of one text standing alone, each with its path within the value."""
    if isinstance(value, str):
        return [((), value)]
    items = value if isinstance(value, list) else []
    return [((i,), item) for i, item in enumerate(items) if isinstance(item, str)]


def is_sensitive(declared: Declared, field: object) -> bool:
    """Whether a field path reads what the policy lists as sensitive."""
    where, _, name = str(field).rpartition(".")
    part = "attributes" if where == "content.attributes" else where
    return declared.hides(part, name)


def sensitive_use(document: Document, path: Path, value: object) -> Mistake:
    """The mistake of using what is listed as sensitive."""
    expected = "something that the policy does not list as sensitive"
    return document.unexpected(path, value, expected=expected)


def check_filter(
    document: Document, declared: Declared, path: Path, where: object
) -> Iterator[Mistake]:
    """The sensitive fields and tags that a filter reads."""
    for field, value in mapping(where).items():
        if is_sensitive(declared, field):
            yield sensitive_use(document, (*path, field), field)
        if field == "content.tags":
            for at, tag in texts(value):
                if declared.hides("tags", tag):
                    yield sensitive_use(document, (*path, field, *at), tag)


def check_window(
    document: Document, path: Path, value: object, *, most_ms: int | None
) -> list[Mistake]:
    """A window of less than a second holds nothing; a longer one than `most_ms` is not kept."""
    try:
        window = parse_duration(value)
    except ValueError:
        return []
    if window >= SECOND and (most_ms is None or window <= most_ms):
        return []
    expected = "a window of at least 1s"
    if most_ms is not None:
        expected = f"a window between 1s and {format_duration(most_ms)}"
    return [document.unexpected(path, value, expected=expected)]


def check_condition(
    document: Document, declared: Declared, path: Path, value: object, *, of_segment: bool
) -> Iterator[Mistake]:
    """The mistakes of a condition and of all conditions within it."""
    condition = mapping(value)
    kind = next((kind for kind in _KINDS if kind in condition), None)
    if kind is None:
        return
    asked = condition[kind]
    here = (*path, kind)
    match kind:
        case "all" | "any":
            for i, part in enumerate(asked if isinstance(asked, list) else ()):
                yield from check_condition(
                    document, declared, (*here, i), part, of_segment=of_segment
                )
        case "not":
            yield from check_condition(document, declared, here, asked, of_segment=of_segment)
        case "signal" if isinstance(asked, str):
            yield from _of_signal(document, declared, path, condition)
        case "segment" if isinstance(asked, str) and asked not in declared.segments:
            expected = f"a declared segment: {one_of(declared.segments, guess=asked)}"
            yield document.unexpected(here, asked, expected=expected)
        case "attribute" if declared.hides("attributes", asked):
            yield sensitive_use(document, here, asked)
        case "context":
            if of_segment:
                expected = "no context in a segment: it is known while deciding only"
                yield document.unexpected(here, asked, expected=expected)
            if declared.hides("context", asked):
                yield sensitive_use(document, here, asked)
        case "done" | "not_done":
            within = condition.get("within")
            yield from check_window(document, (*path, "within"), within, most_ms=MAX_WINDOW)
            yield from check_filter(document, declared, (*path, "where"), condition.get("where"))


def _of_signal(
    document: Document, declared: Declared, path: Path, condition: Mapping[str, Any]
) -> Iterator[Mistake]:
    name = condition["signal"]
    if name not in declared.signals:
        expected = f"a declared signal: {one_of(declared.signals, guess=name)}"
        yield document.unexpected((*path, "signal"), name, expected=expected)
        return
    signal = mapping(declared.signals[name])
    kind = signal.get("kind")
    if kind not in ("count", "sum", "distinct", "last", "affinity"):
        return
    key = condition.get("key")
    if kind == "affinity" and key is None:
        expected = f"the tag or value that is liked: {name} is of kind affinity"
        yield document.mistake((*path, "key"), found="nothing", expected=expected)
    elif kind != "affinity" and "key" in condition:
        expected = f"no key: {name} is of kind {kind}, only an affinity has keys"
        yield document.unexpected((*path, "key"), key, expected=expected)
    elif _is_sensitive_key(declared, signal, key):
        yield sensitive_use(document, (*path, "key"), key)
    wrong = _BOUNDS if kind == "last" else ("within", "not_within")
    right = ("within", "not_within") if kind == "last" else _BOUNDS
    for field in wrong:
        if field in condition:
            expected = f"{one_of(right)}: {name} is of kind {kind}"
            yield document.unexpected((*path, field), condition[field], expected=expected)


def _is_sensitive_key(declared: Declared, signal: Mapping[str, Any], key: object) -> bool:
    return signal.get("of", "content.tags") == "content.tags" and declared.hides("tags", key)


def mentioned_segments(value: object, path: Path) -> Iterator[tuple[Path, str]]:
    """The segments a condition names, and where."""
    condition = mapping(value)
    kind = next((kind for kind in _KINDS if kind in condition), None)
    if kind in ("all", "any") and isinstance(condition[kind], list):
        for i, part in enumerate(condition[kind]):
            yield from mentioned_segments(part, (*path, kind, i))
    elif kind == "not":
        yield from mentioned_segments(condition[kind], (*path, kind))
    elif kind == "segment" and isinstance(condition[kind], str):
        yield (*path, kind), condition[kind]
