"""Identity: events follow links, links carry history over, outcomes find the decision's maker."""

from __future__ import annotations

from typing import Any, Final

import lz4.block
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.arrival import HISTORY, LIVE, OUTCOME, Arrived
from operators.decode import NEVER
from operators.gather import Gather, Gathered
from operators.history import MOST_EVENT_BYTES
from operators.identify import GroupBatch, Identified, carried_as, restored_group, seen_as, split
from operators.ids import decision_id, shard_of
from operators.links import GROUPS, GroupUpdates, group_of
from operators.pseudonyms import Pseudonyms
from operators.shard_state import StateError
from schemas.identity import Identity
from schemas.policy import Consent
from schemas.time import DAY, HOUR, MINUTE, SECOND
from tests.operators.builders import T0
from tests.operators.identity_world import (
    SEAL,
    SHARDS,
    World,
    batches,
    decoded,
    link,
    naive,
    said,
    sent,
    unlink,
)

ASKS_CONSENT: Final = Consent(collect="analytics")


def profiles(events: list[Arrived], mode: int = LIVE) -> list[str]:
    return [event.profile_id for event in events if event.mode == mode]


def of(events: list[Arrived], mode: int) -> list[Arrived]:
    return [event for event in events if event.mode == mode]


# Routing.


def test_what_is_not_linked_keeps_its_own_profile() -> None:
    world = World()
    assert profiles(world.give(sent("a1"), sent("u1"))) in (["a1", "u1"], ["u1", "a1"])


def test_an_anonymous_id_leads_to_its_user_once_it_is_linked() -> None:
    world = World()
    assert profiles(world.give(link("a1", "u1"))) == ["u1"]
    (event,) = world.give(sent("a1", at=T0 + 1))
    assert (event.profile_id, event.raw_id, event.mode) == ("u1", "a1", LIVE)


def test_two_devices_lead_to_one_profile() -> None:
    world = World()
    world.give(sent("a1"), sent("a2", at=T0 + 1))
    carried = of(world.give(link("a1", "u1", at=T0 + 2), link("a2", "u1", at=T0 + 3)), HISTORY)
    assert {(event.raw_id, event.profile_id) for event in carried} == {("a1", "u1"), ("a2", "u1")}
    assert profiles(world.give(sent("a1", at=T0 + 4), sent("a2", at=T0 + 5))) == ["u1", "u1"]


def test_an_unlinked_id_has_its_own_profile_again_and_a_history_of_its_own() -> None:
    world = World()
    world.give(link("a1", "u1"), sent("a1", at=T0 + 1))
    world.give(unlink("a1", "u1", at=T0 + 2))
    own = world.give(sent("a1", at=T0 + 3))
    assert profiles(own) == ["a1"]
    carried = of(world.give(link("a1", "u2", at=T0 + 4)), HISTORY)
    assert said(carried) == [(own[0].event_id, "u2", HISTORY)]


def test_a_later_link_leads_to_another_user_and_an_older_dated_one_changes_nothing() -> None:
    world = World()
    world.give(link("a1", "u1", at=T0 + 5))
    world.give(link("a1", "u2", at=T0 + 1))
    assert profiles(world.give(sent("a1", at=T0 + 6))) == ["u1"]
    world.give(link("a1", "u2", at=T0 + 7))
    assert profiles(world.give(sent("a1", at=T0 + 8))) == ["u2"]


@pytest.mark.parametrize("order", [("a1-u1", "u1-u2"), ("u1-u2", "a1-u1")])
def test_a_chain_leads_to_its_end_whichever_link_came_first(order: tuple[str, str]) -> None:
    world = World()
    for at, pair in enumerate(order):
        alias, user = pair.split("-")
        world.give(link(alias, user, at=T0 + at))
    later = world.give(sent("a1", at=T0 + 9), sent("u1", at=T0 + 9), sent("u2", at=T0 + 9))
    assert profiles(later) == ["u2", "u2", "u2"]
    world.give(unlink("u1", "u2", at=T0 + 10))
    assert profiles(world.give(sent("a1", at=T0 + 11))) == ["u1"]


