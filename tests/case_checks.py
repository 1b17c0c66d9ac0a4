"""Is what is known of a person what a case expects? One check for each field of an expectation.

Every check gives sentences: what was expected, and what is there instead.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from operators.outputs import Record
from operators.plan import Plan
from operators.profile import Profile, encode_profile
from schemas.time import format_duration, parse_duration, rfc3339
from tests.case_file import Case, CaseError, Expect, Step

Look = Callable[[str], Profile | None]
_INTENT: Final = "intent."


@dataclass
class Said:
    """What came out so far, in order; `counts` has `late`, `duplicate` … of the whole case.

    A run that cannot tell of something has None there.
    """

    decisions: list[Record] = field(default_factory=list)
    changes: list[Record] = field(default_factory=list)
    late: list[Record] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    labels: list[tuple[str, float]] | None = field(default_factory=list)
    counted: bool = True


class Checker:
    """Compares expectations with what is known, step by step, for one run of a case."""

    def __init__(self, case: Case, runner: str) -> None:
        self._case, self._runner = case, runner
        self._told: Counter[str] = Counter()

    def check(self, steps: list[Step], plan: Plan, look: Look, said: Said) -> None:
        """Raise CaseError for the first of these expectations that is not met, in all its parts."""
        for step in steps:
            assert isinstance(step.does, Expect)
            what = step.does.what
            user = what.get("user", "u1")
            seen = _Seen(user, look(user), plan, step.does.clock_ms, said)
            problems = [*self._problems(what, seen)]
            if problems:
                raise CaseError(
                    f"{self._case.title}\n  step {step.number} (line {step.line}), "
                    f"{rfc3339(step.does.clock_ms)}, as {self._runner} has it:\n"
                    + "\n".join(f"    {problem}" for problem in problems)
                )

    def _problems(self, what: Mapping[str, Any], seen: _Seen) -> Iterator[str]:
        for name, wanted in what.items():
            if name == "changes":
                yield from self._of_changes(wanted, seen)
            elif name == "labels":
                yield from self._of_labels(wanted, seen)
            elif name != "user":
                yield from _CHECKS[name](seen, wanted)

    def _of_changes(self, wanted: list[dict[str, Any]], seen: _Seen) -> Iterator[str]:
        """Exactly these since the last time that this user's changes were asked for."""
        intents = any(change["segment"].startswith(_INTENT) for change in wanted)
        mine = [change for change in seen.said.changes if change["profile_id"] == seen.user]
        mine, self._told[seen.user] = mine[self._told[seen.user] :], len(mine)
        mine = [c for c in mine if c["segment"].startswith(_INTENT) == intents]
        told = [f"{change['direction']} {change['segment']}" for change in mine]
        expected = [f"{change['direction']} {change['segment']}" for change in wanted]
        if told != expected:
            yield f"changes of {seen.user}: expected {_list(expected)}, got {_list(told)}"
            return
        for asked, change in zip(wanted, mine, strict=True):
            for name, value in asked.items():
                got = change.get(name)
                if name == "rule" and isinstance(got, str) and value in got:
                    continue
                if name == "values" and isinstance(got, dict):
                    got = {text: got.get(text) for text in value}
                if got != value:
                    which = f"{asked['direction']} {asked['segment']}"
                    yield f"{name} of '{which}' of {seen.user}: expected {value!r}, got {got!r}"

    def _of_labels(self, wanted: list[dict[str, float]], seen: _Seen) -> Iterator[str]:
        """Exactly these since the last time they were asked for, of every profile of the case."""
        if seen.said.labels is None:
            return
        labels, self._told["labels"] = (
            seen.said.labels[self._told["labels"] :],
            len(seen.said.labels),
        )
        got = [{name: label} for name, label in labels]
        if got != wanted:
            yield f"labels: expected {wanted}, got {got}"


@dataclass(frozen=True)
class _Seen:
    """What one check looks at."""

    user: str
    profile: Profile | None
    plan: Plan
    clock_ms: int
    said: Said

    @property
    def segments(self) -> list[str]:
        return sorted(self.profile.segments) if self.profile else []


def _known(seen: _Seen, wanted: bool) -> Iterator[str]:
    if (seen.profile is not None) != wanted:
        yield f"{seen.user}: expected {'a' if wanted else 'no'} profile, there is " + (
            "none" if wanted else "one"
        )


def _signals(seen: _Seen, wanted: dict[str, Any]) -> Iterator[str]:
    declared = {signal.name: signal for signal in seen.plan.signals}
    states = seen.profile.signals if seen.profile else {}
    for name, value in wanted.items():
        signal = declared.get(name)
        if signal is None:
            yield f"signal {name}: the policy declares none of that name"
            continue
        by_key = value if isinstance(value, dict) and "between" not in value else {None: value}
        for key, expected in by_key.items():
            got = signal.value(states, seen.clock_ms, None if key is None else str(key))
            if not _alike(expected, got):
                of = "" if key is None else f", {key}"
                yield (
                    f"signal {name}{of} of {seen.user}: expected {_shown(expected)}, "
                    f"got {_shown(got, like=expected)}"
                )


