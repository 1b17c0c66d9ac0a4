"""What must hold where policy, consent, dates and time meet: nothing is invented, nothing stays."""

from __future__ import annotations

from typing import Any

import pytest

from operators.gather import Gather
from operators.outputs import Outputs
from operators.shard import Shard
from schemas.policy import Consent
from schemas.time import DAY, HOUR, MINUTE
from tests.operators.builders import T0, USER, arrived, request, tick
from tests.operators.identity_world import World, decoded, link, sent
from tests.operators.test_shard import SECTIONS, compiled, kept, machine, resumed, run

STATED: dict[str, Any] = {"consent": {"personalise": "ads"}}
LAPSED: dict[str, Any] = {"lapsed": {"when": {"not_done": "purchase", "within": "200d"}}}


def stub(held: Shard, *, at: int = T0) -> None:
    """A profile of which only a statement is left, after 40 days."""
    run(held, arrived("consent_changed", at=at, consent={"ads": True}))
    run(held, arrived("purchase", at=at + 1))
    run(held, arrived(at=at + 40 * DAY, profile_id="other"))


def changed(out: Outputs) -> list[tuple[str, str]]:
    return [(change["segment"], change["direction"]) for change in out.changes]


# Idle profiles.


def test_another_policy_is_no_sign_of_life() -> None:
    held = machine()
    run(held, arrived(at=T0))
    run(held, arrived(at=T0 + 20 * DAY, profile_id="other"))
    other = compiled(segments={"active": {"when": {"signal": "views", "at_least": 3}}})
    later = resumed(held, of=other)
    later.process(tick(T0 + 20 * DAY))
    assert kept(later).now_ms == T0
    run(later, arrived(at=T0 + 32 * DAY, profile_id="other"))
    assert later.look(USER) is None


def test_what_is_left_of_an_idle_profile_enters_no_segment_by_a_resume() -> None:
    held = machine(compiled(**STATED))
    stub(held)
    later = resumed(held)
    run(later, arrived(at=T0 + 40 * DAY + MINUTE, profile_id="other"))
    run(held, arrived(at=T0 + 40 * DAY + MINUTE, profile_id="other"))
    assert kept(later) == kept(held)
    assert kept(later).segments == {}


def test_what_was_dropped_with_an_idle_profile_is_not_known_to_be_not_done() -> None:
    held = machine(compiled(**STATED, segments=LAPSED))
    stub(held)
    run(held, arrived(at=T0 + 60 * DAY))
    assert "lapsed" not in kept(held).segments


def test_an_idle_profile_that_only_asked_for_decisions_loses_them() -> None:
    home = {"home": {"slots": 2, "rewards": ["click"]}}
    held = machine(compiled(**STATED, signals={}, segments={}, placements=home))
    run(held, arrived("consent_changed", consent={"ads": True}), request(at=T0 + 1))
    assert kept(held).last
    run(held, arrived(at=T0 + 40 * DAY, profile_id="other"))
    assert kept(held).last == {}


# Dates of control events.


def test_an_old_control_event_does_not_say_that_a_profile_was_watched_since() -> None:
    gone = {"gone": {"when": {"not_done": "view", "within": "30d"}}}
    held = machine(compiled(segments=gone))
    run(held, arrived(at=T0, profile_id="other"), arrived("click", at=T0 + 1, profile_id="known"))
    for profile_id in ("new", "known"):
        old = arrived(
            "feedback",
            at=T0 - 60 * DAY,
            watermark=T0 - MINUTE,
            feedback="hide",
            content_id="c1",
            profile_id=profile_id,
        )
        assert changed(run(held, old)) == []


def test_a_grant_dated_back_does_not_say_that_a_profile_was_watched_since() -> None:
    gone = {"gone": {"when": {"not_done": "view", "within": "30d"}}}
    held = machine(compiled(consent={"collect": "keep"}, segments=gone))
    run(held, arrived(at=T0))
    grant = arrived(
        "consent_changed", at=T0 - 60 * DAY, watermark=T0 - MINUTE, consent={"keep": True}
    )
    assert changed(run(held, grant)) == []


# Privacy.