def test_a_link_takes_effect_at_its_place_in_the_batch() -> None:
    world = World()
    before, after = sent("a1", at=T0), sent("a1", at=T0 + 2)
    out = world.give(before, link("a1", "u1", at=T0 + 1), after)
    of_alias = [event for event in out if event.raw_id == "a1"]
    assert said(of_alias) == [
        (before.event_id, "a1", LIVE),
        (before.event_id, "u1", HISTORY),
        (after.event_id, "u1", LIVE),
    ]


def test_a_batch_is_put_together_in_the_order_of_its_log() -> None:
    """Whatever group was first: a request never overtakes the history a link carries over."""
    world, gather = World(), Gather()
    events = [sent(f"a{n}", at=T0 + n)._replace(partition=1) for n in range(40)]
    batch = decoded(events)
    parts = world.feed(type(batch)(events, [], 0, ((0, 5), (1, 7)), 2, 1))
    for part in reversed(parts[1:]):
        assert gather.add(part) is None
    assert gather.waiting == 1
    whole = gather.add(parts[0])
    assert whole == Gathered(events, ((0, 5), (1, 7)), 2)
    assert gather.waiting == 0


def test_history_stands_at_the_place_of_its_link() -> None:
    world, gather = World(), Gather()
    before = sent("a1", at=T0)
    world.give(before)
    log = [sent("u1", at=T0 + 1), link("a1", "u1", at=T0 + 2), sent("u1", at=T0 + 3)]
    found = [gather.add(part) for part in world.feed(decoded(log))]
    whole = found[-1]
    assert whole is not None
    order = [(e.event_id, e.mode) for e in whole.events]
    assert order[0] == (log[0].event_id, LIVE)
    assert set(order[1:-1]) == {
        (before.event_id, HISTORY),
        (log[1].event_id, LIVE),
        (log[1].event_id, OUTCOME),
    }
    assert order[-1] == (log[2].event_id, LIVE)


def test_every_group_answers_every_batch_with_or_without_events() -> None:
    world = World()
    assert [i.group for i in world.feed(decoded(watermark=T0))] == list(range(GROUPS))


# History.


def test_history_is_carried_once_and_keeps_its_dates() -> None:
    world = World()
    first = sent("a1", at=T0, content_id="c1", context={"device": "tv"}, properties={"n": [1, {}]})
    second = sent("a1", "impression", at=T0 + 1, contents=("c1", "c2"), decision_id="003-x")
    world.give(first, second)
    joined = link("a1", "u1", at=T0 + 2, received=T0 + 9)
    carried = of(world.give(joined), HISTORY)
    assert [e.event_id for e in carried] == [first.event_id, second.event_id]
    for held, sent_once in zip(carried, (first, second), strict=True):
        expected = sent_once._replace(
            profile_id="u1",
            mode=HISTORY,
            received_ms=T0 + 9,
            watermark_ms=NEVER,
            partition=0,
        )
        assert held == expected
    world.give(unlink("a1", "u1", at=T0 + 3))
    assert of(world.give(link("a1", "u1", at=T0 + 4)), HISTORY) == []


def test_the_link_delivered_again_carries_nothing_again() -> None:
    world = World()
    world.give(sent("a1"))
    joined = link("a1", "u1", at=T0 + 1)
    assert len(of(world.give(joined), HISTORY)) == 1
    assert said(world.give(joined)) == [(joined.event_id, "u1", LIVE)]


def test_an_event_delivered_twice_is_held_once() -> None:
    world = World()
    event = sent("a1")
    world.give(event, event)
    assert len(of(world.give(link("a1", "u1", at=T0 + 1)), HISTORY)) == 1


def test_history_reaches_back_as_far_as_carry_and_no_further() -> None:
    world = World(Identity.model_validate({"carry": "1h"}))
    ages = [HOUR + 1, HOUR, HOUR - 1, 0]
    events = [sent("a1", at=T0 - age) for age in ages]
    world.give(*events)
    carried = of(world.give(link("a1", "u1", at=T0)), HISTORY)
    assert [e.event_id for e in carried] == [e.event_id for e in events[2:]]


