"""Is what is added up of a period the same in whatever order, and bounded without a loss?"""

from __future__ import annotations

from random import Random

import pytest

from operators.ids import hash64
from operators.monitor import Monitor
from operators.monitor_tests import SAMPLE, UNKNOWN, ScoreTest, keep, try_score
from operators.monitor_watch import Decided, Watched
from operators.monitor_window import OTHER, VALUES, Counting, Window
from schemas.time import DAY, HOUR, MINUTE
from tests.operators.builders import T0
from tests.operators.monitor_builders import booked, made, monitored

SEEDS = (1, 2, 3)
REGIONS = [f"r{i}" for i in range(3 * VALUES)]
LATE, EARLY = T0 + HOUR + MINUTE, T0 + HOUR - MINUTE


def _of_many(seed: int) -> list[Watched]:
    """Two periods, both open, in which every region decides, is seen and is rewarded."""
    rng, watched = Random(seed), list[Watched]()
    for region in [*REGIONS, OTHER, *rng.choices(REGIONS, k=VALUES)]:
        for at_ms in (EARLY, LATE):
            watched.append(made(at_ms, groups={"region": region}))
            watched.append(booked(at_ms, reward=1.0, groups={"region": region}))
    return rng.sample(watched, len(watched))


def _groups(window: Window) -> dict[str, tuple[int, int, int, int]]:
    return {
        value: (count.chosen, count.exposed, count.seen, count.rewarded)
        for value, count in window.groups["region"].items()
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_of_too_many_values_those_of_the_lowest_hashes_are_held(seed: int) -> None:
    counting, windows = Counting(monitored(), "home"), (Window(0, LATE), Window(LATE, LATE + HOUR))
    decided = [dict.fromkeys([*REGIONS, OTHER], 0) for _ in windows]
    for one in _of_many(seed):
        if isinstance(one, Decided):
            late = one.at_ms == LATE
            counting.decided(windows[late], one)
            decided[late][one.groups["region"]] += 1
        else:
            counting.closed(windows[one.closed_ms == LATE], one)
    lowest = set(sorted(REGIONS, key=hash64)[:VALUES])
    for window, expected in zip(windows, decided, strict=True):
        held = _groups(window)
        assert held.keys() == lowest | {OTHER}
        rest = sum(number for value, number in expected.items() if value not in lowest)
        for value, counts in held.items():
            assert counts == (rest if value == OTHER else expected[value],) * 4


@pytest.mark.parametrize("seed", SEEDS)
def test_too_many_values_go_on_alike_after_a_resume_and_another_policy(seed: int) -> None:
    of, watched = monitored(), _of_many(seed)
    whole, begun, resumed = (Monitor(of, "home") for _ in range(3))
    begun.watch(watched[: 3 * VALUES])
    # What it had counted before it is given the state plays no part.
    resumed.watch([made(EARLY, groups={"region": f"x{i}"}) for i in range(2 * VALUES)])
    resumed.restore(begun.snapshot())
    end = [made(T0 + 9 * DAY)]
    for i, one in enumerate(watched):
        assert whole.watch([one]) == []
        if i == VALUES:
            whole.adopt(monitored())
    assert resumed.watch(watched[3 * VALUES :]) == []
    told = whole.watch(end)
    assert len(told) == 2
    assert resumed.watch(end) == told


@pytest.mark.parametrize("seed", SEEDS)
def test_a_sample_is_of_the_lowest_hashes_whatever_comes_first(seed: int) -> None:
    rng = Random(seed)
    chances = [None, 0.0, -0.0, 0.3, 0.7]
    given = [
        (f"{i}", rng.choice([0.3, 0.0, -0.0, 2.0]), rng.choice(chances), float(rng.random() < 0.1))
        for i in range(3 * SAMPLE)
    ]
    sample: list[ScoreTest] = []
    whole: list[ScoreTest] = []
    for identity, score, chance, reward in given:
        try_score(sample, identity, score, chance, reward)
        key = -(hash64(f"{identity}|{score!r}|{chance!r}|{reward!r}") >> 1)
        known = UNKNOWN if chance is None else chance
        whole.append((key, min(score, 1.0), known, reward))
    assert sorted(sample) == sorted(whole)[-SAMPLE:]
    mixed: list[ScoreTest] = []
    for test in rng.sample(whole, len(whole)):
        keep(mixed, test)
    assert sorted(mixed) == sorted(sample)
