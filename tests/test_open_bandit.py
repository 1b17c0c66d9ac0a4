"""Do estimates from a log find what a policy is worth, and does the benchmark read its log?

The log is made here, in the shape of the Open Bandit dataset, so that the truth is known.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.errors import BenchmarkUnavailable
from benchmarks.off_policy import Floats, judge, share
from benchmarks.open_bandit import FOLDER, POLICIES, campaigns, measure
from benchmarks.run import PAGE, main
from benchmarks.tables import tables_of

RATES = np.array([0.05, 0.10, 0.20, 0.40])


def log(rows: int, *, seed: int = 5) -> tuple[npt.NDArray[np.int64], Floats]:
    """Items shown uniformly and whether they were clicked."""
    rng = np.random.default_rng(seed)
    shown = rng.integers(4, size=rows)
    return shown, (rng.random(rows) < RATES[shown]).astype(float)


@pytest.mark.parametrize("policy", [[0, 0, 0, 1], [1, 0, 0, 0], [0.7, 0.1, 0.1, 0.1], [0.25] * 4])
def test_all_estimators_find_what_a_policy_is_worth(policy: list[float]) -> None:
    shown, rewards = log(20_000)
    probabilities = np.array(policy)
    weights = probabilities[shown] / 0.25
    wrong_model = np.array([0.3, 0.3, 0.0, 0.1])
    judged = judge(
        rewards,
        weights,
        largest=4.0,
        foreseen=np.full(20_000, float(probabilities @ wrong_model)),
        foreseen_shown=wrong_model[shown],
    )
    truth = float(probabilities @ RATES)
    for estimate in (judged.ips, judged.snips, judged.dr):
        assert estimate.low <= estimate.value <= estimate.high
        # Twice the interval: it misses one time in twenty, twice of it hardly ever.
        assert abs(estimate.value - truth) <= estimate.high - estimate.low
        assert estimate.high - estimate.low < 0.1
    squares = float((probabilities**2).sum() * 4)
    assert judged.effective == pytest.approx(20_000 / squares, rel=0.05)


def test_a_true_model_makes_the_doubly_robust_estimate_surer() -> None:
    shown, rewards = log(50_000)
    weights = np.array([0.0, 0.0, 0.0, 1.0])[shown] / 0.25
    known, unknown = (
        judge(
            rewards,
            weights,
            largest=4.0,
            foreseen=np.full(50_000, model[3]),
            foreseen_shown=model[shown],
        ).dr
        for model in (RATES, np.zeros(4))
    )
    assert known.high - known.low < 0.9 * (unknown.high - unknown.low)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    covered = 0
    for seed in range(100):
        shown, rewards = log(1_000, seed=seed)
        weights = np.array([0.1, 0.2, 0.3, 0.4])[shown] / 0.25
        zeros = np.zeros(1_000)
        judged = judge(rewards, weights, largest=4.0, foreseen=zeros, foreseen_shown=zeros)
        covered += judged.snips.low <= float(RATES @ [0.1, 0.2, 0.3, 0.4]) <= judged.snips.high
    assert 85 <= covered <= 100


def test_a_policy_that_the_log_never_followed_is_worth_nothing_known() -> None:
    zeros = np.zeros(10)
    judged = judge(np.ones(10), zeros, largest=4.0, foreseen=zeros, foreseen_shown=zeros)
    assert judged.effective == 0
    assert judged.snips == (0.0, 0.0, 1.0)
    assert judged.ips.high > 1


def test_no_click_in_few_rows_is_not_taken_for_certainty() -> None:
    """Resampling would say [0, 0]."""
    weights, zeros = np.ones(200), np.zeros(200)
    judged = judge(zeros, weights, largest=1.0, foreseen=zeros, foreseen_shown=zeros)
    assert judged.ips.high > judged.snips.high > 0.015


def test_a_rate_of_few_has_a_wide_interval() -> None:
    assert share(0.0, 10) == pytest.approx((0.0, 0.0, 0.2775), abs=1e-4)
    assert share(0.5, 10) == pytest.approx((0.5, 0.2366, 0.7634), abs=1e-4)
    assert share(0.0, 0) == (0.0, 0.0, 1.0)


def written(folder: Path, *, rows: int) -> Path:
    """A log of one campaign with six items, as the dataset has it."""
    campaign = folder / "random" / "men"
    campaign.mkdir(parents=True)
    with (campaign / "item_context.csv").open("w", newline="") as file:
        items = csv.writer(file)
        items.writerow(["", "item_id", *(f"item_feature_{i}" for i in range(4))])
        items.writerows([i, i, -0.1 * i, f"a{i % 2}", "b", "c"] for i in range(6))
    rng = np.random.default_rng(1)
    with (campaign / "men.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        users = [f"user_feature_{i}" for i in range(4)]
        lines.writerow(
            ["", "timestamp", "item_id", "position", "click", "propensity_score", *users]
        )
        for n in reversed(range(rows)):
            item = int(rng.integers(6))
            clicked = int(rng.random() < (0.5 if item == 3 else 0.02))
            at = f"2019-11-24 {n // 3600:02d}:{n // 60 % 60:02d}:{n % 60:02d}.5+00:00"
            lines.writerow([n, at, item, 1 + n % 3, clicked, 1 / 6, f"u{n % 2}", "v", "w", "x"])
    return folder


def test_a_log_is_read_in_order_of_time(tmp_path: Path) -> None:
    (campaign,) = campaigns(written(tmp_path, rows=50))
    assert [campaign.name, len(campaign.contents), len(campaign.rows)] == ["men", 6, 50]
    times = [row.at_ms for row in campaign.rows]
    assert times == sorted(times)
    assert times[1] - times[0] == 1_000
    assert campaign.contents[3].attributes["item_feature_1"] == "a1"
    assert campaign.rows[0].context["user_feature_0"] == "u0"
    assert len(campaigns(tmp_path, most=20)[0].rows) == 20


def test_without_a_log_the_benchmark_says_where_it_looked_for_it(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkUnavailable, match=FOLDER):
        campaigns(tmp_path)


def test_policies_that_learn_are_seen_to_earn_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, str(written(tmp_path, rows=300)))
    whole, replay = measure(quick=True)
    assert len(whole.rows) == len(replay.rows) == len(POLICIES)
    ips = {row[0].removeprefix("men: "): float(row[1].split(" ")[0]) for row in whole.rows}
    # One item in six earns 500 clicks per thousand, the others 20: 100 at random.
    assert 50 < ips["uniform"] < 150
    assert ips["greedy"] > 2 * ips["uniform"]
    assert ips["inverse-gap weighting"] > 1.5 * ips["uniform"]
    assert float(whole.rows[0][4]) == pytest.approx(300)


def test_the_benchmark_writes_its_tables_to_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, str(written(tmp_path, rows=60)))
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text())
    assert main(["open_bandit", "--quick", "--page", str(page)]) == 0
    text = tables_of(page.read_text(), name="open_bandit")
    assert all(f"| men: {name} |" in text for name in POLICIES)
    assert "So few clicks tell little" in text
    assert str(tmp_path) not in text
