"""The steps that learn: rewards, predictions of profiles, audiences, thresholds.

    activations -> examples -> LEARN (keyed by model) -> parameters, read by DECIDE
                -> cases -> PREDICT (keyed by prediction) -> parameters and reports
                -> looks -> AUDIENCES (one key) -> centres and reports
                -> feedback -> THRESHOLDS (one key) -> thresholds and their changes
                -> sightings -> AGGREGATE (one key) -> global caps, what is popular, test shares

Beside them MONITOR, keyed by placement, watches decisions and outcomes, and reports.

Each learner is a stateful step keyed by its model. What all of them give is one stream of parameter
sets for the archive, and one of how many lists each took in, which lockstep counts.
"""

from __future__ import annotations

from typing import NamedTuple

import bytewax.operators as op
from bytewax.dataflow import Stream
from bytewax.operators import KeyedStream

from flows.aggregate_logic import aggregate
from flows.audience_logic import (
    AudienceLogic,
    Feedback,
    Found,
    Looks,
    Moved,
    ThresholdLogic,
)
from flows.in_force import InForce
from flows.logics import LearnLogic, ModelExamples
from flows.monitor_logic import MonitorLogic, Told, keyed_by_placement
from flows.prediction_logic import Foreseen, LabelledCases, PredictionLogic, by_model
from flows.streams import StreamName
from flows.telemetry import Telemetry
from operators.adaptive import MODEL as THRESHOLDS
from operators.adaptive import outcomes
from operators.audience import MODEL as CLUSTERS
from operators.outputs import Example, Outputs, Record
from operators.parameters import Parameters, ParameterSet
from operators.plan import Plan

Report = tuple[StreamName, Record]


class Learners(NamedTuple):
    """What the learners give: sets, reports by the stream they go to, and lists taken in."""

    published: Stream[ParameterSet | None]
    reports: Stream[Report]
    taken: Stream[int]


def learner_count(plan: Plan) -> int:
    """How many learners answer an activation where everybody does."""
    return (
        len(plan.models)
        + len(plan.predictions)
        + (plan.policy.audiences is not None)
        + bool(plan.followings)
        + plan.aggregated
        + (len(plan.placements) if plan.monitored else 0)
    )


def learn(
    activations: Stream[Outputs],
    *,
    in_force: InForce,
    parameters: Parameters,
    incarnation: str,
    telemetry: Telemetry,
    everybody: bool,
) -> Learners:
    """Build the learning steps; `everybody` lets every learner answer every activation."""
    plan = in_force.plan  # what the graph is built from does not change under a running flow
    models = list(plan.models)
    examples: KeyedStream[ModelExamples] = op.flat_map(
        "examples", activations, lambda out: _examples(out, models, everybody)
    )
    learned = op.stateful_batch(
        "learn",
        examples,
        lambda resume: LearnLogic(
            resume,
            in_force=in_force,
            parameters=parameters,
            incarnation=incarnation,
            telemetry=telemetry,
        ),
    )
    given: list[Stream[Given]] = [
        op.map("learned", learned, lambda keyed: Given(keyed[1].taken, keyed[1].published, []))
    ]
    if plan.predictions:
        foreseen = op.stateful_batch(
            "predict",
            op.flat_map("cases", activations, lambda out: _cases(out, plan, everybody)),
            lambda resume: PredictionLogic(
                resume,
                policy=plan.policy,
                parameters=parameters,
                incarnation=incarnation,
                telemetry=telemetry,
            ),
        )
        given.append(op.map("foreseen", foreseen, lambda keyed: _foreseen(keyed[1])))
    audiences = plan.policy.audiences
    if audiences is not None:
        found = op.stateful_batch(
            "groups",
            op.flat_map("looks", activations, lambda out: _looks(out, everybody)),
            lambda resume: AudienceLogic(
                resume,
                policy=plan.policy,
                audiences=audiences,
                parameters=parameters,
                incarnation=incarnation,
                telemetry=telemetry,
            ),
        )
        given.append(op.map("found", found, lambda keyed: _found(keyed[1])))
    if plan.followings:
        moved = op.stateful_batch(
            "follow",
            op.flat_map("feedback", activations, lambda out: _feedback(out, plan, everybody)),
            lambda resume: ThresholdLogic(
                resume,
                following=plan.followings,
                parameters=parameters,
                incarnation=incarnation,
                telemetry=telemetry,
            ),
        )
        given.append(op.map("moved", moved, lambda keyed: _moved(keyed[1])))
    if plan.aggregated:
        counted = aggregate(
            activations,
            seen=lambda out: out.seen,
            in_force=in_force,
            parameters=parameters,
            incarnation=incarnation,
            telemetry=telemetry,
            everybody=everybody,
        )
        given.append(op.map("counts", counted, lambda c: Given(c.taken, c.published, [])))
    everything = op.merge("given", *given)
    return Learners(
        op.map("sets", everything, lambda given: given.published),
        op.flat_map("reports", everything, lambda given: given.reports),
        op.map("taken", everything, lambda given: given.taken),
    )


def monitor(
    activations: Stream[Outputs], *, in_force: InForce, telemetry: Telemetry, everybody: bool
) -> Stream[Told]:
    """Build the step that watches placements; `everybody` lets each answer every activation."""
    everywhere = list(in_force.plan.placements) if everybody else []
    told = op.stateful_batch(
        "monitor",
        op.flat_map(
            "watched",
            activations,
            lambda out: keyed_by_placement(out.watched, everywhere, as_of_ms=out.begun_ms),
        ),
        lambda resume: MonitorLogic(resume, plan=in_force.current, telemetry=telemetry),
    )
    return op.map("told", told, lambda keyed: keyed[1])


class Given(NamedTuple):
    """What one activation of any learner gives: lists taken in, the newest set, reports."""

    taken: int
    published: ParameterSet | None
    reports: list[Report]


def _foreseen(foreseen: Foreseen) -> Given:
    report = foreseen.report
    reports: list[Report] = [] if report is None else [("predictions", report)]
    return Given(foreseen.taken, foreseen.published, reports)


def _found(found: Found) -> Given:
    reports: list[Report] = [] if found.report is None else [("audiences", found.report)]
    return Given(found.taken, found.published, reports)


def _moved(moved: Moved) -> Given:
    return Given(moved.taken, moved.published, [("thresholds", c) for c in moved.changes])


def _examples(out: Outputs, models: list[str], everybody: bool) -> list[tuple[str, ModelExamples]]:
    by_name: dict[str, list[Example]] = {model: [] for model in models} if everybody else {}
    for example in out.examples:
        by_name.setdefault(example.model, []).append(example)
    return [(model, ModelExamples(model, examples)) for model, examples in by_name.items()]


def _cases(out: Outputs, plan: Plan, everybody: bool) -> list[tuple[str, LabelledCases]]:
    found = by_model(out.labelled)
    if everybody:
        models = {cases.model for cases in found}
        found += [LabelledCases(p.model, []) for p in plan.predictions if p.model not in models]
    return [(cases.model, cases) for cases in found]


def _looks(out: Outputs, everybody: bool) -> list[tuple[str, Looks]]:
    return [(CLUSTERS, Looks(out.samples))] if out.samples or everybody else []


def _feedback(out: Outputs, plan: Plan, everybody: bool) -> list[tuple[str, Feedback]]:
    told = [one for p in out.closed for one in outcomes(plan.followings, p, p.stood)]
    return [(THRESHOLDS, Feedback(told))] if told or everybody else []
