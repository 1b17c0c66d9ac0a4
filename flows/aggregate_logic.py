"""The few lines that know the engine: what everybody saw and did, as a Bytewax step.

    activations -> sightings -> AGGREGATE (one key) -> aggregates, read by DECIDE

What is counted is `operators.aggregate`'s; here it is handed lists and asked for snapshots, and its
sets go to the parameter store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import bytewax.operators as op
from bytewax.dataflow import Stream
from bytewax.operators import StatefulBatchLogic

from flows.in_force import InForce
from flows.telemetry import Telemetry
from operators.aggregate import Aggregator, Seen
from operators.aggregate_view import MODEL as AGGREGATES
from operators.outputs import Outputs
from operators.parameters import Parameters, ParameterSet


class Sightings(NamedTuple):
    """What was decided, shown and rewarded; all lists go to the one step under `AGGREGATES`."""

    seen: list[Seen]


class Counted(NamedTuple):
    """What one activation gives: how many lists it took in, and the newest set."""

    taken: int
    published: ParameterSet | None


AGGREGATE_CROSSING: Final[tuple[type, ...]] = (Seen, Sightings)
"""What one process may hand to another for this step."""


class AggregateLogic(StatefulBatchLogic[Sightings, Counted, bytes]):
    """The counts of everybody; publishes aggregates as they fall due."""

    def __init__(
        self,
        resume: bytes | None,
        *,
        in_force: InForce,
        parameters: Parameters,
        incarnation: str,
        telemetry: Telemetry,
    ) -> None:
        self._in_force = in_force
        self._plan = plan = in_force.plan
        self._parameters = parameters
        self._telemetry = telemetry
        self._aggregator = Aggregator(plan, incarnation=incarnation)
        if resume is not None:
            # At once, before the first event: no cap is open for a while.
            parameters.publish(self._aggregator.restore(resume))

    def on_batch(self, values: list[Sightings]) -> tuple[Iterable[Counted], bool]:
        """Take in each list; only the newest set of an activation is published."""
        newest: ParameterSet | None = None
        self._in_force.turn()
        if self._in_force.plan is not self._plan:
            self._plan = self._in_force.plan
            self._aggregator.adopt(self._plan)
        for value in values:
            newest = self._aggregator.take(value.seen) or newest
        if newest is not None:
            self._parameters.publish(newest)
            self._telemetry.count("parameters_published_total", model=AGGREGATES)
        return [Counted(len(values), newest)], StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes:
        """The state of the counts."""
        return self._aggregator.snapshot()


def sightings(seen: list[Seen], *, everybody: bool) -> list[tuple[str, Sightings]]:
    """An activation's list for the step, keyed; `everybody`: an empty one, too."""
    return [(AGGREGATES, Sightings(seen))] if seen or everybody else []


def aggregate(
    activations: Stream[Outputs],
    *,
    seen: Callable[[Outputs], list[Seen]],
    in_force: InForce,
    parameters: Parameters,
    incarnation: str,
    telemetry: Telemetry,
    everybody: bool,
) -> Stream[Counted]:
    """Build the step; `seen` says where an activation keeps its lines."""
    counted = op.stateful_batch(
        "aggregate",
        op.flat_map(
            "sightings", activations, lambda out: sightings(seen(out), everybody=everybody)
        ),
        lambda resume: AggregateLogic(
            resume,
            in_force=in_force,
            parameters=parameters,
            incarnation=incarnation,
            telemetry=telemetry,
        ),
    )
    return op.map("counted", counted, lambda keyed: keyed[1])
