"""Is a broken tracker told, soon and once, and a quiet week with its daily rhythm left in peace?"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.health import NAMES, UNTOLD, Alarm, InputHealth, Shape, Tally, legible
from schemas.health import Health
from schemas.time import DAY, MINUTE

DAY_MINUTES = DAY // MINUTE
START = 1_767_225_600_000 // MINUTE
"""A midnight, in minutes."""

Brought = tuple[dict[str, int], dict[Shape, Tally], int]
Breaks = Callable[[int, int], Brought]


def rhythm(base: float, minute: int, swing: float = 10.0) -> float:
    """Events per minute with a peak at two in the afternoon, `swing` times the trough at night."""
    hours = (minute % DAY_MINUTES) / 60
    return base * math.exp(math.log(swing) / 2 * math.cos((hours - 14) / 12 * math.pi))


def draw(rng: random.Random, mean: float) -> int:
    """A Poisson number: the sum of bits for small means, else the nearest normal."""
    if mean > 30:
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))
    limit, product, n = math.exp(-mean), rng.random(), 0
    while product > limit:
        product *= rng.random()
        n += 1
    return n


def views(n: int, *names: str, old: int = 0, minute: int = 0) -> Brought:
    """A minute of `n` views that bear `names`."""
    if n == 0:
        return {}, {}, 0
    return {"view": n}, {("view", *names): [n, old, minute * MINUTE]}, 0


def lived(
    days: float,
    base: float = 40.0,
    *,
    breaks: Breaks = lambda _minute, n: views(n, "sku", "price"),
    seed: int = 0,
    watch: InputHealth | None = None,
    start: int = 0,
) -> Iterator[tuple[int, Alarm]]:
    """The alarms of a log of views, with the minute since its start at which each came."""
    rng = random.Random(seed)
    watched = watch or InputHealth(Health())
    for t in range(start, start + round(days * DAY_MINUTES)):
        brought = breaks(t, draw(rng, rhythm(base, t)))
        for alarm in watched.minute(START + t, *brought):
            yield t, alarm


BROKEN_AT = 2 * DAY_MINUTES + 10 * 60
"""Ten in the morning of the third day."""
MENDED_AT = BROKEN_AT + 6 * 60


def while_broken(how: Callable[[int], Brought]) -> Breaks:
    """Views as usual, but `how` they are while the tracker is broken."""

    def breaks(minute: int, n: int) -> Brought:
        return how(n) if BROKEN_AT <= minute < MENDED_AT else views(n, "sku", "price")

    return breaks


@pytest.mark.parametrize(
    ("what", "how", "within"),
    [
        ("silent", lambda _n: views(0), 15),
        ("rate_up", lambda n: views(2 * n, "sku", "price"), 15),
        ("rate_down", lambda n: views(n // 2, "sku", "price"), 20),
        ("missing_property", lambda n: views(n, "sku"), 15),
        ("new_property", lambda n: views(n, "sku", "price", "colour"), 2),
        ("dated_old", lambda n: views(n, "sku", "price", old=n), 15),
        ("dead_letters", lambda n: ({"view": n}, {("view", "sku", "price"): [n, 0, 0]}, n), 20),
    ],
)
def test_a_broken_tracker_is_told_once_and_so_is_its_mending(
    what: str, how: Callable[[int], Brought], within: int
) -> None:
    told = list(lived(4, breaks=while_broken(how)))
    assert [alarm.what for _, alarm in told] == [what, what]
    (began, first), (ended, last) = told
    assert (first.began, last.began) == (True, False)
    assert BROKEN_AT <= began <= BROKEN_AT + within
    if what == "new_property":
        assert began + DAY_MINUTES == ended
    else:
        assert MENDED_AT <= ended <= MENDED_AT + 2 * within
    assert first.event_type == ("all" if what == "dead_letters" else "view")
    assert first.at_ms == (START + began + 1) * MINUTE


def test_an_alarm_says_what_was_and_what_is() -> None:
    (_, rate), _ = lived(3.5, breaks=while_broken(lambda n: views(3 * n, "sku", "price")))
    usual = rhythm(40.0, BROKEN_AT)
    assert rate.was == pytest.approx(usual, rel=0.15)
    assert rate.is_ == pytest.approx(3 * usual, rel=0.15)
    (_, missing), _ = lived(3.5, breaks=while_broken(lambda n: views(n, "sku")))
    assert (missing.subject, missing.is_) == ("price", 0.0)
    assert missing.was == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("base", [0.5, 5.0, 40.0, 400.0])
def test_a_quiet_week_with_a_daily_rhythm_gives_no_alarm(base: float) -> None:
    """Its rate varies tenfold each day, its properties and its delays by chance all the time."""
    rng = random.Random(base)

    def ordinary(_minute: int, n: int) -> Brought:
        with_both = sum(rng.random() < 0.7 for _ in range(min(n, 40)))
        old = sum(rng.random() < 0.05 for _ in range(with_both))
        shapes: dict[Shape, Tally] = {
            ("view", "sku", "price"): [with_both, old, 0],
            ("view", "sku"): [min(n, 40) - with_both, 0, 0],
        }
        return {"view": n}, shapes, sum(rng.random() < 0.01 for _ in range(n))

    assert [alarm for _, alarm in lived(8, base, breaks=ordinary)] == []


def test_a_weekend_that_comes_later_and_lower_gives_no_alarm() -> None:
    def weekend(minute: int, n: int) -> Brought:
        quiet = minute // DAY_MINUTES % 7 in (2, 3)
        later = rhythm(40.0, minute - 90) / rhythm(40.0, minute)
        return views(round(n * later * 0.65) if quiet else n, "sku")

    assert [alarm for _, alarm in lived(9, breaks=weekend)] == []


def test_a_job_at_the_same_time_each_night_is_learned() -> None:
    def job(minute: int, n: int) -> Brought:
        return views(n + (200 if 180 <= minute % DAY_MINUTES < 190 else 0), "sku")

    assert {minute // DAY_MINUTES for minute, _ in lived(8, breaks=job)} <= {0, 1, 2}


def test_a_change_that_stays_is_accepted_but_silence_never_is() -> None:
    def doubled(minute: int, n: int) -> Brought:
        return views(2 * n if minute >= BROKEN_AT else n, "sku")

    (began, up), (ended, over) = lived(6, breaks=doubled)
    assert (up.what, up.began, over.began) == ("rate_up", True, False)
    assert DAY_MINUTES <= ended - began <= DAY_MINUTES + 10

    def stopped(minute: int, n: int) -> Brought:
        return views(0 if minute >= BROKEN_AT else n, "sku")

    watch = InputHealth(Health())
    told = [alarm.what for _, alarm in lived(6, breaks=stopped, watch=watch)]
    assert told == ["silent"]
    assert watch.on == [("view", "silent")]


def test_a_type_that_is_gone_for_a_week_is_forgotten_and_its_alarm_ends() -> None:
    def stopped(minute: int, n: int) -> Brought:
        return views(n if minute < DAY_MINUTES else 0, "sku")

    watch = InputHealth(Health())
    told = list(lived(9, breaks=stopped, watch=watch))
    assert [(alarm.what, alarm.began) for _, alarm in told] == [("silent", True), ("silent", False)]
    assert (watch.on, watch.readings) == ([], [])


def test_on_the_first_day_only_a_stop_or_a_great_change_is_told() -> None:
    def at_ten(factor: float) -> list[str]:
        def changed(minute: int, n: int) -> Brought:
            return views(round(n * factor) if minute >= 600 else n, "sku")

        return [alarm.what for _, alarm in lived(0.7, breaks=changed)]

    assert at_ten(0.0) == ["silent"]
    assert at_ten(5.0) == ["rate_up"]
    assert at_ten(1.4) == []


def test_nothing_is_said_before_it_is_warm() -> None:
    def wild(minute: int, n: int) -> Brought:
        names = ("sku", "price") if minute % 2 else (f"name{'abcdefghij'[minute % 10]}",)
        return views(n * (minute % 7), *names, old=minute % 3)

    assert list(lived(59 / DAY_MINUTES, breaks=wild)) == []


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_property_that_only_some_events_lose_is_told_where_it_is_many(share: float) -> None:
    def some(n: int) -> Brought:
        lost = round(share * n)
        shapes: dict[Shape, Tally] = {
            ("view", "sku", "price"): [n - lost, 0, 0],
            ("view", "sku"): [lost, 0, 0],
        }
        return {"view": n}, {shape: tally for shape, tally in shapes.items() if tally[0]}, 0

    told = [alarm for _, alarm in lived(3.5, breaks=while_broken(some))]
    assert [(alarm.what, alarm.subject) for alarm in told] == [("missing_property", "price")] * 2


def test_what_is_not_known_of_properties_is_not_missed() -> None:
    untold = while_broken(lambda n: ({"view": n}, {("view", UNTOLD): [n, 0, 0]}, 0))
    assert list(lived(3.5, breaks=untold)) == []


def test_a_new_property_is_named_only_once_it_came_often() -> None:
    def rare(minute: int, n: int) -> Brought:
        counts, shapes, _ = views(n, "sku")
        if minute == 600:
            shapes["view", "sku", "typo"] = [19, 0, 0]
            counts = {"view": n + 19}
        return counts, shapes, 0

    watch = InputHealth(Health())
    assert list(lived(601 / DAY_MINUTES, breaks=rare, watch=watch)) == []
    assert watch.readings[0].unknown == 19
    assert watch.readings[0].missing == 0.0


@given(st.text(max_size=100))
def test_a_senders_word_is_made_legible(word: str) -> None:
    told = legible(word)
    assert len(told) <= 64
    assert set(told) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-#")
    assert not any(told[i : i + 3].isdecimal() for i in range(len(told) - 2))


def test_types_and_properties_are_bounded_however_many_come() -> None:
    watch = InputHealth(Health(types=5), named=frozenset({"purchase"}))
    rng = random.Random(1)
    for t in range(120):
        counts = {f"type_{'abcdefghij'[rng.randrange(10)]}_{i % 90}": 3 for i in range(200)}
        counts["purchase"] = 10
        shapes: dict[Shape, Tally] = {
            (name, *(f"p{rng.randrange(1 << 30)}" for _ in range(9))): [n, 0, 0]
            for name, n in counts.items()
        }
        watch.minute(START + t, counts, shapes, 0)
    names = {reading.event_type for reading in watch.readings}
    assert len(names) == 7
    assert {"other", "purchase"} <= names
    assert sum(reading.came for reading in watch.readings) == sum(counts.values())
    for one in watch._types.values():
        assert len(one.known) <= NAMES
        assert len(one.fresh) <= NAMES


def test_the_same_log_gives_the_same_alarms() -> None:
    broken = while_broken(lambda n: views(n // 3, "sku"))
    assert list(lived(3.5, breaks=broken)) == list(lived(3.5, breaks=broken))


def test_types_are_watched_apart() -> None:
    def two(minute: int, n: int) -> Brought:
        clicks = 0 if BROKEN_AT <= minute < MENDED_AT else n // 2
        counts, shapes, _ = views(n, "sku")
        if clicks:
            shapes["click",] = [clicks, 0, 0]
            counts["click"] = clicks
        return counts, shapes, 0

    told = Counter((alarm.event_type, alarm.what) for _, alarm in lived(3.5, breaks=two))
    assert told == {("click", "silent"): 2}


@pytest.mark.parametrize("wrong", [{"window": "30s"}, {"warm_up": "90s"}, {"types": 0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Health.model_validate(wrong)
