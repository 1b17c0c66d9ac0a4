"""Do the cases come out the same through the dataflow, aborted everywhere, and in a replay?

Each case runs through the dataflow one batch at a time: once aborted before anything is saved, then
again and saved, and at every position what must be known by then is looked up in the recovery
store. At the end the topics hold what the pure machine said, and so do the files of a replay.
"""

from __future__ import annotations

import gc
import pickle
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest

import flows.engine
from flows.files import log_line
from flows.recovery import install_restricted_unpickler
from flows.replay import FILES, replay
from flows.streams import StreamName
from operators.decide import Decide
from operators.outputs import Record
from operators.parameters import LocalParameters
from operators.profile import Profile
from operators.shard import restored
from tests.case_checks import Checker, Said
from tests.case_file import CLOCK, SHARDS, Listed, all_cases
from tests.case_runner import Position, positions_of, run_machine
from tests.flows.memory import EACH_BATCH, NEVER, MemoryFlow, MemoryTopic
from tests.operators.builders import nothing_recorded

COMPARED: tuple[StreamName, ...] = ("decisions", "segment-changes", "late", "dead-letters")
_IDS = {"decisions": "decision_id", "segment-changes": "change_id", "late": "event_id"}


@pytest.fixture(autouse=True)
def _no_collection_between_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flow collects garbage before it starts, which takes three times as long as a short run."""
    quiet = {name: lambda *_: None for name in ("collect", "freeze", "unfreeze", "set_threshold")}
    monkeypatch.setattr(
        flows.engine, "gc", SimpleNamespace(get_threshold=gc.get_threshold, **quiet)
    )


class CaseFlow:
    """A case as a flow in memory that is run position by position."""

    def __init__(self, positions: list[Position], store: Path) -> None:
        batches = [position.batch for position in positions]
        self._flow = MemoryFlow(positions[0].plan, batches, store)
        # Only what is compared: every topic more costs each of the many short runs.
        self._flow.topics = {name: MemoryTopic() for name in COMPARED}

    def to(self, position: int, of: Position) -> None:
        """Go on to a position: aborted first with nothing saved, then once more and saved."""
        self._flow.plan = of.plan
        self._flow.run(abort_at=position, epoch=NEVER)
        self._flow.run(abort_at=position, epoch=EACH_BATCH)

    def said(self) -> Said:
        """What the topics hold by now."""
        topics = self._flow.topics
        return Said(
            decisions=[*topics["decisions"].values.values()],
            changes=[*topics["segment-changes"].values.values()],
            late=[*topics["late"].values.values()],
            counts=Counter(
                late=len(topics["late"].records), dead_letters=len(topics["dead-letters"].records)
            ),
            labels=None,
            counted=False,
        )

    def look(self, user: str) -> Profile | None:
        """A profile as the newest snapshots hold it."""
        decide = Decide(self._flow.plan, LocalParameters(), adopt=nothing_recorded)
        undo = install_restricted_unpickler()
        try:
            for (step, _), change in self._flow.state().items():
                if step != "nextbest.decide":
                    continue
                shard = restored(
                    pickle.loads(change), shards=SHARDS, decide=decide, with_views=False
                )
                if profile := shard.look(user):
                    return profile
        finally:
            undo()
        return None


def by_id(records: Iterable[Record], name: str) -> dict[str, Record]:
    return {record[_IDS[name]]: record for record in records}


def streams(said: Said) -> dict[str, dict[str, Record]]:
    return {
        "decisions": by_id(said.decisions, "decisions"),
        "segment-changes": by_id(said.changes, "segment-changes"),
        "late": by_id(said.late, "late"),
    }


def assert_same(case: str, got: Said, machine: Said, runner: str) -> None:
    for name, expected in streams(machine).items():
        found = streams(got)[name]
        assert found == expected, f"{case}: {name} of {runner} and of the pure machine differ"
    assert got.counts["dead_letters"] == machine.counts["dead_letters"], f"{case}: {runner}"


# A replay has one policy from its first event to its last.
UNDER_ONE_POLICY = [listed for listed in all_cases() if not listed.changes_its_policy]


@pytest.mark.parametrize("listed", all_cases(), ids=str)
def test_a_case_aborted_and_resumed_at_every_position_comes_out_the_same(
    listed: Listed, tmp_path: Path
) -> None:
    case = listed.read()
    positions = positions_of(case)
    flow = CaseFlow(positions, tmp_path / "store")
    checker = Checker(case, "the dataflow")
    for number, position in enumerate(positions, start=1):
        flow.to(number, position)
        checker.check(position.expects, position.plan, flow.look, flow.said())
    assert_same(case.title, flow.said(), run_machine(case), "the dataflow")


@pytest.mark.parametrize("listed", UNDER_ONE_POLICY, ids=str)
def test_a_replay_of_a_case_says_the_same(listed: Listed, tmp_path: Path) -> None:
    case = listed.read()
    records = [record for position in positions_of(case) for record in position.batch.records]
    log = tmp_path / "events.jsonl"
    log.write_bytes(b"".join(log_line(record) + b"\n" for record in records))
    out = tmp_path / "out"
    replay(case.plan, [log], out, shards=SHARDS)
    written = {
        name: [orjson.loads(line) for line in (out / FILES[name]).read_bytes().splitlines()]
        for name in COMPARED
    }
    said = Said(
        decisions=written["decisions"],
        changes=written["segment-changes"],
        late=written["late"],
        counts=Counter(dead_letters=len(written["dead-letters"])),
    )
    assert_same(case.title, said, run_machine(case, ends=True), "the replay")


def test_what_the_cases_say_is_compared_at_all() -> None:
    """Were the streams always empty, the comparisons above would hold of anything."""
    spoken = Counter[str]()
    for listed in all_cases()[::5]:
        for name, records in streams(run_machine(listed.read())).items():
            spoken[name] += sum(1 for r in records.values() if r["profile_id"] != CLOCK)
    assert spoken["segment-changes"] > 20
    assert spoken["decisions"] > 2