def _alike(expected: Any, got: Any) -> bool:
    if isinstance(expected, dict):
        low, high = expected["between"]
        return got is not None and low <= got <= high
    if isinstance(expected, str) and isinstance(got, (int, float)):
        return math.isclose(parse_duration(expected), got, rel_tol=1e-9, abs_tol=1e-6)
    if isinstance(expected, (int, float)) and isinstance(got, (int, float)):
        return math.isclose(expected, got, rel_tol=1e-6, abs_tol=1e-6)
    return bool(expected == got)


def _shown(value: Any, like: Any = None) -> str:
    if value is None:
        return "no value"
    if isinstance(like, str) and isinstance(value, (int, float)):
        return f"{value} ms ({format_duration(int(value))})"
    return str(value)


def _in_segments(seen: _Seen, wanted: list[str]) -> Iterator[str]:
    for name in wanted:
        if name not in seen.segments:
            yield f"{seen.user} is not in segment {name}; it is in {_list(seen.segments)}"


def _not_in_segments(seen: _Seen, wanted: list[str]) -> Iterator[str]:
    for name in wanted:
        if name not in seen.plan.policy.segments and name in seen.segments:
            yield f"{seen.user} is still in segment {name}, which the policy no longer has"
        elif name in seen.segments:
            yield f"{seen.user} is in segment {name}, and should not be"


def _intent(seen: _Seen, wanted: str | None) -> Iterator[str]:
    intents = [name for name in seen.segments if name.startswith(_INTENT)]
    expected = [] if wanted is None else [_INTENT + wanted]
    if intents != expected:
        got = _list([name.removeprefix(_INTENT) for name in intents])
        yield f"intent of {seen.user}: expected {wanted or 'none'}, got {got}"


def _mapping(name: str, held: Callable[[Profile], Mapping[str, Any]]) -> _Check:
    def check(seen: _Seen, wanted: dict[str, Any]) -> Iterator[str]:
        got = held(seen.profile) if seen.profile else {}
        for key, value in wanted.items():
            if got.get(key) != value:
                yield (
                    f"{name} {key} of {seen.user}: expected {_shown(value)}, "
                    f"got {_shown(got.get(key))}"
                )

    return check


def _hidden(seen: _Seen, wanted: list[str]) -> Iterator[str]:
    got = sorted(seen.profile.hidden) if seen.profile else []
    if got != sorted(wanted):
        yield f"hidden from {seen.user}: expected {_list(wanted)}, got {_list(got)}"


def _decision(seen: _Seen, wanted: dict[str, Any] | None) -> Iterator[str]:
    mine = [record for record in seen.said.decisions if record["profile_id"] == seen.user]
    if wanted is None:
        if mine:
            yield f"{seen.user}: expected no decision, got {len(mine)}"
        return
    wanted = dict(wanted)
    if "total" in wanted and (total := wanted.pop("total")) != len(mine):
        yield f"decisions of {seen.user}: expected {total}, got {len(mine)}"
    placement = wanted.pop("placement", "home")
    mine = [record for record in mine if record["placement"] == placement]
    if not mine:
        yield f"{seen.user}: there is no decision for {placement}"
        return
    last = mine[-1]
    shown = [item["content_id"] for item in last["items"]]
    for name, value in wanted.items():
        got = {"items": shown, "shows": sorted(shown)}.get(name, last.get(name))
        if name == "segments":
            got = [segment for segment in last["segments"] if not segment.startswith(_INTENT)]
        expected = sorted(value) if name == "shows" else value
        if got != expected:
            yield f"{name} of the last decision for {seen.user}: expected {expected}, got {got}"


def _count(name: str) -> _Check:
    def check(seen: _Seen, wanted: int) -> Iterator[str]:
        told = seen.said.counted or name in ("late", "dead_letters")
        if told and seen.said.counts[name] != wanted:
            yield f"{name}: expected {wanted} so far, got {seen.said.counts[name]}"

    return check


def _open_cases(seen: _Seen, wanted: dict[str, int]) -> Iterator[str]:
    # A case without features only arms the timer of the next one.
    cases = [case for case in seen.profile.cases if case.features] if seen.profile else []
    got = Counter(case.prediction for case in cases)
    for name, number in wanted.items():
        if got[name] != number:
            yield f"open cases of {name} of {seen.user}: expected {number}, got {got[name]}"


def _bytes_at_most(seen: _Seen, wanted: int) -> Iterator[str]:
    held = len(encode_profile(seen.profile, due_ms=0)) if seen.profile else 0
    if held > wanted:
        yield f"{seen.user} takes {held} bytes, at most {wanted} expected"


def _list(names: list[str]) -> str:
    return ", ".join(names) or "none"


_Check = Callable[[_Seen, Any], Iterator[str]]
_CHECKS: Final[dict[str, _Check]] = {
    "known": _known,
    "signals": _signals,
    "segments": _in_segments,
    "not_segments": _not_in_segments,
    "intent": _intent,
    "attributes": _mapping("attribute", lambda profile: profile.attributes),
    "provenance": _mapping(
        "source of attribute",
        lambda profile: {name: source for name, (source, _) in profile.provenance.items()},
    ),
    "consent": _mapping(
        "consent to",
        lambda profile: {name: said[0] for name, said in profile.consent.items()},
    ),
    "hidden": _hidden,
    "decision": _decision,
    "late": _count("late"),
    "duplicates": _count("duplicate"),
    "suppressed": _count("suppressed"),
    "dead_letters": _count("dead_letters"),
    "open_cases": _open_cases,
    "bytes_at_most": _bytes_at_most,
}
