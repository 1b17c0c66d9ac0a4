"""A shard: duplicates, lateness, timers, retention, erasure, and resuming without a trace."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.arrival import Arrived, group_by_shard
from operators.decide import Decide
from operators.outputs import Outputs
from operators.parameters import LocalParameters
from operators.plan import Plan
from operators.profile import Profile
from operators.shard import Shard, ShardBatch, restored
from operators.shard_state import StateError
from schemas.decisions import Late
from schemas.time import DAY, HOUR, MINUTE, SECOND, to_millis
from tests.operators.builders import (
    T0,
    USER,
    arrived,
    contents,
    decide,
    plan,
    policy,
    profile_in,
    request,
    shard,
    shard_batch,
    tick,
)

SECTIONS: Final[dict[str, Any]] = {
    "time": {"allowed_lateness": "1m", "dedupe_for": "10m"},
    "signals": {"views": {"kind": "count", "events": "view", "within": "1h"}},
    "segments": {
        "active": {"when": {"signal": "views", "at_least": 2}},
        "gone": {"when": {"not_done": "view", "within": "2h"}},
    },
    "retention": {"profile_ttl": "30d", "pending": 3},
    "placements": {
        "home": {
            "slots": 2,
            "rewards": ["click"],
            "impressions": "assumed",
            "caps": [{"max": 1000, "within": "1d"}],
        }
    },
}


def compiled(**sections: Any) -> Plan:
    return plan(policy(**{**SECTIONS, **sections}), contents())


def machine(of: Plan | None = None, **fields: Any) -> Shard:
    return shard(of or compiled(), **fields)


def run(held: Shard, *events: Arrived, partitions: int = 1) -> Outputs:
    return held.process(shard_batch(events, partitions=partitions))


def resumed(held: Shard, *, of: Plan | None = None) -> Shard:
    return restored(
        held.snapshot(),
        shards=held.shards,
        decide=decide(of or held.decide.plan),
        with_views=held.with_views,
    )


def kept(held: Shard, profile_id: str = USER) -> Profile:
    found = held.look(profile_id)
    assert found is not None
    return found


def views(held: Shard, profile_id: str = USER) -> float:
    of = held.decide.plan
    (signal,) = [s for s in of.signals if s.name == "views"]
    found = kept(held, profile_id)
    value = signal.value(found.signals, found.now_ms)
    assert isinstance(value, float)
    return value


# Duplicates.


def test_a_second_delivery_is_a_duplicate_and_changes_nothing() -> None:
    held = machine()
    event = arrived()
    assert run(held, event).counts == {"used": 1}
    before = held.snapshot()
    assert run(held, event).counts == {"duplicate": 1}
    assert held.snapshot() == before


def test_a_duplicate_decision_request_gets_no_second_decision() -> None:
    held = machine()
    asked = request()
    assert len(run(held, asked, asked).decisions) == 1


def test_a_duplicate_is_known_after_a_resume() -> None:
    held = machine()
    event = arrived()
    run(held, event)
    assert run(resumed(held), event).counts == {"duplicate": 1}


def test_ids_are_remembered_for_the_time_promised_and_then_forgotten() -> None:
    held = machine()
    event = arrived(event_id="again")
    run(held, event)
    held.process(tick(T0 + 10 * MINUTE - SECOND))
    assert run(held, event).counts == {"duplicate": 1}
    held.process(tick(T0 + 13 * MINUTE))
    later = arrived(event_id="again", at=T0 + 20 * MINUTE)
    assert run(held, later).counts == {"used": 1}


def test_the_memory_of_ids_is_bounded_by_time() -> None:
    held = machine()
    for n in range(600):
        run(held, arrived(at=T0 + n * MINUTE))
    assert len(held._seen) <= 15
    assert len(held._seen.by_bucket) <= 15


def test_ids_are_forgotten_in_time_although_the_policy_now_remembers_them_longer() -> None:
    """Written under another `dedupe_for`, they must neither stay for ever nor vanish at once."""
    held = machine()
    event = arrived()
    run(held, event)
    for other in ("20m", "30d"):
        longer = compiled(time={"allowed_lateness": "1m", "dedupe_for": other})
        again = resumed(held, of=longer)
        again.process(tick(T0 + 5 * MINUTE))
        assert run(again, event).counts == {"duplicate": 1}
        again.process(tick(T0 + 60 * DAY))
        assert not again._seen


# Lateness.


def test_an_event_older_than_the_watermark_is_late_and_changes_nothing() -> None:
    held = machine()
    run(held, arrived(at=T0, watermark=T0 - MINUTE))
    late = arrived(at=T0 - MINUTE - 1, watermark=T0 - MINUTE)
    out = run(held, late)
    assert out.counts == {"late": 1}
    (record,) = out.late
    assert Late.model_validate(record).event_id == late.event_id
    assert views(held) == 1


def test_an_event_as_old_as_the_watermark_is_used() -> None:
    held = machine()
    out = run(held, arrived(at=T0), arrived(at=T0 - MINUTE, watermark=T0 - MINUTE))
    assert out.counts == {"used": 2}
    assert views(held) == 2


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("consent_changed", {"consent": {"ads": True}}),
        ("feedback", {"feedback": "hide", "content_id": "c1"}),
        ("taste_reset", {}),
        ("erasure_requested", {}),
    ],
)
def test_a_control_event_is_never_late(kind: str, fields: dict[str, Any]) -> None:
    held = machine()
    run(held, arrived(at=T0 - DAY))
    held.process(tick(T0))
    out = run(held, arrived(kind, at=T0 - HOUR, watermark=T0, **fields))
    assert out.late == []
    assert out.counts == {"used": 1}


def test_every_event_is_in_exactly_one_count() -> None:
    held = machine()
    first = arrived()
    sent = [
        first,
        first,
        arrived(at=T0 - HOUR),
        arrived("identity_linked"),
        request(),
        arrived("erasure_requested"),
    ]
    out = run(held, *sent)
    assert out.counts == {"used": 3, "duplicate": 1, "late": 1, "suppressed": 1}


def test_a_backlog_on_one_partition_makes_nobody_late() -> None:
    held = machine()
    ahead = arrived(partition=0, at=T0 + DAY, watermark=T0 + DAY, profile_id="ahead")
    behind = arrived(partition=1, at=T0, watermark=T0 - MINUTE)
    assert run(held, ahead, behind, partitions=2).counts == {"used": 2}
    assert held.watermark_ms == T0 - MINUTE


def test_no_time_passes_until_every_partition_was_heard_of() -> None:
    held = machine()
    run(held, arrived(), arrived(at=T0 + SECOND), partitions=2)
    assert held.process(tick(T0 + DAY, partitions=2)).changes == []
    assert run(held, arrived(at=T0 - 300 * DAY), partitions=2).counts == {"used": 1}
    changes = held.process(tick(T0 + DAY, partition=1, partitions=2)).changes
    assert [c["direction"] for c in changes if c["segment"] == "active"] == ["left"]


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, DAY)), min_size=1, max_size=30),
)
def test_the_watermark_is_the_least_of_the_partitions_and_never_goes_back(
    moves: list[tuple[int, int]],
) -> None:
    held = machine()
    newest: dict[int, int] = {}
    seen = held.watermark_ms
    for partition, after in moves:
        held.process(tick(T0 + after, partition=partition, partitions=3))
        newest[partition] = max(newest.get(partition, 0), T0 + after)
        assert held.watermark_ms >= seen
        seen = held.watermark_ms
        if len(newest) == 3:
            assert seen == min(newest.values())


# Timers.


def test_a_timer_fires_when_the_watermark_passes_it_and_not_before() -> None:
    held = machine()
    run(held, arrived(), arrived(at=T0 + SECOND))
    due = held.next_due_ms
    assert T0 + 58 * MINUTE < due <= T0 + HOUR
    assert held.process(tick(due - 1)).changes == []
    (change,) = held.process(tick(due)).changes
    assert (change["segment"], change["direction"], change["cause"]) == ("active", "left", "timer")


def test_timers_fire_before_any_later_event_is_applied() -> None:
    held = machine()
    run(held, arrived(), arrived(at=T0 + SECOND))
    other = arrived(profile_id="other", at=T0 + 5 * HOUR, watermark=T0 + 5 * HOUR)
    out = run(held, other, arrived(at=T0 + 5 * HOUR, watermark=T0 + 5 * HOUR))
    mine = [(c["segment"], c["direction"]) for c in out.changes if c["profile_id"] == USER]
    assert mine == [("active", "left"), ("gone", "entered"), ("gone", "left")]
    causes = [c["cause"] for c in out.changes if c["profile_id"] == USER]
    assert causes[:2] == ["timer", "timer"]


def test_every_timer_bears_its_own_time_however_late_the_watermark_comes() -> None:
    held = machine()
    run(held, arrived(), arrived(at=T0 + SECOND))
    changes = held.process(tick(T0 + 10 * DAY)).changes
    times = [to_millis(datetime.fromisoformat(change["changed_at"])) for change in changes]
    assert [c["segment"] for c in changes] == ["active", "gone"]
    assert times[0] <= T0 + HOUR < times[1] <= T0 + 2 * HOUR + SECOND


def test_an_attribution_window_closes_once_when_the_watermark_passes_it() -> None:
    held = machine()
    (made,) = run(held, request()).decisions
    early = held.process(tick(T0 + 30 * MINUTE - 1))
    assert early.outcomes == []
    (outcome,) = held.process(tick(T0 + 30 * MINUTE)).outcomes
    assert outcome["decision_id"] == made.record["decision_id"]
    assert held.process(tick(T0 + DAY)).outcomes == []


def test_the_heap_of_timers_does_not_grow_with_events() -> None:
    held = machine()
    for n in range(2_000):
        kind = (arrived, request)[n % 2]
        run(held, kind(at=T0 + n * 10 * SECOND))
    assert len(held._timers) <= 20
    assert len(resumed(held)._timers) == 1


# Retention and erasure.


def test_a_profile_idle_beyond_its_time_is_dropped_and_its_books_are_written() -> None:
    held = machine()
    run(held, arrived(profile_id="idle"), request(profile_id="idle"))
    run(held, arrived(profile_id="busy", at=T0 + 20 * DAY, watermark=T0))
    out = held.process(tick(T0 + 32 * DAY))
    assert held.look("idle") is None
    assert held.look("busy") is not None
    assert len(out.outcomes) == 1
    (dropped,) = out.profiles
    assert (dropped.profile_id, dropped.view) == ("idle", None)
    assert held.profiles == 1


def test_an_erasure_leaves_nothing_of_the_profile() -> None:
    held = machine()
    run(held, arrived(profile_id="keep"))
    run(held, arrived(), request(), arrived("feedback", feedback="hide", content_id="c1"))
    out = run(held, arrived("erasure_requested", at=T0 + SECOND))
    assert held.look(USER) is None
    assert [(gone.profile_id, gone.view) for gone in out.profiles] == [(USER, None)]
    assert USER.encode() not in restored_body(held)
    assert held.process(tick(T0 + 300 * DAY)).outcomes == []


def restored_body(held: Shard) -> bytes:
    """Every byte of the state, uncompressed."""
    held.snapshot()
    return msgspec.msgpack.encode([held._cold, held._seen.by_bucket])


def test_an_erasure_applies_although_the_profile_is_cold() -> None:
    held = machine()
    run(held, arrived())
    again = resumed(held)
    run(again, arrived("erasure_requested", at=T0 + SECOND))
    assert again.look(USER) is None
    assert again.profiles == 0


def test_an_erasure_dated_between_a_profiles_events_erases_it() -> None:
    """The profile's first event is the oldest one, not the one that came first."""
    held = machine()
    run(held, arrived(at=T0 + 50 * SECOND), arrived(at=T0))
    run(held, arrived("erasure_requested", at=T0 + 20 * SECOND))
    assert held.look(USER) is None