def test_only_the_newest_events_are_carried_whatever_order_they_came_in() -> None:
    world = World(Identity(events=2))
    late, older, newest = sent("a1", at=T0 + 1), sent("a1", at=T0), sent("a1", at=T0 + 2)
    world.give(newest, older, late)
    carried = of(world.give(link("a1", "u1", at=T0 + 3)), HISTORY)
    assert [e.event_id for e in carried] == [late.event_id, newest.event_id]


def test_no_events_are_held_where_none_are_to_be_carried() -> None:
    world = World(Identity(events=0))
    world.give(sent("a1"))
    assert of(world.give(link("a1", "u1", at=T0 + 1)), HISTORY) == []


def test_a_users_own_events_are_not_held() -> None:
    world = World()
    world.give(sent("u1"))
    assert of(world.give(link("u1", "u2", at=T0 + 1)), HISTORY) == []


def test_what_nobody_links_expires_by_the_watermark() -> None:
    world = World(Identity.model_validate({"carry": "1h"}))
    empty = World(Identity.model_validate({"carry": "1h"}))
    world.give(sent("a1"))
    for held in (world, empty):
        held.give(watermark=T0 + 3 * HOUR)
    assert world.counts["expired"] == 1
    group = group_of("a1")
    assert len(world.groups[group].snapshot()) == len(empty.groups[group].snapshot())


def test_only_so_many_anonymous_ids_are_held_and_the_stalest_give_way() -> None:
    world = World(Identity(anonymous=GROUPS))
    first, second, *_ = [f"a{n}" for n in range(100) if group_of(f"a{n}") == 0]
    world.give(sent(first, at=T0), sent(second, at=T0 + 1))
    assert world.counts["not_held"] == 1
    carried = world.give(link(first, "u1", at=T0 + 2), link(second, "u1", at=T0 + 3))
    assert {event.raw_id for event in of(carried, HISTORY)} == {second}


def test_a_large_event_is_held_without_its_details_and_a_huge_one_not_at_all() -> None:
    world = World()
    large = sent("a1", at=T0, properties={"text": "x" * MOST_EVENT_BYTES})
    absurd = sent("a1", at=T0 + 1, properties={"n": 1 << 70})
    huge = sent("a1", at=T0 + 2, contents=tuple(f"content-{n}" for n in range(1_000)))
    world.give(large, absurd, huge)
    carried = of(world.give(link("a1", "u1", at=T0 + 3)), HISTORY)
    assert [(e.event_id, e.properties) for e in carried] == [
        (large.event_id, {}),
        (absurd.event_id, {}),
    ]
    assert world.counts["not_held"] == 1


def test_a_taste_reset_leaves_only_statements_and_is_not_carried_itself() -> None:
    world = World()
    hide = sent("a1", "feedback", at=T0, feedback="hide", content_id="c1")
    world.give(hide, sent("a1", at=T0 + 1), sent("a1", "taste_reset", at=T0 + 2))
    after = sent("a1", at=T0 + 3)
    world.give(after)
    carried = of(world.give(link("a1", "u1", at=T0 + 4)), HISTORY)
    assert [e.event_id for e in carried] == [hide.event_id, after.event_id]


# Consent.


def consented(granted: bool, *, at: int) -> Arrived:
    return sent("a1", "consent_changed", at=at, consent={"analytics": granted})


def test_before_consent_is_known_no_behaviour_is_held() -> None:
    world = World(consent=ASKS_CONSENT)
    world.give(sent("a1"))
    grant = consented(True, at=T0 + 1)
    seen = sent("a1", at=T0 + 2)
    world.give(grant, seen)
    carried = of(world.give(link("a1", "u1", at=T0 + 3)), HISTORY)
    assert [e.event_id for e in carried] == [grant.event_id, seen.event_id]
    assert carried[0].consent == {"analytics": True}


def test_a_withdrawal_drops_what_was_held_and_an_older_grant_changes_nothing() -> None:
    world = World(consent=ASKS_CONSENT)
    world.give(consented(True, at=T0), sent("a1", at=T0 + 1))
    withdrawal, older = consented(False, at=T0 + 5), consented(True, at=T0 + 4)
    world.give(withdrawal, older, sent("a1", at=T0 + 6))
    carried = of(world.give(link("a1", "u1", at=T0 + 7)), HISTORY)
    assert {e.type for e in carried} == {"consent_changed"}
    assert withdrawal.event_id in {e.event_id for e in carried}


