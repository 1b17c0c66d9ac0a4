"""What does a case file say? A small policy, what happens, and what must be known afterwards.

`tests/cases/README.md` describes the format for those who write cases. A file is read into plain
values; a misspelt field is an error that names file, case, step and line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from operators.ids import decision_id, shard_of
from operators.plan import Plan, compile_plan
from schemas.check import load
from schemas.digest import catalogue_version, policy_digest
from schemas.documents import Document, read_yaml
from schemas.time import DAY, HOUR, MINUTE, parse_duration, rfc3339, to_millis
from tests.operators.builders import T0

CASES: Final = Path(__file__).parent / "cases"
SHARDS: Final = 4
CLOCK: Final = "the-clock"
"""The profile whose events move the log's clock where nothing else happens."""

_BASE: Final[dict[str, Any]] = {
    "name": "case",
    # With no lateness allowed the watermark is the clock: what is due has happened.
    "time": {"allowed_lateness": "0s"},
    "placements": {"home": {}},
}
_CONTENTS: Final = [{"content_id": "default", "type": "product"}]
_DAY_AND_TIME: Final = re.compile(r"(\d+)d(?: (\d\d):(\d\d)(?::(\d\d)(?:\.(\d{3}))?)?)?")
_OF_EVENT: Final = {
    # how a case spells a field, and how an event does
    "user": "user_id",
    "anonymous": "anonymous_id",
    "content": "content_id",
    "session": "session_id",
    **{
        same: same
        for same in (
            *("type", "placement", "value", "context", "properties", "candidates", "slots"),
            *("contents", "feedback", "tag", "attributes", "consent", "source"),
        )
    },
}
_WHEN: Final = ("at", "ago", "ahead")
EVENT_FIELDS: Final = {*_OF_EVENT, *_WHEN, "id", "decision", "times", "every"}
EXPECT_FIELDS: Final = {
    *("user", "known", "signals", "segments", "not_segments", "intent", "attributes", "consent"),
    *("hidden", "decision", "changes", "late", "duplicates", "dead_letters", "suppressed"),
    *("open_cases", "labels", "bytes_at_most", "provenance"),
}
_CASE_FIELDS: Final = {"name", "start", "policy", "catalogue", "steps"}


class CaseError(AssertionError):
    """A case that is wrongly written, or that came out otherwise than it says."""


@dataclass(frozen=True)
class Sent:
    """An event as it is sent, at the log's clock of its sending (ms)."""

    clock_ms: int
    event: dict[str, Any]


@dataclass(frozen=True)
class Expect:
    """What must be known at an instant of the log's clock (ms)."""

    clock_ms: int
    what: dict[str, Any]


@dataclass(frozen=True)
class NewPolicy:
    """From here on the flow runs under another policy."""

    plan: Plan


@dataclass(frozen=True)
class Wait:
    """Nothing happens until the log's clock stands there (ms)."""

    clock_ms: int


@dataclass(frozen=True)
class Step:
    """One step of a case and where it stands: its number from 1, and its line in the file."""

    number: int
    line: int
    does: Sent | Expect | NewPolicy | Wait


@dataclass(frozen=True)
class Case:
    """One case of a file, its policy compiled; `start_ms` is where its clock begins."""

    file: str
    name: str
    line: int
    start_ms: int
    plan: Plan
    steps: tuple[Step, ...] = field(repr=False)

    @property
    def title(self) -> str:
        """How the case is called where it fails."""
        return f"tests/cases/{self.file}, line {self.line}, case '{self.name}'"


@dataclass(frozen=True)
class Listed:
    """A case by its name, not read yet: a mistake in one must not hide the others."""

    document: Document = field(repr=False)
    index: int
    name: str

    def __str__(self) -> str:
        return f"{self.document.name.removesuffix('.yaml')}: {self.name}"

    @property
    def said(self) -> dict[str, Any]:
        """The case as it is written."""
        written: dict[str, Any] = self.document.value["cases"][self.index]
        return written

    @property
    def changes_its_policy(self) -> bool:
        """Whether a step puts another policy in force."""
        return any("policy" in step for step in self.said["steps"])

    def read(self) -> Case:
        """The case with its policy compiled; raises CaseError for what cannot be meant."""
        return _Reader(self.document, self.index).case()