def test_a_redelivered_erasure_spares_a_profile_that_came_back_after_it() -> None:
    held = machine()
    run(held, arrived())
    request_id = "the same request, long after it"
    run(held, arrived("erasure_requested", event_id=request_id, at=T0 + SECOND))
    run(held, arrived(at=T0 + 30 * DAY))
    later = resumed(held)
    again = arrived(
        "erasure_requested", event_id=request_id, at=T0 + SECOND, watermark=T0 + 30 * DAY
    )
    out = run(later, again)
    assert views(later) == 1
    assert out.receipts == []


def test_an_erasure_applies_on_arrival_whatever_its_date() -> None:
    held = machine()
    run(held, arrived(at=T0 + HOUR))
    out = run(held, arrived("erasure_requested", at=T0, watermark=T0 + HOUR))
    assert held.look(USER) is None
    assert [receipt["found"] for receipt in out.receipts] == [True]


def test_a_profile_that_comes_back_has_a_newer_version_than_its_erasure() -> None:
    """Serving compares versions: an older one would never be written over the deletion."""
    held = machine(with_views=True)
    for n in range(5):
        run(held, arrived(at=T0 + n * SECOND))
    (gone,) = run(held, arrived("erasure_requested", at=T0 + MINUTE)).profiles
    (back,) = run(held, arrived(at=T0 + 2 * MINUTE)).profiles
    assert back.view is not None
    assert back.version > gone.version


