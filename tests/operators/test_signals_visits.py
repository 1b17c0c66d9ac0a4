"""Sequences, streaks, sessions and rfm equal what a naive model of all events says."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.arrival import Arrived
from operators.kinds import Value
from operators.streaks import Streak
from schemas.time import DAY, HOUR, MINUTE, SECOND, to_millis
from tests.operators.builders import T0, arrived, content
from tests.operators.signal_builders import (
    encoded,
    first_difference,
    fold,
    number,
    signal,
    view,
)

Step = tuple[str, int]
_STEPS: Final = st.lists(
    st.tuples(st.sampled_from(["view", "buy"]), st.integers(0, 200).map(lambda n: n * MINUTE)),
    max_size=30,
)


def taken(steps: list[Step]) -> list[Arrived]:
    return [arrived(kind, at=T0 + at) for kind, at in steps]


def sequence(*, absent: bool = False, **fields: Any) -> Any:
    step = {"events": "buy"}
    default = {"gap": "30m", "within": "90m", "then": None if absent else step}
    if absent:
        default["not_then"] = step
    return signal("sequence", **{**default, **fields})


def naive_sequence(steps: list[Step], now: int, *, absent: bool) -> int:
    gap, span = 30 * MINUTE, 90 * MINUTE
    firsts = [at for kind, at in steps if kind == "view" and at <= now]
    seconds = [at for kind, at in steps if kind == "buy" and (at <= now or absent)]
    if absent:
        return sum(
            at > now - span and now > at + gap and not any(at < b <= at + gap for b in seconds)
            for at in firsts
        )
    return sum(b > now - span and any(0 < b - at <= gap for at in firsts) for b in seconds)


@given(_STEPS, st.integers(0, 400).map(lambda n: n * MINUTE), st.integers(-1, 1))
@pytest.mark.parametrize("absent", [False, True])
def test_a_sequence_counts_what_followed_or_failed_to(
    absent: bool, steps: list[Step], now: int, step: int
) -> None:
    made = sequence(absent=absent)
    now = max(0, now + step)
    held = fold(made, taken(steps), stored=True)
    newest = max((at for _, at in steps), default=0)
    if now >= newest:
        assert made.value(held, T0 + now) == naive_sequence(steps, now, absent=absent)


@given(_STEPS, st.randoms(use_true_random=False))
@pytest.mark.parametrize("absent", [False, True])
def test_arrival_order_never_changes_a_sequence(
    absent: bool, steps: list[Step], shuffle: Any
) -> None:
    made = sequence(absent=absent)
    ordered = fold(made, taken(sorted(steps, key=lambda s: s[1])))
    shuffle.shuffle(steps)
    assert encoded(fold(made, taken(steps))) == encoded(ordered)


@given(_STEPS, st.integers(0, 400).map(lambda n: n * MINUTE), st.integers(1, 4))
@pytest.mark.parametrize("absent", [False, True])
def test_a_sequences_truth_changes_at_the_instant_foretold_and_not_before(
    absent: bool, steps: list[Step], now: int, limit: int
) -> None:
    made = sequence(absent=absent)
    held = fold(made, taken(steps))

    def at(instant: int) -> bool:
        return number(made.value(held, instant)) >= limit

    turns = [
        T0 + after + ahead + step
        for _, after in steps
        for ahead in (0, 30 * MINUTE, 90 * MINUTE)
        for step in (-1, 0, 1)
    ]
    truth, until = made.outlook(held, T0 + now, lambda n: number(n) >= limit)
    assert (truth, until) == (at(T0 + now), first_difference(at, T0 + now, turns))


def test_a_step_follows_another_up_to_the_gap_and_not_in_the_same_millisecond() -> None:
    made = sequence(gap="1h", within="10d")

    def after(gap: int) -> float:
        return number(made.value(fold(made, taken([("view", 0), ("buy", gap)])), T0 + gap))

    assert [after(gap) for gap in (0, 1, HOUR, HOUR + 1)] == [0, 1, 1, 0]
    missing = sequence(absent=True, gap="1h", within="10d")
    held = fold(missing, taken([("view", 0)]))
    assert [missing.value(held, T0 + age) for age in (HOUR, HOUR + 1)] == [0, 1]
    assert missing.outlook(held, T0, lambda n: n == 1) == (False, T0 + HOUR + 1)
    fold(missing, taken([("buy", HOUR)]), held)
    assert missing.value(held, T0 + 2 * HOUR) == 0


def test_a_step_in_the_window_may_follow_one_that_is_out_of_it() -> None:
    made = sequence(gap="1h", within="10m")
    held = fold(made, taken([("view", 0), ("buy", 50 * MINUTE)]))
    assert made.value(held, T0 + 50 * MINUTE) == 1
    assert made.value(held, T0 + HOUR) == 0


def test_each_step_of_a_sequence_has_its_own_filter() -> None:
    made = sequence(
        first={"events": "view", "where": {"properties.page": "cart"}},
        then={"events": ["view", "buy"], "where": {"value": {"above": 5}}},
    )
    held = fold(
        made,
        [
            view(T0, properties={"page": "cart"}, value=9.0),
            view(T0 + 1, properties={"page": "home"}, value=9.0),
            arrived("buy", at=T0 + 2, value=1.0),
        ],
    )
    assert made.value(held, T0 + 3) == 1


@pytest.mark.parametrize("absent", [False, True])
def test_a_sequence_of_ten_thousand_steps_holds_32_of_each(absent: bool) -> None:
    made = sequence(absent=absent, within="400d")
    held: dict[int, Any] = {}
    fold(made, taken([(("view", "buy")[i % 2], i * SECOND) for i in range(10_000)]), held)
    assert len(encoded(held)) < 700
    assert made.value(held, T0 + 3 * HOUR) == (0 if absent else 32)


@pytest.mark.parametrize("buys", [1, 31, 32, 33, 41])
def test_what_was_followed_is_not_counted_as_failed_once_that_step_is_gone(buys: int) -> None:
    made = sequence(absent=True, gap="30s", within="10d")
    steps = [("view", 0), *[("buy", SECOND + n * MINUTE) for n in range(buys)]]
    held = fold(made, taken(steps), stored=True)
    now = T0 + 2 * HOUR
    assert made.value(held, now) == 0
    assert made.outlook(held, now, lambda n: n == 0) == (True, None)
    # Later than the oldest buy that is kept, it counts.
    fold(made, taken([("view", buys * MINUTE)]), held)
    assert made.value(held, now) == 1


def test_the_first_step_counts_from_the_oldest_second_that_is_kept_on() -> None:
    made = sequence(absent=True, gap="2s", within="10d")
    buys = [("buy", n * HOUR) for n in range(33)]
    views = [("view", HOUR - 10 * SECOND), ("view", HOUR), ("view", 2 * HOUR - SECOND)]
    held = fold(made, taken([*buys, *views]))
    # The buy at 0 is gone, and one after the first view might be; after the second, none is.
    assert made.value(held, T0 + 40 * HOUR) == 1
    fold(made, taken([("view", 3 * HOUR - 3 * SECOND), ("view", 3 * HOUR - SECOND)]), held)
    assert made.value(held, T0 + 40 * HOUR) == 2


_MANY_STEPS: Final = st.lists(
    st.tuples(
        st.sampled_from(["view", "buy", "buy"]), st.integers(0, 200).map(lambda n: n * 30 * SECOND)
    ),
    min_size=30,
    max_size=120,
)


@given(_MANY_STEPS, st.integers(0, 200), st.randoms(use_true_random=False))
@pytest.mark.parametrize("absent", [False, True])
def test_of_more_steps_than_are_kept_a_sequence_never_counts_too_many(
    absent: bool, steps: list[Step], later: int, shuffle: Any
) -> None:
    made = sequence(absent=absent)
    newest = max(at for _, at in steps)
    ordered = fold(made, taken(sorted(steps, key=lambda s: s[1])), stored=True)
    shuffle.shuffle(steps)
    held = fold(made, taken(steps), stored=True)
    assert encoded(held) == encoded(ordered)
    now = newest + later * MINUTE
    assert number(made.value(held, T0 + now)) <= naive_sequence(steps, now, absent=absent)


# Streaks.

_ZONES: Final = ["UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kolkata", "Pacific/Kiritimati"]


def local_date(at: int, zone: str) -> date:
    return datetime.fromtimestamp(at / 1_000, UTC).astimezone(ZoneInfo(zone)).date()


def naive_streak(times: list[int], now: int, zone: str, per: str) -> int:
    def period(at: int) -> date:
        day = local_date(at, zone)
        return day if per == "day" else day - timedelta(days=day.weekday())

    step = timedelta(days=1 if per == "day" else 7)
    had = {period(at) for at in times if at <= now}
    at = period(now)
    if at not in had:
        at -= step
    found = 0
    while at in had:
        found += 1
        at -= step
    return found


@given(
    st.lists(st.integers(0, 40 * 24).map(lambda n: n * HOUR), max_size=60),
    st.integers(0, 60 * 24).map(lambda n: n * HOUR),
    st.randoms(use_true_random=False),
    st.integers(0, 365),
)
@pytest.mark.parametrize("zone", _ZONES)
@pytest.mark.parametrize("per", ["day", "week"])
def test_a_streak_counts_periods_in_a_row_whatever_the_order(
    per: str, zone: str, times: list[int], now: int, shuffle: Any, begin: int
) -> None:
    origin = T0 + begin * DAY
    made = signal("streak", per=per, zone=zone)
    now = max([now, *times])
    ordered = fold(made, [view(origin + at) for at in sorted(times)])
    shuffle.shuffle(times)
    held = fold(made, [view(origin + at) for at in times], stored=True)
    assert encoded(held) == encoded(ordered)
    expected = naive_streak([origin + at for at in times], origin + now, zone, per)
    assert made.value(held, origin + now) == expected

    def long(at: int) -> bool:
        return number(made.value(held, at)) >= 2

    truth, until = made.outlook(held, origin + now, lambda n: number(n) >= 2)
    assert truth == long(origin + now)
    ahead = range(origin + now, origin + now + 16 * DAY, 15 * MINUTE)
    aligned = [at - at % (15 * MINUTE) for at in ahead]
    assert until == first_difference(long, origin + now, aligned)


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=10, unique=True),
    st.integers(0, 10),
    st.integers(1, 5),
)
def test_days_yet_to_come_join_a_streak_as_they_begin(
    days: list[int], today: int, limit: int
) -> None:
    made = signal("streak")
    held = fold(made, [view(T0 + day * DAY + HOUR) for day in days])

    def long(at: int) -> bool:
        return number(made.value(held, at)) >= limit

    now = T0 + today * DAY
    midnights = [T0 + day * DAY for day in range(20)]
    expected = first_difference(long, now, midnights)
    assert made.outlook(held, now, lambda n: number(n) >= limit) == (long(now), expected)


def test_a_streak_is_alive_until_a_whole_day_has_passed() -> None:
    made = signal("streak")
    held = fold(made, [view(T0 + day * DAY + 23 * HOUR) for day in (0, 1, 2)])
    assert made.value(held, T0 + 4 * DAY - 1) == 3
    assert made.value(held, T0 + 4 * DAY) == 0
    assert made.outlook(held, T0 + 3 * DAY, lambda n: n == 3) == (True, T0 + 4 * DAY)
    assert made.empty({}, T0)
    assert not made.empty(held, T0 + 9 * DAY)


@pytest.mark.parametrize(
    ("zone", "day", "begins"),
    [
        # Clocks go forward at 2:00 and back at 3:00: the day has 23 and 25 hours.
        ("Europe/Berlin", "2026-03-29", "2026-03-28T23:00:00+00:00"),
        ("Europe/Berlin", "2026-03-30", "2026-03-29T22:00:00+00:00"),
        ("Europe/Berlin", "2026-10-26", "2026-10-25T23:00:00+00:00"),
        # Midnight itself is skipped: the day begins at 1:00.
        ("America/Sao_Paulo", "2018-11-04", "2018-11-04T03:00:00+00:00"),
        # Midnight comes twice: the day begins at the first.
        ("America/Havana", "2026-11-01", "2026-11-01T04:00:00+00:00"),
    ],
)
def test_a_day_begins_where_the_clocks_of_its_zone_say(zone: str, day: str, begins: str) -> None:
    streak = Streak(1, ZoneInfo(zone))
    first = to_millis(datetime.fromisoformat(begins))
    number_of = streak.period(first)
    assert date.fromordinal(number_of + date(1970, 1, 1).toordinal()).isoformat() == day
    assert streak.begins(number_of) == first
    assert streak.period(first - 1) == number_of - 1


def test_weeks_begin_on_monday_of_the_zone() -> None:
    monday = to_millis(datetime(2026, 3, 30, tzinfo=ZoneInfo("Europe/Berlin")))
    for zone, same in (("Europe/Berlin", False), ("UTC", True)):
        made = signal("streak", per="week", zone=zone)
        held = fold(made, [view(monday - 1), view(monday)])
        assert made.value(held, monday) == (1 if same else 2)


def test_a_streak_of_years_holds_16_runs() -> None:
    made = signal("streak")
    held = fold(made, [view(T0 + i * DAY) for i in range(0, 20_000, 2)])
    assert len(encoded(held)) < 150
    fold(made, [view(T0 + 20_000 * DAY + i * DAY) for i in range(1_000)], held)
    assert made.value(held, T0 + 21_000 * DAY) == 1_000


# Sessions.


Visit = tuple[int, str]
_VISITS: Final = st.lists(
    st.tuples(st.integers(0, 300).map(lambda n: n * MINUTE), st.sampled_from("abcd")), max_size=40
)
GAP: Final = 10 * MINUTE


def visits(events: list[Visit]) -> list[Arrived]:
    return [view(T0 + at, content_id=page) for at, page in events]


def naive_sessions(events: list[Visit]) -> list[list[Visit]]:
    found: list[list[Visit]] = []
    for event in sorted(events):
        if found and event[0] - found[-1][-1][0] < GAP:
            found[-1].append(event)
        else:
            found.append([event])
    return found


def naive_measure(measure: str, events: list[Visit], now: int) -> float:
    sessions = naive_sessions(events)
    if measure == "sessions":
        return float(sum(s[-1][0] > now - 90 * MINUTE for s in sessions))
    if not sessions or now >= sessions[-1][-1][0] + GAP:
        return 0.0
    times = [at for at, _ in sessions[-1]]
    steps = [b - a for a, b in pairwise(times)]
    return float(
        {
            "events": len(times),
            "length": times[-1] - times[0],
            "depth": len({page for _, page in sessions[-1]}),
            "dwell": sum(steps) / len(steps) if steps else 0,
        }[measure]
    )


def session(measure: str) -> Any:
    within = "90m" if measure == "sessions" else None
    return signal("session", measure=measure, gap="10m", within=within)


MEASURES: Final = ["sessions", "events", "length", "depth", "dwell"]


@given(_VISITS, st.integers(0, 100), st.randoms(use_true_random=False))
@pytest.mark.parametrize("measure", MEASURES)
def test_a_session_is_what_lies_closer_together_than_the_gap(
    measure: str, events: list[Visit], later: int, shuffle: Any
) -> None:
    made = session(measure)
    now = max((at for at, _ in events), default=0) + later * MINUTE
    expected = naive_measure(measure, events, now)
    held = fold(made, visits(sorted(events)), stored=True)
    assert made.value(held, T0 + now) == pytest.approx(expected)
    # Out of order by less than the gap: what is later may find its session dropped.
    late = sorted(events, key=lambda e: e[0] + shuffle.randrange(GAP))
    assert encoded(fold(made, visits(late))) == encoded(held)


@pytest.mark.parametrize("measure", MEASURES)
def test_two_sessions_that_a_late_event_joins_push_none_out(measure: str) -> None:
    made = session(measure)
    apart = [(n * GAP, page) for n, page in enumerate("ab" * 30)]
    begin = 100 * GAP
    for kept in range(len(apart) + 1):
        steps = [*apart[:kept], (begin, "a"), (begin + GAP - 1, "b"), (begin + GAP, "c")]
        late = [*steps[:-2], steps[-1], steps[-2]]
        ordered = fold(made, visits(steps), stored=True)
        assert encoded(fold(made, visits(late), stored=True)) == encoded(ordered)


@given(_VISITS, st.integers(0, 400), st.integers(0, 4))
@pytest.mark.parametrize("measure", MEASURES)
def test_a_sessions_truth_changes_at_the_instant_foretold_and_not_before(
    measure: str, events: list[Visit], now: int, limit: int
) -> None:
    made = session(measure)
    held = fold(made, visits(events))
    unit = MINUTE if measure in ("length", "dwell") else 1
    now = max([now * MINUTE, *(at for at, _ in events)])

    def at(instant: int) -> bool:
        return number(made.value(held, instant)) > limit * unit

    turns = [
        T0 + after + ahead + step
        for after, _ in events
        for ahead in (0, GAP, 90 * MINUTE)
        for step in (-1, 0, 1)
    ]
    truth, until = made.outlook(held, T0 + now, lambda n: number(n) > limit * unit)
    assert (truth, until) == (at(T0 + now), first_difference(at, T0 + now, turns))
    assert made.empty(held, T0 + now) == (
        not naive_measure("sessions" if measure == "sessions" else "events", events, now)
    )


def test_a_session_ends_once_the_gap_has_passed() -> None:
    made = session("events")
    held = fold(made, visits([(0, "a"), (GAP - 1, "b")]))
    assert made.value(held, T0 + 2 * GAP - 2) == 2
    assert made.value(held, T0 + 2 * GAP - 1) == 0
    assert made.outlook(held, T0 + GAP, lambda n: n == 2) == (True, T0 + 2 * GAP - 1)
    fold(made, visits([(2 * GAP - 1, "c")]), held)
    assert made.value(held, T0 + 2 * GAP) == 1


def test_a_late_event_joins_two_sessions() -> None:
    for measure, apart, together in (("sessions", 2, 1), ("events", 1, 3), ("depth", 1, 3)):
        made = session(measure)
        now = T0 + 15 * MINUTE
        held = fold(made, visits([(0, "a"), (15 * MINUTE, "c")]))
        assert made.value(held, now) == apart
        fold(made, visits([(7 * MINUTE, "b")]), held)
        assert made.value(held, now) == together


def test_any_behaviour_belongs_to_a_session_and_nothing_else_does() -> None:
    made = session("events")
    assert made.events == frozenset()
    others = [
        arrived(kind, at=T0 + 1)
        for kind in (
            "decision_requested",
            "impression",
            "consent_changed",
            "profile_updated",
            "erasure_requested",
        )
    ]
    liked = arrived("feedback", at=T0 + 2, feedback="like")
    held = fold(made, [*others, liked, view(T0), arrived("anything", at=T0 + 3)])
    assert made.value(held, T0 + 4) == 2
    named = signal("session", measure="events", events=["impression", "like"])
    held = {}
    for event in (*others, liked):
        if not named.events.isdisjoint(event.names):
            named.add(held, event, None)
    assert named.value(held, T0 + 4) == 2


def test_depth_tells_apart_what_it_is_asked_to() -> None:
    made = signal("session", measure="depth", of="content.attributes.brand")
    held: dict[int, Any] = {}
    for i, brand in enumerate(["a", "b", "a", None]):
        shown = content(attributes={} if brand is None else {"brand": brand})
        fold(made, [view(T0 + i)], held, content=shown)
    assert made.value(held, T0 + 9) == 2


@pytest.mark.parametrize("measure", MEASURES)
def test_ten_thousand_visits_hold_no_more_than_a_few_sessions(measure: str) -> None:
    made = signal("session", measure=measure, gap="10m", within=None)
    held: dict[int, Any] = {}
    longest = 0
    for i in range(5_000):
        fold(made, visits([(i * 11 * MINUTE, str(i)), (i * 11 * MINUTE + 1, f"{i}b")]), held)
        longest = max(longest, len(encoded(held)))
    fold(made, visits([(5_000 * 11 * MINUTE + i, str(i)) for i in range(5_000)]), held)
    assert max(longest, len(encoded(held))) < 800
    if measure == "sessions":
        assert made.value(held, T0 + 5_001 * 11 * MINUTE) == 32
    if measure == "depth":
        assert made.value(held, T0 + 5_000 * 11 * MINUTE + 5_000) == 64


# Recency, frequency, monetary value.


Bought = tuple[int, float | None]
_BOUGHT: Final = st.lists(
    st.tuples(
        st.integers(0, 400 * 24).map(lambda n: n * HOUR),
        st.none() | st.integers(-5, 500).map(float),
    ),
    max_size=16,
)


def bought(events: list[Bought]) -> list[Arrived]:
    return [arrived("buy", at=T0 + at, value=v) for at, v in events]


def rfm(**fields: Any) -> Any:
    return signal("rfm", **fields)


def naive_rfm(events: list[Bought], now: int) -> dict[str, Value]:
    inside = [(at, v or 0.0) for at, v in events if now - 365 * DAY < at <= now]
    if not inside:
        return {"recency": None, "frequency": 0.0, "monetary": 0.0, "score": 0.0}
    age = now - max(at for at, _ in inside)
    total = sum(v for _, v in inside)
    score = 3 + sum(age < days * DAY for days in (7, 30, 90, 180))
    score += sum(len(inside) >= n for n in (2, 4, 8, 16))
    score += sum(total >= least for least in (10, 100, 1_000, 10_000))
    return {
        "recency": float(age),
        "frequency": float(len(inside)),
        "monetary": total,
        "score": float(score),
    }


@given(_BOUGHT, st.integers(0, 200 * 24).map(lambda n: n * HOUR), st.randoms())
def test_rfm_scores_what_the_window_holds(events: list[Bought], later: int, shuffle: Any) -> None:
    made = rfm()
    now = max((at for at, _ in events), default=0) + later
    ordered = fold(made, bought(sorted(events, key=lambda e: e[0])))
    shuffle.shuffle(events)
    held = fold(made, bought(events), stored=True)
    assert encoded(held) == encoded(ordered)
    expected = naive_rfm(events, now)
    assert {part: made.value(held, T0 + now, part) for part in expected} == expected
    assert made.value(held, T0 + now) == expected["score"]
    assert made.empty(held, T0 + now) == (expected["frequency"] == 0)


@given(
    _BOUGHT,
    st.integers(0, 600 * 24).map(lambda n: n * HOUR),
    st.sampled_from(["recency", "frequency", "monetary", "score"]),
    st.data(),
)
def test_an_rfms_truth_changes_at_the_instant_foretold_and_not_before(
    events: list[Bought], now: int, part: str, data: st.DataObject
) -> None:
    made = rfm()
    held = fold(made, bought(events))
    limit = data.draw(st.integers(0, 400)) * (HOUR if part == "recency" else 1) / 10

    def holds(value: Value) -> bool:
        return value is not None and number(value) > limit

    def at(instant: int) -> bool:
        return holds(made.value(held, instant, part))

    size = 365 * DAY // 64
    turns = [
        T0 + after + ahead + step
        for after, _ in events
        for ahead in (0, int(limit), *(n * DAY for n in (7, 30, 90, 180, 365)))
        for step in (-1, 0, 1)
    ]
    turns += [(T0 + after) // size * size + 365 * DAY for after, _ in events]
    expected = first_difference(at, T0 + now, turns)
    told = made.outlook(held, T0 + now, holds, part, bounds=(limit,))
    assert told == (at(T0 + now), expected)


@given(st.integers(17, 80), st.integers(0, 30))
def test_an_rfm_of_many_events_scores_the_newest_alike_before_they_all_happened(
    number_of: int, back: int
) -> None:
    """Asked of an instant that some events lie after, the newest before it may be in a bucket."""
    made = rfm(within="64m", recency=["1m", "2m", "3m", "4m"])
    held = fold(made, bought([(i * MINUTE, 1.0) for i in range(number_of)]))
    now = T0 + (number_of - 1 - back) * MINUTE + 30 * SECOND
    recency = made.value(held, now, "recency")
    if recency is None:
        assert made.empty(held, now)
    else:
        # Within a bucket of the truth, and never of an event that is yet to come.
        assert 30 * SECOND <= number(recency) <= 90 * SECOND