def list_cases(path: Path) -> list[Listed]:
    """The cases of a file; raises CaseError where the file itself cannot be read."""
    document, mistakes = read_yaml(path.read_text(encoding="utf-8"), name=path.name)
    if document is None or mistakes:
        raise CaseError("\n".join(map(str, mistakes)))
    _only(document.value, {"about", "policy", "catalogue", "cases"}, path.name)
    return [Listed(document, i, said["name"]) for i, said in enumerate(document.value["cases"])]


@cache
def all_cases() -> list[Listed]:
    """Every case of every file, in order."""
    return [case for path in sorted(CASES.glob("*.yaml")) for case in list_cases(path)]


class _Reader:
    """Reads one case: keeps its clock, its policy so far, and its requests by event id."""

    def __init__(self, document: Document, i: int) -> None:
        whole = document.value
        said = whole["cases"][i]
        self.document, self.index, self.said = document, i, said
        self.file = document.name
        self.line = document.place(("cases", i))[0]
        self.where = f"tests/cases/{self.file}, line {self.line}, case '{said.get('name')}'"
        _only(said, _CASE_FIELDS, self.where)
        self.catalogue = said.get("catalogue", whole.get("catalogue", _CONTENTS))
        self.policy = _merged(_merged(_BASE, whole.get("policy", {})), said.get("policy", {}))
        self.start_ms = _instant(said["start"], T0, T0) if "start" in said else T0
        self.clock_ms = self.start_ms
        self.requests: dict[str, tuple[str, str]] = {}

    def case(self) -> Case:
        plan = self._plan()
        steps: list[Step] = []
        for i, said in enumerate(self.said["steps"]):
            line = self.document.place(("cases", self.index, "steps", i))[0]
            where = f"{self.where}, step {i + 1} (line {line})"
            try:
                steps += [Step(i + 1, line, does) for does in self._step(said, i + 1, where)]
            except (ValueError, KeyError, TypeError) as error:
                raise CaseError(f"{where}: {error!r}") from error
        return Case(self.file, self.said["name"], self.line, self.start_ms, plan, tuple(steps))

    def _plan(self) -> Plan:
        checked = load(
            json.dumps(self.policy),
            policy_name="policy",
            catalogue_text=json.dumps(self.catalogue),
        )
        errors = [f"{m.field}: {m}" for m in checked.mistakes if m.severity == "error"]
        if errors or checked.policy is None or checked.contents is None:
            raise CaseError(f"{self.where}: the policy has mistakes\n" + "\n".join(errors))
        return compile_plan(
            checked.policy,
            checked.contents,
            policy_digest=policy_digest(checked.policy),
            catalogue_version=catalogue_version(checked.contents),
        )

    def _step(self, said: Any, number: int, where: str) -> list[Sent | Expect | NewPolicy | Wait]:
        if "expect" in said:
            _only(said, {"expect"}, where)
            _only(said["expect"], EXPECT_FIELDS, where)
            return [Expect(self.clock_ms, self._expected(said["expect"]))]
        if "wait" in said or "until" in said:
            _only(said, {"wait", "until"}, where)
            if "wait" in said:
                self.clock_ms += parse_duration(said["wait"])
            else:
                self._move(_instant(said["until"], self.start_ms, self.clock_ms), where)
            return [Wait(self.clock_ms)]
        if "policy" in said:
            _only(said, {"policy"}, where)
            self.policy = _merged(self.policy, said["policy"])
            return [NewPolicy(self._plan())]
        _only(said, EVENT_FIELDS, where)
        return list(self._events(said, number, where))

    def _events(self, said: dict[str, Any], number: int, where: str) -> list[Sent]:
        if "at" in said:
            self._move(_instant(said["at"], self.start_ms, self.clock_ms), where)
        sent = []
        for n in range(said.get("times", 1)):
            if n:
                self.clock_ms += parse_duration(said.get("every", "0s"))
            occurred = self.clock_ms
            occurred -= parse_duration(said["ago"]) if "ago" in said else 0
            occurred += parse_duration(said["ahead"]) if "ahead" in said else 0
            event = {
                "event_id": said.get("id", f"e{number}") + (f".{n}" if "times" in said else ""),
                "occurred_at": rfc3339(occurred),
                **{_OF_EVENT[k]: _numbered(v, n) for k, v in said.items() if k in _OF_EVENT},
            }
            if "user" not in said and "anonymous" not in said:
                event["user_id"] = "u1"
            self._note_request(event)
            if "decision" in said:
                event["decision_id"] = self._decision_of(said["decision"])
            sent.append(Sent(self.clock_ms, event))
        return sent

    def _note_request(self, event: dict[str, Any]) -> None:
        profile = event.get("user_id") or event["anonymous_id"]
        self.requests[event["event_id"]] = (profile, event.get("placement", "home"))

    def _decision_of(self, request: str) -> str:
        profile, placement = self.requests[request]
        return decision_id(
            shard=shard_of(profile, shards=SHARDS),
            profile_id=profile,
            trigger_id=request,
            placement=placement,
        )

    def _move(self, instant: int, where: str) -> None:
        if instant < self.clock_ms:
            raise CaseError(
                f"{where}: the clock already stands at {rfc3339(self.clock_ms)}; an event dated "
                "earlier than the clock is written with `ago`"
            )
        self.clock_ms = instant

    def _expected(self, what: dict[str, Any]) -> dict[str, Any]:
        """The expectation with its instants worked out."""
        if "changes" not in what:
            return what
        changes = [self._change(change) for change in what["changes"]]
        return {**what, "changes": changes}

    def _change(self, change: Any) -> dict[str, Any]:
        if isinstance(change, str):
            direction, _, segment = change.partition(" ")
            asked: dict[str, Any] = {"direction": direction, "segment": segment}
        else:
            asked = dict(change)
            direction = "entered" if "entered" in asked else "left"
            asked |= {"direction": direction, "segment": asked.pop(direction)}
            if "at" in asked:
                asked["changed_at"] = rfc3339(
                    _instant(asked.pop("at"), self.start_ms, self.clock_ms)
                )
        if asked["direction"] not in ("entered", "left") or not asked["segment"]:
            raise CaseError(f"{self.where}: a change is `entered NAME` or `left NAME`: {change}")
        return asked