# Views.


def test_a_view_is_given_once_per_touched_profile_with_its_newest_version() -> None:
    held = machine(with_views=True)
    out = run(held, arrived(), arrived(), arrived(profile_id="other"))
    assert sorted(state.profile_id for state in out.profiles) == ["other", USER]
    mine = next(state for state in out.profiles if state.profile_id == USER)
    assert mine.view is not None
    assert mine.version == mine.view["version"] == kept(held).version


def test_a_view_given_out_does_not_change_with_the_profile() -> None:
    held = machine(with_views=True)
    (state,) = run(held, arrived("profile_updated", attributes={"plan": "free"})).profiles
    run(held, arrived("profile_updated", attributes={"plan": "paid"}))
    assert state.view is not None
    assert state.view["attributes"] == {"plan": "free"}


# Bounds.


def test_pending_decisions_are_bounded_and_the_oldest_is_closed_early() -> None:
    held = machine()
    outs = [run(held, request(at=T0 + n)) for n in range(8)]
    assert len(kept(held).pending) == 3
    closed = [outcome["decision_id"] for out in outs for outcome in out.outcomes]
    made = [out.decisions[0].record["decision_id"] for out in outs]
    assert closed == made[:5]


def test_the_keys_of_caps_are_bounded() -> None:
    many = [
        content.model_copy(update={"content_id": f"c{n:04d}"})
        for n, content in enumerate(contents(1) * 400)
    ]
    held = shard(plan(policy(**SECTIONS), many))
    for n in range(300):
        asked = tuple(f"c{(2 * n + i) % 400:04d}" for i in range(2))
        run(held, request(at=T0 + n * SECOND, candidates=asked))
    assert len(kept(held).shown) == 128


