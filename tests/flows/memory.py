"""A flow in memory that can be aborted anywhere and resumed: its log, its topics, its store.

The topics remember what was written, over all runs, as a broker would; decisions found there are
adopted. Every run reads the log from the last closed epoch.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from bytewax.inputs import AbortExecution, FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from flows.engine import run_flow
from flows.personalize import Core, Outlet, personalize
from flows.recovery import init_store
from flows.streams import StreamName
from operators.decode import Decoder
from operators.outputs import Record
from operators.parameters import LocalParameters
from operators.plan import Plan
from schemas.records import OutRecord, RawBatch

EACH_BATCH = timedelta(0)
NEVER = timedelta(days=1)
_STREAMS: tuple[StreamName, ...] = ("decisions", "segment-changes", "outcomes", "dead-letters")


class LogSource(FixedPartitionedSource[RawBatch, int]):
    """Batches by position; aborts instead of reading the one at `abort_at`."""

    def __init__(self, batches: list[RawBatch], *, abort_at: int | None) -> None:
        self.batches = batches
        self.abort_at = abort_at

    def list_parts(self) -> list[str]:
        return ["0"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _LogPartition:
        del step_id, for_part
        return _LogPartition(self, resume_state or 0)


class _LogPartition(StatefulSourcePartition[RawBatch, int]):
    def __init__(self, source: LogSource, position: int) -> None:
        self._source = source
        self._position = position

    def next_batch(self) -> list[RawBatch]:
        if self._position == self._source.abort_at:
            raise AbortExecution
        if self._position == len(self._source.batches):
            raise StopIteration
        self._position += 1
        return [self._source.batches[self._position - 1]]

    def next_awake(self) -> datetime | None:
        return None

    def snapshot(self) -> int:
        return self._position


class MemoryTopic(FixedPartitionedSink[list[OutRecord], None]):
    """Keeps what was written, as a broker does; a fact that stands there is not written again."""

    def __init__(self) -> None:
        self.records: dict[str, bytes] = {}
        self.again = 0

    def list_parts(self) -> list[str]:
        return ["00000"]

    def part_fn(self, item_key: str) -> int:
        return int(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _TopicPartition:
        del step_id, for_part, resume_state
        return _TopicPartition(self)

    @property
    def values(self) -> dict[str, Record]:
        return {name: orjson.loads(value) for name, value in self.records.items()}


class _TopicPartition(StatefulSinkPartition[list[OutRecord], None]):
    def __init__(self, topic: MemoryTopic) -> None:
        self._topic = topic

    def write_batch(self, values: list[list[OutRecord]]) -> None:
        for record in (record for records in values for record in records):
            if record.record_id in self._topic.records:
                self._topic.again += 1
            elif not record.adopted:
                self._topic.records[record.record_id] = record.value or b""

    def snapshot(self) -> None:
        return None


class MemoryFlow:
    """One log under one plan, with the topics and the store that its runs share."""

    def __init__(self, plan: Plan, batches: list[RawBatch], store: Path) -> None:
        self.plan = plan
        self.batches = batches
        self.store = store
        self.topics: dict[StreamName, MemoryTopic] = {name: MemoryTopic() for name in _STREAMS}
        self.runs = 0
        init_store(store, partitions=1)

    def run(self, *, abort_at: int | None = None, epoch: timedelta = EACH_BATCH) -> None:
        """Run from the last closed epoch to the end of the log, or to where it is aborted."""
        self.runs += 1
        recorded = dict(self.topics["decisions"].records)

        def adopted(decision_id: str) -> Record | None:
            value = recorded.pop(decision_id, None)
            return None if value is None else orjson.loads(value)

        policy = self.plan.policy
        core = Core(
            plan=self.plan,
            decoder=Decoder(policy.time, policy.sensitive, self.plan.placement_names),
            parameters=LocalParameters(),
            incarnation=f"run{self.runs}",
            shards=4,
            adopt=adopted,
        )
        flow = personalize(
            core,
            source=LogSource(self.batches, abort_at=abort_at),
            outlets={name: Outlet(topic) for name, topic in self.topics.items()},
        )
        run_flow(flow, epoch_interval=epoch, recovery_dir=self.store)

    def state(self) -> dict[tuple[str, str], Any]:
        """The newest snapshot of every shard and learner, as the engine has stored it."""
        newest: dict[tuple[str, str], Any] = {}
        with closing(sqlite3.connect(self.store / "part-0.sqlite3")) as held:
            for step, key, change in held.execute(
                "SELECT step_id, state_key, ser_change FROM snaps "
                "WHERE step_id IN ('nextbest.decide', 'nextbest.learn') ORDER BY snap_epoch"
            ):
                newest[step, key] = change
        return newest