def test_where_consent_is_presumed_behaviour_is_held_until_it_is_refused() -> None:
    world = World(consent=Consent(collect="analytics", before_known="granted"))
    event = sent("a1")
    world.give(event)
    assert said(of(world.give(link("a1", "u1", at=T0 + 1)), HISTORY)) == [
        (event.event_id, "u1", HISTORY)
    ]


def test_global_privacy_control_drops_what_was_held_where_it_refuses_to_collect() -> None:
    for use, expected in (("collect", 0), ("personalise", 2)):
        asked = {"collect": "x", "before_known": "granted", "gpc": [use]}
        world = World(consent=Consent.model_validate(asked))
        world.give(sent("a1"), sent("a1", at=T0 + 1, context={"gpc": True}))
        assert len(of(world.give(link("a1", "u1", at=T0 + 2)), HISTORY)) == expected


# Outcomes.


def made_for(profile_id: str) -> str:
    shard = shard_of(profile_id, shards=SHARDS)
    return decision_id(shard=shard, profile_id=profile_id, trigger_id="e", placement="home")


def test_an_outcome_finds_the_profile_that_decided_before_the_link() -> None:
    world = World()
    world.give(link("a1", "u1"))
    for raw_id in ("a1", "u1"):
        click = sent(raw_id, "click", at=T0 + 1, decision_id=made_for("a1"))
        out = world.give(click)
        assert said(out, LIVE, OUTCOME) == [
            (click.event_id, "u1", LIVE),
            (click.event_id, "a1", OUTCOME),
        ]
        assert of(out, OUTCOME)[0].watermark_ms == NEVER


def test_an_outcome_of_a_decision_of_the_profile_itself_is_not_copied() -> None:
    world = World()
    user = next(
        f"u{n}"
        for n in range(99)
        if shard_of(f"u{n}", shards=SHARDS) != shard_of("a1", shards=SHARDS)
    )
    world.give(link("a1", user))
    assert len(world.give(sent("a1", "click", at=T0 + 1, decision_id=made_for(user)))) == 1
    for strange in ("zzz-1", "nonsense", "00", "fff-1"):
        assert len(world.give(sent("a1", "click", at=T0 + 2, decision_id=strange))) == 1


def test_an_outcome_is_copied_also_where_both_profiles_share_a_shard() -> None:
    user = next(
        f"u{n}"
        for n in range(99)
        if shard_of(f"u{n}", shards=SHARDS) == shard_of("a1", shards=SHARDS)
    )
    world = World()
    world.give(link("a1", user))
    out = world.give(sent("a1", "click", at=T0 + 1, decision_id=made_for("a1")))
    assert profiles(out, OUTCOME) == ["a1"]


def test_a_copy_is_known_apart_from_its_original() -> None:
    live = sent("a1")._replace(profile_id="u1")
    history = live._replace(mode=HISTORY)
    outcome = live._replace(mode=OUTCOME)
    assert len({seen_as(e) for e in (live, history, outcome)}) == 3
    assert carried_as(live) == seen_as(history)


# Erasure.


def held_bytes(world: World) -> bytes:
    """Everything that the machines hold, as it is before it is sealed."""
    opened = []

    class Open:
        mark = 0

        def key_of(self, text: str) -> bytes:
            return SEAL.key_of(text)

        def seal(self, data: bytes) -> bytes:
            opened.append(lz4.block.decompress(data))
            return data

        def open(self, sealed: bytes) -> bytes:
            return sealed

    world.graph._seal = Open()
    for group in world.groups:
        group._seal = Open()
    world.snapshots()
    return b"".join(opened)


