"""The few lines that know the engine: a prediction's learner as a Bytewax logic.

What it learns is `operators.prediction_learner`'s; here it is handed batches, asked for snapshots,
and its reports become gauges and lines of the log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from itertools import chain
from typing import Final, NamedTuple

from bytewax.operators import StatefulBatchLogic

from flows.telemetry import Telemetry
from operators.outputs import Labelled, Record
from operators.parameters import Parameters, ParameterSet
from operators.predict_plan import model_of_prediction
from operators.prediction_learner import PredictionLearner, prediction_of
from schemas.metrics import GaugeName
from schemas.policy import Policy

_LOG: Final = logging.getLogger(__name__)
_GAUGES: Final[tuple[tuple[GaugeName, str], ...]] = (
    ("prediction_roc_auc", "roc_auc"),
    ("prediction_pr_auc", "pr_auc"),
    ("prediction_log_loss", "log_loss"),
    ("prediction_mean_absolute_error", "mae"),
    ("prediction_calibration_error", "calibration_error"),
    ("prediction_mean_predicted", "mean_predicted"),
    ("prediction_mean_observed", "mean_observed"),
    ("prediction_tests", "tests"),
)


class LabelledCases(NamedTuple):
    """Labelled cases of one prediction's model, in order."""

    model: str
    cases: list[Labelled]


class Foreseen(NamedTuple):
    """What one activation gives: how many lists it took in, the newest set and report."""

    taken: int
    published: ParameterSet | None
    report: Record | None


def by_model(labelled: Iterable[Labelled]) -> list[LabelledCases]:
    """Labelled cases grouped by model, each group in order."""
    grouped: dict[str, list[Labelled]] = {}
    for case in labelled:
        grouped.setdefault(case.model, []).append(case)
    return [LabelledCases(model, cases) for model, cases in grouped.items()]


class PredictionLogic(StatefulBatchLogic[LabelledCases, Foreseen, bytes]):
    """One prediction's learner; publishes to the parameter store as sets fall due.

    The state of a prediction that the policy no longer has is kept as it is, so that rolling the
    policy back finds it.
    """

    def __init__(
        self,
        resume: bytes | None,
        *,
        policy: Policy,
        parameters: Parameters,
        incarnation: str,
        telemetry: Telemetry,
    ) -> None:
        self._resume = resume
        self._names = {model_of_prediction(name): name for name in policy.predictions}
        self._policy = policy
        self._parameters = parameters
        self._incarnation = incarnation
        self._telemetry = telemetry
        self._learner: PredictionLearner | None = None
        if resume is not None:
            self._learner = self._build(prediction_of(resume))
        if resume is not None and self._learner is not None:
            kept = self._learner.restore(resume)
            if kept is not None:
                # At once, before the first event: what was known is not unknown for a while.
                parameters.publish(kept)

    def _build(self, model: str) -> PredictionLearner | None:
        name = self._names.get(model)
        if name is None:
            return None
        # From 0 on, so that the first drift is a growth that an alert can see.
        self._telemetry.count("prediction_drifts_total", 0, prediction=name)
        return PredictionLearner(name, self._policy, incarnation=self._incarnation)

    def on_batch(self, values: list[LabelledCases]) -> tuple[Iterable[Foreseen], bool]:
        """Learn all cases in order; only the newest set of an activation is published."""
        learner = self._learner
        if learner is None:
            learner = self._learner = self._build(values[0].model)
        if learner is None:
            return [Foreseen(len(values), None, None)], StatefulBatchLogic.RETAIN
        before = learner.examples
        published, report = learner.learn(chain.from_iterable(value.cases for value in values))
        if learned := learner.examples - before:
            self._telemetry.count("prediction_cases_total", learned, prediction=learner.name)
        if published is not None:
            self._parameters.publish(published)
            self._telemetry.count("parameters_published_total", model=learner.model)
        if report is not None:
            self._tell(report)
        return [Foreseen(len(values), published, report)], StatefulBatchLogic.RETAIN

    def _tell(self, report: Record) -> None:
        name = report["prediction"]
        for gauge, figure in _GAUGES:
            if report[figure] is not None:
                self._telemetry.set(gauge, report[figure], prediction=name)
        if report["drift"]:
            self._telemetry.count("prediction_drifts_total", prediction=name)
            _LOG.warning(
                "prediction %s: its error grew (%d times so far); log loss %s, mean error %s",
                name,
                report["drifts"],
                report["log_loss"],
                report["mae"],
            )

    def snapshot(self) -> bytes:
        """The learner's state."""
        if self._learner is None:
            assert self._resume is not None  # a new key always has a learner or a former state
            return self._resume
        return self._learner.snapshot()
