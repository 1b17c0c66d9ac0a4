"""What does a policy or catalogue file say, and on which line does it say it?

YAML is read as version 1.2 (`no` and `off` are text, not false). Values come out as plain dicts,
lists and scalars; dates stay text for the model to read. A file that cannot be read gives mistakes
and no document. Nothing here knows what a policy is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from schemas.mistakes import Mistake, Severity, shown

Path = tuple[str | int, ...]
Place = tuple[int, int]
MAX_VALUES: Final = 100_000
"""Aliases of aliases grow without bound (the "billion laughs"). A text without aliases never holds
more values than characters, so a long file may hold more than this; a short one is a trap."""
MAX_DEPTH: Final = 100
WHOLE: Final = "(document)"


@dataclass(frozen=True, slots=True)
class Document:
    """A value read from a file, and the line and column of every part of it.

    `root` is where this document lies in the file: a content within its catalogue. Paths are
    relative to it.
    """

    name: str
    value: Any
    places: Mapping[Path, Place]
    root: Path = ()

    def place(self, path: Path) -> Place:
        """Line and column of a path, or of the nearest part above it that is in the file."""
        whole = self.root + path
        while whole and whole not in self.places:
            whole = whole[:-1]
        return self.places.get(whole, (1, 1))

    def mistake(
        self, path: Path, *, found: str, expected: str, severity: Severity = "error"
    ) -> Mistake:
        """A mistake at a path."""
        line, column = self.place(path)
        field = ".".join(map(str, path)) or WHOLE
        return Mistake(self.name, line, column, field, found, expected, severity)

    def unexpected(self, path: Path, value: object, *, expected: str) -> Mistake:
        """A mistake that quotes the value found at a path."""
        return self.mistake(path, found=shown(value), expected=expected)


def read_yaml(text: str, *, name: str) -> tuple[Document | None, list[Mistake]]:
    """The document of a YAML file; None where the syntax is broken."""
    try:
        node = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        found = str(error.problem or error.context or "a syntax error").removeprefix("found ")
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        return None, [_broken(name, place, found, "valid YAML 1.2")]
    except YAMLError as error:
        position = getattr(error, "position", 0)
        before = text[: position if isinstance(position, int) else 0]
        place = (before.count("\n") + 1, len(before) - before.rfind("\n"))
        return None, [_broken(name, place, str(error).partition("\n")[0], "valid YAML 1.2")]
    except RecursionError:
        return None, [_broken(name, (1, 1), "values nested too deeply", _SHALLOW)]
    if node is None:
        return None, [_broken(name, (1, 1), "an empty file", "a YAML document")]
    reading = _Reading(name, {}, [], max(MAX_VALUES, len(text)))
    try:
        value = reading.read(node, (), (node.start_mark.line + 1, node.start_mark.column + 1))
    except _TooMuch as error:
        return None, [*reading.mistakes, _broken(name, error.place, error.found, error.expected)]
    return Document(name, value, reading.places), reading.mistakes


def _broken(name: str, place: Place, found: str, expected: str) -> Mistake:
    return Mistake(name, *place, WHOLE, found, expected)


_SHALLOW: Final = f"at most {MAX_DEPTH} levels"
_HALF: Final = ("half of a character (a lone surrogate)", "Unicode text")
_TAG: Final = "tag:yaml.org,2002:"


class _TooMuch(Exception):
    def __init__(self, place: Place, found: str, expected: str) -> None:
        super().__init__(found)
        self.place, self.found, self.expected = place, found, expected


@dataclass(slots=True)
class _Reading:
    name: str
    places: dict[Path, Place]
    mistakes: list[Mistake]
    most: int

    def read(self, node: Node, path: Path, place: Place) -> Any:
        self.places[path] = place
        if len(path) > MAX_DEPTH:
            raise _TooMuch(place, "values nested too deeply", _SHALLOW)
        if len(self.places) > self.most:
            raise _TooMuch(place, "too many values", f"at most {self.most}, aliases expanded")
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self.read(item, (*path, i), _at(item)) for i, item in enumerate(node.value)]
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        raise AssertionError(f"YAML has no other node: {node!r}")

    def _mapping(self, node: MappingNode, path: Path) -> dict[Any, Any]:
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            place = _at(key_node)
            if not isinstance(key_node, ScalarNode):
                # Usually a template that was left unfilled: {{ name }} is a mapping as a key.
                self._note(path, place, "a list or mapping as a name", "text as a name")
                continue
            key = self._scalar(key_node, path)
            if isinstance(key, bool) or not isinstance(key, str | int):
                key = str(key_node.value)
            if key in mapping:
                first = self.places[(*path, key)][0]
                self._note(
                    (*path, key), place, f"{shown(key)} again", f"it once: first on line {first}"
                )
                continue
            mapping[key] = self.read(value_node, (*path, key), place)
        return mapping

    def _scalar(self, node: ScalarNode, path: Path) -> Any:
        text = str(node.value)
        match str(node.tag).removeprefix(_TAG):
            case "null":
                return None
            case "bool":
                return text.lower() in ("true", "yes", "on")
            case "int":
                return _number(text, int)
            case "float":
                return _number(text, float)
            case "str" | "timestamp" | "merge" | "value":
                return self._joined(text, path, node)
        self._note(path, _at(node), f"the tag {shown(str(node.tag))}", "a plain value")
        return text

    def _joined(self, text: str, path: Path, node: Node) -> str:
        """The text with each two halves of a character joined: JSON escapes them apart."""
        if text.isascii():
            return text
        halves = text.encode("utf-16", "surrogatepass")
        try:
            return halves.decode("utf-16")
        except UnicodeDecodeError:
            self._note(path, _at(node), *_HALF)
            return halves.decode("utf-16", "replace")

    def _note(self, path: Path, place: Place, found: str, expected: str) -> None:
        field = ".".join(map(str, path)) or WHOLE
        self.mistakes.append(Mistake(self.name, *place, field, found, expected))


def _at(node: Node) -> Place:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _number(text: str, kind: type[int] | type[float]) -> object:
    digits = text.replace("_", "")
    try:
        if kind is float:
            return float(digits.lower().replace(".inf", "inf").replace(".nan", "nan"))
        # YAML 1.2: a leading 0 is decimal; 0x and 0o say otherwise.
        based = digits.lstrip("+-")[:2].lower() in ("0x", "0o", "0b")
        return int(digits, 0) if based else int(digits)
    except ValueError:
        return text  # the model then says that this is not a number


def read_json_lines(text: str, *, name: str) -> tuple[list[Document], list[Mistake]]:
    """One document per non-empty line; lines that are not JSON become mistakes."""
    documents: list[Document] = []
    mistakes: list[Mistake] = []
    # Not splitlines(): U+2028 and its like may stand within a JSON text.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value, repeated = _json(line)
        except json.JSONDecodeError as error:
            found = f"{error.msg} at column {error.colno}"
            mistakes.append(_broken(name, (number, error.colno), found, "one JSON object a line"))
            continue
        except (ValueError, RecursionError):
            found = "a number too long or values nested too deeply"
            mistakes.append(_broken(name, (number, 1), found, "one JSON object a line"))
            continue
        if line.count("{") + line.count("[") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
            mistakes.append(_broken(name, (number, 1), "values nested too deeply", _SHALLOW))
            continue
        if not _is_unicode(line, value):
            mistakes.append(_broken(name, (number, 1), *_HALF))
            continue
        for key in repeated:
            found, expected = f"{shown(key)} again", f"it once: first on line {number}"
            mistakes.append(Mistake(name, number, 1, key, found, expected))
        documents.append(Document(name, value, {(): (number, 1)}))
    return documents, mistakes


def _json(line: str) -> tuple[Any, list[str]]:
    repeated: list[str] = []

    def mapping_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            times = Counter(key for key, _ in pairs)
            repeated.extend(key for key, count in times.items() if count > 1)
        return mapping

    return json.loads(line, object_pairs_hook=mapping_of), repeated


def _depth(value: Any) -> int:
    depth, level = 0, [value] if isinstance(value, dict | list) else []
    while level:
        depth += 1
        parts = (part.values() if isinstance(part, dict) else part for part in level)
        level = [item for part in parts for item in part if isinstance(item, dict | list)]
    return depth


def _is_unicode(line: str, value: Any) -> bool:
    """Whether no text of the value holds a lone surrogate, which no UTF-8 output can carry."""
    if line.isascii() and "\\u" not in line:
        return True
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
