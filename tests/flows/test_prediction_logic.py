"""Does a prediction publish, report and resume through the engine's interface?"""

from __future__ import annotations

import logging

import pytest

from flows.prediction_logic import Foreseen, LabelledCases, PredictionLogic, by_model
from flows.telemetry import Telemetry
from operators.outputs import Labelled
from operators.parameters import LocalParameters
from schemas.policy import Policy
from schemas.prediction_reports import PredictionReport
from tests.operators.prediction_builders import labelled_stream, predicting

MODEL = "prediction.buys"


def _logic(
    resume: bytes | None = None,
    *,
    of: Policy | None = None,
    parameters: LocalParameters | None = None,
    telemetry: Telemetry | None = None,
) -> PredictionLogic:
    return PredictionLogic(
        resume,
        policy=of or predicting(),
        parameters=parameters or LocalParameters(),
        incarnation="life",
        telemetry=telemetry or Telemetry(),
    )


def _tested(count: int) -> list[Labelled]:
    return [case._replace(predicted=0.3) for case in labelled_stream(1, count)]


def _one(logic: PredictionLogic, cases: list[Labelled]) -> Foreseen:
    [foreseen], discard = logic.on_batch([LabelledCases(MODEL, cases)])
    assert not discard
    return foreseen


def test_sets_are_published_and_figures_become_gauges() -> None:
    parameters, telemetry = LocalParameters(), Telemetry()
    foreseen = _one(_logic(parameters=parameters, telemetry=telemetry), _tested(400))
    assert foreseen.published is not None
    assert parameters.latest(MODEL) is foreseen.published
    assert foreseen.report is not None
    report = PredictionReport.model_validate(foreseen.report)
    page = telemetry.render().decode()
    assert 'nextbest_prediction_cases_total{prediction="buys"} 400.0' in page
    assert f'nextbest_prediction_tests{{prediction="buys"}} {float(report.tests)}' in page
    assert f'nextbest_prediction_log_loss{{prediction="buys"}} {report.log_loss}' in page
    assert 'nextbest_prediction_roc_auc{prediction="buys"}' in page


def test_a_drift_is_counted_and_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    telemetry = Telemetry()
    cases = labelled_stream(
        1, 3_000, chance=lambda level, day: 0.9 if (level > 2) == (day < 15) else 0.1
    )
    with caplog.at_level(logging.WARNING):
        _one(_logic(telemetry=telemetry), list(cases))
    assert 'nextbest_prediction_drifts_total{prediction="buys"} 1.0' in telemetry.render().decode()
    [line] = caplog.records
    assert "prediction buys: its error grew" in line.getMessage()


def test_a_resume_publishes_before_the_first_batch_and_goes_on_alike() -> None:
    cases = _tested(700)
    whole = _logic()
    _one(whole, cases)
    begun = _logic()
    _one(begun, cases[:350])
    parameters = LocalParameters()
    resumed = _logic(begun.snapshot(), parameters=parameters)
    served = parameters.latest(MODEL)
    assert served is not None
    assert served.examples == 350
    _one(resumed, cases[350:])
    assert resumed.snapshot() == whole.snapshot()


def test_a_prediction_that_the_policy_dropped_is_kept_for_a_rollback() -> None:
    begun = _logic()
    _one(begun, _tested(300))
    kept = begun.snapshot()
    parameters = LocalParameters()
    without = _logic(
        kept,
        of=predicting({"churn": {"target": {"not_done": "view", "within": "30d"}}}),
        parameters=parameters,
    )
    assert _one(without, _tested(200)) == Foreseen(1, None, None)
    assert without.snapshot() == kept
    assert parameters.latest(MODEL) is None


def test_an_empty_batch_is_answered() -> None:
    assert _one(_logic(), []) == Foreseen(1, None, None)


def test_cases_are_grouped_by_model_in_order() -> None:
    first, second, third = _tested(3)
    other = second._replace(model="prediction.churn")
    assert by_model([first, other, third]) == [
        LabelledCases(MODEL, [first, third]),
        LabelledCases("prediction.churn", [other]),
    ]
