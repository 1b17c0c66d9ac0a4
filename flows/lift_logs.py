"""What do the logs say of each test? Reads decisions, outcomes and events into a study.

Lines are those that `replay` writes and `export` exports. A line that is no decision or outcome is
an error, told with its file and line: figures made of half a log would look like any others. A line
that is no event is passed over, as the flow does, and counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, TypeVar

import msgspec

from flows.errors import NextbestError
from flows.files import read_records
from operators.decode import Refused, parse_event
from operators.ids import hash64
from operators.lift import Study
from schemas.time import to_millis

HOLDOUT: Final = "holdout"
NOT_THE_PERSON: Final = frozenset(
    {"profile_updated", "erasure_requested", "identity_linked", "identity_unlinked"}
)
"""Events that another system sends about a person: they are no sign of a visit."""

Instant = Annotated[datetime, msgspec.Meta(tz=True)]


class LogError(NextbestError):
    """A log that does not hold what it is said to hold."""

    exit_code = 2


class _Arm(msgspec.Struct):
    id: str
    variant: str


class _Exposure(msgspec.Struct):
    test: str
    variant: str
    layer: str = ""
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None


class _Decision(msgspec.Struct):
    decision_id: str
    profile_id: str
    placement: str
    decided_at: Instant
    items: list[msgspec.Raw]
    trigger: msgspec.Raw
    experiment: _Arm | None = None
    exposures: list[_Exposure] = []


class _Item(msgspec.Struct):
    rewards: dict[str, float]


class _Outcome(msgspec.Struct):
    decision_id: str
    profile_id: str
    placement: str
    decided_at: Instant
    closed_at: Instant
    items: list[_Item]


@dataclass
class Read:
    """How much was read: lines by kind, and those of the events that are none."""

    decisions: int = 0
    outcomes: int = 0
    events: int = 0
    unreadable: int = 0
    variants: dict[str, dict[str, int]] = field(default_factory=dict)
    """Decisions by test and variant, in the order in which they were met."""


Line = TypeVar("Line", _Decision, _Outcome)


def read_logs(
    study: Study, *, decisions: list[Path], outcomes: list[Path], events: list[Path]
) -> Read:
    """Feed a study with whole logs; raises LogError where one is not what it should be."""
    read = Read()
    _decisions(study, read, decisions)
    _outcomes(study, read, outcomes)
    _events(study, read, events)
    return read


def _decisions(study: Study, read: Read, paths: list[Path]) -> None:
    for line in _lines(paths, _Decision, "a decision"):
        read.decisions += 1
        at_ms = to_millis(line.decided_at)
        study.clock_ms = max(study.clock_ms, at_ms)
        arms = [(e.test, e.layer, e.variant, e.share) for e in line.exposures]
        if line.experiment is not None and all(
            e.test != line.experiment.id for e in line.exposures
        ):
            arms.append((line.experiment.id, "", line.experiment.variant, None))
        for test, layer, variant, share in arms:
            counts = read.variants.setdefault(test, {})
            counts[variant] = counts.get(variant, 0) + 1
            study.expose(
                test,
                variant,
                profile_id=line.profile_id,
                decision_id=line.decision_id,
                placement=line.placement,
                at_ms=at_ms,
                layer=layer,
                share=share,
            )


def _outcomes(study: Study, read: Read, paths: list[Path]) -> None:
    seen: set[int] = set()
    for line in _lines(paths, _Outcome, "an outcome"):
        read.outcomes += 1
        # A topic read twice, or two files that overlap: books are written once.
        if (identity := hash64(line.decision_id)) in seen:
            continue
        seen.add(identity)
        study.book(
            line.profile_id,
            placement=line.placement,
            decided_ms=to_millis(line.decided_at),
            closed_ms=to_millis(line.closed_at),
            rewards=[pair for item in line.items for pair in item.rewards.items()],
        )


def _events(study: Study, read: Read, paths: list[Path]) -> None:
    seen: set[int] = set()
    for record in read_records(paths):
        read.events += 1
        try:
            event = parse_event(record)
        except Refused:
            read.unreadable += 1
            continue
        profile_id = event.user_id or event.anonymous_id or ""
        at_ms = to_millis(event.occurred_at)
        if event.type not in NOT_THE_PERSON:
            study.act(profile_id, at_ms)
        if event.type == "feedback" and event.feedback is not None:
            if (identity := hash64(event.event_id)) in seen:
                continue
            seen.add(identity)
            study.react(profile_id, at_ms, event.feedback)


def _lines(paths: list[Path], kind: type[Line], what: str) -> Iterator[Line]:
    decoder = msgspec.json.Decoder(kind)
    for path in paths:
        for record in read_records([path]):
            if record.value is None:
                continue  # a tombstone says nothing of a decision
            try:
                yield decoder.decode(record.value)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise LogError(
                    f"{path}:{record.offset + 1}: this line is not {what}: {_said(error)}"
                ) from None


def _said(error: Exception) -> str:
    # What msgspec says names types and paths; the value itself may be a person's.
    if isinstance(error, msgspec.ValidationError):
        return str(error)
    return "not a JSON object in UTF-8"
