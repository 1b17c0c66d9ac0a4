"""The ladder, tiny: the real flow in every step, the statistics on sums known beforehand."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import orjson
import pytest
from click.testing import CliRunner

from flows import ladder_words as words
from flows.ladder import STEPS, Climbed, Cost, Size, climb, policy_text
from flows.ladder_cli import ladder
from flows.ladder_lift import (
    COLUMNS,
    MEASURES,
    Lift,
    Sample,
    Verdict,
    least_that_pays,
    verdicts,
)
from flows.ladder_page import render_page
from flows.ladder_people import AGE_BANDS, People
from flows.simulate.chance import Floats
from flows.simulate.shop import Shop
from flows.simulate.stock import CATEGORIES
from schemas.check import load_policy
from schemas.policy import Policy

TINY = Size(seeds=(1, 2), shoppers=30, contents=30, days=1)
REWARD, CTR = MEASURES[0], MEASURES[1]


@pytest.fixture(scope="module")
def climbed() -> Climbed:
    return climb(TINY)


def policy_of(step: str) -> Policy:
    policy, mistakes = load_policy(policy_text(step), name=f"{step}.yaml")
    assert policy is not None
    assert not mistakes
    return policy


def sums_of(clicks: list[Floats], *, shown: float = 10.0) -> Floats:
    """Sums of one shop in which the steps differ in clicks alone, and clicks are the reward."""
    found = np.full((len(clicks), len(clicks[0]), len(COLUMNS)), shown)
    for step, column in enumerate(clicks):
        found[step, :, COLUMNS.index("clicks")] = column
        found[step, :, COLUMNS.index("reward")] = column
    return found


def told_of(sums: Floats) -> words.Told:
    cost = Cost(100.0, 400, 1, 2)
    return words.told(
        Climbed(Size(seeds=(7,)), (sums,), (cost,) * 4, ("digest",) * 4, 10, 0), draws=200
    )


def test_steps_differ_in_what_may_be_seen_and_in_nothing_else() -> None:
    policies = [policy_of(step.name) for step in STEPS]
    levels = []
    for policy in policies:
        home = policy.placements["home"]
        levels.append(home.level)
        same = home.model_copy(
            update={
                "level": 1,
                "features": policies[0].placements["home"].features,
            }
        )
        assert same == policies[0].placements["home"]
        assert policy.rewards == policies[0].rewards
        assert policy.consent == policies[0].consent
        assert policy.time == policies[0].time
    assert levels == [1, 1, 1, 4]
    assert policies[0].placements["home"].features.segments == ()
    for lower, upper in pairwise(policies):
        assert lower.signals.items() <= upper.signals.items()
    assert policies[1].segments.items() <= policies[2].segments.items()
    assert policies[3].segments.items() <= policies[2].segments.items()
    assert policies[1].signals == {}


def test_people_state_what_they_like_loosely_and_always_the_same() -> None:
    shop = Shop(3, shoppers=3_000, contents=30, days=1)
    people, again = People(shop), People(shop)
    stated = [people.of(user_id) for user_id in shop.crowd.user_ids]
    assert stated == [again.of(user_id) for user_id in shop.crowd.user_ids]
    assert {s["age_band"] for s in stated} == set(AGE_BANDS)
    loved = np.argmax(shop.crowd.tastes[0][:, : len(CATEGORIES)], axis=1).tolist()
    named = [
        (CATEGORIES[of], s["interest"])
        for of, s in zip(loved, stated, strict=True)
        if "interest" in s
    ]
    assert len(named) / len(stated) == pytest.approx(0.4, abs=0.03)
    right = sum(of == said for of, said in named) / len(named)
    assert right == pytest.approx(0.7 + 0.3 / 8, abs=0.05)
    # An age band says something of a taste, and far from all.
    typical = {
        category: max(
            np.mean([s["age_band"] == band for s, of in zip(stated, loved, strict=True) if of == n])
            for band in AGE_BANDS
        )
        for n, category in enumerate(CATEGORIES)
    }
    assert all(share == pytest.approx(0.5 + 0.5 / 4, abs=0.1) for share in typical.values())


def test_only_those_who_consent_state_anything_and_right_after() -> None:
    shop = Shop(1, shoppers=1_000, contents=30, days=1)
    events = shop.play("x").start()
    joined = People(shop).joined(events)
    assert [e for e in joined if e["type"] != "profile_updated"] == events
    granted = 0
    for event, after in pairwise(joined):
        stated = after["type"] == "profile_updated"
        consents = event["type"] == "consent_changed" and event["consent"]["personalization"]
        assert stated == consents
        if stated:
            granted += 1
            assert after["user_id"] == event["user_id"]
            assert after["occurred_at"] > event["occurred_at"]
    assert granted > 10
    assert any(
        e["type"] == "consent_changed" and not e["consent"]["personalization"] for e in events
    )


def test_every_step_meets_the_same_shoppers_and_loses_no_event(climbed: Climbed) -> None:
    assert climbed.unaccounted == 0
    assert climbed.events > 1_000
    for shop in climbed.sums:
        assert shop.shape == (len(STEPS), TINY.shoppers, len(COLUMNS))
        for column in ("pages", "visits"):
            of_steps = shop[:, :, COLUMNS.index(column)]
            assert (of_steps == of_steps[0]).all()
            assert of_steps[0].sum() > 10
        # The steps are not the same policy under four names.
        assert len({step.tobytes() for step in shop}) == len(STEPS)


def test_the_reward_is_what_the_policy_says(climbed: Climbed) -> None:
    for shop in climbed.sums:
        clicks, purchases, reward = (
            shop[:, :, COLUMNS.index(name)] for name in ("clicks", "purchases", "reward")
        )
        assert clicks.sum() > 0
        assert (reward == clicks + 5 * purchases).all()


def test_complexity_costs(climbed: Climbed) -> None:
    held = [cost.profile_bytes for cost in climbed.costs]
    assert held == sorted(held)
    assert held[0] < held[-1]
    assert all(cost.us_per_event > 0 for cost in climbed.costs)


def test_a_lift_is_exact_where_every_shopper_has_it() -> None:
    base = np.arange(1.0, 51.0)
    sample = Sample([sums_of([base, 1.1 * base]), sums_of([base, 1.1 * base])], draws=200)
    lift = sample.lift(CTR, 1, 0)
    assert (lift.value, lift.low, lift.high) == pytest.approx((0.1, 0.1, 0.1))
    assert lift.by_seed == pytest.approx((0.1, 0.1))
    nothing = sample.lift(CTR, 0, 0)
    assert (nothing.value, nothing.low, nothing.high) == (0.0, 0.0, 0.0)
    assert not nothing.shown


def test_an_interval_is_as_wide_as_theory_says_and_narrower_for_the_pairs() -> None:
    generator = np.random.default_rng(5)
    base = generator.gamma(2.0, 5.0, 400)
    better = base + generator.normal(1.0, 2.0, 400)
    sample = Sample([sums_of([base, better])], draws=2_000)
    lift = sample.lift(CTR, 1, 0)
    assert lift.low < lift.value < lift.high
    assert lift.value == pytest.approx(better.sum() / base.sum() - 1.0)
    # The delta method for a ratio of sums of pairs.
    ratio = better.sum() / base.sum()
    error = np.std(better - ratio * base) / base.mean() / np.sqrt(400)
    assert lift.high - lift.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    unpaired = Sample([sums_of([base, better[::-1]])], draws=2_000).lift(CTR, 1, 0)
    assert unpaired.high - unpaired.low > 2 * (lift.high - lift.low)


def test_the_same_sums_give_the_same_intervals(climbed: Climbed) -> None:
    one, two = Sample(climbed.sums, draws=300), Sample(climbed.sums, draws=300)
    for measure in MEASURES:
        assert one.value(measure, 1) == two.value(measure, 1)
        own = one.value(measure, 3)
        assert own.low <= own.value <= own.high


def test_a_step_that_was_not_shown_to_pay_is_not_stood_on() -> None:
    base = np.full(100, 10.0)
    sample = Sample([sums_of([base, 1.2 * base, 1.1 * base, 1.3 * base])], draws=100)
    found = verdicts(sample, REWARD, steps=4)
    assert [(v.step, v.over, v.pays) for v in found] == [(1, 0, True), (2, 1, False), (3, 1, True)]
    assert least_that_pays(found) == 3
    flat = Sample([sums_of([base] * 4)], draws=100)
    assert least_that_pays(verdicts(flat, REWARD, steps=4)) == 0


def test_a_measure_that_nobody_has_is_nowhere_a_number() -> None:
    tale = told_of(sums_of([np.zeros(20)] * 4))
    figures = orjson.loads(orjson.dumps(words.record(tale)))
    assert figures["steps"][3]["over_baseline"]["ctr"]["value"] is None
    assert figures["verdict"]["least_that_pays"] == "popular"
    assert "no step was shown to pay" in words.conclusion(tale)
    assert "nan" not in render_page(tale)


def test_the_page_says_what_the_figures_say(climbed: Climbed) -> None:
    tale = words.told(climbed, draws=300)
    page = render_page(tale)
    assert page == render_page(tale)
    assert page.count("<svg") == len(MEASURES)
    assert "<script" not in page
    assert "http" not in page
    for said in tale.verdicts:
        assert words.between(said.lift) in page
    for text in ("static segments", "dynamic segments", "real-time decisions"):
        assert text in page


def test_a_loss_is_called_a_loss() -> None:
    worse = Verdict(2, 1, Lift(-0.1, -0.15, -0.05, (-0.1,)))
    assert words.verdict(worse) == (
        "dynamic segments earn less than static segments: −10.0 % [−15.0, −5.0]"
    )
    open_ = Verdict(2, 1, Lift(0.1, -0.15, 0.35, (0.1,)))
    assert "are not shown to pay over" in words.verdict(open_)


def test_the_command_gives_the_same_figures_from_processes_side_by_side(
    climbed: Climbed, tmp_path: Path
) -> None:
    asked = ["--seeds", "2", "--shoppers", str(TINY.shoppers), "--contents", str(TINY.contents)]
    asked += ["--days", str(TINY.days), "--workers", "2", "--out", str(tmp_path)]
    done = CliRunner().invoke(ladder, [*asked, "--measure", "ctr"], catch_exceptions=False)
    assert done.exit_code == 0
    figures = orjson.loads((tmp_path / "ladder.json").read_bytes())
    assert [step["name"] for step in figures["steps"]] == [step.name for step in STEPS]
    assert figures["verdict"]["says"] in done.output.replace("\n", " ")
    second = replace(climbed, size=replace(TINY, seeds=(2,)), sums=climbed.sums[1:])
    expected = orjson.loads(orjson.dumps(words.record(words.told(second, measure="ctr"))))
    del expected["events"], figures["events"]
    for step in (*figures["steps"], *expected["steps"]):
        assert step["cost"].pop("us_per_event") > 0
    assert figures == expected
    for step in STEPS:
        assert (tmp_path / f"{step.name}.yaml").read_text() == policy_text(step.name)
    assert (tmp_path / "ladder.html").read_text().startswith("<!doctype html>")


def test_seeds_are_whole_numbers() -> None:
    done = CliRunner().invoke(ladder, ["--seeds", "1,two"])
    assert done.exit_code == 2
    assert "expected whole numbers" in done.output