@pytest.mark.parametrize("asked", ["alias-one", "user-one"])
def test_an_erasure_reaches_every_profile_of_the_family_and_leaves_no_byte(asked: str) -> None:
    world = World()
    alias, other, user = "alias-one", "alias-two", "user-one"
    world.give(sent(alias, anonymous=True), sent("alias-three", anonymous=True))
    world.give(link(alias, user, at=T0 + 1), link(other, user, at=T0 + 2))
    request = sent(asked, "erasure_requested", at=T0 + 3)
    out = world.give(request)
    assert said(out, LIVE) == [(request.event_id, asked, LIVE)]
    assert {e.profile_id for e in out} == {alias, other, user}
    found = held_bytes(world)
    assert b"alias-three" in found, "the search finds what is held"
    assert not any(name.encode() in found for name in (alias, other, user))


def test_an_erasure_drops_the_history_of_an_id_that_is_not_linked() -> None:
    world = World()
    world.give(sent("a1"))
    request = sent("a1", "erasure_requested", at=T0 + 1)
    assert said(world.give(request)) == [(request.event_id, "a1", LIVE)]
    assert of(world.give(link("a1", "u1", at=T0 + 2)), HISTORY) == []


def test_after_an_erasure_an_older_link_does_not_come_back_and_a_newer_one_does() -> None:
    world = World()
    world.give(link("a1", "u1", at=T0))
    request = sent("u1", "erasure_requested", at=T0 + 5)
    world.give(request)
    world.give(link("a1", "u1", at=T0 + 4))
    assert profiles(world.give(sent("a1", at=T0 + 6))) == ["a1"]
    world.give(link("a1", "u1", at=T0 + 7))
    out = world.give(request)
    assert said(out) == [(request.event_id, "u1", LIVE)], "the redelivered request unlinks nobody"
    assert profiles(world.give(sent("a1", at=T0 + 8))) == ["u1"]


def test_an_erasure_names_the_id_as_sent_also_where_it_is_linked() -> None:
    """A redelivery then meets the shard that has carried it out, whoever the id belongs to now."""
    world = World()
    request = sent("a1", "erasure_requested", at=T0)
    world.give(request)
    world.give(link("a1", "u1", at=T0 + 1))
    assert said(world.give(request)) == [(request.event_id, "a1", LIVE)]


# Suggestions.


def test_a_linked_profile_is_told_so() -> None:
    joined = link("a1", "u1")
    assert said(World().give(joined), OUTCOME) == [(joined.event_id, "a1", OUTCOME)]


# State.


def test_state_of_another_kind_or_key_or_damaged_is_refused() -> None:
    world = World()
    world.give(sent("a1"))
    snapshot = world.groups[group_of("a1")].snapshot()
    other = Pseudonyms(b"another secret of sixteen bytes")
    given = {"policy": world.policy, "consent": world.consent, "shards": SHARDS}
    with pytest.raises(StateError, match="another key"):
        restored_group(snapshot, seal=other, **given)  # type: ignore[arg-type]
    with pytest.raises(StateError, match="checksum"):
        restored_group(snapshot[:-1] + b"?", seal=SEAL, **given)  # type: ignore[arg-type]
    with pytest.raises(StateError, match="not NBID"):
        restored_group(world.graph.snapshot(), seal=SEAL, **given)  # type: ignore[arg-type]
    with pytest.raises(StateError, match="version 9"):
        restored_group(
            snapshot[:4] + (9).to_bytes(2, "big") + snapshot[6:],
            seal=SEAL,
            **given,  # type: ignore[arg-type]
        )


def test_ids_cannot_be_read_in_a_snapshot() -> None:
    world = World()
    world.give(sent("anonymous-visitor"), link("another-visitor", "known-user", at=T0 + 1))
    for snapshot in world.snapshots():
        assert not any(name in snapshot for name in (b"visitor", b"known-user"))


# Against the model, in every order that the engine may run in.

RAW: Final = ["a1", "a2", "a3", "a4", "u1", "u2", "u3"]


