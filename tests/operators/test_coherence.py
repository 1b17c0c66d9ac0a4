"""How often a slate may change, and what stays of it meanwhile."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.coherence import kept, turned
from operators.profile import Profile
from schemas.placements import Coherence
from schemas.time import HOUR, MINUTE, SECOND, format_duration
from tests.operators.builders import T0, contents, plan, profile

OF = plan(catalogue=contents(8)).contents


def limit(changes: int = 0, within: int = 30 * MINUTE) -> Coherence:
    return Coherence.model_validate({"within": format_duration(within), "changes": changes})


def show(person: Profile, ids: list[str], at: int, by: Coherence) -> None:
    """What a decision notes: whether it turned, then that it is the last."""
    turned(person, "home", by, ids, at)
    person.last["home"] = ("d", ids)
    person.last_ms["home"] = at


def held(
    person: Profile,
    at: int,
    by: Coherence,
    *,
    eligible: list[str] | None = None,
    slots: int = 3,
    taken: dict[int, int] | None = None,
) -> dict[int, str] | None:
    """What stays, as rank to content id."""
    ids = list(OF.ids) if eligible is None else eligible
    positions = np.array([OF.index[c] for c in ids], np.intp)
    found = kept(
        person,
        "home",
        by,
        contents=OF,
        positions=positions,
        slots=slots,
        now_ms=at,
        taken=taken or {},
    )
    return None if found is None else {rank: ids[i] for rank, i in found.items()}


def test_what_is_shown_stays_for_as_long_as_the_policy_says() -> None:
    person, by = profile(), limit()
    assert held(person, T0, by) is None, "nothing was shown yet"
    show(person, ["c3", "c1"], T0, by)
    assert held(person, T0, by) == {0: "c3", 1: "c1"}
    assert held(person, T0 + 30 * MINUTE - 1, by) == {0: "c3", 1: "c1"}
    assert held(person, T0 + 30 * MINUTE, by) is None


def test_repeating_it_does_not_prolong_it() -> None:
    person, by = profile(), limit()
    for minute in range(0, 30, 5):
        show(person, ["c3"], T0 + minute * MINUTE, by)
    assert held(person, T0 + 30 * MINUTE, by) is None


def test_a_slate_after_a_pause_begins_anew_even_if_it_is_the_same() -> None:
    person, by = profile(), limit()
    show(person, ["c3"], T0, by)
    show(person, ["c3"], T0 + HOUR, by)
    assert held(person, T0 + HOUR + MINUTE, by) == {0: "c3"}


def test_so_many_changes_are_allowed_and_no_more() -> None:
    person, by = profile(), limit(changes=2)
    for i, shown in enumerate(["c1", "c2", "c3"]):
        assert held(person, T0 + i * MINUTE, by) is None
        show(person, [shown], T0 + i * MINUTE, by)
    assert held(person, T0 + 3 * MINUTE, by) == {0: "c3"}
    assert held(person, T0 + 30 * MINUTE, by) is None, "the first began a window ago"


def test_another_order_is_a_change() -> None:
    person, by = profile(), limit(changes=1)
    show(person, ["c1", "c2"], T0, by)
    show(person, ["c2", "c1"], T0 + 1, by)
    assert held(person, T0 + 2, by) == {0: "c2", 1: "c1"}


def test_what_is_no_longer_eligible_drops_out_at_its_rank_only() -> None:
    person, by = profile(), limit()
    show(person, ["c1", "c2", "c3"], T0, by)
    without = [c for c in reversed(OF.ids) if c != "c2"]
    assert held(person, T0 + 1, by, eligible=without) == {0: "c1", 2: "c3"}
    assert held(person, T0 + 1, by, eligible=["c8"]) == {}, "held, and nothing of it is left"


def test_withdrawn_contents_and_fewer_slots_drop_out() -> None:
    person, by = profile(), limit()
    show(person, ["gone", "c2", "c3"], T0, by)
    assert held(person, T0 + 1, by, slots=2) == {1: "c2"}


def test_what_rules_have_put_in_place_goes_first_and_is_not_repeated() -> None:
    person, by = profile(), limit()
    show(person, ["c1", "c2", "c3"], T0, by)
    of_c3 = OF.index["c3"]
    assert held(person, T0 + 1, by, taken={0: of_c3}) == {1: "c2"}


def test_another_placement_is_not_bound() -> None:
    person, by = profile(), limit()
    show(person, ["c1"], T0, by)
    positions = np.arange(len(OF.ids)).astype(np.intp)
    assert (
        kept(person, "mail", by, contents=OF, positions=positions, slots=1, now_ms=T0 + 1) is None
    )


@pytest.mark.parametrize("changes", [0, 1, 3, 16])
def test_what_is_kept_is_bounded(changes: int) -> None:
    person, by = profile(), limit(changes=changes)
    for i in range(200):
        show(person, [f"c{i % 8 + 1}"], T0 + i * SECOND, by)
    assert len(person.turned["home"]) == changes + 1


@given(
    st.lists(st.tuples(st.integers(0, 20), st.sampled_from(["c1", "c2", "c3"])), max_size=40),
    st.integers(0, 3),
)
def test_in_any_window_no_more_slates_begin_than_allowed(
    wishes: list[tuple[int, str]], changes: int
) -> None:
    person, by = profile(), limit(changes=changes)
    at, shown = T0, list[tuple[int, str]]()
    for wait, wish in wishes:
        at += wait * MINUTE
        stays = held(person, at, by, slots=1)
        chosen = stays[0] if stays else wish
        show(person, [chosen], at, by)
        shown.append((at, chosen))
    # A slate begins where another stood before it.
    begins = [at for i, (at, chosen) in enumerate(shown) if i == 0 or shown[i - 1][1] != chosen]
    for at in begins:
        assert sum(at - 30 * MINUTE < other <= at for other in begins) <= changes + 1
