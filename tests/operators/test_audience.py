"""Are groups of alike profiles found, named, described and kept, whatever starts and stops?"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from math import comb
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.audience import (
    Centres,
    Sampled,
    assign,
    compared,
    look,
    sample,
    scaled,
    to_centres,
    unscaled,
)
from operators.clusters import cost, seeded
from operators.discover import SEED_AFTER, Discover
from operators.parameters import ParameterSet, decode_parameters
from operators.profile import Profile
from operators.shard_state import StateError
from schemas.audiences import AudienceReport, Audiences
from schemas.policy import Policy
from schemas.time import DAY

T0 = 1_767_225_600_000
NAMES = ("views", "carts", "spent")
GROUPS = {"window": (30.0, 0.0, 0.0), "basket": (20.0, 8.0, 0.0), "buyer": (4.0, 3.0, 250.0)}
SHARES = (0.6, 0.3, 0.1)


def policy(**signals: dict[str, Any]) -> Policy:
    declared = signals or {
        "views": {"kind": "count", "events": "view", "within": "7d"},
        "carts": {"kind": "count", "events": "cart", "within": "7d"},
        "spent": {"kind": "sum", "events": "purchase", "within": "90d"},
        "taste": {"kind": "affinity", "weights": {"view": 1.0}},
        "seen": {"kind": "last", "events": "view"},
    }
    return Policy.model_validate({"name": "p", "signals": declared, "placements": {"home": {}}})


def looks(
    seed: int, n: int, groups: Mapping[str, tuple[float, ...]] | None = None, at: int = 0
) -> Iterator[tuple[str, Sampled]]:
    """Looks at profiles of known groups, with noise, in the order of the log."""
    rng = random.Random(seed)
    kinds = groups or GROUPS
    for i in range(at, at + n):
        kind = rng.choices(list(kinds), SHARES[: len(kinds)])[0]
        numbers = [max(0.0, value * rng.lognormvariate(0, 0.25)) for value in kinds[kind]]
        yield kind, Sampled(tuple(map(scaled, numbers)), T0 + i * 1_000)


def agreement(a: list[Any], b: list[Any]) -> float:
    """The adjusted Rand index of two groupings: 1 the same, 0 by chance."""
    both = sum(comb(n, 2) for n in Counter(zip(a, b, strict=True)).values())
    of_a = sum(comb(n, 2) for n in Counter(a).values())
    of_b = sum(comb(n, 2) for n in Counter(b).values())
    chance = of_a * of_b / comb(len(a), 2)
    return (both - chance) / ((of_a + of_b) / 2 - chance)


def machine(**options: Any) -> Discover:
    settings = {"clusters": 3, "report_every": 250, "memory": 500, **options}
    return Discover(policy(), Audiences.model_validate(settings), incarnation="life")


def centres_of(published: ParameterSet | None) -> Centres:
    found = to_centres(published, NAMES)
    assert found is not None
    return found


def test_only_signals_that_are_one_comparable_number_are_compared() -> None:
    assert compared(policy(), None) == NAMES
    assert compared(policy(), ("spent", "views", "taste")) == ("views", "spent")


@given(st.floats(-1e12, 1e12))
def test_the_scale_keeps_order_and_comes_back(value: float) -> None:
    assert unscaled(scaled(value)) == pytest.approx(value, rel=1e-9, abs=1e-9)
    assert scaled(value) <= scaled(value + 1.0)


class Constant:
    """A signal that has one value whatever the state."""

    def __init__(self, number: float | str | None) -> None:
        self.number = number

    def value(self, _signals: Any, _now_ms: int, /) -> float | str | None:
        return self.number


def test_a_profile_is_looked_at_once_per_period_and_not_by_late_events() -> None:
    profile = Profile("u1", T0, T0)
    signals = [Constant(1.0), Constant(None), Constant(float("inf"))]

    def at(now: int) -> Sampled | None:
        return look(profile, signals, every_ms=DAY, now_ms=now)

    assert at(T0) == Sampled((scaled(1.0), 0.0, 0.0), T0)
    assert at(T0 - DAY) is None
    assert at(T0 + DAY - 1) is None
    assert at(T0 + DAY) is not None
    assert len(profile.sampled) == 1
    assert look(Profile("u2", T0, T0), [], every_ms=DAY, now_ms=T0) is None
    assert sample(signals, {}, T0) == (scaled(1.0), 0.0, 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_known_groups_are_found_again(seed: int) -> None:
    found = machine()
    published, report = found.learn(one for _, one in looks(seed, 1_500))
    centres = centres_of(published)
    truth, told = zip(
        *[(k, assign(s.vector, centres)) for k, s in looks(seed + 100, 500)], strict=True
    )
    assert agreement(list(truth), list(told)) > 0.95
    assert report is not None
    assert report["quality"] > 0.8


def test_a_report_says_how_large_a_group_is_and_what_is_special_about_it() -> None:
    _, record = machine(smallest=5).learn(one for _, one in looks(1, 1_500))
    report = AudienceReport.model_validate(record)
    assert [one.share for one in report.audiences] == pytest.approx(SHARES, abs=0.06)
    assert sum(one.profiles for one in report.audiences) == report.of == 500
    buyers = report.audiences[-1]
    assert buyers.traits[0].signal == "spent"
    assert buyers.traits[0].deviations > 2
    assert buyers.centre["spent"] == pytest.approx(250, rel=0.2)
    assert buyers.centre["views"] == pytest.approx(4, rel=0.2)
    assert buyers.description.startswith("spent high (")
    assert "views low (" in buyers.description


def test_a_group_of_few_people_is_not_described() -> None:
    _, record = machine(smallest=100).learn(one for _, one in looks(1, 1_500))
    report = AudienceReport.model_validate(record)
    small = [one for one in report.audiences if one.profiles < 100]
    assert len(small) == 1
    assert (small[0].traits, small[0].centre) == ([], {})
    assert small[0].description == "fewer than 100 profiles: not described"
    assert all(one.traits for one in report.audiences if one.profiles >= 100)


def test_an_audience_keeps_its_name_while_its_behaviour_moves_slowly() -> None:
    found = machine()
    first = centres_of(found.learn(one for _, one in looks(3, 500))[0])
    member = tuple(map(scaled, GROUPS["buyer"]))
    name = assign(member, first)
    for step in range(1, 11):
        moved = {**GROUPS, "buyer": (4.0 + step, 3.0, 250.0 + 40 * step)}
        published, _ = found.learn(one for _, one in looks(3 + step, 500, moved, at=500 * step))
        now = centres_of(published)
        assert assign(tuple(map(scaled, moved["buyer"])), now) == name
    assert now.ids == first.ids


def test_an_audience_that_appears_gets_a_name_never_used_before() -> None:
    found = machine()
    first = centres_of(found.learn(one for _, one in looks(5, 500))[0])
    changed = {"window": GROUPS["window"], "basket": GROUPS["basket"], "fan": (400.0, 90.0, 0.0)}
    after = centres_of(found.learn(one for _, one in looks(6, 2_000, changed, at=500))[0])
    fan = assign(tuple(map(scaled, changed["fan"])), after)
    assert fan not in first.ids
    assert len(set(after.ids) & set(first.ids)) == 2


def test_fewer_groups_than_asked_for_where_more_would_explain_nothing() -> None:
    points = [Sampled((1.0, float(i % 2), 0.0), T0 + i) for i in range(300)]
    published, report = machine(clusters=6).learn(points)
    assert len(centres_of(published).ids) == 2
    assert report is not None
    assert report["quality"] == pytest.approx(1.0)


def test_identical_profiles_are_one_group_without_a_trait() -> None:
    points = [Sampled((1.0, 2.0, 3.0), T0 + i) for i in range(300)]
    _, report = machine().learn(points)
    assert report is not None
    assert [one["description"] for one in report["audiences"]] == ["close to the average"]


def test_the_same_looks_in_any_batches_give_the_same_audiences() -> None:
    given_looks = [one for _, one in looks(7, 1_000)]
    whole, parts = machine(), machine()
    published, report = whole.learn(given_looks)
    for start in range(0, 1_000, 125):
        again, same = parts.learn(given_looks[start : start + 125])
    assert published is not None
    assert again is not None
    assert (published.encoded, report) == (again.encoded, same)


@pytest.mark.parametrize("cut", [0, 1, SEED_AFTER - 1, SEED_AFTER, 377, 500, 749])
def test_stopping_and_going_on_changes_nothing(cut: int) -> None:
    given_looks = [one for _, one in looks(8, 750)]
    whole = machine()
    published, report = whole.learn(given_looks)
    stopped = machine()
    stopped.learn(given_looks[:cut])
    resumed = machine()
    kept = resumed.restore(stopped.snapshot())
    assert (kept is None) == (cut < SEED_AFTER)
    again, same = resumed.learn(given_looks[cut:])
    assert published is not None
    assert again is not None
    assert again.digest == published.digest
    assert same is not None
    assert report is not None
    assert same["audiences"] == report["audiences"]
    assert resumed.snapshot() == whole.snapshot()


def test_what_is_published_survives_the_wire() -> None:
    published, _ = machine().learn(one for _, one in looks(9, 500))
    assert published is not None
    there, back = centres_of(published), centres_of(decode_parameters(published.encoded))
    assert there.ids == back.ids
    assert (there.centres == back.centres).all()
    assert to_centres(published, ("views", "spent")) is None
    assert to_centres(None, NAMES) is None


def test_other_signals_start_anew_but_reuse_no_name() -> None:
    former = machine()
    ids = centres_of(former.learn(one for _, one in looks(10, 500))[0]).ids
    fewer = Discover(policy(), Audiences(signals=("views", "spent")), incarnation="next")
    assert fewer.restore(former.snapshot()) is None
    published, _ = fewer.learn(Sampled(one.vector[:2], one.at_ms) for _, one in looks(11, 500))
    now = to_centres(published, ("views", "spent"))
    assert now is not None
    assert set(now.ids).isdisjoint(ids)


def test_fewer_clusters_are_placed_anew_from_what_is_remembered() -> None:
    former = machine()
    former.learn(one for _, one in looks(12, 500))
    fewer = machine(clusters=2)
    assert len(centres_of(fewer.restore(former.snapshot())).ids) == 2


def test_looks_taken_under_another_policy_are_left_out() -> None:
    found = machine()
    found.learn([Sampled((1.0,), T0)])
    assert found.snapshot() == machine().snapshot()


def test_state_is_bounded_however_many_are_looked_at() -> None:
    found = machine(memory=200)
    found.learn(one for _, one in looks(13, 1_000))
    size = len(found.snapshot())
    found.learn(one for _, one in looks(14, 2_000, at=1_000))
    assert len(found.snapshot()) <= size + 64


@pytest.mark.parametrize("spoilt", ["magic", "version", "body", "cut"])
def test_a_damaged_snapshot_is_refused(spoilt: str) -> None:
    found = machine()
    found.learn(one for _, one in looks(15, 300))
    good = found.snapshot()
    bad = {
        "magic": b"XXXX" + good[4:],
        "version": good[:4] + b"\0\x63" + good[6:],
        "body": good[:40] + bytes([good[40] ^ 1]) + good[41:],
        "cut": good[:-1],
    }[spoilt]
    with pytest.raises(StateError):
        machine().restore(bad)


def test_seeding_never_raises_the_cost() -> None:
    points = np.array([one.vector for _, one in looks(16, 400)])
    costs = [cost(points, seeded(points, most=k)) for k in range(1, 6)]
    assert all(after <= before for before, after in pairwise(costs))
