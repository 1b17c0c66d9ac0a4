"""Time of day, weekdays, dates near the present: what only time changes, as clocks there show."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.calendar import LocalHours, clock_text, start_of_day
from schemas.time import DAY, HOUR, MINUTE, to_millis
from tests.operators.condition_builders import World, holds

OFFICE: Final = {"local_time": {"from": "09:00", "to": "17:00"}, "zone": "Europe/Berlin"}


def at(text: str) -> int:
    """An instant in UTC."""
    return to_millis(datetime.fromisoformat(text).replace(tzinfo=UTC))


def asked(condition: dict[str, Any], when: str, **attributes: Any) -> bool | None:
    return World(condition, **attributes).holds(at(when))


def test_a_time_of_day_is_half_open_where_the_person_is() -> None:
    assert asked(OFFICE, "2026-01-05T07:59:59.999") is False
    assert asked(OFFICE, "2026-01-05T08:00") is True
    assert asked(OFFICE, "2026-01-05T15:59:59.999") is True
    assert asked(OFFICE, "2026-01-05T16:00") is False
    # In summer the same clocks show it an hour earlier.
    assert asked(OFFICE, "2026-07-06T07:00") is True
    world = World(OFFICE)
    assert world.until(at("2026-01-05T08:00")) == at("2026-01-05T16:00")
    assert world.until(at("2026-01-05T16:00")) == at("2026-01-06T08:00")


def test_a_time_of_day_may_last_over_midnight_and_to_its_end() -> None:
    night = {"local_time": {"from": "22:00", "to": "06:00"}, "zone": "UTC"}
    hours = [h for h in range(24) if asked(night, f"2026-01-05T{h:02d}:00")]
    assert hours == [0, 1, 2, 3, 4, 5, 22, 23]
    evening = {"local_time": {"from": "22:00", "to": "24:00"}, "zone": "UTC"}
    assert [h for h in range(24) if asked(evening, f"2026-01-05T{h:02d}:00")] == [22, 23]


def test_a_weekday_stands_alone_or_beside_a_time_of_day() -> None:
    weekend = {"weekday": ["sat", "sun"], "zone": "UTC"}
    days = [asked(weekend, f"2026-01-{day:02d}T12:00") for day in range(5, 12)]
    assert days == [False] * 5 + [True] * 2  # 5 January 2026 is a Monday
    assert World(weekend).until(at("2026-01-05T12:00")) == at("2026-01-10T00:00")
    assert World(weekend).until(at("2026-01-10T00:00")) == at("2026-01-12T00:00")
    monday = {**OFFICE, "weekday": "mon"}
    assert asked(monday, "2026-01-05T12:00") is True
    assert asked(monday, "2026-01-06T12:00") is False
    assert World(monday).until(at("2026-01-05T16:00")) == at("2026-01-12T08:00")
    whole = {"weekday": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]}
    assert World(whole).verdict(at("2026-01-05T12:00")) == (True, None)


def test_the_zone_is_the_given_one_else_the_profiles_else_utc() -> None:
    noon = {"local_time": {"from": "12:00", "to": "13:00"}}
    assert asked(noon, "2026-01-05T12:00") is True
    assert asked(noon, "2026-01-05T12:00", timezone="Asia/Tokyo") is False
    assert asked(noon, "2026-01-05T03:00", timezone="Asia/Tokyo") is True
    assert asked({**noon, "zone": "UTC"}, "2026-01-05T12:00", timezone="Asia/Tokyo") is True


@pytest.mark.parametrize(
    "zone", ["Mars/Olympus", "", "Europe", "../etc/passwd", "a\0b", 7, "x" * 999]
)
def test_an_unknown_zone_never_holds(zone: Any) -> None:
    noon = {"local_time": {"from": "00:00", "to": "24:00"}}
    assert asked(noon, "2026-01-05T12:00", timezone=zone) is None
    assert asked({"not": noon}, "2026-01-05T12:00", timezone=zone) is None
    soon = {"attribute": "born", "anniversary_within": "7d"}
    assert asked(soon, "2026-01-05T12:00", timezone=zone, born="1990-01-06") is None


def test_an_hour_that_clocks_leave_out_or_show_twice_is_told_exactly() -> None:
    # Berlin, 29 March 2026: 02:00 becomes 03:00 at 01:00 UTC. 25 October: 03:00 becomes 02:00.
    early = World({"local_time": {"from": "02:30", "to": "04:00"}, "zone": "Europe/Berlin"})
    assert early.verdict(at("2026-03-29T00:30")) == (False, at("2026-03-29T01:00"))
    assert early.verdict(at("2026-03-29T01:00")) == (True, at("2026-03-29T02:00"))
    before = World({"local_time": {"from": "01:00", "to": "02:30"}, "zone": "Europe/Berlin"})
    assert before.verdict(at("2026-03-29T00:30")) == (True, at("2026-03-29T01:00"))
    assert before.verdict(at("2026-10-25T00:15")) == (True, at("2026-10-25T00:30"))
    assert before.verdict(at("2026-10-25T00:30")) == (False, at("2026-10-25T01:00"))
    assert before.verdict(at("2026-10-25T01:00")) == (True, at("2026-10-25T01:30"))


def test_a_day_begins_where_its_midnight_is_left_out() -> None:
    # Beirut, 31 March 2024, and Santiago, 8 September 2024: midnight became one o'clock.
    for zone, day in (("Asia/Beirut", date(2024, 3, 31)), ("America/Santiago", date(2024, 9, 8))):
        start = start_of_day(day, ZoneInfo(zone))
        assert clock_text(start, ZoneInfo(zone)).endswith("01:00")
        assert clock_text(start - 1, ZoneInfo(zone)).endswith("23:59")
    # Apia had no 30 December 2011.
    apia = ZoneInfo("Pacific/Apia")
    assert start_of_day(date(2011, 12, 30), apia) == start_of_day(date(2011, 12, 31), apia)


ZONES: Final = [
    *("UTC", "Europe/Berlin", "America/New_York", "Asia/Beirut", "America/Santiago"),
    *("Australia/Lord_Howe", "Africa/Casablanca", "Asia/Kathmandu", "Pacific/Apia"),
]
MINUTES: Final = st.integers(0, 95).map(lambda quarter: quarter * 15)


@given(
    st.sampled_from(ZONES),
    st.none() | st.tuples(MINUTES, MINUTES).filter(lambda pair: pair[0] != pair[1]),
    st.none() | st.sets(st.integers(0, 6), min_size=1),
    st.integers(at("2011-12-20T00:00") // MINUTE, at("2012-01-05T00:00") // MINUTE)
    | st.integers(at("2024-01-01T00:00") // MINUTE, at("2027-01-01T00:00") // MINUTE),
)
def test_the_instant_foretold_is_the_first_at_which_clocks_there_say_otherwise(
    zone: str, hours: tuple[int, int] | None, days: set[int] | None, minute: int
) -> None:
    """Against reading the clock there at every quarter of an hour."""

    def naive(instant: int) -> bool:
        shown = datetime.fromtimestamp(instant / 1_000, ZoneInfo(zone))
        clock = shown.hour * 60 + shown.minute
        begin, end = hours or (0, 1_440)
        in_hours = begin <= clock < end if begin < end else clock >= begin or clock < end
        return in_hours and (days is None or shown.weekday() in days)

    now = minute * MINUTE
    asked = LocalHours(hours, days)
    truth, until = asked.outlook(now, ZoneInfo(zone))
    assert truth is naive(now)
    horizon = now + 8 * DAY
    quarter = now - now % (15 * MINUTE) + 15 * MINUTE
    while quarter <= horizon and naive(quarter) is truth:
        quarter += 15 * MINUTE
    if quarter <= horizon:
        assert until == quarter
    else:
        assert until is None or until > horizon
    # What was remembered of one instant serves the next.
    assert asked.outlook(now + 1, ZoneInfo(zone)) == LocalHours(hours, days).outlook(
        now + 1, ZoneInfo(zone)
    )


def test_a_birthday_comes_round_every_year() -> None:
    soon = {"attribute": "born", "anniversary_within": "7d"}
    days = [
        day
        for day in range(1, 31)
        if holds(soon, at=at(f"2026-06-{day:02d}T12:00"), born="1990-06-17")
    ]
    assert days == list(range(10, 18))  # the day itself, and seven before it
    world = World(soon, born="1990-06-17")
    assert world.verdict(at("2026-06-01T00:00")) == (False, at("2026-06-10T00:00"))
    assert world.verdict(at("2026-06-10T00:00")) == (True, at("2026-06-18T00:00"))
    assert world.verdict(at("2026-06-18T00:00")) == (False, at("2027-06-10T00:00"))


def test_a_birthday_is_a_day_in_the_persons_zone_and_as_written() -> None:
    soon = {"attribute": "born", "anniversary_within": "1d"}
    world = World(soon, born="1990-06-17T23:30:00-05:00", timezone="Asia/Tokyo")
    assert world.verdict(at("2026-06-15T14:59")) == (False, at("2026-06-15T15:00"))
    assert world.verdict(at("2026-06-15T15:00")) == (True, at("2026-06-17T15:00"))


def test_a_birthday_near_the_new_year_and_on_a_leap_day() -> None:
    soon = {"attribute": "born", "anniversary_within": "3d"}
    assert asked(soon, "2026-12-30T00:00", born="1990-01-02") is True
    assert asked(soon, "2026-12-29T23:59", born="1990-01-02") is False
    leap = {"attribute": "born", "anniversary_within": "0d"}
    assert asked(leap, "2026-02-28T12:00", born="1992-02-29") is True
    assert asked(leap, "2026-03-01T12:00", born="1992-02-29") is False
    assert asked(leap, "2028-02-28T12:00", born="1992-02-29") is False
    assert asked(leap, "2028-02-29T12:00", born="1992-02-29") is True


def test_the_day_itself_is_not_its_anniversary() -> None:
    joined = {"attribute": "joined", "anniversary_within": "7d"}
    world = World(joined, joined="2026-06-17")
    assert world.verdict(at("2026-06-17T12:00")) == (False, at("2027-06-10T00:00"))


def test_a_date_ahead_and_a_date_past() -> None:
    ahead = World({"attribute": "ends", "within_next": "7d"}, ends="2026-06-17")
    assert ahead.verdict(at("2026-06-09T23:59")) == (False, at("2026-06-10T00:00"))
    assert ahead.verdict(at("2026-06-10T00:00")) == (True, at("2026-06-18T00:00"))
    assert ahead.verdict(at("2026-06-18T00:00")) == (False, None)
    past = World({"attribute": "began", "within_last": "7d"}, began="2026-06-17")
    assert past.verdict(at("2026-06-16T23:59")) == (False, at("2026-06-17T00:00"))
    assert past.verdict(at("2026-06-17T00:00")) == (True, at("2026-06-25T00:00"))
    assert past.verdict(at("2026-06-25T00:00")) == (False, None)


def test_an_instant_ahead_becomes_an_instant_past() -> None:
    instant = "2026-06-17T10:00:00+02:00"
    ahead = World({"attribute": "x", "within_next": "90m"}, x=instant)
    assert ahead.verdict(at("2026-06-17T06:00")) == (False, at("2026-06-17T06:30"))
    assert ahead.verdict(at("2026-06-17T06:30")) == (True, at("2026-06-17T08:00"))
    past = World({"attribute": "x", "within_last": "90m"}, x=instant)
    assert past.verdict(at("2026-06-17T08:00")) == (True, at("2026-06-17T09:30"))
    assert past.verdict(at("2026-06-17T09:30")) == (False, None)


def test_days_are_those_of_the_calendar_where_clocks_change() -> None:
    # A week before Monday, 30 March 2026 in Berlin lies on the other side of the change.
    ahead = World({"attribute": "x", "within_next": "7d"}, x="2026-03-30", timezone="Europe/Berlin")
    assert ahead.until(at("2026-03-01T00:00")) == at("2026-03-22T23:00")
    assert ahead.until(at("2026-03-28T00:00")) == at("2026-03-30T22:00")


@pytest.mark.parametrize(
    "value", ["tomorrow", "2026-13-01", "2026-06-17T10:00", 20260617, True, "9999-12-31", ""]
)
@pytest.mark.parametrize("field", ["anniversary_within", "within_next", "within_last"])
def test_what_is_no_date_never_holds(field: str, value: Any) -> None:
    condition = {"attribute": "x", field: "300d"}
    assert asked(condition, "2026-06-17T00:00", x=value) is False
    assert asked(condition, "2026-06-17T00:00") is False
    assert asked({"not": condition}, "2026-06-17T00:00") is True


@given(
    st.dates(min_value=date(1, 1, 1), max_value=date(9999, 12, 31)),
    st.integers(0, 363),
    st.sampled_from(ZONES),
    st.integers(at("2024-01-01T00:00") // HOUR, at("2029-01-01T00:00") // HOUR),
)
def test_an_anniversary_is_told_for_every_day_there_is(
    born: date, days: int, zone: str, hour: int
) -> None:
    """Against looking at every day from today on."""
    world = World(
        {"attribute": "born", "anniversary_within": f"{days}d"},
        born=born.isoformat(),
        timezone=zone,
    )
    now = hour * HOUR
    today = datetime.fromtimestamp(hour * 3_600, ZoneInfo(zone)).date()

    def celebrates(day: date) -> bool:
        if day.year <= born.year:
            return False
        if (born.month, born.day) == (2, 29) and not _is_leap(day.year):
            return (day.month, day.day) == (2, 28)
        return (day.month, day.day) == (born.month, born.day)

    verdict = world.verdict(now)
    assert verdict.holds is any(celebrates(today + timedelta(days=n)) for n in range(days + 1))
    if verdict.until_ms is not None:
        assert verdict.until_ms > now
        assert world.holds(verdict.until_ms) is not verdict.holds
        assert world.holds(verdict.until_ms - 1) is verdict.holds
    else:
        assert born.year > 9_000


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
