"""Does a condition name only what is declared, and ask what can be answered?

Used for segments, intents, placements and contents alike. It reads the document as written, not
the model, so that it still works where other parts of the file are broken; what has the wrong shape
is passed over, because the model has reported it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from pydantic import Tag

from schemas.conditions import INTENT, Condition, Range
from schemas.dates import parse_instant
from schemas.documents import Document, Path
from schemas.mistakes import Mistake, one_of
from schemas.signals import KEYED, MAX_WINDOW, RFM_PARTS, Signal
from schemas.time import SECOND, format_duration, parse_duration

_KINDS: Final = tuple(
    note.tag
    for member in get_args(get_args(Condition)[0])
    for note in get_args(member)
    if isinstance(note, Tag)
)
_BOUNDS: Final = tuple(Range.model_fields)
_VALUES: Final = ("is", "one_of")
_AGES: Final = ("within", "not_within")
_SIGNAL_KINDS: Final = frozenset(
    tag
    for member in get_args(get_args(Signal)[0])
    for tag in get_args(member.model_fields["kind"].annotation)
)


@dataclass(frozen=True, slots=True)
class Declared:
    """What a policy declares, as far as it can be read: names to raw values."""

    signals: Mapping[str, Any]
    segments: Mapping[str, Any]
    rewards: Mapping[str, Any]
    placements: Mapping[str, Any]
    sensitive: Mapping[str, frozenset[str]]
    intents: Mapping[str, Any]
    predictions: Mapping[str, Any]

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
            mapping(whole.get("intents")),
            mapping(whole.get("predictions")),
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
    """The sensitive fields and tags that a filter reads, and the ranges that nothing lies in."""
    for field, value in mapping(where).items():
        yield from check_bounds(document, (*path, field), mapping(value))
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
        case "segment":
            yield from _declared(document, here, asked, declared.segments)
        case "intent":
            yield from _declared(document, here, asked, declared.intents)
        case "prediction":
            yield from _declared(document, here, asked, declared.predictions)
            yield from _of_probability(document, declared, path, condition)
        case "attribute":
            if declared.hides("attributes", asked):
                yield sensitive_use(document, here, asked)
            for span in ("anniversary_within", "within_next", "within_last"):
                yield from check_window(document, (*path, span), condition.get(span), most_ms=None)
        case "context":
            if of_segment:
                expected = "no context in a segment or intent: it is known while deciding only"
                yield document.unexpected(here, asked, expected=expected)
            if declared.hides("context", asked):
                yield sensitive_use(document, here, asked)
        case "done" | "not_done":
            yield from _of_done(document, declared, path, condition)
    if kind in ("signal", "prediction", "attribute", "context"):
        yield from check_bounds(document, path, condition)


def _declared(
    document: Document, path: Path, name: object, names: Mapping[str, Any]
) -> Iterator[Mistake]:
    if isinstance(name, str) and name not in names:
        kind = path[-1]
        expected = f"a declared {kind}: {one_of(names, guess=name)}"
        yield document.unexpected(path, name, expected=expected)


def _of_probability(
    document: Document, declared: Declared, path: Path, condition: Mapping[str, Any]
) -> Iterator[Mistake]:
    """A bound that no probability reaches: only a sum can be more than 1."""
    name = condition["prediction"]
    target = mapping(declared.predictions.get(str(name))).get("target")
    if not mapping(target) or "sum" in mapping(target):
        return
    for bound in _BOUNDS:
        number: Any = condition.get(bound)
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if is_number and not 0 <= number <= 1:
            expected = f"a number between 0 and 1: {name} is a probability"
            yield document.unexpected((*path, bound), number, expected=expected)


def check_bounds(document: Document, path: Path, bounds: Mapping[str, Any]) -> Iterator[Mistake]:
    """Two bounds between which no number lies: the mistake is told at the upper one."""
    numbers = {
        name: number
        for name in _BOUNDS
        if isinstance(number := bounds.get(name), (int, float)) and not isinstance(number, bool)
    }
    lower = {name: numbers[name] for name in ("at_least", "above", "equals") if name in numbers}
    upper = {name: numbers[name] for name in ("at_most", "below", "equals") if name in numbers}
    for high, most in upper.items():
        for low, least in lower.items():
            strict = "above" in (low, high) or "below" in (low, high)
            if least > most or (least == most and strict):
                expected = f"a number that {low} {least:g} leaves possible"
                yield document.unexpected((*path, high), most, expected=expected)
                return


def _of_done(
    document: Document, declared: Declared, path: Path, condition: Mapping[str, Any]
) -> Iterator[Mistake]:
    yield from check_window(
        document, (*path, "within"), condition.get("within"), most_ms=MAX_WINDOW
    )
    yield from check_filter(document, declared, (*path, "where"), condition.get("where"))
    for follows in ("then", "not_then"):
        after, here = mapping(condition.get(follows)), (*path, follows)
        yield from check_window(document, (*here, "gap"), after.get("gap"), most_ms=MAX_WINDOW)
        yield from check_filter(document, declared, (*here, "where"), after.get("where"))
    yield from _of_absence(document, path, condition)
    yield from _of_dates(document, path, condition)
    least = condition.get("at_least", 1)
    if "exactly" in condition:
        for bound in ("at_least", "at_most"):
            if bound in condition:
                expected = "either exactly, or at_least and at_most"
                yield document.unexpected((*path, bound), condition[bound], expected=expected)
    elif least == 0 and condition.get("at_most") is None:
        expected = "at_most, too: never or more often always holds"
        yield document.unexpected((*path, "at_least"), least, expected=expected)
    else:
        yield from check_bounds(
            document, path, {"at_most": condition.get("at_most"), "at_least": least}
        )


def _of_absence(document: Document, path: Path, condition: Mapping[str, Any]) -> Iterator[Mistake]:
    """What did not follow is counted once its gap has passed: the window must outlast it."""
    after = mapping(condition.get("not_then"))
    try:
        gap, within = parse_duration(after.get("gap")), parse_duration(condition.get("within"))
    except ValueError:
        return
    if gap >= within:
        expected = f"a gap shorter than within {condition['within']}"
        yield document.unexpected((*path, "not_then", "gap"), after["gap"], expected=expected)


def _of_dates(document: Document, path: Path, condition: Mapping[str, Any]) -> Iterator[Mistake]:
    try:
        begin, end = parse_instant(condition["from"]), parse_instant(condition["until"])
    except (KeyError, ValueError):
        return  # the model has reported what is wrong or missing
    if begin >= end:
        expected = f"a date after {condition['from']}"
        yield document.unexpected((*path, "until"), condition["until"], expected=expected)


def _of_signal(
    document: Document, declared: Declared, path: Path, condition: Mapping[str, Any]
) -> Iterator[Mistake]:
    name = condition["signal"]
    if name not in declared.signals:
        expected = f"a declared signal: {one_of(declared.signals, guess=name)}"
        yield document.unexpected((*path, "signal"), name, expected=expected)
        return
    signal = mapping(declared.signals[name])
    kind, key = signal.get("kind"), condition.get("key")
    if not isinstance(kind, str) or kind not in _SIGNAL_KINDS:
        return
    if kind == "affinity" and key is None:
        expected = f"the tag or value that is liked: {name} is of kind affinity"
        yield document.mistake((*path, "key"), found="nothing", expected=expected)
    elif kind not in KEYED and "key" in condition:
        expected = f"no key: {name} is of kind {kind}, only {one_of(sorted(KEYED))} has keys"
        yield document.unexpected((*path, "key"), key, expected=expected)
    elif kind == "rfm" and isinstance(key, str) and key not in RFM_PARTS:
        expected = one_of(RFM_PARTS, guess=key)
        yield document.unexpected((*path, "key"), key, expected=expected)
    elif _is_sensitive_key(declared, signal, key):
        yield sensitive_use(document, (*path, "key"), key)
    right = _answers(signal, key)
    for field in (*_BOUNDS, *_VALUES, *_AGES):
        if field in condition and field not in right:
            expected = f"{one_of(right)}: {name} is {_speaking(signal, key)}"
            yield document.unexpected((*path, field), condition[field], expected=expected)
    if right == _AGES:
        yield from _of_ages(document, path, condition)


def _answers(signal: Mapping[str, Any], key: object) -> tuple[str, ...]:
    """What may be asked of a signal's value."""
    kind = signal["kind"]
    if kind in ("last", "first"):
        return _AGES if signal.get("of") is None else (*_VALUES, *_BOUNDS)
    return _AGES if kind == "rfm" and key == "recency" else _BOUNDS


