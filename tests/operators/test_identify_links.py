"""Links: statements by date, trees without circles, bounds, and what every group is told."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.arrival import Arrived
from operators.links import GROUPS, LinkBatch, LinkGraph, Routing, group_of
from operators.pseudonyms import Pseudonyms
from schemas.identity import Identity
from schemas.time import DAY
from tests.operators.builders import T0
from tests.operators.identity_world import SEAL, link, sent, unlink


def graph(**fields: Any) -> LinkGraph:
    return LinkGraph(Identity.model_validate(fields), SEAL)


def tell(held: LinkGraph, *events: Arrived) -> tuple[dict[str, Routing], dict[str, int]]:
    """Apply events as one batch: the last routing told of each id, and the counts."""
    updates, counts = held.process(LinkBatch((0, 0), list(enumerate(events))))
    assert [update.group for update in updates] == list(range(GROUPS))
    routings = {}
    for update in updates:
        for _, routing in update.routings:
            assert group_of(routing.member) == update.group
            routings[routing.member] = routing
    return routings, dict(counts)


def test_every_member_of_a_family_is_told_of_all_others() -> None:
    held = graph()
    tell(held, link("a1", "u1"))
    routings, counts = tell(held, link("a2", "u1"))
    assert counts == {"linked": 1}
    told = {member: (r.canonical, r.aliases) for member, r in routings.items()}
    assert told == dict.fromkeys(("a1", "a2", "u1"), ("u1", ("a1", "a2")))


def test_what_is_said_again_is_told_to_nobody() -> None:
    held = graph()
    tell(held, link("a1", "u1"))
    assert tell(held, link("a1", "u1", at=T0 + 1)) == ({}, {"repeated": 1})


@pytest.mark.parametrize(
    "links", [[("a1", "a1")], [("a1", "u1"), ("u1", "a1")], [("a", "b"), ("b", "c"), ("c", "a")]]
)
def test_a_circle_is_refused_and_counted(links: list[tuple[str, str]]) -> None:
    held = graph()
    for n, (alias, user) in enumerate(links[:-1]):
        tell(held, link(alias, user, at=T0 + n))
    alias, user = links[-1]
    before = held.family(user)
    assert tell(held, link(alias, user, at=T0 + 9)) == ({}, {"refused_circle": 1})
    assert held.family(user) == before


def test_a_newer_link_may_turn_a_family_around() -> None:
    held = graph()
    tell(held, link("a1", "u1"), unlink("a1", "u1", at=T0 + 1), link("u1", "a1", at=T0 + 2))
    assert held.family("u1") == ["a1", "u1"]


def test_beyond_the_most_devices_the_one_linked_longest_ago_gives_way() -> None:
    held = graph(devices=2)
    tell(held, link("a1", "u1", at=T0 + 5), link("a2", "u1", at=T0 + 1))
    routings, counts = tell(held, link("a3", "u1", at=T0 + 3))
    assert counts == {"linked": 1, "unlinked_bound": 1}
    assert held.family("u1") == ["u1", "a1", "a3"]
    assert routings["a2"].canonical == "a2"
    assert routings["a2"].aliases == ()
    tell(held, link("a2", "u1", at=T0 + 1))
    assert held.family("u1") == ["u1", "a1", "a3"], "the same statement again changes nothing"


def test_of_two_statements_of_one_instant_the_one_that_unlinks_holds() -> None:
    for events in ([link("a1", "u1"), unlink("a1", "u1")], [unlink("a1", "u1"), link("a1", "u1")]):
        held = graph()
        tell(held, *events)
        assert held.canonical("a1") == "a1"


def test_a_link_is_forgotten_long_after_it_was_last_stated() -> None:
    held = graph(keep="10d")
    tell(held, link("a1", "u1", at=T0), link("a2", "u2", at=T0))
    tell(held, link("a2", "u2", at=T0 + 6 * DAY))
    routings, counts = tell(held, link("a3", "u3", at=T0 + 12 * DAY))
    assert counts == {"forgotten": 1, "linked": 1}
    assert routings["a1"].canonical == "a1"
    assert held.canonical("a2") == "u2"


def test_only_so_many_links_are_held_and_the_oldest_give_way() -> None:
    held = graph(links=3)
    for n in range(10):
        tell(held, link(f"a{n}", f"u{n}", at=T0 + n))
    assert [n for n in range(10) if held.canonical(f"a{n}") == f"u{n}"] == [7, 8, 9]


def test_a_long_chain_is_a_family_like_any_other() -> None:
    held = graph(devices=4)
    for n in range(20):
        tell(held, link(f"x{n}", f"x{n + 1}", at=T0 + n))
    assert held.canonical("x19") == "x20"
    assert len(held.family("x20")) == 5


def test_an_erasure_tells_each_member_whose_profile_held_its_data() -> None:
    held = graph()
    tell(held, link("a1", "u1"), link("u1", "u2", at=T0 + 1))
    routings, _ = tell(held, sent("a1", "erasure_requested", at=T0 + 2))
    assert {m: (r.canonical, r.erased_of) for m, r in routings.items()} == {
        member: (member, "u2") for member in ("a1", "u1", "u2")
    }


def test_a_request_delivered_again_is_told_to_nobody() -> None:
    held = graph()
    request = sent("u1", "erasure_requested", at=T0 + 2)
    tell(held, link("a1", "u1"), request, link("a1", "u1", at=T0 + 3))
    assert tell(held, request) == ({}, {})
    assert held.canonical("a1") == "u1"


def test_an_erasure_reaches_links_dated_ahead_of_it() -> None:
    """A device whose clock is ahead: what is held when the request comes is erased."""
    held = graph()
    tell(held, link("a1", "u1", at=T0 + 60_000), sent("u1", "erasure_requested", at=T0))
    assert held.canonical("a1") == "a1"


def test_links_outlive_a_change_of_the_secret() -> None:
    held = graph()
    tell(held, link("a1", "u1"), sent("u9", "erasure_requested"))
    fresh = Pseudonyms(b"a secret that came after the other", former=b"x" * 16)
    renewed = Pseudonyms(
        b"a secret that came after the other", former=b"a secret of more than sixteen bytes"
    )
    other = LinkGraph(Identity(), renewed)
    other.restore(held.snapshot())
    assert other.canonical("a1") == "u1"
    assert LinkGraph(Identity(), fresh).snapshot() == LinkGraph(Identity(), renewed).snapshot()


# Against the model: of each alias the newest-dated statement holds.

ALIASES: Final = [f"x{n}" for n in range(6)]


@st.composite
def statements(draw: st.DrawFn) -> list[Arrived]:
    """Links that lead from a lower to a higher number, so that no circle can close."""
    found = []
    for n in range(draw(st.integers(1, 15))):
        alias = draw(st.integers(0, 4))
        user = draw(st.integers(alias + 1, 5))
        at = T0 + draw(st.integers(0, 8))
        make = draw(st.sampled_from([link, link, unlink]))
        found.append(make(f"x{alias}", f"x{user}", at=at, event_id=f"n{n}"))
    return found


def newest(events: list[Arrived]) -> dict[str, str]:
    held: dict[str, tuple[int, bool, str]] = {}
    for event in events:
        alias = event.anonymous_id or ""
        gone = event.type == "identity_unlinked"
        said = (event.occurred_ms, gone, "" if gone else event.raw_id)
        held[alias] = max(held.get(alias, said), said)
    found = {}
    for member in ALIASES:
        canonical = member
        while canonical in held and held[canonical][2]:
            canonical = held[canonical][2]
        found[member] = canonical
    return found


@settings(max_examples=200, deadline=None)
@given(events=statements(), order=st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_nothing(events: list[Arrived], order: Any) -> None:
    shuffled = list(events)
    order.shuffle(shuffled)
    for arriving in (events, shuffled):
        held = graph()
        known: dict[str, str] = {member: member for member in ALIASES}
        for event in arriving:
            routings, _ = tell(held, event)
            known |= {m: r.canonical for m, r in routings.items()}
        expected = newest(events)
        assert {member: held.canonical(member) for member in ALIASES} == expected
        assert known == expected, "what the groups were told is what holds"
