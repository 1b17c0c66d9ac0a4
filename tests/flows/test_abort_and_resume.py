"""Does a flow that is aborted anywhere end with what the uninterrupted flow ends with?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from flows.load import load_plan
from operators.decide import Decide
from operators.outputs import Outputs, Record
from operators.parameters import LocalParameters
from operators.plan import Plan
from operators.shard import Shard, ShardBatch
from schemas.records import RawBatch, RawRecord
from tests.flows.memory import EACH_BATCH, NEVER, MemoryFlow
from tests.flows.traffic import sent_event
from tests.operators.builders import T0, arrived

DATA = Path(__file__).parent / "data" / "live"
BATCHES = 12
PER_BATCH = 12
SECOND = 1_000


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The live policy, its parameters published with every example.

    A resumed learner serves at once all that it has learned. The uninterrupted one does so as well
    only where it publishes each time; between two sets the choices of both would rightly differ.
    """
    text = (DATA / "policy.yaml").read_text()
    assert "publish_every: 20" in text
    policy = tmp_path_factory.mktemp("policy") / "policy.yaml"
    policy.write_text(text.replace("publish_every: 20", "publish_every: 1"))
    return load_plan(policy, DATA / "catalogue.yaml")


def log() -> list[RawBatch]:
    """Two seconds of event time a batch: books close and segments are left along the way."""
    batches = []
    for b in range(BATCHES):
        records = []
        for n in range(b * PER_BATCH, (b + 1) * PER_BATCH):
            at = T0 + b * 2 * SECOND + (n % PER_BATCH) * 100
            event = sent_event(n, at_ms=at, user_id=f"u{n // 2 % 5}")
            records.append(RawRecord(n, at, b"", orjson.dumps(event)))
        if b == 3:
            records.append(RawRecord(999, T0 + b * 2 * SECOND, b"", b"not an event"))
        batches.append(RawBatch("log", 0, 1, records))
    return batches


def told(flow: MemoryFlow) -> dict[str, dict[str, Record]]:
    """What the topics say, but for the names of the parameter sets: each life has its own."""
    said: dict[str, dict[str, Any]] = {
        name: topic.values for name, topic in flow.topics.items() if name != "dead-letters"
    }
    for decision in said["decisions"].values():
        decision["model_version"] = str(decision["model_version"]).rpartition("+")[2]
    said["dead-letters"] = dict(flow.topics["dead-letters"].records)
    return said


@pytest.fixture(scope="module")
def uninterrupted(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> MemoryFlow:
    flow = MemoryFlow(plan, log(), tmp_path_factory.mktemp("uninterrupted") / "store")
    flow.run()
    said = told(flow)
    # The sequence shows something of everything that could go wrong.
    assert len(said["decisions"]) == BATCHES * PER_BATCH / 2
    assert len({decision["model_version"] for decision in said["decisions"].values()}) > 5
    assert said["outcomes"]
    assert len(said["dead-letters"]) == 1
    assert {change["direction"] for change in said["segment-changes"].values()} == {
        "entered",
        "left",
    }
    return flow


@pytest.mark.parametrize("second", range(1, BATCHES + 1))
def test_whatever_two_aborts_come_the_result_is_the_uninterrupted_one(
    plan: Plan, uninterrupted: MemoryFlow, tmp_path: Path, second: int
) -> None:
    for first in sorted({0, second // 2, second - 1}):
        flow = MemoryFlow(plan, log(), tmp_path / f"store-{first}")
        # Up to `first` every batch is in a snapshot; from there to `second` nothing is.
        flow.run(abort_at=first, epoch=EACH_BATCH)
        flow.run(abort_at=second, epoch=NEVER)
        flow.run()
        assert told(flow) == told(uninterrupted), f"aborted at {first} and {second}"
        assert flow.state() == uninterrupted.state(), f"aborted at {first} and {second}"
        assert flow.topics["decisions"].again > 0


def versions_after(plan: Plan, *, ticks: list[int]) -> tuple[int, Record]:
    """The version and the view of a profile after events, with time passing in between at ticks."""
    decide = Decide(plan, LocalParameters(), adopt=lambda _decision_id: None)
    shard = Shard(0, 1, decide, with_views=True)
    events = [
        arrived("view", at=T0, watermark=T0 - 1, event_id="v1", content_id="p1"),
        arrived("click", at=T0 + 500, watermark=T0, event_id="c1", content_id="p2"),
        arrived("click", at=T0 + 20 * SECOND, watermark=T0 + 500, event_id="c2", content_id="p3"),
    ]
    out = Outputs()
    for event in events:
        passed = tuple((0, tick) for tick in ticks if tick < event.occurred_ms)
        for watermark in passed:
            shard.process(ShardBatch(0, [], (watermark,), 1))
        out = shard.process(ShardBatch(0, [event], (), 1))
    (state,) = out.profiles
    assert state.view is not None
    return state.version, state.view


def test_how_often_time_passes_changes_no_profiles_version(plan: Plan) -> None:
    """Ticks come by the wall clock, and fall elsewhere when events are read again after a crash.

    Redis refuses a write that is no newer than what it has: were a version to count ticks, a
    profile made again could stay behind what was served before the crash.
    """
    without = versions_after(plan, ticks=[])
    assert versions_after(plan, ticks=[T0 + 10 * SECOND]) == without
    assert versions_after(plan, ticks=list(range(T0, T0 + 15 * SECOND, 250))) == without
