"""What was said about consent holds, whatever the order in which it arrives."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.consent import refusal, state_consent
from operators.outputs import Outputs
from operators.profile import Profile
from operators.shard import Shard
from schemas.decisions import Decision
from schemas.policy import Consent
from schemas.time import DAY, HOUR, MINUTE
from tests.operators.builders import (
    T0,
    USER,
    arrived,
    plan,
    policy,
    profile,
    request,
    shard,
    shard_batch,
)

ASKED: Final = Consent(collect="ads", personalise="ads", learn="study")
SECTIONS: Final[dict[str, Any]] = {
    "consent": {"collect": "ads", "personalise": "ads", "learn": "study"},
    "signals": {
        "views": {"kind": "count", "events": "view", "within": "7d"},
        "likes": {"kind": "count", "events": "like", "within": "7d"},
        "tastes": {"kind": "affinity", "weights": {"view": 1, "like": 5}},
    },
    "segments": {"idle": {"when": {"not_done": "view", "within": "7d"}}},
}


def machine(**consent: Any) -> Shard:
    sections = {**SECTIONS, "consent": {**SECTIONS["consent"], **consent}}
    return shard(plan(policy(**sections)), with_views=True)


def says(granted: bool, *, at: int = T0, watermark: int | None = None) -> Any:
    return arrived(
        "consent_changed", consent={"ads": granted, "study": granted}, at=at, watermark=watermark
    )


def run(held: Shard, *events: Any) -> Outputs:
    return held.process(shard_batch(events))


def kept(held: Shard) -> Profile:
    found = held.look(USER)
    assert found is not None
    return found


_STATEMENTS = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["ads", "study"]), st.booleans()), max_size=12
)


@given(_STATEMENTS, st.randoms(use_true_random=False))
def test_the_order_of_arrival_never_changes_what_was_consented(
    statements: list[tuple[int, str, bool]], shuffle: Any
) -> None:
    one, other = profile(), profile()
    for at, purpose, granted in statements:
        state_consent(one, {purpose: granted}, at)
    shuffle.shuffle(statements)
    for at, purpose, granted in statements:
        state_consent(other, {purpose: granted}, at)
    assert one.consent == other.consent


@given(_STATEMENTS)
def test_the_newest_statement_holds_and_of_two_the_refusal(
    statements: list[tuple[int, str, bool]],
) -> None:
    held = profile()
    for at, purpose, granted in statements:
        state_consent(held, {purpose: granted}, at)
    for purpose in ("ads", "study"):
        said = [(at, granted) for at, named, granted in statements if named == purpose]
        if said:
            newest = max(at for at, _ in said)
            expected = all(granted for at, granted in said if at == newest)
            assert held.consent[purpose] == (expected, newest, 0)


def test_an_older_dated_grant_never_overrides_a_newer_withdrawal() -> None:
    held = profile()
    assert state_consent(held, {"ads": False}, T0)
    assert not state_consent(held, {"ads": True}, T0 - DAY)
    assert refusal(ASKED, held, "collect") == "consent_refused"
    assert state_consent(held, {"ads": True}, T0 + 1)
    assert refusal(ASKED, held, "collect") is None


@pytest.mark.parametrize(
    ("before_known", "expected"), [("refused", "consent_unknown"), ("granted", None)]
)
def test_before_anything_was_said_the_policy_decides(
    before_known: Any, expected: str | None
) -> None:
    asked = ASKED.model_copy(update={"before_known": before_known})
    assert refusal(asked, profile(), "collect") == expected


def test_a_use_without_a_purpose_needs_no_consent() -> None:
    held = profile(consent={"ads": (False, T0)})
    assert refusal(Consent(), held, "collect") is None
    assert refusal(Consent(personalise="ads"), held, "learn") is None
    assert refusal(Consent(personalise="ads"), held, "personalise") == "consent_refused"


def test_nothing_is_kept_before_consent() -> None:
    held = machine()
    out = run(held, arrived("view", content_id="c1"), arrived("view", content_id="c2"))
    assert out.counts == {"suppressed": 2}
    assert (out.changes, out.decisions, out.examples) == ([], [], [])
    left = held.look(USER)
    assert left is None or (left.signals, left.segments, left.attributes) == ({}, {}, {})


def test_a_request_before_consent_is_answered_with_the_fallback_and_leaves_nothing() -> None:
    held = machine()
    (made,) = run(held, request()).decisions
    assert Decision.model_validate(made.record).fallback == "consent_unknown"
    assert made.record["items"]
    left = held.look(USER)
    assert left is None or (left.pending, left.last, left.signals) == ([], {}, {})


def test_feedback_without_consent_is_honoured_and_nothing_else_is_learned_from_it() -> None:
    """Do-not-show is what a person states; that they reacted is behaviour."""
    held = machine()
    hide = arrived("feedback", feedback="hide", content_id="c1", attributes={"plan": "free"})
    like = arrived("feedback", feedback="like", content_id="c2")
    out = run(held, hide, like)
    assert out.counts == {"used": 2}
    left = kept(held)
    assert set(left.hidden) == {"c:c1"}
    assert (left.signals, left.segments, left.attributes) == ({}, {}, {})
    assert (out.changes, out.examples) == ([], [])
    for _ in range(5):
        (made,) = run(held, request(slots=1)).decisions
        assert "c1" not in [item["content_id"] for item in made.record["items"]]


def test_a_withdrawal_forgets_what_was_observed_and_keeps_what_was_stated() -> None:
    held = machine()
    run(held, says(True))
    run(held, arrived("view", content_id="c1", at=T0 + MINUTE))
    run(held, arrived("feedback", feedback="hide", content_id="c2", at=T0 + MINUTE))
    run(held, request(at=T0 + MINUTE))
    assert kept(held).signals
    assert kept(held).pending
    run(held, says(False, at=T0 + 2 * MINUTE))
    left = kept(held)
    assert (left.signals, left.attributes, left.shown) == ({}, {}, {})
    assert (left.pending, left.last) == ([], {})
    assert set(left.hidden) == {"c:c2"}
    assert left.consent["ads"] == (False, T0 + 2 * MINUTE, 0)


def test_whoever_withdraws_is_in_no_segment_from_then_on() -> None:
    held = machine()
    out = run(held, says(True), arrived("view", content_id="c1"))
    assert [c["direction"] for c in out.changes] == []
    changes = run(held, says(False, at=T0 + MINUTE)).changes
    changes += held.process(shard_batch(watermarks=((0, T0 + 30 * DAY),))).changes
    assert [c for c in changes if c["direction"] == "entered"] == []
    assert kept(held).segments == {}


def test_a_withdrawal_from_the_past_applies_on_arrival() -> None:
    held = machine()
    run(held, says(True, at=T0 - 2 * DAY, watermark=T0 - 2 * DAY))
    run(held, arrived("view", content_id="c1", at=T0))
    out = run(held, says(False, at=T0 - DAY, watermark=T0))
    assert out.counts == {"used": 1}
    assert out.late == []
    assert kept(held).signals == {}
    after = run(held, arrived("view", content_id="c1", at=T0 + HOUR))
    assert after.counts == {"suppressed": 1}
