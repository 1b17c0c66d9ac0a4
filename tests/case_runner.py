"""Does a case come out as its file says? Its timeline, the pure machine, and the comparison.

A case is a list of positions: one batch of the log each, and what must be known after it. The pure
machine runs them here; `tests/flows/test_cases_flow.py` runs the same positions through the
dataflow and the same log through a replay, and compares what both gave with what this one gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

import orjson

from operators.arrival import group_by_shard
from operators.decide import Decide
from operators.decode import Decoded, Decoder
from operators.gather import Gather, Gathered
from operators.identify import Identified, IdentityGroup, split
from operators.links import GROUPS, LinkGraph
from operators.parameters import LocalParameters
from operators.plan import Plan
from operators.profile import Profile
from operators.pseudonyms import UNSHARED
from operators.shard import Shard, ShardBatch, restored
from schemas.records import RawBatch, RawRecord
from schemas.time import rfc3339
from tests.case_checks import Checker, Said
from tests.case_file import CLOCK, SHARDS, Case, Expect, NewPolicy, Sent, Step
from tests.operators.builders import nothing_recorded

_MODEL: Final = "prediction."


@dataclass
class Position:
    """One batch of a case's log, the plan it is read under, and what must be known after it."""

    batch: RawBatch
    plan: Plan
    expects: list[Step] = field(default_factory=list)


def positions_of(case: Case) -> list[Position]:
    """The timeline of a case, a batch for each step that sends something or lets time pass."""
    positions: list[Position] = []
    plan, clock, offset = case.plan, case.start_ms - 1, 0

    def add(at_ms: int, events: list[tuple[int, dict[str, Any]]]) -> None:
        nonlocal clock, offset
        records = []
        for now_ms, event in [(at_ms, None), *events]:
            if now_ms > clock:
                records.append(_record(offset, now_ms, _tick(offset, now_ms)))
                clock, offset = now_ms, offset + 1
            if event is not None:
                records.append(_record(offset, now_ms, event))
                offset += 1
        positions.append(Position(RawBatch("case", 0, 1, records), plan))

    sent: dict[int, list[tuple[int, dict[str, Any]]]] = {}
    for step in case.steps:
        if isinstance(step.does, Sent):
            sent.setdefault(step.number, []).append((step.does.clock_ms, step.does.event))
    for step in case.steps:
        match step.does:
            case NewPolicy(plan=plan):
                pass
            case Expect(clock_ms=at_ms):
                if not positions:
                    add(at_ms, [])
                positions[-1].expects.append(step)
            case Sent(clock_ms=at_ms):
                events = sent.pop(step.number, None)
                if events is not None:  # else a repetition: sent with the first
                    add(at_ms, events)
            case waited:
                add(waited.clock_ms, [])
    return positions


def _tick(offset: int, at_ms: int) -> dict[str, Any]:
    """A statement that states nothing: it moves the clock, and nothing is counted of it."""
    return {
        "event_id": f"{CLOCK}-{offset}",
        "user_id": CLOCK,
        "type": "consent_changed",
        "consent": {},
        "occurred_at": rfc3339(at_ms),
    }


def _record(offset: int, at_ms: int, event: dict[str, Any]) -> RawRecord:
    return RawRecord(offset, at_ms, None, orjson.dumps(event))


class Machine:
    """The pure machine of a whole flow: decoding, identity and every shard, without an engine."""

    def __init__(self, plan: Plan) -> None:
        self.said = Said()
        self._shards: dict[int, Shard] = {}
        self._families = _Families(plan) if plan.policy.identity else None
        self._take(plan)

    def _take(self, plan: Plan) -> None:
        self.plan = plan
        policy = plan.policy
        self._decide = Decide(plan, LocalParameters(), adopt=nothing_recorded)
        self._decoder = Decoder(policy.time, policy.sensitive, plan.placement_names)

    def adopt(self, plan: Plan) -> None:
        """Go on under another plan, as a restart with another policy does."""
        if plan is self.plan:
            return
        self._take(plan)
        for number, shard in self._shards.items():
            self._shards[number] = restored(
                shard.snapshot(), shards=SHARDS, decide=self._decide, with_views=False
            )

    def look(self, user: str) -> Profile | None:
        """The profile of a user, as it is held now."""
        found = [profile for shard in self._shards.values() if (profile := shard.look(user))]
        return found[0] if found else None

    def feed(self, batch: RawBatch) -> None:
        """Let every shard answer a batch."""
        decoded = self._decoder.decode(batch)
        self.said.counts["dead_letters"] += len(decoded.dead_letters)
        for part in [decoded] if self._families is None else self._families.identified(decoded):
            events = part.arrived if isinstance(part, Decoded) else part.events
            grouped = group_by_shard(events, shards=SHARDS)
            for number in range(SHARDS):
                self._feed_shard(
                    ShardBatch(number, grouped.get(number, []), part.watermarks, part.partitions)
                )

    def _feed_shard(self, batch: ShardBatch) -> None:
        shard = self._shards.get(batch.shard)
        if shard is None:
            shard = self._shards[batch.shard] = Shard(batch.shard, SHARDS, self._decide)
        out = shard.process(batch)
        said = self.said
        said.decisions += [made.record for made in out.decisions]
        said.changes += out.changes
        said.late += out.late
        said.counts += out.counts
        if said.labels is not None:
            said.labels += [
                (case.model.removeprefix("prediction."), case.label) for case in out.labelled
            ]


class _Families:
    """The pure machines that tell whose profile an event is about."""

    def __init__(self, plan: Plan) -> None:
        identity, consent = plan.policy.identity, plan.policy.consent
        assert identity is not None
        self._links = LinkGraph(identity, UNSHARED)
        self._groups = [
            IdentityGroup(number, identity, consent, shards=SHARDS, seal=UNSHARED)
            for number in range(GROUPS)
        ]
        self._batches = count()
        self._gather = Gather()

    def identified(self, decoded: Decoded) -> Iterator[Gathered]:
        """What the groups make of a batch, together again."""
        for part in self._parts(decoded):
            if (gathered := self._gather.add(part)) is not None:
                yield gathered

    def _parts(self, decoded: Decoded) -> Iterator[Identified]:
        links, batches = split(decoded, next(self._batches))
        for batch in batches:
            yield from self._groups[batch.group].process(batch)
        if links is not None:
            for update in self._links.process(links)[0]:
                yield from self._groups[update.group].process(update)


def run_machine(case: Case, *, ends: bool = False) -> Said:
    """Run a case through the pure machine; what it said.

    With `ends` the log ends with the case, as a replay does: what is due by its own clock happens.
    Raises CaseError where something is not as the case expects.
    """
    machine = Machine(case.plan)
    checker = Checker(case, "the pure machine")
    for position in positions_of(case):
        machine.adopt(position.plan)
        machine.feed(position.batch)
        checker.check(position.expects, position.plan, machine.look, machine.said)
    if ends:
        machine.feed(RawBatch("case", 0, 1, [], final=True))
    return machine.said
