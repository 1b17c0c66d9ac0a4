"""How fast is the whole flow on one core, learning included, without Kafka?

The real dataflow in the engine, in lockstep, from bytes to encoded records that are then thrown
away. Beside it, in turns, the engine alone: the same batches passed from the same source to the
same sink, each record only wrapped for output.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from benchmarks.measure import Spent, in_fresh_process, median, spent
from benchmarks.tables import Table, number, spread
from benchmarks.workload import (
    SHARDS,
    Sent,
    batches,
    decisions_in,
    decoder_of,
    plan,
    visits,
)
from flows.encode import parted
from flows.engine import run_flow
from flows.lockstep import Lockstep, LockstepSource
from flows.personalize import Core, Outlet, personalize
from flows.streams import StreamName
from operators.outputs import Outputs
from operators.parameters import LocalParameters
from schemas.records import OutRecord, RawBatch

CONTENTS: Final = 30
PROFILES: Final = 6_000
_NO_EPOCH: Final = timedelta(days=1)
_OUT: Final[tuple[StreamName, ...]] = (
    "decisions",
    "segment-changes",
    "outcomes",
    "late",
    "dead-letters",
)


class Discard(DynamicSink[tuple[str, list[OutRecord]]]):
    """Counts records and drops them."""

    def __init__(self) -> None:
        self.records = 0

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Discard:  # noqa: ARG002
        """The sink of the one worker."""
        return _Discard(self)


class _Discard(StatelessSinkPartition[Any]):
    def __init__(self, sink: Discard) -> None:
        self._sink = sink

    def write_batch(self, items: list[tuple[str, list[OutRecord]]]) -> None:
        for _, records in items:
            self._sink.records += len(records)


def _log(number_of_visits: int) -> list[Sent]:
    return visits(number_of_visits, profiles=PROFILES, contents=CONTENTS)


def run_whole(number_of_visits: int) -> tuple[Spent, int]:
    """The cost of the whole flow over a log, and the number of examples learned."""
    log = _log(number_of_visits)
    left = iter(batches(log))
    policy = plan(CONTENTS)
    parameters = LocalParameters(staged=True)
    made = 0

    def following(outputs: list[Outputs]) -> RawBatch | None:
        nonlocal made
        made += sum(len(out.decisions) for out in outputs)
        return next(left, None)

    lockstep = Lockstep(following, shards=SHARDS, models=1, parameters=parameters)
    sinks = {name: Discard() for name in _OUT}
    flow = personalize(
        Core(
            plan=policy,
            decoder=decoder_of(policy),
            parameters=parameters,
            incarnation="benchmark",
            shards=SHARDS,
        ),
        source=LockstepSource(lockstep),
        outlets={name: Outlet(sink) for name, sink in sinks.items()},
        lockstep=lockstep,
    )
    cost = Spent()
    with spent(cost):
        run_flow(flow, epoch_interval=_NO_EPOCH)
    assert made == sinks["decisions"].records == decisions_in(log)
    assert sinks["dead-letters"].records == 0
    sets = [p for name in policy.placements if (p := parameters.latest(name)) is not None]
    return cost, sum(p.examples for p in sets)


def run_passthrough(number_of_visits: int) -> tuple[Spent, int]:
    """The cost of the engine alone over the same batches, and the number of records passed."""
    left = iter(batches(_log(number_of_visits)))
    lockstep = Lockstep(
        lambda _outputs: next(left, None), shards=0, models=0, parameters=LocalParameters()
    )
    sink = Discard()
    flow = Dataflow("passthrough")
    passed = op.flat_map("pass", op.input("events", flow, LockstepSource(lockstep)), _wrapped)
    op.output("out", passed, sink)
    cost = Spent()
    with spent(cost):
        run_flow(flow, epoch_interval=_NO_EPOCH)
    return cost, sink.records


def _wrapped(batch: RawBatch) -> list[tuple[str, list[OutRecord]]]:
    return parted(
        [OutRecord(str(r.offset), r.key or b"", r.value) for r in batch.records], lambda _key: 0
    )


def measure(*, quick: bool) -> list[Table]:
    """Decisions and events per second of CPU, beside the engine alone."""
    size, runs = (500, 1) if quick else (20_000, 3)
    log = _log(size)
    events, decisions = len(log), decisions_in(log)
    flow: list[Spent] = []
    engine: list[Spent] = []
    learned = 0
    for _ in range(runs):
        cost, learned = in_fresh_process(run_whole, size)
        flow.append(cost)
        cost, passed = in_fresh_process(run_passthrough, size)
        engine.append(cost)
        assert passed == events
    rows = []
    for name, costs in (("the whole flow", flow), ("the engine alone, same batches", engine)):
        per_event = [cost.cpu_s / events * 1e6 for cost in costs]
        per_s = [events / cost.cpu_s for cost in costs]
        rows.append(
            (
                name,
                number(median([decisions / cost.cpu_s for cost in costs]))
                if costs is flow
                else "–",
                number(median(per_s)),
                f"{number(median(per_event))} ({spread(per_event)})",
                number(median([events / cost.wall_s for cost in costs])),
            )
        )
    ratio = median([c.cpu_s for c in flow]) / median([c.cpu_s for c in engine])
    return [
        Table(
            "The whole flow in the engine, one core, learning included, no Kafka",
            (
                "what",
                "decisions per CPU second",
                "events per CPU second",
                "CPU µs per event",
                "events per second of wall time",
            ),
            tuple(rows),
            (
                f"{decisions:,} decisions among {events:,} events, {CONTENTS} candidates, one "
                f"slot, {PROFILES:,} profiles; median (least to most) of {runs} runs, in turns. "
                "The aim is 10,000 decisions per second.",
                f"The flow costs {number(ratio)} times the engine's own pass. "
                f"{learned / decisions:.2f} examples learned per decision.",
                "Lockstep wakes every shard for every batch of 1,000 events, as replay and the "
                "demo do; a live run wakes those that have something to do.",
            ),
        )
    ]
