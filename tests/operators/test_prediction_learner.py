"""Does a prediction come to the truth, tell how good it is, and take up where it left off?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from operators import prediction_tests
from operators.features import Hashes
from operators.outputs import Labelled, Record
from operators.parameters import LocalParameters, ParameterSet
from operators.predict import Predictor, compile_predictions
from operators.prediction_learner import PredictionLearner, prediction_of
from operators.shard_state import StateError
from operators.signals import compile_signals
from schemas.policy import Policy
from schemas.prediction_reports import PredictionReport
from schemas.time import DAY
from tests.operators.builders import T0
from tests.operators.prediction_builders import (
    BUYS,
    World,
    buys_by_views,
    labelled_stream,
    predicting,
    shop_log,
)

SPEND: dict[str, Any] = {"target": {"sum": "purchase", "of": "value", "within": "7d"}}


def _predictor(of: Policy, parameters: LocalParameters) -> Predictor:
    hashes = Hashes()
    return Predictor(
        compile_predictions(of, compile_signals(of.signals), hashes), parameters, hashes
    )


def _stream(
    seed: int,
    count: int,
    *,
    prediction: Any = None,
    chance: Callable[[int, int], float] = lambda level, _day: 0.05 + 0.1 * level,
    a_day: int = 100,
) -> tuple[PredictionLearner, list[Record]]:
    """A learner that has learned a stream in which each prediction is logged at its moment."""
    of = predicting({"buys": prediction or BUYS})
    parameters = LocalParameters()
    predictor = _predictor(of, parameters)
    learner = PredictionLearner("buys", of, incarnation="life1")
    reports = []
    for case in labelled_stream(seed, count, chance=chance, predictor=predictor, a_day=a_day):
        published, report = learner.learn([case])
        if published is not None:
            parameters.publish(published)
            predictor.refresh()
        if report is not None:
            PredictionReport.model_validate(report)
            reports.append(report)
    return learner, reports


def _lived(of: Policy, name: str, seed: int, **log: Any) -> Record:
    """The last report after a simulated log: cases, labels, learning and predictions together."""
    world = World(of)
    learner = world.learner(name)
    last: Record = {}
    for event in shop_log(seed, **log):
        world.apply(event)
        if len(world.labelled) >= 20:
            published, report = learner.learn(world.labelled)
            world.labelled.clear()
            if published is not None:
                world.parameters.publish(published)
                world.predictor.refresh()
            last = report or last
    return last


def test_the_learned_rates_are_the_true_ones() -> None:
    of = predicting()
    parameters = LocalParameters()
    predictor = _predictor(of, parameters)
    believed: list[list[float]] = []
    for seed in range(3):
        learner = PredictionLearner("buys", of, incarnation=f"life{seed}")
        learner.learn(labelled_stream(seed, 5_000))
        parameters.publish(learner.publish())
        predictor.refresh()
        believed.append(
            [
                sum(predictor.of_cells("buys", [1, 100 + level, 200 + i]) or 0.0 for i in range(20))
                / 20
                for level in range(6)
            ]
        )
    truth = [0.05 + 0.1 * level for level in range(6)]
    assert np.mean(believed, axis=0) == pytest.approx(truth, abs=0.04)


def test_reports_tell_the_quality_of_what_was_said_beforehand() -> None:
    for seed in range(3):
        _, reports = _stream(seed, 4_500)
        last = reports[-1]
        # By the true chances: 0.741 is the best that any model could reach.
        assert 0.68 < last["roc_auc"] < 0.78
        assert last["pr_auc"] > last["base_rate"] + 0.1
        assert last["mean_predicted"] == pytest.approx(last["mean_observed"], rel=0.08)
        p, n = last["base_rate"], last["tests"]
        by_chance = math.sqrt(p * (1 - p) * 10 / n)
        assert last["calibration_error"] < 2.5 * by_chance
        assert sum(one["count"] for one in last["reliability"]) == n


def test_what_depends_on_behaviour_is_predicted_from_it() -> None:
    reports = [_lived(predicting(), "buys", seed, users=60, days=45) for seed in range(3)]
    assert min(report["roc_auc"] for report in reports) > 0.6
    assert np.mean([report["roc_auc"] for report in reports]) > 0.65
    assert np.mean([report["calibration_error"] for report in reports]) < 0.1
    assert np.mean(
        [report["mean_predicted"] / report["mean_observed"] for report in reports]
    ) == pytest.approx(1.0, abs=0.1)


def test_who_will_not_come_back_is_predicted() -> None:
    churn = predicting({"churn": {"target": {"not_done": ["view", "purchase"], "within": "3d"}}})
    reports = [_lived(churn, "churn", seed, users=60, days=45) for seed in range(3)]
    assert np.mean([report["roc_auc"] for report in reports]) > 0.6
    assert np.mean([report["calibration_error"] for report in reports]) < 0.06


def test_nothing_is_learned_from_what_the_label_itself_is_made_of() -> None:
    # Buying is chance alone here, and the feature is the target event's own count. A label that
    # leaked into it would make the ranking perfect; nothing can be known, so it must be chance.
    of = predicting(
        signals={
            "purchases_7d": {"kind": "count", "events": "purchase", "within": "7d"},
            "since": {"kind": "last", "events": "purchase"},
        }
    )
    reports = [
        _lived(of, "buys", seed, users=60, days=45, chance=lambda _views, _day: 0.1)
        for seed in range(3)
    ]
    assert [0.4 < report["roc_auc"] < 0.6 for report in reports] == [True] * 3


def test_a_sum_is_right_on_average_although_most_are_nothing_and_few_are_large() -> None:
    def chance(views: int, day: int) -> float:
        return buys_by_views(views, day) / 4

    of = predicting({"spend": SPEND})
    reports = [_lived(of, "spend", seed, users=60, days=60, chance=chance) for seed in range(3)]
    ratio = np.mean([report["mean_predicted"] / report["mean_observed"] for report in reports])
    assert ratio == pytest.approx(1.0, abs=0.2)
    bins = np.array([[one["observed"] for one in report["reliability"]] for report in reports])
    assert bins[:, -4:].mean() > 1.4 * bins[:, :4].mean()
    for report in reports:
        assert report["roc_auc"] is None
        assert report["mae"] > 0


def _settled(seed: int, days: int, *, of: Policy) -> list[Labelled]:
    """Cases of one in five that buy within seven days, in the order in which that is known."""
    rng = np.random.default_rng(seed)
    cases = []
    for i in range(days * 60):
        at_ms = T0 + i * DAY // 60
        buys = bool(rng.random() < 0.2)
        delay = int(rng.random() * 7 * DAY) if buys else 7 * DAY
        features = np.array([1], "<u4").tobytes()
        model = PredictionLearner("buys", of, incarnation="x").model
        cases.append(Labelled(model, features, float(buys), None, at_ms, at_ms + delay))
    last = T0 + days * DAY
    return sorted((c for c in cases if c.closed_ms <= last), key=lambda case: case.closed_ms)


def test_the_labels_that_are_known_first_do_not_tilt_the_rate() -> None:
    of = predicting()
    learner = PredictionLearner("buys", of, incarnation="life1")
    learner.learn(_settled(1, 6, of=of))
    assert learner.examples == 0  # only those that bought could be known by then
    learner = PredictionLearner("buys", of, incarnation="life1")
    learner.learn(_settled(1, 21, of=of))
    assert learner.report("v")["base_rate"] == pytest.approx(0.2, abs=0.04)
    assert learner.report("v")["skipped"] > 0


def _flipped(level: int, day: int) -> float:
    return 0.05 + 0.1 * (level if day < 20 else 5 - level)


def test_a_change_of_regime_is_reported_once_and_a_steady_stream_is_not() -> None:
    for seed in range(3):
        _, reports = _stream(seed, 3_500, chance=_flipped)
        first = next(report for report in reports if report["drift"])
        assert 2_000 < first["examples"] <= 3_000
        assert [report["drift"] for report in reports].count(True) == reports[-1]["drifts"] == 1
        _, steady = _stream(seed, 3_500)
        assert steady[-1]["drifts"] == 0


def test_after_a_drift_larger_steps_come_to_the_new_truth_sooner() -> None:
    def error(on_drift: str) -> float:
        of = predicting({"buys": {**BUYS, "on_drift": on_drift}})
        found = []
        for seed in range(3):
            learner = PredictionLearner("buys", of, incarnation="life1")
            learner.learn(labelled_stream(seed, 3_200, chance=_flipped))
            parameters = LocalParameters()
            parameters.publish(learner.publish())
            predictor = _predictor(of, parameters)
            predictor.refresh()
            for level in range(6):
                said = predictor.of_cells("buys", [1, 100 + level, 200])
                assert said is not None
                found.append(abs(said - _flipped(level, 30)))
        return float(np.mean(found))

    assert error("faster") < 0.8 * error("report")


def test_a_busy_day_does_not_fill_the_window_with_its_evening() -> None:
    learner, _ = _stream(1, 12_000, a_day=4_000)
    last = learner.report("v")
    assert last["tests"] <= 4_000
    # Three days of 4,000; all hours of each are among the tests.
    assert last["mean_observed"] == pytest.approx(0.3, abs=0.03)


def _weights(published: ParameterSet | None) -> bytes:
    assert published is not None
    return published.weights.tobytes() + published.intercepts.tobytes()


_PREDICTIONS = {
    "probability": BUYS,
    "sum": SPEND,
    "faster": {**BUYS, "on_drift": "faster"},
}


@pytest.mark.parametrize("kind", list(_PREDICTIONS))
def test_a_resume_changes_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # So few that the oldest are dropped, and the detector built anew, within this stream.
    monkeypatch.setattr(prediction_tests, "TESTS", 400)
    of = predicting({"buys": _PREDICTIONS[kind]})

    def turned(level: int, day: int) -> float:
        return 0.9 if (level >= 3) == (day < 20) else 0.1

    worth = 37.5 if kind == "sum" else 1.0
    stream = [
        case._replace(label=worth * case.label, predicted=0.25)
        for case in labelled_stream(3, 2_000, chance=turned, a_day=60)
    ]

    def run(cuts: list[int]) -> tuple[bytes, bytes, list[Record]]:
        learner = PredictionLearner("buys", of, incarnation="life1")
        reports = []
        for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            if begin:
                again = PredictionLearner("buys", of, incarnation="life1")
                again.restore(learner.snapshot())
                learner = again
            for i in range(begin, end, 50):
                _, report = learner.learn(stream[i : min(end, i + 50)])
                if report is not None:
                    reports.append({**report, "model_version": ""})
        return learner.snapshot(), _weights(learner.publish()), reports

    whole = run([])
    assert run([]) == whole
    assert whole[2][-1]["drifts"] >= 1
    cuts = [1, 60, 101, 799, 900, 1_350, 1_420, 1_650]
    assert [cut for cut in cuts[3:7] if run([cut]) != whole] == []
    assert run(cuts) == whole


def test_a_resume_serves_at_once_under_a_name_of_its_own() -> None:
    of = predicting()
    learner = PredictionLearner("buys", of, incarnation="life1")
    published, _ = learner.learn(labelled_stream(1, 300))
    assert published is not None
    again = PredictionLearner("buys", of, incarnation="life2")
    served = again.restore(learner.snapshot())
    assert served is not None
    assert served.version.startswith("life2.1+")
    assert _weights(served) == _weights(learner.publish())
    assert prediction_of(learner.snapshot()) == "prediction.buys"


def test_before_anything_was_published_a_resume_serves_nothing() -> None:
    of = predicting()
    learner = PredictionLearner("buys", of, incarnation="life1")
    learner.learn(labelled_stream(1, 50))
    again = PredictionLearner("buys", of, incarnation="life2")
    assert again.restore(learner.snapshot()) is None
    assert again.examples == learner.examples == 50


@pytest.mark.parametrize(
    "changed",
    [
        {"target": {"done": "purchase", "within": "8d"}},
        {"target": {"done": ["purchase", "order"], "within": "7d"}},
        {**BUYS, "model": {"bits": 12}},
        SPEND,
    ],
)
def test_another_target_or_table_starts_anew(changed: dict[str, Any]) -> None:
    learner = PredictionLearner("buys", predicting(), incarnation="life1")
    learner.learn(labelled_stream(1, 300))
    again = PredictionLearner("buys", predicting({"buys": changed}), incarnation="life2")
    assert again.restore(learner.snapshot()) is None
    assert again.examples == 0


def test_what_was_learned_of_a_former_target_predicts_nothing() -> None:
    learner = PredictionLearner("buys", predicting(), incarnation="life1")
    parameters = LocalParameters()
    published, _ = learner.learn(labelled_stream(1, 300))
    assert published is not None
    parameters.publish(published)
    same = _predictor(predicting(), parameters)
    same.refresh()
    assert same.of_cells("buys", [1]) is not None
    assert same.version("buys") == published.version
    other = _predictor(
        predicting({"buys": {"target": {"done": "order", "within": "7d"}}}), parameters
    )
    other.refresh()
    assert other.of_cells("buys", [1]) is None


def test_a_set_comes_after_a_hundred_examples_of_both_kinds() -> None:
    of = predicting()
    learner = PredictionLearner("buys", of, incarnation="life1")
    negatives = [c._replace(label=0.0) for c in labelled_stream(1, 200)]
    assert learner.learn(negatives) == (None, None)
    published, report = learner.learn([negatives[-1]._replace(label=1.0)])
    assert published is not None
    assert report is not None
    assert (published.examples, published.rewarded) == (201, 1)
    assert (published.heads, published.weights.shape) == ((learner._head,), (1, 1 << 14))
    assert report["model_version"] == published.version


def test_damage_and_other_versions_are_refused() -> None:
    learner = PredictionLearner("buys", predicting(), incarnation="life1")
    learner.learn(labelled_stream(1, 300))
    good = learner.snapshot()
    again = PredictionLearner("buys", predicting(), incarnation="life2")
    for at in range(len(good)):
        if at % 997 and at > 12:
            continue
        damaged = bytearray(good)
        damaged[at] ^= 0x20
        with pytest.raises(StateError):
            again.restore(bytes(damaged))
    with pytest.raises(StateError, match="version 1"):
        again.restore(good[:4] + b"\x00\x09" + good[6:])


def test_larger_steps_leave_what_was_learned() -> None:
    for prediction in (BUYS, SPEND):
        learner = PredictionLearner("buys", predicting({"buys": prediction}), incarnation="life1")
        learner.learn(labelled_stream(2, 500))
        before = learner.publish().weights
        learner._river.step(4.0)
        after = learner.publish().weights
        assert after == pytest.approx(before, rel=1e-5, abs=1e-7)