@st.composite
def logs(draw: st.DrawFn) -> list[Arrived]:
    """Logs of one partition: views, links and un-links, some late, some of one instant."""
    events = []
    clock = T0
    for n in range(draw(st.integers(5, 40))):
        clock += draw(st.sampled_from([0, SECOND, 5 * MINUTE, 40 * MINUTE]))
        at = clock - draw(st.sampled_from([0, 0, SECOND, 20 * MINUTE]))
        fields: dict[str, Any] = {"at": at, "watermark": clock - MINUTE, "event_id": f"n{n}"}
        what = draw(st.sampled_from(["view", "view", "view", "link", "unlink"]))
        if what == "view":
            events.append(sent(draw(st.sampled_from(RAW)), **fields))
            continue
        alias = draw(st.sampled_from(RAW))
        user = draw(st.sampled_from(RAW))
        events.append((link if what == "link" else unlink)(alias, user, **fields))
    return events


def by_group(done: list[Identified]) -> dict[int, list[Arrived]]:
    found: dict[int, list[Arrived]] = {group: [] for group in range(GROUPS)}
    for identified in done:
        found[identified.group] += identified.events
    return found


POLICY: Final = Identity.model_validate({"carry": "1h", "events": 3})


@settings(max_examples=100, deadline=None)
@given(log=logs(), cuts=st.sets(st.integers(1, 40)))
def test_events_go_where_the_model_says(log: list[Arrived], cuts: set[int]) -> None:
    expected = naive(log, POLICY)
    for updates_first in (False, True):
        world = World(POLICY)
        done = [
            identified
            for batch in batches(log, cuts.__contains__)
            for identified in world.feed(batch, updates_first=updates_first)
        ]
        found = by_group(done)
        for group in range(GROUPS):
            assert said(found[group], LIVE, HISTORY) == expected[group]


@settings(max_examples=60, deadline=None)
@given(log=logs(), cuts=st.sets(st.integers(1, 40)), order=st.randoms(use_true_random=False))
def test_however_the_engine_interleaves_the_steps_each_group_gives_the_same(
    log: list[Arrived], cuts: set[int], order: Any
) -> None:
    """The updates of a batch may come before it, after it, or after several later batches."""
    parts = batches(log, cuts.__contains__)
    usual, shuffled = World(POLICY), World(POLICY)
    expected = by_group([identified for part in parts for identified in usual.feed(part)])
    queues: dict[int, tuple[list[GroupBatch], list[GroupUpdates]]] = {
        group: ([], []) for group in range(GROUPS)
    }
    for running, part in enumerate(parts):
        links, groups = split(part, running)
        for batch in groups:
            queues[batch.group][0].append(batch)
        if links is not None:
            for update in shuffled.graph.process(links)[0]:
                queues[update.group][1].append(update)
    done: list[Identified] = []
    for group, (waiting, updates) in queues.items():
        while waiting or updates:
            queue = order.choice([q for q in (waiting, updates) if q])
            done += shuffled.groups[group].process(queue.pop(0))
    assert by_group(done) == expected
    assert shuffled.snapshots() == usual.snapshots()


@settings(max_examples=40, deadline=None)
@given(log=logs(), cuts=st.sets(st.integers(1, 40)))
def test_a_flow_stored_and_restored_after_every_batch_gives_the_same(
    log: list[Arrived], cuts: set[int]
) -> None:
    usual, resumed = World(POLICY), World(POLICY)
    for part in batches(log, cuts.__contains__):
        expected = usual.feed(part)
        resumed = resumed.resumed()
        assert resumed.feed(part) == expected
    assert resumed.snapshots() == usual.snapshots()
    assert resumed.counts == usual.counts


def test_half_a_batch_is_never_in_a_snapshot() -> None:
    world = World()
    links, groups = split(decoded([link("a1", "u1")]), 0)
    assert links is not None
    world.groups[0].process(groups[0])
    with pytest.raises(AssertionError):
        world.groups[0].snapshot()
    updates, _ = world.graph.process(links)
    world.groups[0].process(updates[0])
    world.groups[0].snapshot()


def test_many_days_of_history_never_hold_more_than_they_may() -> None:
    world = World(Identity(events=5))
    for day in range(3):
        for n in range(50):
            at = T0 + day * DAY + n * MINUTE
            world.give(sent("a1", at=at, watermark=at - MINUTE))
    carried = of(world.give(link("a1", "u1", at=T0 + 3 * DAY)), HISTORY)
    assert len(carried) == 5
