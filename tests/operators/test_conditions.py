"""What a condition asks: every kind of leaf, and the three truths that it can have."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest

from schemas.time import DAY, HOUR, MINUTE, SECOND
from tests.operators.builders import T0, arrived
from tests.operators.condition_builders import SIGNALS, World, holds

WITHIN_10_DAYS = {"done": "view", "within": "10d"}


def seen(*days_ago: float, type: str = "view", **fields: Any) -> list[Any]:
    return [arrived(type, at=T0 - int(days * DAY), **fields) for days in days_ago]


def test_all_any_and_not_combine_three_truths() -> None:
    """Kleene: a part that decides does so whatever is unknown of the others."""
    leaf = {True: {"done": "x", "within": "1d"}, False: {"attribute": "a", "exists": True}}
    unknown = {"done": "y", "within": "1d"}
    for one, other in product([True, False, None], repeat=2):
        parts = [unknown if truth is None else leaf[truth] for truth in (one, other)]
        truths = (one, other)
        conjunction = False if False in truths else None if None in truths else True
        disjunction = True if True in truths else None if None in truths else False

        def asked(condition: dict[str, Any]) -> bool | None:
            # Watched for an hour only: of what was not seen yet, nothing is known.
            return World(condition, first=T0 - HOUR).see(arrived("x", at=T0)).holds()

        assert asked({"all": parts}) is conjunction
        assert asked({"any": parts}) is disjunction
        assert asked({"not": parts[0]}) is (None if one is None else not one)


def test_an_event_3_days_old_is_within_10_days_and_one_of_15_days_is_not() -> None:
    assert holds(WITHIN_10_DAYS, *seen(3)) is True
    assert holds(WITHIN_10_DAYS, *seen(15)) is False
    assert holds(WITHIN_10_DAYS, *seen(15, 3)) is True


def test_a_window_is_exact_to_the_millisecond_and_half_open() -> None:
    world = World(WITHIN_10_DAYS).see(*seen(10))
    assert world.holds() is False
    assert world.holds(T0 - 1) is True
    assert world.until(T0 - 1) == T0


def test_an_event_dated_in_the_future_does_not_count_yet() -> None:
    world = World(WITHIN_10_DAYS).see(arrived(at=T0 + MINUTE))
    assert world.holds() is False
    assert world.until() == T0 + MINUTE
    assert world.holds(T0 + MINUTE) is True


def test_done_counts_within_its_window_and_filter() -> None:
    sale = {"done": "view", "within": "1d", "where": {"properties.tag": "sale"}, "at_least": 2}
    tagged = [arrived(at=T0 - n * HOUR, properties={"tag": "sale"}) for n in (1, 2)]
    assert holds(sale, *tagged)
    assert not holds(sale, tagged[0], arrived())
    assert not holds(sale, *tagged, at=T0 + 23 * HOUR)
    assert not holds({**sale, "at_least": 1, "at_most": 1}, *tagged)


def test_at_most_one_holds_at_one_event_and_is_lost_at_the_second() -> None:
    once = {**WITHIN_10_DAYS, "at_most": 1}
    assert [holds(once, *seen(*range(1, n + 1))) for n in range(4)] == [False, True, False, False]
    # The same of a profile that is new: what was seen is plain.
    young = [World(once, first=T0 - 3 * DAY).see(*seen(*range(1, n + 1))).holds() for n in range(3)]
    assert young == [None, True, False]


def test_at_least_none_admits_never() -> None:
    asked = {**WITHIN_10_DAYS, "at_least": 0, "at_most": 1}
    assert [holds(asked, *seen(*range(1, n + 1))) for n in range(3)] == [True, True, False]
    assert World(asked, first=T0 - DAY).holds() is None


def test_exactly_n_times() -> None:
    twice = {**WITHIN_10_DAYS, "exactly": 2}
    assert [holds(twice, *seen(*range(1, n + 1))) for n in range(4)] == [False, False, True, False]
    assert holds({**WITHIN_10_DAYS, "exactly": 0}) is True
    assert holds({**WITHIN_10_DAYS, "exactly": 0}, *seen(1)) is False


def test_not_performed_flips_at_the_first_event() -> None:
    never = {"not_done": "view", "within": "30d"}
    world = World(never)
    assert world.holds() is True
    assert world.until() is None
    world.see(arrived())
    assert world.holds() is False
    assert world.until() == T0 + 30 * DAY


@pytest.mark.parametrize(
    ("condition", "young", "settled"),
    [
        ({"done": "view", "within": "30d"}, None, False),
        ({"done": "view", "within": "30d", "at_least": 3}, None, False),
        ({"not": {"done": "view", "within": "30d"}}, None, True),
        ({"not_done": "view", "within": "30d"}, None, True),
        ({"done": "view", "within": "30d", "at_least": 0, "at_most": 2}, None, True),
        ({"done": "view", "within": "30d", "exactly": 0}, None, True),
        ({"signal": "bought", "not_within": "30d"}, None, True),
        ({"signal": "bought", "within": "30d"}, None, False),
    ],
)
def test_what_was_not_watched_long_enough_is_unknown(
    condition: dict[str, Any], young: bool | None, settled: bool
) -> None:
    newcomer = World(condition, first=T0)
    assert newcomer.verdict() == (young, T0 + 30 * DAY)
    assert newcomer.holds(T0 + 30 * DAY - 1) is young
    assert newcomer.verdict(T0 + 30 * DAY) == (settled, None)
    # A definition that is new asks the same patience of profiles that are old.
    assert World(condition).watched(T0 - DAY).verdict() == (young, T0 + 29 * DAY)
    assert World(condition).watched(T0 - 30 * DAY).holds() is settled


def test_a_number_of_a_declared_signal_is_what_was_seen() -> None:
    assert World({"signal": "views", "at_most": 0}, first=T0).holds() is True
    assert World({"signal": "views", "at_least": 1}, first=T0).holds() is False


def test_what_followed_is_unknown_until_what_it_followed_was_watched_too() -> None:
    condition = {"done": "view", "within": "1d", "then": {"done": "buy", "gap": "1h"}}
    world = World(condition, first=T0).see(arrived("buy"))
    assert world.verdict() == (None, T0 + DAY + HOUR)
    assert world.holds(T0 + DAY + HOUR) is False


def test_performed_and_then_or_then_not() -> None:
    gap = {"done": "buy", "gap": "1h", "where": {"value": {"above": 5}}}
    bought = {"done": "view", "within": "7d", "then": gap}
    left = {"done": "view", "within": "7d", "not_then": gap}
    cases = [
        ([], False, True),
        ([arrived("buy", at=T0 + 59 * MINUTE, value=9)], True, False),
        ([arrived("buy", at=T0 + 60 * MINUTE, value=9)], True, False),
        ([arrived("buy", at=T0 + 61 * MINUTE, value=9)], False, True),
        ([arrived("buy", at=T0 + 30 * MINUTE, value=5)], False, True),
        ([arrived("buy", at=T0 - 30 * MINUTE, value=9)], False, True),
    ]
    for events, followed, not_followed in cases:
        assert World(bought).see(arrived(), *events).holds(T0 + 2 * HOUR) is followed
        assert World(left).see(arrived(), *events).holds(T0 + 2 * HOUR) is not_followed


def test_that_something_did_not_follow_is_known_when_its_time_has_passed() -> None:
    condition = {"done": "view", "within": "7d", "not_then": {"done": "buy", "gap": "1h"}}
    world = World(condition).see(arrived())
    assert world.verdict() == (False, T0 + HOUR + 1)
    assert world.verdict(T0 + HOUR + 1) == (True, T0 + 7 * DAY)
    assert world.verdict(T0 + 7 * DAY) == (False, None)


def test_a_range_of_dates_is_half_open_and_fixed() -> None:
    january = {"done": "view", "from": "2026-01-01", "until": "2026-02-01"}
    end = T0 + 31 * DAY
    for at, expected in ((T0 - 1, False), (T0, True), (end - 1, True), (end, False)):
        assert World(january).see(arrived(at=at)).holds(T0 + 99 * DAY) is expected
        absent = {"not_done": "view", "from": "2026-01-01", "until": "2026-02-01"}
        assert World(absent).see(arrived(at=at)).holds(T0 + 99 * DAY) is not expected
    # It stays counted for ever.
    assert World(january).see(arrived()).until(T0 + 99 * DAY) is None


def test_a_range_of_dates_counts_and_takes_instants_with_an_offset() -> None:
    asked = {
        "done": "view",
        "from": "2026-01-01T01:00:00+01:00",
        "until": "2026-01-01T00:00:02Z",
        "exactly": 2,
    }
    inside = [arrived(at=T0), arrived(at=T0 + 2 * SECOND - 1)]
    outside = [arrived(at=T0 - 1), arrived(at=T0 + 2 * SECOND)]
    assert World(asked).see(*inside, *outside).holds(T0 + DAY) is True
    assert World(asked).see(*inside[1:], *outside).holds(T0 + DAY) is False
    many = [arrived(at=T0 + n) for n in range(40)]
    assert World({**asked, "exactly": 40}).see(*many).holds(T0 + DAY) is True
    assert World({**asked, "exactly": 30}).see(*many).holds(T0 + 29) is True


def test_a_range_of_dates_that_has_not_begun_says_nothing() -> None:
    for asked in ("done", "not_done"):
        world = World({asked: "view", "from": "2026-01-02", "until": "2026-01-03"})
        assert world.verdict() == (None, T0 + DAY)
        assert world.holds(T0 + DAY) is (asked == "not_done")


def test_who_was_not_watched_from_the_first_date_on_is_never_known_to_have_done_nothing() -> None:
    absent = {"not_done": "view", "from": "2026-01-01", "until": "2026-01-03"}
    assert World(absent, first=T0).holds(T0 + 9 * DAY) is True
    assert World(absent, first=T0 + 1).verdict(T0 + 9 * DAY) == (None, None)
    assert World(absent).watched(T0 + DAY).holds(T0 + 9 * DAY) is None
    assert World(absent, first=T0 + 1).see(arrived(at=T0 + DAY)).holds(T0 + 9 * DAY) is False


def test_equal_done_conditions_share_one_signal() -> None:
    done = {"done": "view", "within": "1d"}
    shared = World({"all": [done, {**done, "at_least": 3}, {"not_done": "view", "within": "1d"}]})
    assert len(shared.signals) == len(SIGNALS) + 1
    dated = {"done": "view", "from": "2026-01-01"}
    apart = World({"all": [dated, {**dated, "at_least": 3}, {**dated, "until": "2027-01-01"}]})
    assert len(apart.signals) == len(SIGNALS) + 2
    assert len({signal.slot for signal in apart.signals.values()}) == len(apart.signals)


def test_last_is_within_or_not_within_a_time() -> None:
    bought = arrived("buy", at=T0 - HOUR)
    assert holds({"signal": "bought", "within": "61m"}, bought)
    assert not holds({"signal": "bought", "within": "1h"}, bought)
    assert holds({"signal": "bought", "not_within": "1h"}, bought)
    assert not holds({"signal": "bought", "not_within": "61m"}, bought)
    assert not holds({"signal": "bought", "within": "7d"})
    assert holds({"signal": "bought", "not_within": "7d"})
    between = World({"signal": "bought", "not_within": "2h", "within": "5h"}).see(bought)
    assert between.verdict() == (False, T0 + HOUR)
    assert between.verdict(T0 + HOUR) == (True, T0 + 4 * HOUR)
    assert between.verdict(T0 + 4 * HOUR) == (False, None)
    assert holds({"signal": "bought", "not_within": "2h", "within": "5h"}) is False


def test_a_signal_whose_value_is_a_text_is_one_or_another() -> None:
    nike = arrived(properties={"tag": "nike"})
    assert holds({"signal": "brand", "is": "nike"}, nike)
    assert not holds({"signal": "brand", "is": "puma"}, nike)
    assert holds({"signal": "brand", "one_of": ["puma", "nike"]}, nike)
    assert not holds({"signal": "brand", "one_of": ["puma"]}, nike)
    assert not holds({"signal": "brand", "is": "nike"})
    assert not holds({"signal": "brand", "at_least": 1}, nike)
    size = arrived(properties={"tag": 42})
    assert holds({"signal": "brand", "is": 42}, size)
    assert holds({"signal": "brand", "at_least": 42, "one_of": [41, 42]}, size)
    assert not holds({"signal": "brand", "above": 42}, size)
    assert holds({"signal": "brand", "is": True}, arrived(properties={"tag": True}))
    assert not holds({"signal": "brand", "is": True}, arrived(properties={"tag": 1}))


def test_a_signal_with_keys_is_asked_by_key() -> None:
    red = arrived("buy", properties={"tag": "red"}, value=35)
    assert holds({"signal": "tastes", "key": "red", "at_least": 4}, red)
    assert not holds({"signal": "tastes", "key": "blue", "above": 0}, red)
    # Just now, once, for 35: scores of 5, 1 and 4.
    assert holds({"signal": "value", "key": "score", "equals": 10}, red)
    assert holds({"signal": "value", "equals": 10}, red)
    assert holds({"signal": "value", "key": "frequency", "equals": 1}, red)
    assert holds({"signal": "value", "key": "recency", "within": "1d"}, red)
    assert holds({"signal": "value", "key": "recency", "not_within": "1d"}, red, at=T0 + DAY)


def test_a_ratio_without_a_value_lies_in_no_range() -> None:
    bought = arrived("buy", value=4)
    assert not holds({"signal": "share", "at_most": 100}, bought)
    assert holds({"signal": "share", "is": None}, bought)
    assert holds({"signal": "share", "equals": 2}, bought, arrived(), arrived())


@pytest.mark.parametrize(
    ("asked", "value", "expected"),
    [
        ({"is": "free"}, "free", True),
        ({"is": "free"}, "paid", False),
        ({"is": "free"}, None, False),
        ({"is": None}, None, True),
        ({"one_of": ["a", "b"]}, "b", True),
        ({"one_of": ["a", "b"]}, "c", False),
        ({"one_of": ["a", "b"]}, None, False),
        ({"exists": True}, 0, True),
        ({"exists": True}, None, False),
        ({"exists": False}, None, True),
        ({"at_least": 3}, 3, True),
        ({"at_least": 3}, 2.9, False),
        ({"above": 3}, 3, False),
        ({"below": 3}, "2", False),
        ({"below": 3}, True, False),
        ({"below": 3}, None, False),
        ({"below": 3}, math.nan, False),
        ({"at_least": 3}, 10**400, False),
        ({"at_least": 1, "at_most": 2}, 1.5, True),
    ],
)
def test_an_attribute_and_a_context_field_are_asked_alike(
    asked: dict[str, Any], value: Any, expected: bool
) -> None:
    given_ = {} if value is None else {"plan": value}
    assert holds({"attribute": "plan", **asked}, **given_) is expected
    assert World({"context": "plan", **asked}).holds(**given_) is expected


def test_membership_is_what_the_profile_holds() -> None:
    for condition, name in (
        ({"segment": "active"}, "active"),
        ({"intent": "buying"}, "intent.buying"),
    ):
        world = World(condition)
        assert world.verdict() == (False, None)
        world.profile.segments[name] = T0
        assert world.verdict() == (True, None)


def test_a_prediction_is_unknown_before_anything_was_learned_and_asked_again_daily() -> None:
    world = World({"prediction": "churn", "at_least": 0.7})
    assert world.holds() is None
    assert World({"not": {"prediction": "churn", "at_least": 0.7}}).holds() is None
    for value, expected in ((0.7, True), (0.69, False)):
        world.predicted = value
        assert world.holds() is expected
    first = world.until()
    assert first is not None
    assert T0 < first <= T0 + DAY
    # Always at the same instant of the day, whenever it is asked.
    assert world.until(first - 1) == first
    assert world.until(first) == first + DAY


def test_an_undeclared_signal_is_an_error() -> None:
    with pytest.raises(KeyError, match="nowhere"):
        World({"signal": "nowhere", "at_least": 1})