def test_a_privacy_signal_against_collecting_drops_what_was_collected() -> None:
    held = machine(compiled(consent={"gpc": ["collect"]}))
    run(held, arrived(at=T0), arrived(at=T0 + 1))
    assert kept(held).segments
    out = run(held, arrived(at=T0 + 2, context={"gpc": True}))
    assert changed(out) == [("active", "left")]
    assert kept(held).signals == {}
    assert changed(run(held, arrived(at=T0 + 5 * HOUR, profile_id="other"))) == []


def test_an_older_event_without_the_privacy_signal_does_not_take_it_back() -> None:
    held = machine(compiled(consent={"gpc": ["personalise"]}))
    run(held, arrived(at=T0 + 1_000, context={"gpc": True}))
    run(held, arrived(at=T0, context={"gpc": False}))
    assert kept(held).gpc_ms == T0 + 1_000
    run(held, arrived(at=T0 + 2_000, context={"gpc": False}))
    assert kept(held).gpc_ms == 0


@pytest.mark.parametrize("sections", [{"gpc": ("collect",)}, {"gpc": ("collect",), "collect": "k"}])
def test_no_history_is_held_of_who_signals_against_collecting(sections: dict[str, Any]) -> None:
    world = World(consent=Consent(**sections, before_known="granted"))
    world.give(sent("a1", context={"gpc": True}))
    assert sum(len(group._histories) for group in world.groups) == 0


def test_a_withdrawal_takes_the_contact_back() -> None:
    consent = {"collect": "keep", "before_known": "granted"}
    held = machine(compiled(consent=consent, identity={"suggest": {"email": "email"}}))
    told = {"email": "ann.lee@example.com"}
    assert run(held, arrived("profile_updated", attributes=told)).contacts[0].email
    out = run(held, arrived("consent_changed", at=T0 + 1, consent={"keep": False}))
    assert [(c.email, c.phone, c.name) for c in out.contacts] == [(None, None, None)]


# Another policy.


def test_a_timer_that_fires_before_the_sweep_leaves_no_undeclared_signal() -> None:
    taste = {"kind": "affinity", "weights": {"view": 1}, "of": "content.tags", "half_life": "10d"}
    held = machine(compiled(signals={**SECTIONS["signals"], "taste": taste}))
    run(held, arrived(at=T0, content_id="c1"))
    of = compiled(signals={}, segments={"gone": SECTIONS["segments"]["gone"]})
    later = resumed(held, of=of)
    run(later, arrived(at=T0 + 5 * HOUR, profile_id="other"))
    assert set(kept(later).signals) <= of.slots


def test_a_policy_that_asks_for_consent_first_tells_nothing_of_who_has_not_given_it() -> None:
    held = machine()
    run(held, arrived(at=T0), arrived(at=T0 + 1))
    later = resumed(held, of=compiled(consent={"collect": "keep"}))
    out = run(later, arrived(at=T0 + 5 * HOUR, profile_id="other"))
    assert changed(out) == [("active", "left")]


def test_a_profile_that_may_not_be_kept_any_more_is_taken_out_of_serving() -> None:
    held = machine(compiled(segments={}), with_views=True)
    run(held, arrived(at=T0))
    later = resumed(held, of=compiled(segments={}, consent={"collect": "keep"}))
    before = kept(later).version
    out = run(later, request(at=T0 + 5))
    assert later.look(USER) is None
    (gone,) = out.profiles
    assert gone.view is None
    assert before <= gone.version < out.decisions[0].version


# Erasure of a family.


def test_every_profile_of_an_erased_family_is_erased_once_and_has_its_receipt() -> None:
    for alias in ("a1", "a2", "a3", "a4"):  # of groups before and after the user's
        world, gather = World(), Gather()
        world.give(link(alias, "u1"))
        parts = world.feed(decoded([sent("u1", "erasure_requested", anonymous=False, at=T0 + 5)]))
        (batch,) = [whole for part in parts if (whole := gather.add(part)) is not None]
        assert sorted((e.profile_id, e.mode) for e in batch.events) == [(alias, 2), ("u1", 0)]
        held = machine()
        run(held, arrived(profile_id="u1", at=T0), arrived(profile_id=alias, at=T0))
        assert [r["found"] for r in run(held, *batch.events).receipts] == [True, True]
