"""Do aggregates get published and resumed through the engine's interface?"""

from __future__ import annotations

import bytewax.operators as op
import numpy as np
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, run_main

from flows.aggregate_logic import AggregateLogic, Counted, Sightings, aggregate, sightings
from flows.in_force import InForce
from flows.telemetry import Telemetry
from operators.aggregate import Seen
from operators.aggregate_view import MODEL as AGGREGATES
from operators.aggregate_view import AggregateView
from operators.outputs import Outputs
from operators.parameters import LocalParameters
from tests.operators.builders import T0, contents, nothing_recorded, plan, policy

CAP = {"max": 3, "within": "1h", "over": "everybody"}
PLAN = plan(policy(placements={"home": {"rewards": ["click"], "caps": [CAP]}}), contents(3))


def logic(
    resume: bytes | None, parameters: LocalParameters, telemetry: Telemetry | None = None
) -> AggregateLogic:
    return AggregateLogic(
        resume,
        in_force=InForce(PLAN, parameters, adopt=nothing_recorded),
        parameters=parameters,
        incarnation="life",
        telemetry=telemetry or Telemetry(),
    )


def shown(n: int) -> Sightings:
    return Sightings([Seen("home", "c2", T0 + i) for i in range(n)])


def capped(parameters: LocalParameters) -> list[int]:
    view = AggregateView(parameters.latest(AGGREGATES), PLAN)
    closed = view.at_cap(PLAN.placements["home"].policy.caps, T0)
    return [] if closed is None else np.flatnonzero(closed).tolist()


def test_what_reached_its_cap_is_published_and_counted() -> None:
    parameters, telemetry = LocalParameters(), Telemetry()
    machine = logic(None, parameters, telemetry)
    (first,), _ = machine.on_batch([shown(2), Sightings([])])
    assert first == Counted(2, None)
    (second,), discarded = machine.on_batch([shown(1), shown(0)])
    assert not discarded
    assert second.taken == 2
    assert parameters.latest(AGGREGATES) is second.published is not None
    assert capped(parameters) == [1]
    assert b'nextbest_parameters_published_total{model="_aggregates"} 1.0' in telemetry.render()


def test_a_resumed_step_publishes_at_once_what_it_knew() -> None:
    former = logic(None, LocalParameters())
    former.on_batch([shown(3)])
    parameters = LocalParameters()
    again = logic(former.snapshot(), parameters)
    assert capped(parameters) == [1]
    assert again.snapshot() == former.snapshot()


def test_an_activation_without_lines_wakes_the_step_only_in_lockstep() -> None:
    assert sightings([], everybody=False) == []
    assert sightings([], everybody=True) == [(AGGREGATES, Sightings([]))]
    assert sightings(shown(1).seen, everybody=False) == [(AGGREGATES, shown(1))]


def test_the_step_runs_in_a_flow() -> None:
    activations = [Outputs(), Outputs(), Outputs()]
    lines = {id(out): shown(n).seen for out, n in zip(activations, (2, 0, 1), strict=True)}
    parameters = LocalParameters()
    given: list[Counted] = []
    flow = Dataflow("f")
    counted = aggregate(
        op.input("in", flow, TestingSource(activations)),
        seen=lambda out: lines[id(out)],
        in_force=InForce(PLAN, parameters, adopt=nothing_recorded),
        parameters=parameters,
        incarnation="life",
        telemetry=Telemetry(),
        everybody=True,
    )
    op.output("out", counted, TestingSink(given))
    run_main(flow)  # type: ignore[no-untyped-call]
    assert sum(one.taken for one in given) == 3
    assert capped(parameters) == [1]