def test_a_profile_of_many_events_stays_small() -> None:
    held = machine()
    for n in range(3_000):
        run(held, arrived(at=T0 + n * MINUTE, content_id=f"c{n % 6}"))
    run(held, *[request(at=T0 + 3 * DAY + n) for n in range(3)])
    held.snapshot()
    assert len(held._cold[USER]) < 2_048


def test_more_hot_profiles_than_the_limit_turn_cold_and_lose_nothing() -> None:
    held = machine()
    run(held, *[arrived(profile_id=f"u{n}") for n in range(4_200)])
    assert held._hot == {}
    assert held.profiles == 4_200
    assert views(held, "u17") == 1


# Snapshots.

_IDS: Final = ("u1", "u2", "u3")


@st.composite
def batches(draw: st.DrawFn) -> list[ShardBatch]:
    """A history over two partitions: events of every kind, duplicates, late ones, mere time."""
    made: list[ShardBatch] = []
    now = 0
    ids = iter(range(1_000))
    sent: list[Arrived] = []
    for _ in range(draw(st.integers(1, 12))):
        now += draw(st.sampled_from([0, SECOND, MINUTE, 20 * MINUTE, HOUR, 3 * HOUR]))
        events: list[Arrived] = []
        for _ in range(draw(st.integers(0, 4))):
            kind = draw(
                st.sampled_from(
                    [
                        "view",
                        "view",
                        "view",
                        "click",
                        "feedback",
                        "decision_requested",
                        "taste_reset",
                        "profile_updated",
                        "erasure_requested",
                        "again",
                    ]
                )
            )
            if kind == "again":
                events += sent[-1:]
                continue
            late = draw(st.sampled_from([0, 0, 0, 30 * SECOND, 2 * HOUR]))
            fields: dict[str, Any] = {
                "event_id": f"e{next(ids)}",
                "profile_id": draw(st.sampled_from(_IDS)),
                "partition": draw(st.integers(0, 1)),
                "at": T0 + now - late,
                "watermark": T0 + now - MINUTE,
                "received": T0 + now,
                "content_id": draw(st.sampled_from(["c1", "c2", "c3"])),
            }
            if kind == "feedback":
                fields["feedback"] = draw(st.sampled_from(["hide", "like"]))
            if kind == "profile_updated":
                fields["attributes"] = {"plan": draw(st.sampled_from(["free", "paid", None]))}
            if kind == "decision_requested":
                fields["placement"], fields["content_id"] = "home", None
            events.append(arrived(kind, **fields))
        sent += events
        marks = draw(st.sampled_from([(), ((0, T0 + now - MINUTE), (1, T0 + now - MINUTE))]))
        made.append(shard_batch(events, watermarks=marks, partitions=draw(st.sampled_from([1, 2]))))
    return made


def said(out: Outputs) -> Any:
    return (
        out.decisions,
        out.changes,
        out.outcomes,
        out.late,
        out.examples,
        sorted(out.profiles),
        out.counts,
        out.facts,
    )


def held_state(held: Shard) -> Any:
    held.snapshot()
    return (
        held._cold,
        held._seen,
        held._watermarks,
        held.watermark_ms,
        held._partitions,
        held._swept_day,
    )


