"""Are profiles given to variants as declared: exclusively, in proportion, for good?"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from operators.conditions import Compiler
from operators.experiments import Assigned, Earned, compile_tests, shares_of
from operators.experiments import Tests as Compiled
from operators.moment import Moment
from operators.profile import Profile
from operators.signals import compile_signals
from schemas.experiments import Experiments, Promotion
from schemas.policy import Policy
from tests.operators.builders import T0

PEOPLE = [f"p{n}" for n in range(4_000)]
AB: dict[str, Any] = {"a": {}, "b": {}}
DAY = 86_400_000


def _policy(tests: dict[str, Any], **more: Any) -> Policy:
    return Policy.model_validate(
        {
            "name": "test",
            "signals": {"visits": {"kind": "count", "events": "view", "within": "7d"}},
            "rewards": {"click": {"events": "click", "value": 1, "within": "30m"}},
            "placements": {
                "home": {"rewards": ["click"]},
                "cart": {"rewards": ["click"]},
                "legal": {"never_personalised": True},
            },
            "experiments": {"tests": tests, **more},
        }
    )


def _tests(tests: dict[str, Any], **more: Any) -> Compiled:
    policy = _policy(tests, **more)
    return compile_tests(policy, Compiler(compile_signals(policy.signals, sensitive_tags=())))


def _assign(
    tests: Compiled,
    person: str,
    *,
    at: int = T0,
    placement: str = "home",
    context: dict[str, Any] | None = None,
    shares: dict[str, dict[str, float]] | None = None,
) -> list[Assigned]:
    moment = Moment(at, context or {})
    return tests.assign(Profile(person, first_ms=T0, now_ms=T0), moment, placement, shares or {})


def _by_test(tests: Compiled, **asked: Any) -> dict[str, dict[str, str]]:
    """Test, then person, to variant."""
    found: dict[str, dict[str, str]] = {}
    for person in PEOPLE:
        for assigned in _assign(tests, person, **asked):
            found.setdefault(assigned.test, {})[person] = assigned.variant
    return found


def _chi_square(observed: list[float], expected: list[float]) -> float:
    return sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))


def _near(count: int, share: float, of: int) -> bool:
    return abs(count - share * of) < 4 * math.sqrt(of * share * (1 - share)) + 1


# --- shares and layers ----------------------------------------------------------------------------


@given(
    st.lists(st.floats(0.05, 1.0), min_size=1, max_size=6),
    st.lists(st.floats(0.2, 5.0), min_size=2, max_size=4),
)
@settings(max_examples=15, deadline=None)
def test_shares_and_weights_are_kept_and_nobody_is_in_two_tests_of_a_layer(
    wishes: list[float], weights: list[float]
) -> None:
    total = max(1.0, sum(wishes) * 1.0001)
    variants = {f"v{n}": {"weight": weight} for n, weight in enumerate(weights)}
    declared = {
        f"t{n}": {"share": wish / total, "variants": variants} for n, wish in enumerate(wishes)
    }
    tests = _tests(declared)
    assert all(len(_assign(tests, person)) <= 1 for person in PEOPLE)
    found = _by_test(tests)
    for name, test in declared.items():
        given_out = found.get(name, {})
        assert _near(len(given_out), float(str(test["share"])), len(PEOPLE))
        counts = Counter(given_out.values())
        for n, weight in enumerate(weights):
            assert _near(counts[f"v{n}"], weight / sum(weights), len(given_out))


def test_layers_are_independent_of_each_other() -> None:
    tests = _tests(
        {
            "one": {"variants": {"a": {}, "b": {}, "c": {"weight": 2}}},
            "two": {"layer": "looks", "share": 0.5, "variants": AB},
            "three": {"layer": "looks", "share": 0.5, "variants": AB},
        }
    )
    found = _by_test(tests)
    crossed: Counter[tuple[str, str]] = Counter()
    for person, variant in found["one"].items():
        (other,) = (f"{t}.{found[t][person]}" for t in ("two", "three") if person in found[t])
        crossed[variant, other] += 1
    rows = Counter(variant for variant, _ in crossed.elements())
    columns = Counter(other for _, other in crossed.elements())
    cells = list(itertools.product(rows, columns))
    surprise = _chi_square(
        [crossed[cell] for cell in cells],
        [rows[v] * columns[o] / len(PEOPLE) for v, o in cells],
    )
    assert len(cells) == 12
    assert surprise < 22.5  # the 0.999 quantile of chi-square with 6 degrees of freedom


def test_two_tests_with_the_same_variants_split_people_differently() -> None:
    found = _by_test(_tests({"one": {"variants": AB}, "two": {"layer": "other", "variants": AB}}))
    same = sum(found["one"][person] == found["two"][person] for person in PEOPLE)
    assert _near(same, 0.5, len(PEOPLE))


@given(st.integers(0, 10**6), st.integers(0, 10**10))
def test_a_person_stays_in_the_variant(number: int, later: int) -> None:
    tests = _tests({"one": {"share": 0.7, "variants": AB}})
    first = _assign(tests, f"p{number}")
    assert _assign(tests, f"p{number}", at=T0 + later, placement="cart") == first
    again = _tests({"one": {"share": 0.7, "variants": AB}})
    assert _assign(again, f"p{number}") == first


@given(st.lists(st.floats(0.05, 0.2), min_size=1, max_size=4), st.floats(0.01, 0.2))
@settings(max_examples=10, deadline=None)
def test_another_test_moves_nobody(shares: list[float], more: float) -> None:
    declared = {f"t{n}": {"share": share, "variants": AB} for n, share in enumerate(shares)}
    before = _by_test(_tests(declared))
    extended = _by_test(_tests({**declared, "last": {"share": more, "variants": AB}}))
    crossed = _by_test(_tests({"first": {"layer": "other", "variants": AB}, **declared}))
    for name, people in before.items():
        assert extended[name] == people
        assert crossed[name] == people


def test_an_offset_holds_a_test_in_its_place_while_others_go() -> None:
    both = {
        "old": {"share": 0.3, "variants": AB},
        "kept": {"share": 0.3, "offset": 0.3, "variants": AB},
    }
    before = _by_test(_tests(both))
    after = _by_test(_tests({"kept": both["kept"]}))
    assert after["kept"] == before["kept"]


def test_a_part_of_a_layer_may_be_used_again_when_its_test_is_over() -> None:
    tests = _tests(
        {
            "old": {"share": 1, "valid_until": "2026-02-01T00:00:00Z", "variants": AB},
            "new": {
                "share": 1,
                "offset": 0,
                "valid_from": "2026-02-01T00:00:00Z",
                "variants": AB,
            },
        }
    )
    old, new = _by_test(tests), _by_test(tests, at=T0 + 40 * DAY)
    assert (list(old), list(new)) == (["old"], ["new"])
    moved = sum(old["old"][person] != new["new"][person] for person in PEOPLE)
    assert _near(moved, 0.5, len(PEOPLE))


@pytest.mark.parametrize(
    ("tests", "said"),
    [
        (
            {"a": {"share": 0.6, "variants": AB}, "b": {"share": 0.5, "variants": AB}},
            "ask for more",
        ),
        ({"a": {"share": 0.6, "offset": 0.5, "variants": AB}}, "ask for more"),
        (
            {
                "a": {"share": 0.6, "variants": AB},
                "b": {"share": 0.3, "offset": 0.5, "variants": AB},
            },
            "overlap",
        ),
    ],
)
def test_parts_of_a_layer_do_not_overlap(tests: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Experiments.model_validate({"tests": tests})
    apart = {name: {**test, "layer": f"layer_{name}"} for name, test in tests.items()}
    if said == "overlap":
        Experiments.model_validate({"tests": apart})


# --- who takes part -------------------------------------------------------------------------------


def test_the_holdout_is_in_no_test() -> None:
    tests = _tests({"one": {"variants": AB}}, holdout={"share": 0.3, "salt": "s"})
    found = _by_test(tests)["one"]
    held = {person for person in PEOPLE if tests.held(person)}
    assert _near(len(held), 0.3, len(PEOPLE))
    assert held.isdisjoint(found)
    assert len(held) + len(found) == len(PEOPLE)
    # And those who are left fall to the variants as before.
    assert found.items() <= _by_test(_tests({"one": {"variants": AB}}))["one"].items()


def test_a_test_is_about_its_placements_times_and_people() -> None:
    tests = _tests(
        {
            "one": {
                "placements": ["home", "legal"],
                "when": {"context": "device", "is": "phone"},
                "valid_from": "2026-01-02T00:00:00Z",
                "valid_until": "2026-01-03T00:00:00Z",
                "variants": AB,
            }
        }
    )
    phone, in_time = {"device": "phone"}, T0 + DAY
    assert len(_assign(tests, "p1", at=in_time, context=phone)) == 1
    assert len(_assign(tests, "p1", at=in_time + DAY - 1, context=phone)) == 1
    assert _assign(tests, "p1", at=in_time - 1, context=phone) == []
    assert _assign(tests, "p1", at=in_time + DAY, context=phone) == []
    assert _assign(tests, "p1", at=in_time, context={"device": "tv"}) == []
    assert _assign(tests, "p1", at=in_time) == []  # unknown does not hold
    assert _assign(tests, "p1", at=in_time, context=phone, placement="cart") == []
    assert _assign(tests, "p1", at=in_time, context=phone, placement="legal") == []


def test_a_test_of_all_placements_leaves_alone_what_is_never_personalised() -> None:
    tests = _tests({"one": {"variants": AB}})
    assert len(_assign(tests, "p1", placement="cart")) == 1
    assert _assign(tests, "p1", placement="legal") == []


def test_who_a_condition_leaves_out_is_in_no_other_test_instead() -> None:
    """Else the other test would get all of those, and its arms would be of other people."""
    tests = _tests(
        {
            "one": {
                "share": 0.5,
                "when": {"context": "device", "is": "phone"},
                "variants": AB,
            },
            "two": {"share": 0.5, "variants": AB},
        }
    )
    found = _by_test(tests)
    assert list(found) == ["two"]
    assert _near(len(found["two"]), 0.5, len(PEOPLE))


def test_what_is_assigned_tells_the_variant_its_share_and_its_changes() -> None:
    tests = _tests(
        {
            "one": {
                "layer": "looks",
                "variants": {"a": {"weight": 3}, "b": {"changes": {"slots": 2}}},
            }
        }
    )
    said = {_assign(tests, person)[0] for person in PEOPLE[:50]}
    assert {(a.test, a.layer, a.variant, a.share, a.changes.slots) for a in said} == {
        ("one", "looks", "a", 0.75, None),
        ("one", "looks", "b", 0.25, 2),
    }


# --- shares that move -----------------------------------------------------------------------------

PROMOTED = {
    "one": {
        "variants": {"a": {}, "b": {}, "c": {}},
        "promote": {"reward": "click", "after": 100},
    }
}


def test_moving_shares_move_only_those_between_the_cuts() -> None:
    tests = _tests(PROMOTED)
    before = _by_test(tests, shares={"one": {"a": 0.3, "b": 0.3, "c": 0.4}})["one"]
    after = _by_test(tests, shares={"one": {"a": 0.3, "b": 0.5, "c": 0.2}})["one"]
    moved = {(before[p], after[p]) for p in PEOPLE if before[p] != after[p]}
    assert moved == {("c", "b")}
    assert _near(sum(before[p] != after[p] for p in PEOPLE), 0.2, len(PEOPLE))
    (assigned,) = _assign(tests, "p1", shares={"one": {"a": 0.3, "b": 0.5, "c": 0.2}})
    assert assigned.share == {"a": 0.3, "b": 0.5, "c": 0.2}[assigned.variant]


@pytest.mark.parametrize(
    "shares",
    [
        {},
        {"two": {"a": 1.0}},
        {"one": {"a": 0.5, "b": 0.5}},
        {"one": {"a": 0.5, "b": 0.5, "c": 0.0}},
        {"one": {"a": math.nan, "b": 0.5, "c": 0.5}},
    ],
)
def test_shares_that_are_not_whole_do_not_count(shares: dict[str, dict[str, float]]) -> None:
    tests = _tests(PROMOTED)
    assert _by_test(tests, shares=shares) == _by_test(tests)
    assert _assign(tests, "p1", shares=shares)[0].share == pytest.approx(1 / 3)


def test_shares_of_a_test_that_does_not_promote_do_not_count() -> None:
    tests = _tests({"one": {"variants": AB}})
    pushed = {"one": {"a": 0.9, "b": 0.1}}
    assert _by_test(tests, shares=pushed) == _by_test(tests)


def _earned(decisions: int, rewards: int) -> Earned:
    return Earned(float(decisions), float(rewards), float(rewards))


def test_shares_stay_until_every_variant_has_its_decisions() -> None:
    promotion = Promotion(reward="click", after=500, floor=0.1)
    weights = {"a": 3.0, "b": 1.0}
    still = {"a": 0.75, "b": 0.25}
    assert shares_of({}, promotion, weights) == still
    assert shares_of({"a": _earned(9_000, 0)}, promotion, weights) == still
    early = {"a": _earned(9_000, 90), "b": _earned(499, 400)}
    assert shares_of(early, promotion, weights) == still
    assert shares_of({**early, "b": _earned(500, 400)}, promotion, weights)["b"] == 0.9
    nothing = {"a": _earned(9_000, 0), "b": _earned(9_000, 0)}
    assert shares_of(nothing, promotion, weights) == still


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 1)), min_size=2, max_size=6),
    st.floats(0, 0.5),
)
def test_shares_sum_to_1_and_keep_the_floor(arms: list[tuple[int, float]], floor: float) -> None:
    weights = {f"v{n}": 1.0 for n in range(len(arms))}
    stats = {f"v{n}": _earned(d, round(d * rate)) for n, (d, rate) in enumerate(arms)}
    shares = shares_of(stats, Promotion(reward="click", floor=floor, after=1), weights)
    assert list(shares) == list(weights)
    assert math.fsum(shares.values()) == pytest.approx(1.0)
    # Where the floors alone fill the whole, rounding takes a step or two of them.
    full = floor * len(arms) > 0.97
    assert min(shares.values()) >= min(floor, 1 / len(arms)) - (0.003 if full else 0.0)
    assert min(shares.values()) > 0


def test_alike_variants_share_alike_and_a_surer_lead_gets_more() -> None:
    promotion = Promotion(reward="click", floor=0.0, after=1)
    even = shares_of(
        {"a": _earned(900, 90), "b": _earned(900, 90)}, promotion, dict.fromkeys("ab", 1)
    )
    assert even == {"a": 0.5, "b": 0.5}
    three = shares_of({v: _earned(900, 90) for v in "abc"}, promotion, dict.fromkeys("abc", 1.0))
    assert max(three.values()) - min(three.values()) <= 0.0015
    leads = [
        shares_of(
            {"a": _earned(n, n // 10), "b": _earned(n, n // 8)}, promotion, dict.fromkeys("ab", 1.0)
        )["b"]
        for n in (80, 800, 8_000)
    ]
    assert leads == sorted(leads)
    assert leads[-1] > 0.99


@pytest.mark.parametrize("scale", [1.0, 1e6, 1e-6])
def test_a_closed_form_agrees(scale: float) -> None:
    """Two variants: the chance that the one is better is a normal probability."""
    stats = {
        "a": Earned(1_000, 100 * scale, 100 * scale**2),
        "b": Earned(1_000, 120 * scale, 120 * scale**2),
    }
    shares = shares_of(stats, Promotion(reward="click", floor=0.0, after=1), {"a": 1, "b": 1})
    error = math.sqrt((0.1 * 0.9 + 0.12 * 0.88) / 1_000)
    expected = 0.5 * math.erfc(-0.02 / error / math.sqrt(2))
    assert shares["b"] == pytest.approx(expected, abs=0.002)


def test_a_bandit_between_variants_finds_the_better_one() -> None:
    rates = {"a": 0.08, "b": 0.10, "c": 0.14}
    tests = _tests({"one": {**PROMOTED["one"], "promote": {"reward": "click", "floor": 0.05}}})
    promotion = Promotion(reward="click", floor=0.05)
    weights = dict.fromkeys(rates, 1.0)
    stats = dict.fromkeys(rates, Earned())
    given_out: Counter[str] = Counter()
    shares: dict[str, float] = {}
    for visit in range(4):
        for n in range(3_000):
            if n % 100 == 0:
                shares = shares_of(stats, promotion, weights)
            (assigned,) = _assign(tests, f"q{n}", shares={"one": shares})
            variant = assigned.variant
            given_out[variant] += visit == 3
            clicked = ((n * 7919 + visit * 104_729) % 10_007) / 10_007 < rates[variant]
            stats[variant] = stats[variant].plus(float(clicked))
    assert given_out["c"] / 3_000 > 0.8
    assert min(given_out["a"], given_out["b"]) / 3_000 > 0.03


def test_rewards_that_come_later_are_of_the_same_decision() -> None:
    earned = Earned().plus(0.0).plus(2.0, decisions=0.0)
    assert earned == Earned(1.0, 2.0, 4.0)
