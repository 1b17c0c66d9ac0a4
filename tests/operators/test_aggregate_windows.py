"""Do counts in slices keep every promise of a cap, and does popularity forget as it says?"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.aggregate_windows import (
    FOREVER,
    HALF_LIFE,
    NEVER,
    SHRINK,
    SLICES,
    Counts,
    Popularity,
    slice_ms,
)
from schemas.time import DAY, HOUR
from tests.operators.builders import T0

TIMES = st.lists(st.integers(T0, T0 + 3 * HOUR), min_size=1, max_size=60)


@given(TIMES, st.integers(1, 12), st.integers(1, HOUR), st.integers(T0, T0 + 5 * HOUR))
def test_a_count_leaves_no_earlier_than_its_window_and_one_slice_later_at_most(
    times: list[int], most: int, within: int, now: int
) -> None:
    counts = Counts(within)
    for at in times:
        counts.add("a", at)
    full = counts.full_until("a", most) > now
    if sum(at >= now - within for at in times) >= most:
        assert full
    if full:
        assert sum(at >= now - within - slice_ms(within) - SLICES for at in times) >= most


@given(st.data(), TIMES, st.integers(1, HOUR))
def test_the_order_of_arrival_changes_no_count(data: Any, times: list[int], within: int) -> None:
    newest = max(times)
    states = []
    for order in (times, data.draw(st.permutations(times))):
        counts = Counts(within)
        for i, at in enumerate(order):
            counts.add("a", at)
            if i % 7 == 3:
                counts.forget(max(order[: i + 1]))
        counts.forget(newest)
        states.append(counts.state)
    assert states[0] == states[1]
    assert all(len(slices) <= SLICES for slices in states[0].values())


def test_what_nobody_may_see_is_full_for_ever_and_what_nobody_saw_never_was() -> None:
    counts = Counts(HOUR)
    assert counts.full_until("a", 0) == FOREVER
    assert counts.full_until("a", 1) == NEVER


def test_a_key_whose_window_is_over_is_not_held() -> None:
    counts = Counts(HOUR)
    counts.add("a", T0)
    counts.forget(T0 + HOUR)
    assert list(counts.state) == ["a"]
    counts.forget(T0 + HOUR + 2 * slice_ms(HOUR))
    assert list(counts.state) == []


LINES = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.integers(T0, T0 + 60 * DAY),
        st.booleans(),
        st.integers(-3, 30),
    ),
    min_size=1,
    max_size=40,
)


def counted(lines: list[tuple[str, int, bool, int]]) -> Popularity:
    popularity = Popularity()
    newest = NEVER
    for content, at, shown, reward in lines:
        newest = max(newest, at)
        popularity.add(
            content, at, impressions=int(shown), reward=0 if shown else reward, newest_ms=newest
        )
    return popularity


@given(st.data(), LINES)
def test_popularity_depends_on_what_was_seen_and_not_on_its_order(
    data: Any, lines: list[tuple[str, int, bool, int]]
) -> None:
    newest = max(at for _, at, _, _ in lines)
    one, other = counted(lines), counted(data.draw(st.permutations(lines)))
    one.move(newest)
    other.move(newest)
    assert one.state == other.state
    assert one.ranked(9) == other.ranked(9)


@given(LINES)
def test_popularity_taken_from_its_state_goes_on_with_the_same_figures(
    lines: list[tuple[str, int, bool, int]],
) -> None:
    newest = max(at for _, at, _, _ in lines)
    before = counted(lines)
    again = Popularity(before.state)
    again.move(newest)
    assert again.ranked(9) == before.ranked(9)


def test_an_impression_of_a_half_life_ago_counts_half() -> None:
    popularity = Popularity()
    now = T0 + 5 * HALF_LIFE
    # Twice as many impressions, a half-life older, weigh as much: so does what they earned.
    for _ in range(2 * SHRINK):
        popularity.add("old", now - HALF_LIFE, impressions=1, reward=0, newest_ms=now)
    for _ in range(SHRINK):
        popularity.add("new", now, impressions=1, reward=0, newest_ms=now)
    popularity.add("old", now - HALF_LIFE, impressions=0, reward=200_000, newest_ms=now)
    popularity.add("new", now, impressions=0, reward=100_000, newest_ms=now)
    rates = dict(popularity.ranked(9))
    assert rates["old"] == pytest.approx(rates["new"])
    assert rates["new"] == pytest.approx(10 / SHRINK)


def test_a_lucky_first_impression_is_not_the_most_popular() -> None:
    popularity = Popularity()
    for i in range(1_000):
        popularity.add("known", T0 + i, impressions=1, reward=2_000, newest_ms=T0 + i)
        popularity.add("dull", T0 + i, impressions=1, reward=0, newest_ms=T0 + i)
    popularity.add("lucky", T0 + 1_000, impressions=1, reward=10_000, newest_ms=T0 + 1_000)
    assert [content for content, _ in popularity.ranked(9)] == ["known", "lucky", "dull"]


def test_what_nobody_saw_for_six_half_lives_is_forgotten() -> None:
    popularity = Popularity()
    popularity.add("a", T0, impressions=1, reward=10_000, newest_ms=T0)
    popularity.move(T0 + 6 * HALF_LIFE - DAY)
    assert popularity.ranked(9)
    popularity.move(T0 + 6 * HALF_LIFE + DAY)
    assert not popularity.ranked(9)
    assert popularity.state == {}
