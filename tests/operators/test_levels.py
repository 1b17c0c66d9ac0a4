"""What a person allows bounds every level, whatever the order in which it was stated."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.levels import MOST_KEPT, Levels, level_of, state_levels
from tests.operators.builders import T0

_STATED = st.lists(
    st.tuples(
        st.sampled_from(["level", "level.home", "level.mail", "colour"]),
        st.integers(0, 5),
        st.integers(0, 4),
    ),
    max_size=12,
)


def allowed(*statements: tuple[str, int, int]) -> Levels:
    held: Levels = {}
    for key, level, at in statements:
        state_levels(held, {key: level}, T0 + at)
    return held


@given(_STATED, st.randoms(use_true_random=False))
def test_the_order_of_arrival_never_changes_what_is_allowed(
    statements: list[tuple[str, int, int]], shuffle: Any
) -> None:
    held = allowed(*statements)
    shuffle.shuffle(statements)
    assert allowed(*statements) == held


@given(_STATED, st.integers(0, 5))
def test_the_newest_statement_holds_and_of_two_the_stricter(
    statements: list[tuple[str, int, int]], own: int
) -> None:
    held = allowed(*statements)
    bounds = [own]
    for asked in ("level", "level.home"):
        said = [(at, level) for key, level, at in statements if key == asked]
        if said:
            newest = max(at for at, _ in said)
            bounds.append(min(level for at, level in said if at == newest))
    assert level_of(held, "home", own) == min(bounds)


def test_a_person_may_turn_it_down_for_everything_or_for_one_placement() -> None:
    held = allowed(("level.mail", 1, 0), ("level", 3, 0))
    assert [level_of(held, name, 4) for name in ("home", "mail")] == [3, 1]
    assert level_of(held, "home", 2) == 2, "never above the placement's own"


def test_five_takes_a_restriction_back() -> None:
    held = allowed(("level", 0, 0))
    assert level_of(held, "home", 4) == 0
    assert state_levels(held, {"level": 5}, T0 + 1)
    assert level_of(held, "home", 4) == 4
    assert not state_levels(held, {"level": 0}, T0), "older than what took it back"
    assert level_of(held, "home", 4) == 4


def test_repeating_a_statement_changes_nothing_of_the_level() -> None:
    held = allowed(("level", 2, 0))
    assert not state_levels(held, {"level": 2}, T0)
    assert held == {"level": (2, T0)}


@pytest.mark.parametrize(
    "stated",
    [{"colour": 1}, {"levels": 1}, {"level.": 1}, {"level.A B": 1}, {"level": 6}, {"level": -1}],
)
def test_what_is_unknown_is_ignored(stated: dict[str, int]) -> None:
    held: Levels = {}
    assert not state_levels(held, stated, T0)
    assert held == {}


def test_a_flood_of_placements_never_drops_what_was_said_for_everything() -> None:
    held = allowed(("level", 1, 0))
    for i in range(500):
        state_levels(held, {f"level.p{i}": 2}, T0 + 1 + i)
    assert len(held) == MOST_KEPT
    assert level_of(held, "home", 4) == 1
    assert "level.p499" in held
    assert "level.p0" not in held
