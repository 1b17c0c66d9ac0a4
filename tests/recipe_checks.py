"""What may an `expected.yaml` of a recipe say, and is a decision as it says?

`tests/test_recipes.py` explains the format to those who write one.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final, Literal

import pytest
from click.testing import CliRunner
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from flows.cli import main
from schemas.documents import read_yaml

ROOT: Final = Path(__file__).parents[1]
RECIPES: Final = ROOT / "docs/recipes"
FENCED: Final = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_SECONDS: Final = re.compile(r"in \d+\.\d s")

Ids = tuple[str, ...]


# What an expected.yaml may say.


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Which(_Said):
    """One decision, by what triggered it."""

    event: str | None = None
    entered: str | None = None
    left: str | None = None
    profile: str | None = None
    placement: str | None = None
    at: AwareDatetime | None = None

    @model_validator(mode="after")
    def _has_one_trigger(self) -> Which:
        if sum(named is not None for named in (self.event, self.entered, self.left)) != 1:
            raise ValueError("expected one of event, entered, left")
        if self.event is None and self.profile is None:
            raise ValueError("expected profile: whose change of segments")
        return self


class Beside(Which):
    """Another decision, and the fields in which one is like it or not."""

    fields: Annotated[Ids, Field(min_length=1)]


class ExpectedDecision(Which):
    """What one decision must be."""

    why: Annotated[str, Field(min_length=10)]
    proves: Literal["guardrail", "personal"] | None = None
    none: Literal[True] | None = None
    shows: Ids | None = None
    first: str | None = None
    includes: Annotated[Ids, Field(min_length=1)] | None = None
    excludes: Annotated[Ids, Field(min_length=1)] | None = None
    among: Annotated[Ids, Field(min_length=1)] | None = None
    count: int | None = None
    fallback: str | None = None
    rules: Ids | None = None
    segments: Annotated[Ids, Field(min_length=1)] | None = None
    rejections: dict[str, int] | None = None
    sources: Annotated[dict[str, str], Field(min_length=1)] | None = None
    reasons: Annotated[dict[str, str], Field(min_length=1)] | None = None
    says: Annotated[dict[str, str], Field(min_length=1)] | None = None
    record: Annotated[dict[str, Any], Field(min_length=1)] | None = None
    unlike: Beside | None = None
    same_as: Beside | None = None

    @model_validator(mode="after")
    def _says_something(self) -> ExpectedDecision:
        said = self.said()
        if not said:
            raise ValueError("expected something that must be so")
        if self.none and said != ["none"]:
            raise ValueError("expected nothing beside none")
        refused = self.fallback or self.rejections or self.excludes or self.shows == ()
        if self.proves == "guardrail" and not (self.none or refused):
            raise ValueError("a guardrail: expected none, fallback, rejections or excludes")
        liked = any(code.startswith("affinity:") for code in (self.reasons or {}).values())
        if self.proves == "personal" and not (
            "fallback" in said
            and self.fallback is None
            and (self.shows or self.first or self.includes or self.among)
            and (self.rules or self.segments or liked)
        ):
            raise ValueError("personal: expected fallback null, contents, and rules or segments")
        return self

    def said(self) -> list[str]:
        """The names of what it says of the decision."""
        named = {*Which.model_fields, "why", "proves"}
        return [name for name in type(self).model_fields if name in self.model_fields_set - named]


class ExpectedChange(_Said):
    """An entry or an exit that must be there, or must not."""

    profile: str
    entered: str | None = None
    left: str | None = None
    at: AwareDatetime | None = None
    cause: str | None = None
    none: Literal[True] | None = None


class ExpectedOutcome(Which):
    """What the books of one decision say."""

    rewards: dict[str, float]


class Expected(_Said):
    """A whole expected.yaml."""

    decisions: Annotated[tuple[ExpectedDecision, ...], Field(min_length=2)]
    changes: tuple[ExpectedChange, ...] = ()
    outcomes: tuple[ExpectedOutcome, ...] = ()
    counts: dict[
        Literal["decisions", "segment_changes", "outcomes", "late", "dead_letters"], int
    ] = Field(min_length=1)


# What a recipe gave.


@dataclass(frozen=True)
class Cooked:
    """A recipe's expectations, what its commands printed, and the records of its replay."""

    expected: Expected
    shown: list[tuple[str, str]]
    printed: list[str]
    records: dict[str, list[dict[str, Any]]]

    def matching(self, which: Which) -> list[dict[str, Any]]:
        """The decisions that an expectation may mean."""
        return [d for d in self.records["decisions"] if self._is(which, d)]

    def one(self, which: Which) -> dict[str, Any]:
        """The decision that an expectation means."""
        found = self.matching(which)
        assert len(found) == 1, f"expected one decision, found {len(found)}: {which!r}"
        return found[0]

    def _is(self, which: Which, decision: dict[str, Any]) -> bool:
        if which.event is not None:
            triggered = decision["trigger"]["event_id"] == which.event
        else:
            direction = "entered" if which.entered else "left"
            changes = {
                c["change_id"]
                for c in self.records["segment-changes"]
                if (c["segment"], c["direction"]) == (which.entered or which.left, direction)
            }
            triggered = decision["trigger"]["event_id"] in changes
        return (
            triggered
            and which.profile in (None, decision["profile_id"])
            and which.placement in (None, decision["placement"])
            and at_second(which.at, decision["decided_at"])
        )


