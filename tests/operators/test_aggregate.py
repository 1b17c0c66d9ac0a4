"""Does everybody's behaviour reach decisions: soft caps, what is popular, shares of variants?"""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.aggregate import LISTED, PUBLISH_EVERY, Aggregator, Seen
from operators.aggregate_asked import asked_of_everybody, popular_placements
from operators.aggregate_view import MODEL, AggregateView
from operators.aggregate_windows import SLICES
from operators.parameters import ParameterSet, decode_parameters
from operators.plan import Plan
from operators.shard_state import StateError
from schemas.time import DAY, HOUR, MINUTE, SECOND
from tests.operators.builders import T0, content, contents, plan, policy

CAP = {"max": 10, "within": "1h", "over": "everybody"}
TEST = {
    "variants": {"control": {}, "bold": {}},
    "promote": {"reward": "click", "floor": 0.1, "after": 200},
}


def planned(*caps: dict[str, Any], number: int = 4, popular: bool = False, **top: Any) -> Plan:
    home = {"rewards": ["click"], "caps": list(caps), "fallback": {"popular": popular}}
    other = {"rewards": ["click"]}
    return plan(policy(placements={"home": home, "other": other}, **top), contents(number))


WHOLE = planned(
    CAP, {**CAP, "per": "tag", "max": 25}, popular=True, experiments={"tests": {"style": TEST}}
)


def aggregator(of: Plan) -> Aggregator:
    return Aggregator(of, incarnation="life")


def shown(content: str, at: int = T0, placement: str = "home") -> Seen:
    return Seen(placement, content, at)


def clicked(content: str, at: int = T0, value: float = 1.0) -> Seen:
    return Seen("home", content, at, "click", value)


def capped(view: AggregateView, of: Plan, at: int, placement: str = "home") -> list[str]:
    closed = view.at_cap(of.placements[placement].policy.caps, at)
    return [] if closed is None else [of.contents.ids[i] for i in np.flatnonzero(closed)]


def sent(published: ParameterSet | None, of: Plan) -> AggregateView:
    """The view of another process: through the bytes."""
    assert published is not None
    return AggregateView(decode_parameters(published.encoded), of)


# Soft caps


def test_a_content_at_its_cap_is_told_at_the_end_of_the_list_that_reached_it() -> None:
    of = planned(CAP)
    machine = aggregator(of)
    assert machine.take([shown("c1", T0 + i) for i in range(9)]) is None
    view = sent(machine.take([shown("c2"), shown("c1", T0 + 9)]), of)
    assert capped(view, of, T0 + MINUTE) == ["c1"]
    assert capped(view, of, T0 + MINUTE, "other") == []