def _numbered(value: Any, n: int) -> Any:
    """A field's value in the n-th repetition: `{n}` stands for its number from 0."""
    if isinstance(value, str):
        return value.replace("{n}", str(n))
    if isinstance(value, dict):
        return {key: _numbered(part, n) for key, part in value.items()}
    return value


def _instant(text: str, start_ms: int, clock_ms: int) -> int:
    """`3d 10:00` counts from the start, `+2h` from the clock; a date is itself (in UTC)."""
    if text.startswith("+"):
        return clock_ms + parse_duration(text[1:])
    if match := _DAY_AND_TIME.fullmatch(text):
        days, hours, minutes, seconds, millis = (int(part or 0) for part in match.groups())
        midnight = start_ms - start_ms % DAY
        return midnight + days * DAY + hours * HOUR + minutes * MINUTE + seconds * 1_000 + millis
    moment = datetime.fromisoformat(text)
    return to_millis(moment if moment.tzinfo else datetime.fromisoformat(f"{text}+00:00"))


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """One policy over another, section by section and name by name; null takes a name out."""
    merged = dict(base)
    for section, value in over.items():
        if isinstance(value, dict) and isinstance(merged.get(section), dict):
            both = {**merged[section], **value}
            merged[section] = {name: part for name, part in both.items() if part is not None}
        else:
            merged[section] = value
    return {name: part for name, part in merged.items() if part is not None}


def _only(said: Any, known: set[str], where: str) -> None:
    if not isinstance(said, dict):
        raise CaseError(f"{where}: expected a mapping, found {said!r}")
    unknown = sorted(set(said) - known)
    if unknown:
        raise CaseError(
            f"{where}: unknown field {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        )
