"""Do discovery and thresholds publish, report and resume through the engine's interface?"""

from __future__ import annotations

import logging

import pytest

from flows.audience_logic import AudienceLogic, Feedback, Looks, ThresholdLogic
from flows.telemetry import Telemetry
from operators.adaptive import MODEL as THRESHOLDS
from operators.adaptive import Followed, followings, thresholds
from operators.audience import MODEL as CLUSTERS
from operators.audience import Sampled, to_centres
from operators.parameters import LocalParameters
from schemas.audiences import AudienceReport, Audiences, ThresholdChange
from schemas.policy import Policy

T0 = 1_767_225_600_000
POLICY = Policy.model_validate(
    {
        "name": "p",
        "signals": {
            "views": {"kind": "count", "events": "view", "within": "7d"},
            "carts": {"kind": "count", "events": "cart", "within": "7d"},
        },
        "segments": {
            "keen": {
                "when": {"signal": "views", "at_least": 5},
                "follow": {
                    "signal": "views",
                    "between": [2, 12],
                    "reward": "click",
                    "target": 0.2,
                },
            }
        },
        "rewards": {"click": {"events": "click", "value": 1.0, "within": "1h"}},
        "placements": {"home": {"rewards": ["click"]}},
        "audiences": {"clusters": 2, "report_every": 100, "memory": 200},
    }
)
LOOKS = [Sampled((float(i % 2), 0.1 * (i % 5)), T0 + i) for i in range(400)]


def discovering(resume: bytes | None, parameters: LocalParameters) -> AudienceLogic:
    audiences = POLICY.audiences
    assert isinstance(audiences, Audiences)
    return AudienceLogic(
        resume,
        policy=POLICY,
        audiences=audiences,
        parameters=parameters,
        incarnation="life",
        telemetry=Telemetry(),
    )


def following(
    resume: bytes | None, parameters: LocalParameters, telemetry: Telemetry | None = None
) -> ThresholdLogic:
    return ThresholdLogic(
        resume,
        following=followings(POLICY),
        parameters=parameters,
        incarnation="life",
        telemetry=telemetry or Telemetry(),
    )


def test_centres_are_published_and_a_report_goes_out() -> None:
    parameters = LocalParameters()
    logic = discovering(None, parameters)
    (first,), _ = logic.on_batch([Looks(LOOKS[:150]), Looks([])])
    assert (first.taken, first.published, first.report) == (2, None, None)
    (second,), discarded = logic.on_batch([Looks(LOOKS[150:])])
    assert not discarded
    AudienceReport.model_validate(second.report)
    assert parameters.latest(CLUSTERS) is second.published
    assert to_centres(parameters.latest(CLUSTERS), ("views", "carts")) is not None


def test_discovery_resumes_with_its_centres_published_at_once() -> None:
    former = discovering(None, LocalParameters())
    former.on_batch([Looks(LOOKS)])
    parameters = LocalParameters()
    again = discovering(former.snapshot(), parameters)
    assert to_centres(parameters.latest(CLUSTERS), ("views", "carts")) is not None
    assert again.snapshot() == former.snapshot()


def outcomes(n: int) -> list[Followed]:
    return [Followed("keen", 5.0, True, i % 2 == 0, T0 + i) for i in range(n)]


def test_a_threshold_that_moves_is_published_counted_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "flows.audience_logic")
    parameters, telemetry = LocalParameters(), Telemetry()
    logic = following(None, parameters, telemetry)
    assert parameters.latest(THRESHOLDS) is None
    (moved,), _ = logic.on_batch([Feedback(outcomes(30)), Feedback(outcomes(30))])
    change = ThresholdChange.model_validate(moved.changes[0])
    assert (change.threshold_from, change.threshold_to) == (5.0, 4.5)
    assert moved.taken == 2
    assert thresholds(parameters.latest(THRESHOLDS), followings(POLICY)) == {"keen": 4.5}
    assert "keen: at_least of views from 5 to 4.5: click rate 0.5, target 0.2" in caplog.text
    assert b'nextbest_threshold_changes_total{segment="keen"} 1.0' in telemetry.render()


def test_thresholds_resume_where_they_were() -> None:
    former = following(None, LocalParameters())
    former.on_batch([Feedback(outcomes(60))])
    parameters = LocalParameters()
    again = following(former.snapshot(), parameters)
    assert thresholds(parameters.latest(THRESHOLDS), followings(POLICY)) == {"keen": 4.5}
    assert again.snapshot() == former.snapshot()


def test_without_its_state_what_was_archived_no_longer_decides() -> None:
    parameters = LocalParameters()
    following(None, parameters).on_batch([Feedback(outcomes(60))])
    following(None, parameters)
    assert thresholds(parameters.latest(THRESHOLDS), followings(POLICY)) == {"keen": 5.0}
