"""Does a monitor report, count and resume through the engine's interface?"""

from __future__ import annotations

import logging
import pickle

import pytest

from flows.monitor_logic import (
    MONITOR_CROSSING,
    MonitorLogic,
    Told,
    WatchedPlacement,
    keyed_by_placement,
)
from flows.telemetry import Telemetry
from operators.monitor_watch import Watched
from operators.plan import Plan
from schemas.monitoring import MonitoringReport
from schemas.time import DAY, HOUR
from tests.operators.builders import T0, placement_policy, plan
from tests.operators.monitor_builders import CONTENTS, booked, days, made, monitored

END = made(T0 + 60 * DAY)


def _logic(
    resume: bytes | None = None, *, of: Plan | None = None, telemetry: Telemetry | None = None
) -> MonitorLogic:
    asked = of or monitored(every="1d")
    return MonitorLogic(resume, plan=lambda: asked, telemetry=telemetry or Telemetry())


def _one(logic: MonitorLogic, watched: list[Watched]) -> Told:
    [told], discard = logic.on_batch([WatchedPlacement("home", watched)])
    assert not discard
    return told


def test_reports_become_records_and_gauges() -> None:
    telemetry = Telemetry()
    told = _one(_logic(telemetry=telemetry), [*days(1, number=1), END])
    assert told.taken == 1
    [report] = (MonitoringReport.model_validate(record) for record in told.reports)
    page = telemetry.render().decode()
    assert 'nextbest_monitored_reports_total{placement="home"} 1.0' in page
    assert report.outcomes.reward_per_decision is not None
    figures = {
        "reward_per_decision": report.outcomes.reward_per_decision.estimate,
        "coverage_ratio": report.shown.coverage,
        "roc_auc": report.model.roc_auc,
        "log_loss": report.model.log_loss,
        "tests": float(report.model.tests),
    }
    for name, figure in figures.items():
        assert f'nextbest_monitored_{name}{{placement="home"}} {figure}' in page
    assert 'nextbest_monitored_reward_ratio{kind="click",placement="home"}' in page
    assert 'nextbest_monitored_fatigue_ratio{nth="6+",placement="home"}' in page
    assert 'nextbest_monitored_group_gap{group="region",of="reward",placement="home"}' in page
    assert 'nextbest_monitored_drifts_total{of="loss",placement="home"} 0.0' in page
    assert not any(content in page for content in CONTENTS)


def test_what_is_wrong_is_counted_and_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def weight(content_id: str, _region: str, day: int) -> float:
        return 1.0 if (content_id in CONTENTS[:5]) == (day < 4) else 0.01

    def chance(_content: str, region: str, day: int) -> float:
        return 0.02 if day >= 4 or region == "south" else 0.3

    def predicted(_content: str, region: str, day: int) -> float:
        return 0.9 if day >= 4 else chance("", region, day)

    watched = days(1, number=7, per_day=1_200, weight=weight, chance=chance, predicted=predicted)
    telemetry = Telemetry()
    with caplog.at_level(logging.WARNING):
        _one(_logic(telemetry=telemetry), [*watched, END])
    said = "\n".join(record.getMessage() for record in caplog.records)
    for sentence in (
        "placement home: its reward fell",
        "placement home: the model's error grew",
        "placement home: what is shown moved by",
        "placement home: reward of region differs by",
    ):
        assert sentence in said
    page = telemetry.render().decode()
    assert 'nextbest_monitored_shifts_total{placement="home"} 1.0' in page
    assert 'nextbest_monitored_drifts_total{of="reward",placement="home"} 0.0' not in page
    assert (
        'nextbest_monitored_unfair_total{group="region",of="reward",placement="home"} 0.0'
        not in page
    )


def test_a_resume_goes_on_alike() -> None:
    watched = days(2, number=2, per_day=600)
    whole, begun = _logic(), _logic()
    expected = _one(whole, watched).reports + _one(whole, [END]).reports
    told = _one(begun, watched[:700]).reports
    resumed = _logic(begun.snapshot())
    assert resumed.snapshot() == begun.snapshot()
    assert told + _one(resumed, [*watched[700:], END]).reports == expected


def test_a_placement_that_the_policy_dropped_is_kept_for_a_rollback() -> None:
    begun = _logic()
    _one(begun, [made(), booked()])
    kept = begun.snapshot()
    other = plan(
        placement_policy(top={"placements": {"cart": {"rewards": ["click"]}}}),
    )
    without = _logic(kept, of=other)
    assert _one(without, [made(T0 + HOUR)]) == Told(1, [])
    assert without.snapshot() == kept
    [report] = _one(_logic(without.snapshot()), [END]).reports
    assert report["decisions"] == 1


def test_a_policy_that_changes_meanwhile_is_taken_over() -> None:
    plans = [monitored(every="1d")]
    logic = MonitorLogic(None, plan=lambda: plans[-1], telemetry=Telemetry())
    _one(logic, [made(T0)])
    plans.append(monitored(every="1h"))
    reports = _one(logic, [made(T0 + DAY), made(T0 + DAY + 2 * HOUR)]).reports
    assert [report["ends_at"][8:13] for report in reports] == ["02T00", "02T01"]


def test_everything_watched_reaches_its_placement_and_everybody_answers() -> None:
    watched: list[Watched] = [made(), booked(), made()._replace(placement="cart")]
    keyed = dict(keyed_by_placement(watched, ["home", "cart", "quiet"]))
    assert [len(keyed[name].watched) for name in ("home", "cart", "quiet")] == [2, 1, 0]
    assert _one(_logic(), keyed["quiet"].watched) == Told(1, [])


def test_all_that_crosses_processes_is_declared() -> None:
    watched: list[Watched] = [made(), booked()]
    crossed = pickle.dumps(WatchedPlacement("home", list(watched)))
    for kind in MONITOR_CROSSING:
        assert kind.__name__.encode() in crossed
    assert pickle.loads(crossed).watched == watched