@cache
def cooked(name: str) -> Cooked:
    """Run what a recipe's README tells people to run."""
    folder = RECIPES / name
    shown = list(commands_in(folder / "README.md"))
    printed, records = [], {}
    with TemporaryDirectory() as out, pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setenv("COLUMNS", "100")
        for command, _ in shown:
            arguments = shlex.split(command.replace("\\\n", " "))[1:]
            where = _option(arguments, "--out")
            run = [out if a == where else a for a in arguments]
            done = CliRunner().invoke(main, run, catch_exceptions=False)
            assert done.exit_code == 0, f"{command}\n{done.output}"
            text = done.output if where is None else done.output.replace(out, where)
            printed.append(_steady(text))
        for path in Path(out).glob("*.jsonl"):
            records[path.stem] = [json.loads(line) for line in path.read_text().splitlines()]
    given = read_file(folder / "expected.yaml")
    return Cooked(Expected.model_validate(given), shown, printed, records)


def commands_in(readme: Path) -> Iterator[tuple[str, str]]:
    """Each command of the `console` blocks of a README, and what it is said to print."""
    for language, body in FENCED.findall(readme.read_text()):
        if language == "console":
            for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                found = re.match(r"((?:[^\n]*\\\n)*[^\n]*)\n(.*)", part, re.DOTALL)
                assert found is not None, part
                yield found[1], _steady(found[2])


def read_file(path: Path) -> Any:
    """What a YAML file of a recipe holds."""
    document, mistakes = read_yaml(path.read_text(), name=path.name)
    assert document is not None, mistakes
    return document.value


def instant(text: str) -> datetime:
    """When that is."""
    return datetime.fromisoformat(text)


def at_second(wanted: datetime | None, text: str) -> bool:
    """To the second: what ends a gap happens a millisecond later, and nobody writes that down."""
    if wanted is None:
        return True
    return instant(text).replace(microsecond=0) == wanted.replace(microsecond=0)


def _option(arguments: list[str], name: str) -> str | None:
    return arguments[arguments.index(name) + 1] if name in arguments else None


def _steady(text: str) -> str:
    """What a command printed, without the progress bar and the time that it took."""
    lines = (line.rstrip() for line in text.splitlines() if "━" not in line)
    return "\n".join(_SECONDS.sub("in 0.0 s", line) for line in lines if line)


# Is a decision as expected?


def field_of(decision: dict[str, Any], path: str) -> Any:
    """A field of a record, nested ones by dots, items of lists by their number."""
    found: Any = decision
    for part in path.split("."):
        found = found[int(part)] if isinstance(found, list) else found[part]
    return found


def differences(cook: Cooked, wanted: ExpectedDecision) -> list[str]:
    """What is not as expected, by field."""
    if wanted.none:
        return ["none"] if cook.matching(wanted) else []
    decision = cook.one(wanted)
    items = {item["content_id"]: item for item in decision["items"]}
    ids = list(items)
    holds: dict[str, Callable[[], bool]] = {
        "shows": lambda: ids == list(wanted.shows or ()),
        "first": lambda: ids[:1] == [wanted.first],
        "includes": lambda: set(wanted.includes or ()) <= set(ids),
        "excludes": lambda: not set(wanted.excludes or ()) & set(ids),
        "among": lambda: set(ids) <= set(wanted.among or ()),
        "count": lambda: len(ids) == wanted.count,
        "fallback": lambda: decision["fallback"] == wanted.fallback,
        "rules": lambda: sorted(decision["rules"]) == sorted(wanted.rules or ()),
        "segments": lambda: set(wanted.segments or ()) <= set(decision["segments"]),
        "rejections": lambda: decision["rejections"] == wanted.rejections,
        "sources": lambda: _each(items, wanted.sources, lambda item: [item["source"]]),
        "reasons": lambda: _each(
            items, wanted.reasons, lambda i: [r["code"] for r in i["reasons"]]
        ),
        "says": lambda: _each(
            items, wanted.says, lambda item: [r["text"] for r in item["reasons"]]
        ),
        "record": lambda: all(
            field_of(decision, path) == value for path, value in (wanted.record or {}).items()
        ),
        "unlike": lambda: (
            wanted.unlike is not None and not any(_alike(cook, decision, wanted.unlike))
        ),
        "same_as": lambda: (
            wanted.same_as is not None and all(_alike(cook, decision, wanted.same_as))
        ),
    }
    return [name for name in wanted.said() if not holds[name]()]


def _each(items: dict[str, Any], wanted: dict[str, str] | None, read: Any) -> bool:
    return all(c in items and text in read(items[c]) for c, text in (wanted or {}).items())


def _alike(cook: Cooked, decision: dict[str, Any], beside: Beside) -> Iterator[bool]:
    other = cook.one(beside)
    assert other is not decision, "a decision is compared with itself"
    for path in beside.fields:
        yield field_of(decision, path) == field_of(other, path)


def contrary(name: str, value: Any, decision: dict[str, Any]) -> Any:
    """A value of one field of an expectation that must not hold of the decision."""
    other = "nothing_of_that_name"
    match name:
        case "excludes":
            return [item["content_id"] for item in decision["items"]] or None
        case "among":
            return [other] if decision["items"] else None
        case "count":
            return value + 1
        case "first" | "fallback":
            return other
        case "shows" | "includes" | "rules" | "segments":
            return [*value, other]
        case "rejections":
            return {**value, other: 1}
        case "sources" | "reasons" | "says" | "record":
            return dict.fromkeys(value, other)
    return None
