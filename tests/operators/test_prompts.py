"""When a prompt may be shown: not once it is answered, and never too often."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.consent import honour_gpc, state_consent
from operators.profile import Profile
from operators.prompts import ANSWERED, ASKED_OFTEN, MOST_PROMPTS, MOST_TIMES, Prompts
from schemas.policy import Consent
from schemas.time import DAY, HOUR
from tests.operators.builders import T0, content, plan, profile


def prompts(*, others: int = 0, **fields: Any) -> Prompts:
    asking = content("ask", type="prompt", asks_consent="ads", **fields)
    more = [content(f"ask{i}", asks_consent="study") for i in range(others)]
    return Prompts(plan(catalogue=[asking, content("shoe"), *more]).contents)


def closed(of: Prompts, person: Profile, at: int = T0) -> str | None:
    """Why the prompt `ask` may not be shown; checks that no other content is closed for it."""
    found = of.closed(person, at)
    if not found:
        return None
    [(why, open_)] = found
    assert open_.tolist() == [False, True], "ask, shoe"
    return why


def test_it_is_open_to_a_stranger() -> None:
    assert closed(prompts(), profile()) is None


def test_what_is_granted_is_not_asked() -> None:
    of, person = prompts(), profile()
    state_consent(person, {"ads": True}, T0)
    assert closed(of, person, T0 + 1_000 * DAY) == ANSWERED


def test_another_purpose_answers_nothing() -> None:
    of, person = prompts(), profile()
    state_consent(person, {"study": True}, T0)
    assert closed(of, person) is None


def test_a_refusal_holds_for_as_long_as_the_prompt_says() -> None:
    of, person = prompts(ask_again_after="90d"), profile()
    state_consent(person, {"ads": False}, T0)
    assert closed(of, person, T0 + 90 * DAY - 1) == ANSWERED
    assert closed(of, person, T0 + 90 * DAY) is None


def test_a_late_older_refusal_does_not_move_the_newer_one() -> None:
    of, person = prompts(ask_again_after="90d"), profile()
    state_consent(person, {"ads": False}, T0)
    state_consent(person, {"ads": False}, T0 - 30 * DAY)
    assert closed(of, person, T0 + 70 * DAY) == ANSWERED


def test_nobody_is_asked_while_the_browser_refuses() -> None:
    of, person = prompts(ask_again_after="1d"), profile()
    consent = Consent(personalise="ads")
    honour_gpc(person, True, consent, T0)
    assert closed(of, person, T0 + 500 * DAY) == ANSWERED
    person.now_ms = T0 + 500 * DAY
    honour_gpc(person, False, consent, T0 + 500 * DAY)
    assert closed(of, person, T0 + 500 * DAY) is None


def test_it_is_capped_by_its_own_caps() -> None:
    of, person = prompts(caps=[{"max": 2, "within": "1d"}]), profile()
    assert of.book(person, ["shoe", "ask"], T0)
    assert closed(of, person, T0 + 1) is None
    of.book(person, ["ask"], T0 + HOUR)
    assert closed(of, person, T0 + HOUR) == ASKED_OFTEN
    assert closed(of, person, T0 + DAY) is None, "the first was a day ago"


def test_without_caps_of_its_own_it_is_capped_all_the_same() -> None:
    of, person = prompts(), profile()
    for i in range(3):
        assert closed(of, person, T0 + i) is None
        of.book(person, ["ask"], T0 + i)
    assert closed(of, person, T0 + 3) == ASKED_OFTEN
    assert closed(of, person, T0 + 30 * DAY) is None


def test_a_cap_above_what_is_kept_still_caps() -> None:
    of, person = prompts(caps=[{"max": 1_000, "within": "1d"}]), profile()
    for i in range(MOST_TIMES):
        assert closed(of, person, T0 + i) is None
        of.book(person, ["ask"], T0 + i)
    assert closed(of, person, T0 + MOST_TIMES) == ASKED_OFTEN


def test_nothing_is_noted_of_other_contents() -> None:
    of, person = prompts(), profile()
    assert not of.book(person, ["shoe", "withdrawn"], T0)
    assert person.prompted == {}


def test_each_reason_names_its_own_contents() -> None:
    of, person = prompts(others=1), profile()
    state_consent(person, {"ads": False}, T0)
    for i in range(3):
        of.book(person, ["ask0"], T0 + i)
    found = {why: open_.tolist() for why, open_ in of.closed(person, T0 + 3)}
    assert found == {ANSWERED: [False, True, True], ASKED_OFTEN: [True, False, True]}


MANY: Final = prompts(others=40)


@given(st.lists(st.tuples(st.integers(0, 39), st.integers(0, 10)), max_size=120))
def test_what_is_kept_is_bounded_and_in_order(shown: list[tuple[int, int]]) -> None:
    person = profile(prompted={"withdrawn": [T0 + 1_000]})
    for number, at in shown:
        MANY.book(person, [f"ask{number}"], T0 + at)
    assert len(person.prompted) <= MOST_PROMPTS
    for times in person.prompted.values():
        assert times == sorted(times)
        assert len(times) <= MOST_TIMES
    if len({number for number, _ in shown}) >= MOST_PROMPTS:
        assert "withdrawn" not in person.prompted, "the first to give way"


@pytest.mark.parametrize("asks", [None, "ads"])
def test_a_catalogue_without_prompts_costs_nothing(asks: str | None) -> None:
    of = Prompts(plan(catalogue=[content("shoe", asks_consent=asks)]).contents)
    person = profile(consent={"ads": (True, T0, 0)})
    assert [why for why, _ in of.closed(person, T0)] == ([] if asks is None else [ANSWERED])
