"""Are the figures of tests those of River, and those that arithmetic gives?"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import metrics

from operators.monitor_quality import quality_of, roc_auc
from operators.prediction_report import measure

_METRICS: Final[Any] = metrics
TESTS = st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.5, 0.9]), st.booleans()), max_size=60)


@given(TESTS)
def test_the_auc_is_the_share_of_pairs_in_order(tests: list[tuple[float, bool]]) -> None:
    positives = [score for score, label in tests if label]
    negatives = [score for score, label in tests if not label]
    found = roc_auc(np.array([s for s, _ in tests]), np.array([b for _, b in tests], np.bool_))
    if not positives or not negatives:
        assert found is None
        return
    wins = sum((p > n) + (p == n) / 2 for p in positives for n in negatives)
    assert found == pytest.approx(wins / (len(positives) * len(negatives)))


def test_rare_rewards_have_rivers_rolling_auc() -> None:
    """At 3 % positives a curve of few thresholds reads near 0.5; the exact one does not."""
    rng = np.random.default_rng(1)
    chances = rng.beta(1.0, 32.0, 4_000)
    labels = rng.random(4_000) < chances
    rolling = _METRICS.RollingROCAUC(window_size=4_000)
    for chance, label in zip(chances.tolist(), labels.tolist(), strict=True):
        rolling.update(label, chance)
    quality = quality_of(chances, chances, labels)
    assert quality["roc_auc"] == pytest.approx(rolling.get(), abs=1e-9)
    assert rolling.get() > 0.65


def test_the_other_figures_are_those_of_predictions() -> None:
    rng = np.random.default_rng(2)
    chances = rng.random(1_000)
    labels = rng.random(1_000) < chances
    quality = quality_of(chances, chances, labels)
    other = measure(
        list(zip(chances.tolist(), labels.astype(float).tolist(), strict=True)), is_sum=False
    )
    for figure in ("log_loss", "calibration_error", "mean_predicted", "mean_observed"):
        assert quality[figure] == pytest.approx(other[figure], rel=1e-3)
    assert quality["tests"] == 1_000
    assert [b["count"] for b in quality["reliability"]] == [100] * 10


@given(TESTS, st.randoms(use_true_random=False))
def test_the_order_among_tests_changes_nothing(tests: list[tuple[float, bool]], rng: Any) -> None:
    mixed = rng.sample(tests, len(tests))
    first, second = (
        quality_of(
            np.array([s for s, _ in listed]),
            np.array([s for s, _ in listed]),
            np.array([b for _, b in listed], np.bool_),
        )
        for listed in (tests, mixed)
    )
    assert first["calibration_error"] == pytest.approx(second["calibration_error"])
    assert first["roc_auc"] == pytest.approx(second["roc_auc"])


def test_one_unknown_probability_leaves_only_the_auc() -> None:
    scores = np.array([1.0, 3.0, 2.0])
    quality = quality_of(scores, np.array([0.1, -1.0, 0.2]), np.array([False, True, False]))
    assert quality["roc_auc"] == 1.0
    assert quality["log_loss"] is None
    assert quality["reliability"] == []
