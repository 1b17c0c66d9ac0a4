"""Less of this: who loses how much, for how long, and what takes it back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.arrival import Arrived
from operators.penalties import (
    FADED,
    MOST_KEYS,
    MOST_TIMES,
    Less,
    Penalties,
    amount_of,
    state_less,
    strength_of,
)
from operators.plan import Plan
from schemas.guidance import Feedback
from schemas.time import DAY, MINUTE
from tests.operators.builders import T0, arrived, content, plan

HALF: Final = 14 * DAY
FEEDBACK: Final = Feedback()


def catalogue() -> Plan:
    return plan(
        catalogue=[
            content("run1", tags=["running", "shoes"]),
            content("run2", tags=["running"]),
            content("boot", tags=["shoes", "winter"]),
            content("both", tags=["running", "shoes"]),
            content("tent", tags=["camping"]),
            content("pill", tags=["running"], sensitive=True),
        ]
    )


def says(
    kind: str, content_id: str | None = None, *, tag: str | None = None, at: int = T0
) -> Arrived:
    return arrived("feedback", feedback=kind, content_id=content_id, tag=tag, at=at)


def booked(events: Iterable[Arrived], feedback: Feedback = FEEDBACK, **fields: Any) -> Less:
    held: Less = {}
    now_ms = 0
    for event in events:
        now_ms = max(now_ms, event.occurred_ms)
        state_less(held, event, feedback, now_ms, **fields)
    return held


def left(
    held: Less, *, at: int = T0, feedback: Feedback = FEEDBACK, sensitive: tuple[str, ...] = ()
) -> dict[str, float]:
    """What is left of each content's score, by id; all 1 where nothing is penalised."""
    of = catalogue().contents
    positions = np.arange(len(of.ids))[::-1].astype(np.intp)
    factors = Penalties(of, feedback, sensitive=sensitive).factors(held, positions, at)
    if factors is None:
        return dict.fromkeys(of.ids, 1.0)
    return {of.ids[p]: round(float(f), 6) for p, f in zip(positions, factors, strict=True)}


def test_less_of_a_content_lowers_it_most_and_what_shares_its_tags_a_little() -> None:
    assert left(booked([says("less_like_this", "run1")])) == {
        "run1": 0.2,
        "run2": 0.6,
        "boot": 0.6,
        "both": 0.6,
        "tent": 1.0,
        "pill": 0.6,
    }


def test_less_of_a_tag_lowers_what_bears_it() -> None:
    found = left(booked([says("less_like_this", tag="shoes")]))
    assert {name for name, factor in found.items() if factor < 1} == {"run1", "boot", "both"}
    assert found["boot"] == 0.6


def test_a_second_time_takes_more_and_never_all() -> None:
    held = booked([says("less_like_this", "run1"), says("less_like_this", "run1")])
    found = left(held)
    assert (found["run1"], found["run2"]) == (0.04, 0.36)
    many = left(booked([says("less_like_this", "run1")] * 50))
    assert many["run1"] == round(0.2**MOST_TIMES, 6) > 0


@pytest.mark.parametrize(("half_lives", "expected"), [(0, 0.2), (1, 0.6), (2, 0.8), (FADED, 1.0)])
def test_it_fades_by_half_lives(half_lives: int, expected: float) -> None:
    held = booked([says("less_like_this", "tent")])
    assert left(held, at=T0 + half_lives * HALF)["tent"] == expected


def test_a_later_like_takes_it_back_and_a_later_less_counts_again() -> None:
    held = booked([says("less_like_this", "tent"), says("like", "tent", at=T0 + 1)])
    assert left(held, at=T0 + 1)["tent"] == 1.0
    state_less(held, says("less_like_this", "tent", at=T0 + 2), FEEDBACK, T0 + 2)
    assert left(held, at=T0 + 2)["tent"] == 0.2


def test_an_older_less_that_arrives_late_does_not_undo_a_newer_like() -> None:
    held = booked([says("like", "tent", at=T0 + 1), says("less_like_this", "tent", at=T0)])
    assert left(held, at=T0 + 1)["tent"] == 1.0


def test_an_older_like_that_arrives_late_does_not_undo_a_newer_less() -> None:
    held = booked([says("less_like_this", "tent", at=T0 + 1), says("like", "tent", at=T0)])
    assert left(held, at=T0 + 1)["tent"] == 0.2


_STATEMENTS = st.lists(
    st.tuples(
        st.sampled_from(["less_like_this", "dislike", "like", "hide"]),
        st.sampled_from(["run1", "tent"]),
        st.integers(0, 40),
    ),
    max_size=12,
)


@given(_STATEMENTS, st.randoms(use_true_random=False))
def test_the_order_of_arrival_never_changes_what_is_left(
    statements: list[tuple[str, str, int]], shuffle: Any
) -> None:
    events = [says(kind, c, at=T0 + day * DAY) for kind, c, day in statements]
    one = booked(events)
    shuffle.shuffle(events)
    other = booked(events)
    assert left(one, at=T0 + 40 * DAY) == left(other, at=T0 + 40 * DAY)