@settings(max_examples=60)
@given(batches(), st.data())
def test_a_shard_resumed_anywhere_gives_what_an_uninterrupted_one_gives(
    history: list[ShardBatch], data: st.DataObject
) -> None:
    of = compiled()
    straight, broken = machine(of, with_views=True), machine(of, with_views=True)
    stops = data.draw(st.sets(st.integers(0, len(history) - 1), min_size=1, max_size=3))
    for n, batch in enumerate(history):
        if n in stops:
            broken = resumed(broken)
        assert said(broken.process(batch)) == said(straight.process(batch))
    assert held_state(broken) == held_state(straight)
    final = tick(T0 + 40 * DAY), tick(T0 + 40 * DAY, partition=1)
    for batch in final:
        assert said(broken.process(batch)) == said(straight.process(batch))


@settings(max_examples=40)
@given(batches())
def test_a_snapshot_restored_gives_the_same_snapshot(history: list[ShardBatch]) -> None:
    held = machine()
    for batch in history:
        held.process(batch)
    first = held.snapshot()
    assert held.snapshot() == first
    assert resumed(held).snapshot() == first


@settings(max_examples=30)
@given(batches())
def test_the_same_batches_give_the_same_bytes(history: list[ShardBatch]) -> None:
    one, other = machine(), machine()
    for batch in history:
        one.process(batch)
        other.process(batch)
    assert one.snapshot() == other.snapshot()


def test_a_partition_that_is_new_lets_no_time_go_back_over_a_resume() -> None:
    held = machine()
    run(held, arrived(at=T0))
    held.process(tick(T0 + HOUR))
    held.process(shard_batch(partitions=2))
    assert resumed(held).watermark_ms == held.watermark_ms == T0 + HOUR
    held.process(tick(T0 - DAY, partition=1, partitions=2))
    assert resumed(held).watermark_ms == held.watermark_ms == T0 + HOUR


def test_state_of_another_number_of_shards_is_refused() -> None:
    held = machine()
    run(held, arrived())
    with pytest.raises(StateError, match=r"shard 0 of 1.*runs with 0 of 64"):
        restored(held.snapshot(), shards=64, decide=held.decide, with_views=False)


def test_state_of_another_shard_is_refused() -> None:
    other = shard(compiled(), number=3, shards=8)
    with pytest.raises(StateError, match="shard 3 of 8"):
        shard(compiled(), number=2, shards=8).restore(other.snapshot())


def test_a_shard_learns_its_number_from_its_snapshot() -> None:
    of = compiled()
    held = shard(of, number=5, shards=8)
    who = profile_in(5, shards=8)
    held.process(shard_batch([arrived(profile_id=who)], shard=5))
    again = resumed(held)
    assert again.number == 5
    assert again.look(who) is not None


def test_state_of_an_unknown_version_is_refused_with_what_to_do() -> None:
    snapshot = bytearray(machine().snapshot())
    snapshot[4:6] = (99).to_bytes(2, "big")
    with pytest.raises(StateError, match=r"version 99.*run the release that wrote it"):
        machine().restore(bytes(snapshot))


def test_what_is_no_snapshot_is_refused() -> None:
    for other in (b"", b"NB", b"\x80\x04K\x01.", b"NBLR" + b"\0" * 20):
        with pytest.raises(StateError, match="not a shard's snapshot"):
            machine().restore(other)


def test_damage_anywhere_in_a_snapshot_is_refused() -> None:
    held = machine()
    run(held, arrived(), request(), arrived(profile_id="u2"))
    whole = held.snapshot()
    for at in range(len(whole)):
        for damaged in (
            whole[:at],
            whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :],
        ):
            with pytest.raises(StateError):
                machine().restore(damaged)


def test_events_are_grouped_by_shard_in_their_order() -> None:
    who = [profile_in(n, shards=4) for n in (0, 3)]
    events = [arrived(profile_id=who[n % 2]) for n in range(6)]
    assert group_by_shard(events, shards=4) == {0: events[::2], 3: events[1::2]}


def test_a_late_request_that_was_decided_before_a_crash_is_not_late() -> None:
    # After a resume the partitions may come in another order; the topic is the truth.
    of = compiled()
    asked = request(event_id="asked", at=T0)
    made = run(machine(of), asked).decisions[0].record
    again = Shard(0, 1, Decide(of, LocalParameters(), adopt={made["decision_id"]: made}.get))
    again.process(tick(T0 + HOUR))
    out = run(again, asked)
    assert [(m.record, m.adopted) for m in out.decisions] == [(made, True)]
    assert not out.late
    other = run(again, request(event_id="other", at=T0))
    assert len(other.late) == 1
    assert not other.decisions