def test_a_capped_content_opens_by_time_alone_though_nobody_sees_anything() -> None:
    of = planned(CAP)
    view = sent(aggregator(of).take([shown("c1", T0 + i) for i in range(10)]), of)
    assert capped(view, of, T0 + HOUR) == ["c1"]
    assert capped(view, of, T0 + HOUR + HOUR // 31) == []


def test_a_content_shown_all_the_same_stays_closed_for_longer_and_that_is_told() -> None:
    of = planned(CAP)
    machine = aggregator(of)
    machine.take([shown("c1", T0) for _ in range(10)])
    half = T0 + 30 * MINUTE
    assert machine.take([shown("c1", T0) for _ in range(3)]) is None  # that changes nothing
    view = sent(machine.take([shown("c1", half) for _ in range(10)]), of)
    assert capped(view, of, T0 + HOUR + 20 * MINUTE) == ["c1"]
    assert capped(view, of, half + HOUR + HOUR // 31) == []


def test_a_tag_at_its_cap_closes_all_its_contents() -> None:
    of = planned({**CAP, "per": "tag"})
    view = sent(aggregator(of).take([shown(f"c{1 + 2 * (i % 2)}") for i in range(10)]), of)
    assert capped(view, of, T0) == ["c1", "c3"]


def test_a_content_of_two_capped_tags_opens_with_the_later() -> None:
    both = content("both", tags=["early", "late"])
    home = {"rewards": ["click"], "caps": [{**CAP, "per": "tag", "max": 2}]}
    listed = [both, content("e", tags=["early"]), content("l", tags=["late"])]
    of = plan(policy(placements={"home": home}), listed)
    later = T0 + 30 * MINUTE
    for first, second in (("e", "l"), ("l", "e")):
        lines = [*[shown(first)] * 2, *[shown(second, later)] * 2]
        view = sent(aggregator(of).take(lines), of)
        assert capped(view, of, T0 + HOUR + 15 * MINUTE) == sorted(["both", second])


def test_impressions_count_wherever_they_were() -> None:
    of = planned(CAP)
    view = sent(aggregator(of).take([shown("c1", placement="other") for _ in range(10)]), of)
    assert capped(view, of, T0) == ["c1"]


def test_rewards_and_decisions_are_not_impressions() -> None:
    of = planned(CAP)
    machine = aggregator(of)
    assert machine.take([clicked("c1") for _ in range(10)]) is None
    assert machine.take([Seen("home", "", T0) for _ in range(10)]) is None


def test_before_the_first_set_and_without_caps_nothing_is_closed() -> None:
    of = planned({"max": 1, "within": "1h"}, {**CAP, "hard": True})
    assert capped(AggregateView(None, of), of, T0) == []
    view = AggregateView(aggregator(of).publish(), of)
    assert capped(view, of, T0) == []
    assert AggregateView(None, of).popular("home") == ()
    assert AggregateView(None, of).shares() == {}


def test_a_view_under_another_catalogue_goes_by_id() -> None:
    of = planned(CAP)
    published = aggregator(of).take([shown(c) for c in ("c2", "c4") for _ in range(10)])
    fewer = plan(of.policy, [c for c in contents(5) if c.content_id not in ("c1", "c2")])
    assert capped(sent(published, fewer), fewer, T0) == ["c4"]


def test_a_changed_cap_is_not_taken_for_the_former() -> None:
    published = aggregator(planned(CAP)).take([shown("c1") for _ in range(10)])
    for changed in ({**CAP, "max": 11}, {**CAP, "within": "2h"}, {**CAP, "per": "tag"}):
        of = planned(changed)
        assert capped(sent(published, of), of, T0) == []


@pytest.mark.parametrize("stale", [0, 2, 10])
def test_overshoot_is_at_most_what_is_decided_until_a_set_is_seen(stale: int) -> None:
    """Four shards decide once a tick; lists and sets each take `stale` ticks on their way."""
    most, shards, tick = 60, 4, 5 * SECOND
    of = planned({**CAP, "max": most}, number=1)
    machine = aggregator(of)
    view = AggregateView(None, of)
    lists: deque[list[Seen]] = deque([[] for _ in range(stale)])
    sets: deque[ParameterSet | None] = deque([None] * stale)
    times: list[int] = []
    for at in range(T0, T0 + 5 * HOUR, tick):
        now = [shown("c1", at + shard) for shard in range(shards) if not capped(view, of, at)]
        times += [one.at_ms for one in now]
        lists.append(now)
        sets.append(machine.take(lists.popleft()))
        newest = sets.popleft()
        if newest is not None:
            view = sent(newest, of)
    counts = np.array(times)
    within = [int(((counts >= begin) & (counts <= begin + HOUR)).sum()) for begin in set(times)]
    under_way = shards * (2 * stale + 1)
    assert most <= max(within) <= most + under_way
    assert len(times) > 4 * most  # each hour opened it anew


# Popularity


def test_popular_is_what_earned_most_per_impression() -> None:
    of = planned(popular=True)
    machine = aggregator(of)
    lines = [shown(f"c{1 + i % 4}", T0 + i) for i in range(2_000)]
    earned = {"c1": 5, "c2": 40, "c3": 20}
    lines += [clicked(c, T0 + i) for c, n in earned.items() for i in range(n)]
    lines += [shown("gone"), clicked("gone"), Seen("nowhere", "c1", T0)]
    view = sent(machine.take(lines), of)
    assert [of.contents.ids[i] for i in view.popular("home")] == ["c2", "c3", "c1", "c4"]
    assert view.popular("other") == ()
    assert view.popular("nowhere") == ()


def test_popularity_counts_value_and_what_is_disliked_comes_last() -> None:
    of = planned(popular=True)
    lines = [shown(f"c{1 + i % 3}", T0 + i) for i in range(300)]
    lines += [clicked("c1", value=1.0), clicked("c2", value=2.5), clicked("c3", value=-1.0)]
    view = sent(aggregator(of).take(lines), of)
    assert [of.contents.ids[i] for i in view.popular("home")] == ["c2", "c1", "c3"]


def test_what_was_popular_is_overtaken() -> None:
    of = planned(popular=True)
    machine = aggregator(of)
    lines = [shown(c, T0 + i) for i in range(300) for c in ("c1", "c2")]
    machine.take([*lines, *[clicked("c1", T0 + i) for i in range(60)]])
    later = T0 + 30 * DAY
    lines = [shown(c, later + i) for i in range(300) for c in ("c1", "c2")]
    view = sent(machine.take([*lines, *[clicked("c2", later + i) for i in range(30)]]), of)
    assert [of.contents.ids[i] for i in view.popular("home")] == ["c2", "c1"]


def test_only_the_best_are_told() -> None:
    of = planned(popular=True, number=LISTED + 40)
    lines = [shown(c) for c in of.contents.ids]
    view = sent(aggregator(of).take([*lines, clicked("c290")]), of)
    assert len(view.popular("home")) == LISTED
    assert of.contents.ids[view.popular("home")[0]] == "c290"


def test_a_placement_that_a_variant_lets_fall_back_to_popular_is_counted() -> None:
    variants = {"control": {}, "popular": {"changes": {"fallback": {"popular": True}}}}
    one = {"variants": variants, "placements": ["other"]}
    assert popular_placements(planned(experiments={"tests": {"t": one}}).policy) == ("other",)
    both = {"variants": variants}
    assert popular_placements(planned(experiments={"tests": {"t": both}}).policy) == (
        "home",
        "other",
    )


# Promotion


def lines_of(variant: str, n: int, rate: float, chance: random.Random) -> list[Seen]:
    tests = (("style", variant),)
    lines = []
    for i in range(n):
        lines += [Seen("home", "", T0 + i, tests=tests), Seen("home", "c1", T0 + i, tests=tests)]
        if chance.random() < rate:
            lines.append(Seen("home", "c1", T0 + i, "click", 1.0, tests))
    return lines


def test_shares_move_to_the_better_variant_and_keep_the_floor() -> None:
    of = planned(experiments={"tests": {"style": TEST}})
    machine = aggregator(of)
    chance = random.Random(3)
    shares = {"control": 0.5, "bold": 0.5}
    for day in range(20):
        lines = []
        for variant, rate in (("control", 0.05), ("bold", 0.15)):
            lines += lines_of(variant, round(200 * shares[variant]), rate, chance)
        shares = sent(machine.take(lines), of).shares()["style"]
        assert sum(shares.values()) == pytest.approx(1.0)
        if day == 0:
            assert shares == {"control": 0.5, "bold": 0.5}  # not before `after` decisions of each
    assert shares["bold"] > 0.85
    assert shares["control"] >= 0.1


def test_the_square_of_a_decision_that_earns_twice_is_of_its_sum() -> None:
    of = planned(experiments={"tests": {"style": TEST}})
    once, twice = aggregator(of), aggregator(of)
    tests = (("style", "bold"),)
    once.take([Seen("home", "c1", T0, "click", 5.0, tests)])
    twice.take(
        [
            Seen("home", "c1", T0, "click", 2.0, tests),
            Seen("home", "c2", T0, "click", 3.0, tests, before=2.0),
        ]
    )
    assert once._tests == twice._tests


def test_what_no_test_of_the_policy_asks_for_is_not_kept() -> None:
    of = planned(experiments={"tests": {"style": TEST}})
    machine = aggregator(of)
    nothing = aggregator(of)
    for pair in (("former", "bold"), ("style", "former")):
        machine.take([Seen("home", "", T0, tests=(pair,))])
        nothing.take([Seen("home", "", T0)])
    machine.take([Seen("home", "c1", T0, "purchase", 1.0, (("style", "bold"),))])
    nothing.take([Seen("home", "c1", T0, "purchase", 1.0)])
    assert machine.snapshot() == nothing.snapshot()


def test_shares_of_other_variants_are_not_used() -> None:
    published = aggregator(planned(experiments={"tests": {"style": TEST}})).publish()
    more = {**TEST, "variants": {"control": {}, "bold": {}, "third": {}}}
    still = {"variants": TEST["variants"]}
    for test in (more, still):
        of = planned(experiments={"tests": {"style": test}})
        assert sent(published, of).shares() == {}


# State and sets


LINES = st.lists(
    st.builds(
        Seen,
        st.sampled_from(["home", "other", "gone"]),
        st.sampled_from(["", "c1", "c2", "c3", "gone"]),
        st.integers(T0, T0 + 2 * HOUR),
        st.sampled_from([None, None, None, "click"]),
        st.floats(-5, 5),
        st.sampled_from([(), (("style", "control"),), (("style", "bold"), ("former", "a"))]),
    ),
    max_size=120,
)


def in_lists(lines: list[Seen], size: int) -> Aggregator:
    machine = aggregator(WHOLE)
    for begin in range(0, len(lines), size):
        machine.take(lines[begin : begin + size])
    return machine


@settings(max_examples=60)
@given(st.data(), LINES, st.integers(1, 40), st.integers(1, 40))
def test_neither_order_nor_lists_change_what_is_known(
    data: Any, lines: list[Seen], size: int, other_size: int
) -> None:
    one = in_lists(lines, size)
    other = in_lists(data.draw(st.permutations(lines)), other_size)
    first, second = one.publish(), other.publish()
    assert (first.heads, first.digest) == (second.heads, second.digest)
    assert one.snapshot() == other.snapshot()


@settings(max_examples=40)
@given(LINES, LINES)
def test_a_resumed_machine_goes_on_as_if_nothing_had_happened(
    before: list[Seen], after: list[Seen]
) -> None:
    machine = in_lists(before, 30)
    again = Aggregator(WHOLE, incarnation="next")
    kept = again.restore(machine.snapshot())
    assert kept.digest == machine.publish().digest
    assert again.snapshot() == Aggregator.snapshot(in_lists(before, 30))
    machine = in_lists(before, 30)
    machine.take(after)
    again.take(after)
    assert again.publish().digest == machine.publish().digest


def test_sets_come_by_count() -> None:
    of = planned(popular=True)
    machine = aggregator(of)
    lists = [[shown("c1", T0 + i)] for i in range(3 * PUBLISH_EVERY)]
    published = [p for p in map(machine.take, lists) if p is not None]
    assert [p.examples for p in published] == [PUBLISH_EVERY * i for i in (1, 2, 3)]
    assert [p.counter for p in published] == [1, 2, 3]
    assert {p.model for p in published} == {MODEL}
    assert published[-1].learned_to_ms == T0 + 3 * PUBLISH_EVERY - 1


def test_no_count_is_published_so_none_is_too_large() -> None:
    """A float32 cannot tell 2^24 from its successor: what is told is when it opens again."""
    of = planned({**CAP, "max": 1_000})
    machine = aggregator(of)
    machine.take([shown("c1", T0 + i % 60_000) for i in range(70_000)])
    published = machine.publish()
    assert capped(sent(published, of), of, T0 + MINUTE) == ["c1"]
    assert published.weights.max() <= SLICES


def test_another_policy_keeps_what_it_still_asks_for() -> None:
    before = planned(CAP, {**CAP, "within": "2h"}, popular=True)
    after = planned({**CAP, "max": 12}, popular=True, number=3)
    machine = aggregator(before)
    machine.take([shown("c1") for _ in range(11)] + [shown("c4")])
    again = aggregator(after)
    again.restore(machine.snapshot())
    machine.adopt(after)
    assert again.snapshot() == machine.snapshot()
    for one in (machine, again):
        view = sent(one.take([shown("c1")]), after)
        assert capped(view, after, T0) == ["c1"]
        assert [after.contents.ids[i] for i in view.popular("home")] == ["c1"]


def test_a_test_promoted_by_another_reward_begins_anew() -> None:
    of = planned(experiments={"tests": {"style": TEST}})
    machine = aggregator(of)
    machine.take(lines_of("bold", 10, 1.0, random.Random(1)))
    other = {**TEST, "promote": {"reward": "purchase"}}
    changed = planned(experiments={"tests": {"style": other}})
    machine.adopt(changed)
    assert machine._tests["style"].variants == {}


def test_what_is_held_is_bounded_by_the_policy_and_the_catalogue() -> None:
    machine = aggregator(WHOLE)
    sizes = []
    for hour in range(0, 90 * 24, 3):
        lines = [shown(f"c{i % 9}", T0 + hour * HOUR + i) for i in range(40)]
        machine.take([*lines, *[shown(f"other{hour}-{i}", T0) for i in range(20)]])
        sizes.append(len(machine.snapshot()))
    assert max(sizes[300:]) <= max(sizes[:400]) + 40


def test_nothing_is_asked_of_everybody_unless_the_policy_does() -> None:
    assert not asked_of_everybody(planned({"max": 1, "within": "1h"}).policy)
    assert not asked_of_everybody(planned({**CAP, "hard": True}).policy)
    assert asked_of_everybody(planned(CAP).policy)
    assert asked_of_everybody(planned(popular=True).policy)
    assert asked_of_everybody(planned(experiments={"tests": {"style": TEST}}).policy)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda s: b"NBXX" + s[4:], "format"),
        (lambda s: s[:4] + b"\x00\x09" + s[6:], "version 1"),
        (lambda s: s[:-1], "checksum"),
    ],
)
def test_state_that_is_not_ours_is_refused(damage: Any, said: str) -> None:
    with pytest.raises(StateError, match=said):
        aggregator(WHOLE).restore(damage(aggregator(WHOLE).snapshot()))