@given(_STATEMENTS)
def test_only_what_was_said_since_the_last_like_counts(
    statements: list[tuple[str, str, int]],
) -> None:
    feedback = Feedback.model_validate({"less_like_this": {"half_life": "60d"}})
    held = booked([says(kind, c, at=T0 + day) for kind, c, day in statements], feedback)
    for name in ("run1", "tent"):
        liked = max((d for kind, c, d in statements if (kind, c) == ("like", name)), default=-1)
        unwanted = [
            day
            for kind, c, day in statements
            if c == name and kind in ("less_like_this", "dislike") and day > liked
        ]
        stated = held.get(f"c:{name}", [0])
        assert [at - T0 for at in stated[1:]] == sorted(unwanted)[-MOST_TIMES:]


@given(st.lists(st.integers(0, 60 * DAY), min_size=1, max_size=8), st.floats(0.01, 1))
def test_an_amount_and_a_strength_stay_within_their_bounds(ages: list[int], share: float) -> None:
    now = T0 + 60 * DAY
    stated = [0, *sorted(now - age for age in ages)]
    amount = amount_of(stated, now, HALF)
    assert 0 < amount <= len(ages)
    assert 0 < strength_of(amount, share) <= 1
    assert strength_of(amount, share) <= strength_of(amount + 0.5, share) + 1e-12


def test_a_dislike_counts_only_where_the_policy_says_so() -> None:
    events = [says("dislike", "tent")]
    assert left(booked(events))["tent"] == 0.2
    assert booked(events, Feedback(dislike=False)) == {}


@pytest.mark.parametrize("kind", ["hide", "not_interested"])
def test_do_not_show_is_not_a_penalty(kind: str) -> None:
    assert booked([says(kind, "tent")]) == {}


def test_sensitive_tags_are_never_booked_nor_read() -> None:
    assert booked([says("less_like_this", tag="running")], sensitive=("running",)) == {}
    said = booked([says("less_like_this", "run1"), says("less_like_this", tag="winter")])
    found = left(said, sensitive=("running", "winter"))
    assert found["run2"] == 1.0, "shares nothing but a sensitive tag"
    assert found["boot"] == 0.6, "shares shoes; winter is not read any more"


def test_the_tags_of_a_sensitive_content_are_not_spread() -> None:
    found = left(booked([says("less_like_this", "pill")]))
    assert {name for name, factor in found.items() if factor < 1} == {"pill"}


def test_without_a_share_for_tags_only_the_content_itself_loses() -> None:
    feedback = Feedback.model_validate({"less_like_this": {"tags": 0, "content": 1}})
    found = left(booked([says("less_like_this", "run1")]), feedback=feedback)
    assert {name: factor for name, factor in found.items() if factor < 1} == {"run1": 0.0}


def test_nothing_penalised_is_nothing_to_multiply() -> None:
    of = catalogue().contents
    machine = Penalties(of, FEEDBACK)
    positions = np.arange(3).astype(np.intp)
    gone = booked([says("less_like_this", "withdrawn"), says("less_like_this", tag="unheard")])
    assert machine.factors({}, positions, T0) is None
    assert machine.factors(gone, positions, T0) is None
    assert machine.factors(booked([says("like", "tent")]), positions, T0) is None


def test_only_the_candidates_are_told_in_their_order() -> None:
    of = catalogue().contents
    positions = np.array([of.index["tent"], of.index["run1"]], np.intp)
    found = Penalties(of, FEEDBACK).factors(booked([says("less_like_this", "run1")]), positions, T0)
    assert found is not None
    assert found.tolist() == pytest.approx([1.0, 0.2])


def test_what_is_kept_is_bounded_and_likes_give_way_first() -> None:
    events = [says("less_like_this", "first")]
    events += [says("like", f"c{i}", at=T0 + 1 + i) for i in range(300)]
    held = booked(events)
    assert len(held) == MOST_KEYS
    assert "c:first" in held
    flood = booked([says("less_like_this", f"c{i}", at=T0 + i) for i in range(300)])
    assert len(flood) == MOST_KEYS
    assert "c:c299" in flood
    assert "c:c0" not in flood


def test_what_has_faded_is_dropped_with_the_next_statement() -> None:
    later = T0 + FADED * HALF
    held = booked([says("less_like_this", "tent"), says("less_like_this", "boot", at=later)])
    assert list(held) == ["c:boot"]


def test_a_half_life_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="half life"):
        Feedback.model_validate({"less_like_this": {"half_life": "0s"}})
    assert (
        Feedback.model_validate({"less_like_this": {"half_life": "1m"}}).less_like_this.half_life
        == MINUTE
    )
