"""The simulated shop: the same people with the same draws for every arm, and room to do better."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from flows.simulate import (
    Arm,
    ArmResult,
    MostPopularArm,
    RandomArm,
    Shop,
    estimates,
    play_arm,
    play_oracle,
    uplift,
)
from schemas.catalogue import Content
from schemas.events import REQUIRED_BY_TYPE, Event

Events = list[dict[str, Any]]
SHOWN_TO = ("impression", "click", "add_to_cart", "purchase", "feedback")


def small_shop(seed: int = 3) -> Shop:
    return Shop(seed, shoppers=300, contents=80, days=4)


class Recorded:
    """An arm that keeps every tick it sees."""

    def __init__(self, arm: Arm) -> None:
        self.name = arm.name
        self.ticks: list[Events] = []
        self._arm = arm

    def observe(self, events: Sequence[dict[str, Any]]) -> None:
        self.ticks.append(list(events))
        self._arm.observe(events)

    def decide(self, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return self._arm.decide(requests)


def recorded(make: Callable[[Shop], Arm], seed: int = 3) -> list[Events]:
    shop = small_shop(seed)
    arm = Recorded(make(shop))
    play_arm(shop, arm)
    return arm.ticks


@pytest.fixture(scope="module")
def random_ticks() -> list[Events]:
    return recorded(RandomArm)


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop(5, shoppers=1_200, days=8)


@pytest.fixture(scope="module")
def random_result(shop: Shop) -> ArmResult:
    return play_arm(shop, RandomArm(shop))


@pytest.fixture(scope="module")
def popular_result(shop: Shop) -> ArmResult:
    return play_arm(shop, MostPopularArm(shop))


def test_the_same_seed_gives_the_same_catalogue_and_events_byte_for_byte(
    random_ticks: list[Events],
) -> None:
    assert json.dumps(small_shop().catalogue()) == json.dumps(small_shop().catalogue())
    assert json.dumps(recorded(RandomArm)) == json.dumps(random_ticks)


def test_another_seed_gives_another_shop(random_ticks: list[Events]) -> None:
    assert small_shop(4).catalogue() != small_shop(3).catalogue()
    assert recorded(RandomArm, seed=4) != random_ticks


def test_what_shoppers_do_by_themselves_is_the_same_in_every_arm(
    random_ticks: list[Events],
) -> None:
    def organic(ticks: list[Events]) -> Events:
        events = list(itertools.chain.from_iterable(ticks))
        return [event for event in events if "decision_id" not in event]

    popular_ticks = recorded(MostPopularArm)

    assert organic(popular_ticks) == organic(random_ticks)
    assert popular_ticks != random_ticks


def test_the_same_slate_on_the_same_page_gets_the_same_reactions_in_every_arm() -> None:
    class SameDecisions(RandomArm):
        name = "another arm with the same decisions"

    def reactions(make: Callable[[Shop], Arm]) -> list[tuple[str, str, str]]:
        events = itertools.chain.from_iterable(recorded(make))
        return [
            (event["event_id"], event["type"], event["occurred_at"])
            for event in events
            if event["type"] in SHOWN_TO
        ]

    assert reactions(SameDecisions) == reactions(RandomArm)


def test_a_click_does_not_depend_on_what_stands_beside_it() -> None:
    """The draw belongs to (shopper, page, content): other contents on the page change nothing."""

    shop = Shop(3, contents=80, days=1)

    def clicks_on_first(second: str) -> list[str]:
        play = shop.play("fixed")
        requests = [e for e in play.start() if e["type"] == "decision_requested"]
        decisions = [
            decision_on(request, [shop.stock.content_ids[number % 8], second])
            for number, request in enumerate(requests)
        ]
        events = play.step(decisions) or []
        return [e["event_id"] for e in events if e["type"] == "click" and e["content_id"] != second]

    contents = shop.stock.content_ids
    assert clicks_on_first(contents[10]) == clicks_on_first(contents[11])
    assert clicks_on_first(contents[10])


def decision_on(request: dict[str, Any], contents: Sequence[str]) -> dict[str, Any]:
    return {
        "decision_id": f"d-{request['event_id']}",
        "profile_id": request["user_id"],
        "placement": request["placement"],
        "trigger": {"event_id": request["event_id"], "type": request["type"]},
        "items": [
            {"content_id": content, "rank": rank, "score": 0.1, "propensity": 0.5}
            for rank, content in enumerate(contents, start=1)
        ],
        "fallback": None,
        "explored": False,
    }


def test_every_event_keeps_the_event_contract(random_ticks: list[Events]) -> None:
    seen = Counter[str]()
    for event in itertools.chain.from_iterable(random_ticks):
        parsed = Event.model_validate_json(json.dumps(event))
        assert not parsed.model_extra
        assert parsed.user_id
        assert all(event.get(field) is not None for field in REQUIRED_BY_TYPE.get(parsed.type, ()))
        seen[parsed.type] += 1
    assert set(seen) == {
        "page_view",
        "view",
        "search",
        "decision_requested",
        "impression",
        "click",
        "add_to_cart",
        "purchase",
        "feedback",
        "consent_changed",
    }


def test_event_ids_are_unique(random_ticks: list[Events]) -> None:
    ids = [event["event_id"] for event in itertools.chain.from_iterable(random_ticks)]
    assert len(set(ids)) == len(ids)


def test_every_content_keeps_the_catalogue_contract() -> None:
    records = Shop(3, shoppers=10).catalogue()
    contents = [Content.model_validate_json(json.dumps(record)) for record in records]
    assert len(contents) == 300
    assert len({content.content_id for content in contents}) == 300
    assert 20 <= sum(content.valid_from is not None for content in contents) <= 75
    assert 5 <= sum(content.valid_until is not None for content in contents) <= 45
    assert all(content.tags and content.placements == ("home",) for content in contents)
    assert {content.attributes["price_band"] for content in contents} == {"low", "middle", "high"}


def test_event_time_rises_with_less_than_a_minute_of_disorder(random_ticks: list[Events]) -> None:
    newest = datetime.fromisoformat("2026-01-05T00:00:00Z")
    late = []
    for event in itertools.chain.from_iterable(random_ticks):
        occurred = datetime.fromisoformat(event["occurred_at"])
        late.append((newest - occurred).total_seconds())
        newest = max(newest, occurred)
    assert 1 < max(late) < 30


def test_events_of_one_shopper_arrive_in_their_own_order(random_ticks: list[Events]) -> None:
    last: dict[str, str] = {}
    for event in itertools.chain.from_iterable(random_ticks):
        assert last.get(event["user_id"], "") <= event["occurred_at"]
        last[event["user_id"]] = event["occurred_at"]


def test_reactions_come_in_the_next_tick_and_soon(random_ticks: list[Events]) -> None:
    asked: dict[str, str] = {}
    impressions = 0
    for events in random_ticks:
        for event in events:
            if event["type"] != "impression":
                continue
            request_time = asked[event["decision_id"].removeprefix("d:")]
            waited = datetime.fromisoformat(event["occurred_at"]) - datetime.fromisoformat(
                request_time
            )
            assert 0 < waited.total_seconds() < 60
            assert len(event["contents"]) == 3
            impressions += 1
        asked = {
            event["event_id"]: event["occurred_at"]
            for event in events
            if event["type"] == "decision_requested"
        }
    assert impressions > 1_000


def test_consent_is_answered_once_and_seldom_refused_or_withdrawn() -> None:
    shop = Shop(3, shoppers=1_500, contents=40, days=6)
    answers: dict[str, list[bool]] = {}
    play = shop.play("nobody decides")
    events: Events | None = play.start()
    while events is not None:
        for event in events:
            if event["type"] == "consent_changed":
                answers.setdefault(event["user_id"], []).append(event["consent"]["personalization"])
            else:
                assert event["user_id"] in answers, "an event before consent was asked for"
        events = play.step([])
    kinds = Counter(tuple(given) for given in answers.values())
    assert set(kinds) == {(True,), (False,), (True, False)}
    assert 0.03 < kinds[False,] / len(answers) < 0.07
    assert 0.003 < kinds[True, False] / len(answers) < 0.03


def test_only_a_few_people_hide_things(random_ticks: list[Events]) -> None:
    events = list(itertools.chain.from_iterable(random_ticks))
    hides = [event for event in events if event["type"] == "feedback"]
    everybody = {event["user_id"] for event in events}
    assert all(event["feedback"] == "hide" and event["content_id"] for event in hides)
    assert 0.005 < len({event["user_id"] for event in hides}) / len(everybody) < 0.08


def test_a_random_arm_has_the_intended_click_and_purchase_rates(random_result: ArmResult) -> None:
    assert 0.05 < random_result.ctr < 0.08
    assert 0.05 < random_result.purchases.sum() / random_result.clicks.sum() < 0.10


def test_most_popular_beats_random_beyond_chance(
    popular_result: ArmResult, random_result: ArmResult
) -> None:
    gain = uplift(popular_result, random_result)
    assert gain.ctr.low > 0.15
    assert gain.conversion.low > 0


@pytest.mark.parametrize("seed", [1, 2, 5])
def test_there_is_room_for_personalisation(seed: int) -> None:
    """The best slate of each request is worth at least twice the best slate for everybody."""
    reference = Shop(seed).reference()
    assert 0.05 < reference.random < 0.08
    assert 0.20 < reference.personal < 0.30
    assert reference.personal > 2.0 * reference.best_single
    assert reference.best_single > 1.5 * reference.random


def test_the_oracle_beats_most_popular_clearly(shop: Shop, popular_result: ArmResult) -> None:
    oracle = play_oracle(shop)
    assert oracle.ctr > 2.0 * popular_result.ctr
    assert uplift(oracle, popular_result).conversion.low > 1.0


def test_device_and_hour_change_what_is_clicked(shop: Shop) -> None:
    rush = shop.rush(2)
    sessions = np.flatnonzero(rush.devices == 0)
    contents = np.arange(len(shop.stock.content_ids))
    as_is = rush.situation(sessions[:, None], rush.start_ms)
    at_desk = type(as_is)(as_is.shoppers, as_is.devices + 1, as_is.dayparts, as_is.at_ms)
    at_night = type(as_is)(as_is.shoppers, as_is.devices, as_is.dayparts * 0, as_is.at_ms)
    best = shop.reactions.utility(as_is, contents).argmax(axis=1)
    for other in (at_desk, at_night):
        moved = shop.reactions.utility(other, contents).argmax(axis=1) != best
        assert moved.mean() > 0.15


def test_what_was_shown_often_is_clicked_less() -> None:
    shop = small_shop()
    play = shop.play("stubborn")
    favourite = shop.stock.content_ids[0]
    events: Events | None = play.start()
    while events is not None:
        requests = [event for event in events if event["type"] == "decision_requested"]
        events = play.step([decision_on(request, [favourite]) for request in requests])
    rates = np.divide(play.result().clicked[:, 0], play.result().shown[:, 0])
    assert rates[-4:].mean() < 0.7 * rates[:2].mean()


def test_contents_that_are_not_live_are_never_clicked() -> None:
    shop = small_shop()
    future = shop.stock.content_ids[int(shop.stock.enters_ms.argmax())]
    play = shop.play("careless")
    requests = [e for e in play.start() if e["type"] == "decision_requested"]
    events = play.step([decision_on(request, [future]) for request in requests]) or []
    assert sum(event["type"] == "impression" for event in events) == len(requests)
    assert not any(event["type"] == "click" for event in events)


def test_the_baselines_show_only_what_is_live(
    random_result: ArmResult, popular_result: ArmResult, shop: Shop
) -> None:
    for result in (random_result, popular_result):
        for rush, start_ms in enumerate(result.rush_ms.tolist()):
            hour = 3_600_000
            ever = shop.stock.live(start_ms) | shop.stock.live(start_ms + hour)
            assert not result.shown[rush][~ever].any()


def test_a_result_adds_up(random_result: ArmResult, shop: Shop) -> None:
    assert random_result.clicks.sum() == random_result.shopper_clicks.sum()
    assert random_result.clicks.sum() == random_result.clicked.sum()
    assert random_result.impressions.sum() == random_result.shown.sum()
    assert random_result.impressions.sum() == 3 * random_result.pages.sum()
    assert random_result.revenue.sum() == pytest.approx(random_result.shopper_revenue.sum())
    assert len(random_result.tick_ms) == shop.ticks()
    assert (np.diff(random_result.tick_ms) > 0).all()


def test_decisions_that_answer_nothing_are_counted_and_shown_to_nobody() -> None:
    shop = small_shop()
    play = shop.play("confused")
    request = next(e for e in play.start() if e["type"] == "decision_requested")
    decision = decision_on(request, [shop.stock.content_ids[0]])
    unknown = decision | {"trigger": {"event_id": "never asked", "type": "view"}}
    events = play.step([decision, decision, unknown]) or []
    assert sum(event["type"] == "impression" for event in events) == 1
    assert play.result().unmatched == 2


def test_a_decision_without_items_is_a_page_without_contents() -> None:
    shop = small_shop()
    play = shop.play("silent")
    requests = [e for e in play.start() if e["type"] == "decision_requested"]
    events = play.step([decision_on(r, []) | {"fallback": "none"} for r in requests]) or []
    assert not any(event["type"] in SHOWN_TO for event in events)
    assert play.result().fallback.sum() == len(requests)
    assert play.result().pages.sum() == len(requests)


def test_every_arm_has_the_same_pages(random_result: ArmResult, popular_result: ArmResult) -> None:
    assert (random_result.shopper_pages == popular_result.shopper_pages).all()
    assert (random_result.pages == popular_result.pages).all()


def test_an_unknown_content_is_refused_by_name() -> None:
    play = small_shop().play("wrong")
    request = next(e for e in play.start() if e["type"] == "decision_requested")
    with pytest.raises(ValueError, match="'no such thing', which is not in the shop's catalogue"):
        play.step([decision_on(request, ["no such thing"])])


def test_a_play_ends_with_none_and_can_be_started_once() -> None:
    shop = Shop(3, shoppers=20, contents=20, days=1)
    play = shop.play("short")
    with pytest.raises(RuntimeError, match="call start"):
        play.step([])
    play.start()
    with pytest.raises(RuntimeError, match="started already"):
        play.start()
    assert [play.step([]) is None for _ in range(shop.ticks())] == [False] * (shop.ticks() - 1) + [
        True
    ]


@pytest.mark.parametrize(
    "wrong", [{"shoppers": 0}, {"days": 0}, {"slots": 0}, {"contents": 2, "slots": 3}]
)
def test_an_impossible_shop_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a shop needs at least"):
        Shop(1, **wrong)


def test_progress_is_told_after_every_tick() -> None:
    shop = Shop(3, shoppers=20, contents=20, days=1)
    told: list[tuple[int, int]] = []
    play_arm(shop, RandomArm(shop), progress=lambda done, of: told.append((done, of)))
    assert told == [(tick, shop.ticks()) for tick in range(1, shop.ticks() + 1)]


def test_an_arm_compared_with_itself_has_no_uplift(random_result: ArmResult) -> None:
    gain = uplift(random_result, random_result)
    assert (gain.ctr.value, gain.ctr.low, gain.ctr.high) == (0.0, 0.0, 0.0)


def test_the_interval_holds_the_estimate_and_is_the_same_every_time(
    popular_result: ArmResult, random_result: ArmResult
) -> None:
    gain = uplift(popular_result, random_result)
    assert gain == uplift(popular_result, random_result)
    assert gain.ctr.low < gain.ctr.value < gain.ctr.high
    assert gain.ctr.value == pytest.approx(popular_result.ctr / random_result.ctr - 1)
    own = estimates(popular_result)
    assert own.ctr.value == pytest.approx(popular_result.ctr)
    assert own.conversion.value == pytest.approx(popular_result.conversion)
    assert own.revenue.value == pytest.approx(popular_result.revenue_per_shopper)


def test_arms_of_different_shops_are_not_compared(random_result: ArmResult) -> None:
    other = Shop(3, shoppers=20, contents=20, days=1)
    with pytest.raises(ValueError, match="only arms of the same shop"):
        uplift(random_result, play_arm(other, RandomArm(other)))
