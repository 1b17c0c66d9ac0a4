"""Does a threshold find where its members are worth it, within its bounds, and say why?"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.adaptive import (
    MODEL,
    Adaptive,
    Followed,
    Following,
    followed_leaves,
    followings,
    outcomes,
    thresholds,
)
from operators.parameters import decode_parameters
from operators.profile import Pending, PendingItem
from operators.shard_state import StateError
from schemas.audiences import ThresholdChange
from schemas.policy import Policy

T0 = 1_767_225_600_000
FOLLOW = {"signal": "views", "between": [2, 22], "reward": "click", "target": 0.1}


def policy(when: Any = None, **follow: Any) -> Policy:
    return Policy.model_validate(
        {
            "name": "p",
            "signals": {
                "views": {"kind": "count", "events": "view", "within": "7d"},
                "spent": {"kind": "sum", "events": "purchase", "within": "7d"},
            },
            "segments": {
                "keen": {
                    "when": when or {"signal": "views", "at_least": 18},
                    "follow": {**FOLLOW, **follow},
                }
            },
            "rewards": {"click": {"events": "click", "value": 1.0, "within": "1h"}},
            "placements": {"home": {"rewards": ["click"]}},
        }
    )


def machine(when: Any = None, **follow: Any) -> Adaptive:
    return Adaptive(followings(policy(when, **follow)), incarnation="life")


def grows(root: float, target: float = 0.1) -> Callable[[float], float]:
    """A reward rate that grows with the value and is `target` at `root`."""
    return lambda value: 2 * target / (1 + math.exp(-(value - root) / 3))


def lived(
    found: Adaptive,
    rate: Callable[[float], float],
    n: int,
    *,
    seed: int = 0,
    below: bool = False,
) -> Iterator[float]:
    """The threshold after each of n outcomes of profiles whose value is drawn over 0 .. 24."""
    rng = random.Random(seed)
    for i in range(n):
        threshold = found.threshold("keen")
        assert threshold is not None
        value = float(rng.randrange(25))
        member = value <= threshold if below else value >= threshold
        rewarded = rng.random() < rate(value)
        found.learn([Followed("keen", value, member, rewarded, T0 + i)])
        yield threshold


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("start", [2, 18])
def test_it_converges_to_where_the_rate_meets_the_target(start: int, seed: int) -> None:
    found = machine({"signal": "views", "at_least": start})
    path = list(lived(found, grows(10.0), 60_000, seed=seed))
    assert sum(path[-20_000:]) / 20_000 == pytest.approx(9.5, abs=1.6)
    assert all(2 <= threshold <= 22 for threshold in path)
    assert max(path[-20_000:]) - min(path[-20_000:]) < 5


def test_an_upper_threshold_moves_the_other_way() -> None:
    found = machine({"signal": "views", "at_most": 3}, bound="at_most")
    path = list(lived(found, lambda value: grows(10.0)(20 - value), 60_000, below=True))
    assert sum(path[-20_000:]) / 20_000 == pytest.approx(10.5, abs=1.6)


def test_a_root_that_moves_is_followed() -> None:
    found = machine()
    list(lived(found, grows(6.0), 60_000))
    before = found.threshold("keen")
    path = list(lived(found, grows(16.0), 120_000, seed=1))
    assert before == pytest.approx(5.5, abs=2)
    assert path[-1] == pytest.approx(15.5, abs=2)


@pytest.mark.parametrize(("rate", "bound"), [(0.9, 2.0), (0.0, 22.0)])
def test_where_no_threshold_meets_the_target_it_stays_at_a_bound(rate: float, bound: float) -> None:
    found = machine()
    path = list(lived(found, lambda _: rate, 40_000))
    assert path[-1] == bound


def test_without_a_target_members_are_held_to_the_rate_of_everybody() -> None:
    found = machine(target=None)
    path = list(lived(found, grows(12.0), 60_000))
    everybody = sum(map(grows(12.0), range(25))) / 25
    settled = sum(path[-20_000:]) / 20_000
    edge = [value for value in range(25) if settled <= value < settled + 2]
    assert sum(map(grows(12.0), edge)) / len(edge) == pytest.approx(everybody, rel=0.25)


@given(
    st.lists(
        st.tuples(st.none() | st.floats(-100, 100), st.booleans(), st.booleans()), max_size=400
    ),
    st.floats(0.01, 0.99),
    st.floats(0.001, 0.5),
)
def test_nothing_moves_it_out_of_its_bounds(
    seen: list[tuple[float | None, bool, bool]], target: float, step: float
) -> None:
    found = machine(target=target, step=step)
    _, changes = found.learn(Followed("keen", v, m, r, T0 + i) for i, (v, m, r) in enumerate(seen))
    at = 18.0
    for change in changes:
        assert change["threshold_from"] == at
        at = change["threshold_to"]
        assert 2 <= at <= 22
        assert abs(at - change["threshold_from"]) <= step * 20 * 1.001
    assert found.threshold("keen") == at


def outcome(value: float | None, *, member: bool = True, rewarded: bool = True) -> Followed:
    return Followed("keen", value, member, rewarded, T0)


@pytest.mark.parametrize(
    "one",
    [
        outcome(19.0, member=False),
        outcome(17.9),
        outcome(20.0),
        outcome(None),
        Followed("gone", 18.0, True, True, T0),
    ],
)
def test_only_members_just_inside_have_a_say(one: Followed) -> None:
    found = machine()
    assert found.learn([one] * 500) == (None, [])
    assert found.threshold("keen") == 18.0


def test_each_change_says_what_moved_it() -> None:
    found = machine()
    half = [outcome(18.0), outcome(18.0, rewarded=False)] * 50
    published, changes = found.learn(half)
    assert published is not None
    assert (published.model, published.heads) == (MODEL, ("keen",))
    told = ThresholdChange.model_validate(changes[0])
    assert (told.threshold_from, told.threshold_to) == (18.0, 17.0)
    assert told.because.model_dump() == {
        "reward": "click",
        "rate": 0.5,
        "target": 0.1,
        "examples": 100,
    }
    assert len(changes) == 1
    assert told.model_version == published.version


def test_a_rare_reward_waits_for_enough_outcomes() -> None:
    found = machine(target=0.01)
    assert found.learn([outcome(18.0, rewarded=False)] * 999) == (None, [])
    _, changes = found.learn([outcome(18.0, rewarded=False)])
    assert changes[0]["because"]["examples"] == 1_000


def test_what_decides_reads_the_published_value_within_todays_bounds() -> None:
    (following,) = followings(policy())
    published, changes = machine().learn([outcome(18.0)] * 100)
    assert published is not None
    same = decode_parameters(published.encoded)
    assert thresholds(same, [following]) == {"keen": changes[-1]["threshold_to"]}
    assert thresholds(None, [following]) == {"keen": 18.0}
    (narrower,) = followings(policy(between=[18.5, 19.5]))
    assert thresholds(published, [narrower]) == {"keen": 18.5}


@pytest.mark.parametrize("cut", [0, 1, 57, 100, 777, 5_999])
def test_stopping_and_going_on_changes_nothing(cut: int) -> None:
    rng = random.Random(3)
    seen = [
        outcome(rng.uniform(14, 22), member=rng.random() < 0.7, rewarded=rng.random() < 0.2)
        for _ in range(6_000)
    ]
    whole, stopped, resumed = (machine() for _ in range(3))
    _, changes = whole.learn(seen)
    _, first = stopped.learn(seen[:cut])
    kept = resumed.restore(stopped.snapshot())
    assert kept is not None
    assert kept.intercepts.tolist() == [stopped.threshold("keen")]
    _, rest = resumed.learn(seen[cut:])
    assert [dict(c, model_version="") for c in first + rest] == [
        dict(c, model_version="") for c in changes
    ]
    assert resumed.snapshot() == whole.snapshot()
    assert len(changes) > 3


def test_an_edited_policy_starts_at_what_it_declares() -> None:
    former = machine()
    former.learn([outcome(18.0)] * 200)
    kept = machine()
    kept.restore(former.snapshot())
    assert kept.threshold("keen") == former.threshold("keen") != 18.0
    edited = machine({"signal": "views", "at_least": 12})
    edited.restore(former.snapshot())
    assert edited.threshold("keen") == 12.0
    other = machine({"signal": "spent", "at_least": 18}, signal="spent")
    other.restore(former.snapshot())
    assert other.threshold("keen") == 18.0


@pytest.mark.parametrize("spoilt", [b"XXXX", b"NBTH\0\x63", b"NBTH\0\x01zzzz"])
def test_a_damaged_snapshot_is_refused(spoilt: bytes) -> None:
    good = machine().snapshot()
    with pytest.raises(StateError):
        machine().restore(spoilt + good[len(spoilt) :])
    with pytest.raises(StateError):
        machine().restore(good[:-1])


NESTED = {
    "all": [
        {"done": "view", "within": "7d"},
        {"any": [{"signal": "views", "at_least": 5}, {"signal": "spent", "at_least": 9}]},
    ]
}


def test_the_bound_is_found_wherever_it_stands() -> None:
    (following,) = followings(policy(NESTED))
    assert (following.declared, following.lowest, following.highest) == (5.0, 2.0, 22.0)
    assert following.band == 2.0


@pytest.mark.parametrize(
    "when",
    [
        {"signal": "views", "at_most": 5},
        {"signal": "spent", "at_least": 5},
        {"not": {"signal": "views", "at_least": 5}},
        {"all": [{"signal": "views", "at_least": 5}, {"signal": "views", "at_least": 7}]},
    ],
)
def test_a_bound_that_is_not_there_once_is_refused(when: Any) -> None:
    wrong = policy(when)
    assert len(followed_leaves(wrong.segments["keen"])) != 1
    with pytest.raises(ValueError, match="keen: expected one at_least of views"):
        followings(wrong)


def test_a_band_of_whole_numbers_is_never_empty() -> None:
    (count,) = followings(policy(between=[2, 6]))
    (amount,) = followings(
        policy({"signal": "spent", "at_least": 3}, signal="spent", between=[2, 6])
    )
    assert (count.band, amount.band) == (1.0, 0.4)


def closed(
    *, shown: bool = True, variant: str | None = None, rewards: tuple[str, ...] = ()
) -> Pending:
    items = [
        PendingItem("c1", 1, 0.5, T0 if shown else 0),
        PendingItem("c2", 2, 0.5, 0, dict.fromkeys(rewards, 1.0)),
    ]
    return Pending("000-d", "home", T0, T0 + 1_000, True, variant, 0.25, b"", items)


def test_a_closed_decision_says_where_its_profile_stood() -> None:
    following = followings(policy())
    stood = {"keen": (19.0, True), "gone": (1.0, True)}
    assert outcomes(following, closed(), stood) == [Followed("keen", 19.0, True, False, T0 + 1_000)]
    assert outcomes(following, closed(rewards=("click", "buy")), stood)[0].rewarded
    assert not outcomes(following, closed(rewards=("buy",)), stood)[0].rewarded
    assert outcomes(following, closed(), {}) == []


def test_what_was_not_shown_or_not_personalised_says_nothing() -> None:
    following: tuple[Following, ...] = followings(policy())
    stood: dict[str, tuple[float | None, bool]] = {"keen": (19.0, True)}
    assert outcomes(following, closed(shown=False), stood) == []
    assert outcomes(following, closed(variant="holdout"), stood) == []
