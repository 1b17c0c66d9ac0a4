"""The demo, small: the real dataflow in a closed loop, its files, and that it is worth having."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from flows.demo import Shown, run_demo
from flows.simulate.results import estimates
from schemas.decisions import Decision


def small_demo(out: Path) -> Shown:
    return run_demo(out, seed=1, shoppers=150, contents=60, days=3)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shown, Path]:
    out = tmp_path_factory.mktemp("demo")
    return small_demo(out), out


def test_every_decision_keeps_the_contract(shown: tuple[Shown, Path]) -> None:
    decisions = [
        Decision.model_validate_json(line)
        for line in (shown[1] / "decisions.jsonl").read_bytes().splitlines()
    ]
    assert len(decisions) == shown[0].tally.decisions > 300
    assert len({decision.decision_id for decision in decisions}) == len(decisions)
    assert any(decision.model_version not in ("prior", None) for decision in decisions)
    assert {decision.fallback for decision in decisions} >= {None, "consent_refused"}


def test_the_shoppers_react_to_what_was_decided(shown: tuple[Shown, Path]) -> None:
    outcomes = [
        orjson.loads(line) for line in (shown[1] / "outcomes.jsonl").read_bytes().splitlines()
    ]
    assert any("click" in item["rewards"] for o in outcomes for item in o["items"])
    assert shown[0].examples > 100


def test_every_event_is_accounted_for(shown: tuple[Shown, Path]) -> None:
    accounting = shown[0].tally.accounting
    assert accounting.missing == 0
    assert accounting.read > 1_000
    assert accounting.dead_letters == accounting.late == 0


def test_the_report_stands_alone(shown: tuple[Shown, Path]) -> None:
    page = shown[0].report.read_text()
    assert shown[0].report == shown[1] / "report.html"
    assert "nextbest in the simulated shop" in page
    assert "<script src" not in page
    assert "<link" not in page
    assert "<svg" in page


def test_the_same_seed_gives_the_same_bytes(shown: tuple[Shown, Path], tmp_path: Path) -> None:
    small_demo(tmp_path)
    for name in ("decisions", "outcomes", "segment-changes", "catalogue"):
        again = (tmp_path / f"{name}.jsonl").read_bytes()
        assert again == (shown[1] / f"{name}.jsonl").read_bytes(), name


def test_another_seed_is_another_shop(shown: tuple[Shown, Path], tmp_path: Path) -> None:
    run_demo(tmp_path, seed=2, shoppers=20, contents=60, days=1)
    catalogue = (tmp_path / "catalogue.jsonl").read_bytes()
    assert catalogue != (shown[1] / "catalogue.jsonl").read_bytes()


def test_nextbest_beats_random_on_the_same_shoppers(tmp_path: Path) -> None:
    shown = run_demo(tmp_path, seed=1, shoppers=300, contents=100, days=5)
    nextbest, popular, chance = (estimates(arm).ctr for arm in shown.arms)
    assert shown.arms[0].name == "nextbest"
    # Not by a hair: the intervals of the two do not touch.
    assert nextbest.low > chance.high
    assert popular.value > chance.value