def _speaking(signal: Mapping[str, Any], key: object) -> str:
    kind = signal["kind"]
    if kind == "rfm" and key == "recency":
        return "of kind rfm, and its recency is a time"
    return (
        f"of kind {kind} with a field"
        if kind in ("last", "first") and signal.get("of")
        else f"of kind {kind}"
    )


def _of_ages(document: Document, path: Path, condition: Mapping[str, Any]) -> Iterator[Mistake]:
    try:
        most, least = (parse_duration(condition[field]) for field in _AGES)
    except (KeyError, ValueError):
        return
    if least >= most:
        expected = f"a time shorter than within {condition['within']}"
        yield document.unexpected((*path, "not_within"), condition["not_within"], expected=expected)


def _is_sensitive_key(declared: Declared, signal: Mapping[str, Any], key: object) -> bool:
    return signal.get("of", "content.tags") == "content.tags" and declared.hides("tags", key)


def mentioned_segments(value: object, path: Path) -> Iterator[tuple[Path, str]]:
    """The segments a condition names, and where; an intent as `intent.` and its name."""
    condition = mapping(value)
    kind = next((kind for kind in _KINDS if kind in condition), None)
    if kind in ("all", "any") and isinstance(condition[kind], list):
        for i, part in enumerate(condition[kind]):
            yield from mentioned_segments(part, (*path, kind, i))
    elif kind == "not":
        yield from mentioned_segments(condition[kind], (*path, kind))
    elif kind in ("segment", "intent") and isinstance(condition[kind], str):
        yield (*path, kind), condition[kind] if kind == "segment" else INTENT + condition[kind]


def changeable_placements(
    document: Document, declared: Declared, path: Path, names: object, *, wanted: str
) -> Iterator[Mistake]:
    """Mistakes of a list of placements (of a rule, of a test) that are to be changed."""
    for at, name in texts(names):
        here = (*path, "placements", *at)
        if name not in declared.placements:
            expected = f"a declared placement: {one_of(declared.placements, guess=name)}"
            yield document.unexpected(here, name, expected=expected)
        elif mapping(declared.placements[name]).get("never_personalised") is True:
            expected = f"{wanted}: this one is never personalised"
            yield document.unexpected(here, name, expected=expected)
