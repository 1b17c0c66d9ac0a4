"""Is what is told of a placement true, complete, bounded and the same after a resume?"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.monitor import Monitor, by_placement, placement_of
from operators.monitor_tests import SAMPLE, TESTS
from operators.monitor_watch import Watched
from operators.outputs import Record
from operators.plan import Plan
from operators.shard_state import StateError
from schemas.monitoring import MonitoringReport
from schemas.time import DAY, HOUR, MINUTE
from tests.operators.builders import T0, plan
from tests.operators.monitor_builders import CONTENTS, always, booked, days, made, monitored

SEEDS = (1, 2, 3, 4, 5)


def _told(watched: Iterable[Watched], of: Plan | None = None) -> list[MonitoringReport]:
    """Every report, told with a last decision that is far enough ahead to end the last period."""
    monitor = Monitor(of or monitored(), "home")
    listed = list(watched)
    end = max((getattr(one, "closed_ms", 0) or one.at_ms) for one in listed) + 9 * DAY  # type: ignore[union-attr]
    reports = monitor.watch(listed) + monitor.watch([made(end)])
    return [MonitoringReport.model_validate(report) for report in reports]


def _one(watched: Iterable[Watched], of: Plan | None = None) -> MonitoringReport:
    [report] = _told(watched, of)
    return report


def test_decisions_are_counted_by_how_they_were_answered() -> None:
    report = _one(
        [
            *(made(T0 + i) for i in range(6)),
            made(fallback="capped"),
            made(fallback="consent_unknown"),
            made(items=[]),
        ]
    )
    assert report.decisions == 9
    assert report.answers == {"personalised": 6, "capped": 1, "consent_unknown": 1, "empty": 1}
    assert report.fallback is not None
    assert report.fallback.estimate == pytest.approx(1 / 3)
    assert report.candidates == 10.0
    assert (report.begins_at.timestamp(), report.ends_at.timestamp()) == (
        T0 / 1000,
        (T0 + HOUR) / 1000,
    )


def test_exploration_is_told_of_what_was_drawn_by_a_model() -> None:
    draws = {"greedy": 6, "explored": 2, "undirected": 5, "given": 3}
    report = _one([made(draw=draw) for draw, number in draws.items() for _ in range(number)])
    told = report.exploration
    assert (told.drawn, told.explored, told.undirected, told.given) == (8, 2, 5, 3)
    assert told.share is not None
    assert told.share.estimate == 0.25
    assert told.cost is None


def test_what_is_shown_is_measured_against_the_pool() -> None:
    report = _one([made(T0, "c1"), made(T0, "c2"), made(T0, "gone")])
    shown = report.shown
    assert (shown.items, shown.contents, shown.pool, shown.coverage) == (3, 3, 10, 0.2)
    assert shown.gini == pytest.approx(0.8)
    assert shown.effective_contents == pytest.approx(3.0)
    assert shown.shift is None
    assert not shown.sudden


def test_repetition_is_of_decisions_that_follow_one() -> None:
    item = made().items[0]
    again = [item._replace(repeated=True), item._replace(content_id="c2")]
    report = _one([made(items=again, follows=True), made(), made()])
    assert report.shown.repetition is not None
    assert report.shown.repetition.estimate == 0.5


def test_rewards_are_told_per_seen_decision_per_impression_and_by_kind() -> None:
    paid = booked(reward=1.0)._replace(
        items=[*booked(reward=1.0).items, *booked(content_id="c2").items]
    )
    report = _one([paid, booked(), booked(shown=False)])
    outcomes = report.outcomes
    assert (outcomes.books, outcomes.seen, outcomes.impressions) == (3, 2, 3)
    assert outcomes.reward_per_decision is not None
    assert outcomes.reward_per_decision.estimate == 0.5
    assert outcomes.reward_per_impression is not None
    assert outcomes.reward_per_impression.estimate == pytest.approx(1 / 3)
    [click] = outcomes.kinds
    assert (click.kind, click.rewarded) == ("click", 1)
    assert click.rate is not None
    assert click.rate.estimate == pytest.approx(1 / 3)
    assert [(arm.arm, arm.decisions) for arm in outcomes.arms] == [("personalised", 2)]


def test_fatigue_is_told_by_the_nth_impression() -> None:
    books = [booked(nth=nth, reward=float(nth == 1)) for nth in (0, 1, 1, 2, 3, 4, 5, 6, 99)]
    told = {part.nth: (part.impressions, part.rate) for part in _one(books).fatigue}
    assert {nth: number for nth, (number, _) in told.items()} == {
        "1": 2,
        "2": 1,
        "3": 1,
        "4-5": 2,
        "6+": 2,
    }
    first = told["1"][1]
    assert first is not None
    assert first.estimate == 1.0


def test_a_known_scorer_has_its_auc_and_its_log_loss() -> None:
    """Two scores, 0.2 and 0.6, both right: the AUC and the loss follow by arithmetic."""
    rng, books = Random(1), []
    for i in range(SAMPLE):
        chance = rng.choice((0.2, 0.6))
        books.append(booked(T0 + i, chance=chance, reward=float(rng.random() < chance)))
    model = _one(books).model
    high, low = 0.6 / 0.8, 0.4 / 1.2
    truth = high * (1 - low) + (high * low + (1 - high) * (1 - low)) / 2
    assert model.tests == SAMPLE
    assert model.roc_auc == pytest.approx(truth, abs=0.04)
    assert model.log_loss == pytest.approx((0.5004 + 0.6730) / 2, abs=0.04)
    assert model.calibration_error is not None
    assert model.calibration_error < 0.05
    assert model.expected_reward is not None
    assert model.actual_reward is not None
    assert model.actual_reward.low is not None
    assert model.actual_reward.high is not None
    assert model.actual_reward.low < model.expected_reward.estimate < model.actual_reward.high


def test_a_scorer_that_says_too_much_is_found_out() -> None:
    watched = days(1, number=1, predicted=always(0.3))
    model = _one(watched, monitored(every="1d")).model
    assert model.calibration_error == pytest.approx(0.2, abs=0.03)


def test_rare_rewards_do_not_bend_the_auc() -> None:
    """At 3 % positives a binned curve reads near 0.5."""
    rng, books = Random(2), []
    for i in range(4 * SAMPLE):
        chance = 0.01 + 0.04 * rng.random()
        at_ms = T0 + i * 4 * DAY // (4 * SAMPLE)
        books.append(booked(at_ms, chance=chance, reward=float(rng.random() < chance)))
    pairs = [(b.items[0].chance, bool(b.items[0].rewards)) for b in books]
    positives = [p for p, label in pairs if label]
    negatives = [p for p, label in pairs if not label]
    wins = sum(p > n for p in positives for n in negatives)  # type: ignore[operator]
    last = _told(books, monitored(every="1d"))[-1]
    assert last.model.tests > 0.9 * TESTS
    assert last.model.roc_auc == pytest.approx(wins / len(positives) / len(negatives), abs=0.01)


def test_without_probabilities_there_is_an_auc_of_the_scores() -> None:
    books = [booked(score=float(i % 7), chance=None, reward=float(i % 7 > 3)) for i in range(70)]
    model = _one(books, _of_worth(10.0)).model
    assert model.roc_auc == 1.0
    assert model.log_loss is None
    assert model.calibration_error is None
    assert model.reliability == []


def _of_worth(value: float) -> Plan:
    reward = {"events": "click", "value": value, "within": "30m"}
    return monitored(rewards={"click": reward})


def _drifts(reports: list[MonitoringReport]) -> tuple[list[str], int]:
    return (
        [r.model.reward_drift for r in reports if r.model.reward_drift is not None],
        sum(r.model.loss_drift for r in reports),
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_no_drift_is_told_where_there_is_none_though_evenings_differ(seed: int) -> None:
    assert _drifts(_told(days(seed, number=14, per_day=800))) == ([], 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_planted_drift_of_the_reward_is_told(seed: int) -> None:
    def chance(_content: str, _region: str, day: int) -> float:
        return 0.15 if day < 5 else 0.06

    reports = _told(days(seed, number=9, per_day=800, chance=chance, predicted=always(0.1)))
    rewards, _ = _drifts(reports)
    assert rewards
    assert set(rewards) == {"fell"}
    told = next(r for r in reports if r.model.reward_drift)
    assert told.begins_at.timestamp() * 1000 >= T0 + 5 * DAY
    assert reports[-1].model.drifts >= 1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_model_that_gets_worse_is_told(seed: int) -> None:
    def predicted(content_id: str, _region: str, day: int) -> float:
        right = (content_id in CONTENTS[:5]) == (day < 5)
        return 0.55 if right else 0.05

    def chance(content_id: str, _region: str, _day: int) -> float:
        return 0.5 if content_id in CONTENTS[:5] else 0.05

    _, losses = _drifts(
        _told(days(seed, number=9, per_day=800, chance=chance, predicted=predicted))
    )
    assert losses >= 1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_sudden_shift_is_told_once_and_chance_is_not(seed: int) -> None:
    def weight(content_id: str, _region: str, day: int) -> float:
        return 5.0 if (content_id in CONTENTS[:5]) == (day < 2) else 1.0

    reports = _told(days(seed, number=4, weight=weight), monitored(every="4h"))
    sudden = [r for r in reports if r.shown.sudden]
    assert [r.begins_at.timestamp() * 1000 for r in sudden] == [T0 + 2 * DAY]
    assert sudden[0].shown.shift == pytest.approx(0.6, abs=0.1)  # 2/3 less the noise
    assert len(sudden[0].shown.moved) == 5
    quiet = [r.shown.shift for r in reports if not r.shown.sudden and r.shown.shift is not None]
    assert max(quiet) < 0.2


@pytest.mark.parametrize("seed", SEEDS)
def test_alike_groups_are_not_called_unfair(seed: int) -> None:
    for report in _told(days(seed, number=4, per_day=2_400), monitored(every="4h")):
        for group in report.fairness:
            for gap in (group.exposure_gap, group.reward_gap):
                assert gap is None or not gap.flagged


@pytest.mark.parametrize("seed", SEEDS)
def test_a_planted_unfairness_is_told_of_exposure_and_of_reward(seed: int) -> None:
    def personal(_content: str, region: str, _day: int) -> float:
        return 0.95 if region == "north" else 0.6

    def chance(_content: str, region: str, _day: int) -> float:
        return 0.2 if region == "north" else 0.08

    def weight(content_id: str, _region: str, _day: int) -> float:
        return 4.0 if content_id in CONTENTS[:5] else 1.0

    watched = days(seed, number=1, chance=chance, personal=personal, weight=weight)
    region, maker = _one(watched, monitored(every="1d")).fairness
    assert region.exposure_gap is not None
    assert region.exposure_gap.flagged
    assert (region.exposure_gap.highest, region.exposure_gap.lowest) == ("north", "south")
    assert region.exposure_gap.gap == pytest.approx(0.35, abs=0.06)
    assert region.reward_gap is not None
    assert region.reward_gap.flagged
    assert maker.exposure_gap is not None
    assert maker.exposure_gap.flagged
    assert maker.exposure_gap.highest == "big"
    assert maker.exposure_gap.gap == pytest.approx(1.6 - 0.4, abs=0.15)
    assert maker.reward_gap is not None
    assert not maker.reward_gap.flagged


def test_a_group_of_few_is_not_named() -> None:
    watched = [made(T0, groups={"region": "north"}) for _ in range(20)]
    watched += [made(T0, groups={"region": f"only-me-{i}"}) for i in range(19)]
    region = _one(watched).fairness[0]
    assert [(v.value, v.decided) for v in region.values] == [("north", 20), ("other", 19)]
    assert region.exposure_gap is None


def test_too_many_values_are_bounded_and_none_is_lost() -> None:
    rng = Random(4)
    watched = [
        made(T0, groups={"region": f"r{i}"}) for i in range(600) for _ in range(25 if i < 40 else 1)
    ]
    orders = [watched, rng.sample(watched, len(watched))]
    monitor = Monitor(monitored(), "home")
    monitor.watch(watched)
    assert len(monitor.snapshot()) < 40_000
    first, second = (_one(order).fairness[0] for order in orders)
    assert first == second
    assert len(first.values) <= 33
    assert sum(v.decided for v in first.values) == len(watched)


def test_groups_that_the_policy_does_not_declare_are_not_counted() -> None:
    report = _one([made(groups={"shoe_size": "42"}), booked(groups={"shoe_size": "42"})])
    assert [group.group for group in report.fairness] == ["region", "maker"]
    assert report.fairness[0].values == []


def test_a_placement_without_a_model_or_groups_is_told_of_too() -> None:
    report = _one([made(draw="undirected"), booked(chance=None, score=None)], plan())
    assert report.model.tests == 0
    assert report.model.roc_auc is None
    assert report.fairness == []


def test_a_report_falls_due_when_event_time_is_past_its_period() -> None:
    monitor = Monitor(monitored(), "home")
    assert monitor.watch([made(T0), made(T0 + HOUR + 2 * MINUTE)]) == []
    [first] = monitor.watch([made(T0 + HOUR + 10 * MINUTE)])
    assert first["decisions"] == 1
    [second] = monitor.watch([made(T0 + 50 * HOUR)])
    assert (second["decisions"], second["ends_at"][:13]) == (2, "2026-01-01T02")


def test_what_is_late_counts_in_the_oldest_open_period() -> None:
    reports = _told([made(T0), made(T0 + 3 * HOUR), made(T0)])
    assert [r.decisions for r in reports] == [1, 2]


def test_periods_follow_a_changed_policy() -> None:
    monitor = Monitor(monitored(), "home")
    monitor.watch([made(T0), made(T0 + MINUTE)])
    monitor.adopt(monitored(every="6h"))
    reports = monitor.watch([made(T0 + 2 * HOUR), made(T0 + DAY)])
    assert [(r["decisions"], r["begins_at"][11:13], r["ends_at"][11:13]) for r in reports] == [
        (2, "00", "01"),
        (1, "01", "06"),
    ]


WATCHED = st.builds(
    lambda minute, content_id, region, kind, reward: (
        made(T0 + minute * MINUTE, content_id, draw=kind, groups={"region": region})
        if reward is None
        else booked(
            T0 + minute * MINUTE,
            content_id,
            reward=reward,
            nth=minute % 7,
            groups={"region": region},
            explored=kind == "explored",
        )
    ),
    st.integers(0, 600),
    st.sampled_from([*CONTENTS, "gone"]),
    st.sampled_from(["north", "south", "east"]),
    st.sampled_from(["greedy", "explored"]),
    st.none() | st.floats(-1e15, 1e15) | st.sampled_from([0.0, 1.0]),
)


def _plain(monitor: Monitor, watched: list[Watched]) -> list[Record]:
    return monitor.watch(watched) + monitor.watch([made(T0 + 90 * DAY)])


@given(st.lists(WATCHED, max_size=60), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_within_the_lateness_changes_nothing(watched: list[Any], rng: Random) -> None:
    of = monitored(time={"allowed_lateness": "20m", "dedupe_for": "1h"})
    in_time = sorted(watched, key=lambda one: getattr(one, "closed_ms", None) or one.at_ms)
    # Each is at most 20 minutes behind the newest before it.
    mixed = sorted(
        in_time,
        key=lambda one: (getattr(one, "closed_ms", None) or one.at_ms) + rng.random() * 20 * MINUTE,
    )
    assert _plain(Monitor(of, "home"), in_time) == _plain(Monitor(of, "home"), mixed)


@given(st.lists(WATCHED, max_size=60), st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_a_resume_changes_nothing(watched: list[Any], cut: int) -> None:
    of = monitored()
    whole, begun, resumed = (Monitor(of, "home") for _ in range(3))
    expected = whole.watch(watched)
    told = begun.watch(watched[:cut])
    kept = begun.snapshot()
    assert placement_of(kept) == "home"
    resumed.restore(kept)
    assert resumed.snapshot() == kept
    assert told + resumed.watch(watched[cut:]) == expected
    assert _plain(resumed, []) == _plain(whole, [])
    assert sum(r["decisions"] for r in expected) <= len(watched)


@given(st.lists(WATCHED, min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_every_report_is_valid_and_nothing_is_lost(watched: list[Any]) -> None:
    reports = _told(watched)
    decisions = [one for one in watched if hasattr(one, "at_ms")]
    assert sum(r.decisions for r in reports) == len(decisions)
    assert sum(r.outcomes.books for r in reports) == len(watched) - len(decisions)


def test_a_long_run_resumes_alike_after_the_oldest_tests_were_dropped() -> None:
    of, watched = monitored(every="1d"), days(7, number=9, per_day=1_200)
    whole, begun, resumed = (Monitor(of, "home") for _ in range(3))
    expected = whole.watch(watched)
    told = begun.watch(watched[: len(watched) // 2])
    resumed.restore(begun.snapshot())
    assert told + resumed.watch(watched[len(watched) // 2 :]) == expected
    assert resumed.snapshot() == whole.snapshot()
    assert len(whole.snapshot()) < 400_000


def test_damaged_or_foreign_state_is_refused() -> None:
    monitor = Monitor(monitored(), "home")
    monitor.watch([made(), booked()])
    kept = monitor.snapshot()
    for damaged in (b"", b"XXXX" + kept[4:], kept[:-1], kept[:-3] + b"abc"):
        with pytest.raises(StateError):
            Monitor(monitored(), "home").restore(damaged)
    with pytest.raises(StateError):
        placement_of(kept[:4] + b"\x00\x09" + kept[6:])


def test_what_was_watched_is_grouped_by_placement_in_order() -> None:
    watched: list[Watched] = [made(T0), made(T0 + 1)._replace(placement="cart"), booked(T0 + 2)]
    assert by_placement(watched) == {"home": [watched[0], watched[2]], "cart": [watched[1]]}
