"""Identity in the engine: whatever aborts come, and what a link brings to a profile."""

from __future__ import annotations

import pickle
import random
import sqlite3
from collections import Counter
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import bytewax.operators as op
import orjson
import pytest
from bytewax.dataflow import Dataflow, Stream
from bytewax.testing import TestingSink, TestingSource

from flows.engine import run_flow
from flows.identify_logics import identify_step, suggest_step
from flows.live import CROSSING
from flows.recovery import init_store, install_restricted_unpickler
from operators.arrival import HISTORY, LIVE, Arrived
from operators.decode import Decoded
from operators.duplicates import Contact
from operators.gather import Gather, Gathered
from operators.ids import shard_of
from operators.links import GROUPS
from operators.outputs import Outputs, Record
from operators.plan import Plan
from operators.profile import FAR, Profile
from operators.shard import Shard, ShardBatch
from schemas.identity import Identity, Suggest
from schemas.policy import Consent
from schemas.records import RawBatch, RawRecord
from schemas.time import HOUR, MINUTE, SECOND
from tests.flows.memory import EACH_BATCH, NEVER, LogSource, MemoryFlow
from tests.operators.builders import T0, decoder, event, plan, policy, shard
from tests.operators.identity_world import SEAL, SHARDS, World, decoded, link, sent

BATCHES: Final = 10
IDS: Final = ["a1", "a2", "a3", "u1", "u2"]
IDENTITY: Final = Identity.model_validate({"carry": "1h", "events": 5, "devices": 2})


def log() -> list[RawBatch]:
    """Anonymous visits, log-ins on two devices, a log-out, an erasure, and a redelivery of each."""
    chance = random.Random(7)
    batches = []
    offset = 0
    told: list[dict[str, Any]] = []
    for b in range(BATCHES):
        records = []
        for n in range(12):
            at = T0 + b * MINUTE + n * SECOND
            raw_id = chance.choice(IDS)
            named = {"user_id" if raw_id.startswith("u") else "anonymous_id": raw_id}
            sent_now = event(at=at, event_id=f"e{b}-{n}", **{"user_id": None, **named})
            pair = {"user_id": chance.choice(["u1", "u2"]), "anonymous_id": raw_id}
            if n == 5 and raw_id.startswith("a"):
                sent_now |= {"type": chance.choice(["identity_linked"] * 3 + ["identity_unlinked"])}
                sent_now |= pair
            if (b, n) == (7, 8):
                sent_now["type"] = "erasure_requested"
            if told and n == 11:
                sent_now = chance.choice(told)
            told.append(sent_now)
            records.append(RawRecord(offset, at, None, orjson.dumps(sent_now)))
            offset += 1
        batches.append(RawBatch("log", 0, 1, records))
    return batches


class IdentityFlow:
    """Decode and identify in the engine, over one store; what came out, over all runs, by batch."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.counts: Counter[str] = Counter()
        init_store(store, partitions=1)

    def run(self, *, abort_at: int | None = None, epoch: timedelta = EACH_BATCH) -> list[Gathered]:
        reader = decoder(policy())
        out: list[Gathered] = []
        flow = Dataflow("nextbest")
        batches = op.input("events", flow, LogSource(log(), abort_at=abort_at))
        read: Stream[Decoded] = op.map("decode", batches, reader.decode)

        def counted(outcome: str, n: int) -> None:
            self.counts[outcome] += n

        identified = identify_step(
            read,
            identity=IDENTITY,
            consent=Consent(),
            shards=SHARDS,
            seal=SEAL,
            count_outcome=counted,
        )
        op.output("out", identified, TestingSink(out))
        run_flow(flow, epoch_interval=epoch, recovery_dir=self.store)
        return out

    def state(self) -> dict[tuple[str, str], Any]:
        newest: dict[tuple[str, str], Any] = {}
        with closing(sqlite3.connect(self.store / "part-0.sqlite3")) as held:
            for step, key, change in held.execute(
                "SELECT step_id, state_key, ser_change FROM snaps "
                "WHERE step_id IN ('nextbest.links', 'nextbest.identify') ORDER BY snap_epoch"
            ):
                newest[step, key] = change
        return newest


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[list[Gathered], IdentityFlow]:
    flow = IdentityFlow(tmp_path_factory.mktemp("uninterrupted") / "store")
    out = flow.run()
    assert len(out) == BATCHES
    # The log shows something of everything that could go wrong.
    assert {"linked", "repeated", "carried", "erased"} <= set(flow.counts)
    modes = Counter(e.mode for identified in out for e in identified.events)
    assert modes[LIVE] == BATCHES * 12
    assert modes[HISTORY] > 3
    return out, flow


@pytest.mark.parametrize("second", range(1, BATCHES + 1))
def test_whatever_aborts_come_each_batch_gives_what_it_gave(
    uninterrupted: tuple[list[Gathered], IdentityFlow], tmp_path: Path, second: int
) -> None:
    expected, usual = uninterrupted
    for first in sorted({0, second // 2, second - 1}):
        flow = IdentityFlow(tmp_path / f"store-{first}")
        # Up to `first` every batch is in a snapshot; from there to `second` nothing is.
        out = flow.run(abort_at=first)
        assert out == expected[:first]
        again = flow.run(abort_at=second, epoch=NEVER)
        assert again == expected[first:second]
        assert flow.run() == expected[first:]
        assert flow.state() == usual.state()


def test_no_id_can_be_read_in_the_store(
    uninterrupted: tuple[list[Gathered], IdentityFlow],
) -> None:
    state = uninterrupted[1].state()
    assert ("nextbest.links", "links") in state
    assert {key for step, key in state if step == "nextbest.identify"} == {
        f"i{group}" for group in range(GROUPS)
    }
    world = World(IDENTITY)
    world.give(link("anonymous-visitor", "known-user"))
    for snapshot in world.snapshots():
        assert b"anonymous-visitor" not in snapshot


def test_suggestions_come_out_of_the_engine_and_survive_a_resume(tmp_path: Path) -> None:
    init_store(tmp_path / "store", partitions=1)
    contacts: list[Any] = [
        Contact("u1", "ann@example.org", None, None, T0),
        Contact("u3", "bob@example.org", None, None, T0),
        TestingSource.ABORT(),
        Contact("u2", "ann@example.org", None, None, T0 + 1),
    ]
    found: list[Record] = []
    flow = Dataflow("nextbest")
    told: Stream[Contact] = op.input("contacts", flow, TestingSource(contacts))
    suggested = suggest_step(told, suggest=Suggest(email="mail"), seal=SEAL)
    op.output("suggestions", suggested, TestingSink(found))
    run_flow(flow, epoch_interval=EACH_BATCH, recovery_dir=tmp_path / "store")
    assert found == []
    run_flow(flow, epoch_interval=EACH_BATCH, recovery_dir=tmp_path / "store")
    assert [(r["profile_a"], r["profile_b"]) for r in found] == [("u1", "u2")]


BOUGHT: Final = {"done": "buy", "gap": "1h"}


# What DECIDE makes of it: the shards behind the identity groups, without the engine.


class Behind:
    """Every shard of a plan with an identity section, fed by the identity machines."""

    def __init__(self, of: Plan) -> None:
        assert of.policy.identity is not None
        self.world = World(of.policy.identity, of.policy.consent)
        self.gather = Gather()
        self.shards = [shard(of, number=n, shards=SHARDS) for n in range(SHARDS)]
        self.counts: Counter[str] = Counter()
        self.facts: Counter[tuple[str, ...]] = Counter()
        self.decisions: list[Record] = []

    def give(self, *events: Arrived) -> None:
        parts = map(self.gather.add, self.world.feed(decoded(events)))
        for identified in filter(None, parts):
            for held in self.shards:
                mine = [
                    e
                    for e in identified.events
                    if shard_of(e.profile_id, shards=SHARDS) == held.number
                ]
                batch = ShardBatch(held.number, mine, identified.watermarks, identified.partitions)
                self._take(held.process(batch))

    def _take(self, out: Outputs) -> None:
        self.counts += out.counts
        for fact, amount in out.facts.items():
            self.facts[fact] += int(amount)
        self.decisions += [made.record for made in out.decisions]

    def profile(self, profile_id: str) -> Profile | None:
        held: Shard = self.shards[shard_of(profile_id, shards=SHARDS)]
        return held.look(profile_id)

    def views(self, profile_id: str) -> object:
        found = self.profile(profile_id)
        if found is None:
            return None
        (signal,) = self.shards[0].decide.plan.signals
        return signal.value(found.signals, found.now_ms)


def linking_plan(*, consent: dict[str, Any] | None = None, **home: Any) -> Plan:
    placement = {"slots": 1, "rewards": ["click"], "expires_after": "15m", **home}
    return plan(
        policy(
            consent=consent or {},
            signals={"views": {"kind": "count", "events": "view", "within": "7d"}},
            identity={"carry": "1d"},
            placements={"home": placement},
        )
    )


def user_like(alias: str, *, same_shard: bool) -> str:
    """A user whose profile is, or is not, in the shard of the alias's own."""
    own = shard_of(alias, shards=SHARDS)
    return next(
        user for n in range(200) if (shard_of(user := f"u{n}", shards=SHARDS) == own) == same_shard
    )


@pytest.mark.parametrize("same_shard", [False, True])
def test_counters_go_on_where_the_anonymous_id_left_off(same_shard: bool) -> None:
    user = user_like("a1", same_shard=same_shard)
    behind = Behind(linking_plan())
    seen = [sent("a1", at=T0 + n * MINUTE) for n in range(3)]
    behind.give(*seen)
    behind.give(link("a1", user, at=T0 + HOUR))
    assert behind.views(user) == 3
    behind.give(sent("a1", at=T0 + HOUR + 1), sent(user, at=T0 + HOUR + 2))
    assert behind.views(user) == 5
    assert behind.counts["used"] == 6, "what was carried over is outside the accounting"


@pytest.mark.parametrize("same_shard", [False, True])
def test_what_was_carried_over_and_is_delivered_again_counts_once(same_shard: bool) -> None:
    user = user_like("a1", same_shard=same_shard)
    behind = Behind(linking_plan())
    seen = sent("a1", at=T0)
    behind.give(seen)
    behind.give(link("a1", user, at=T0 + 1))
    behind.give(seen)
    assert behind.views(user) == 1
    assert behind.counts == {"used": 2, "duplicate": 1}


@pytest.mark.parametrize("same_shard", [False, True])
def test_a_cap_counts_what_was_shown_before_the_link(same_shard: bool) -> None:
    user = user_like("a1", same_shard=same_shard)
    behind = Behind(linking_plan(caps=[{"max": 1, "within": "1d"}]))
    behind.give(sent("a1", "decision_requested", at=T0, placement="home"))
    (decision,) = behind.decisions
    shown = decision["items"][0]["content_id"]
    behind.give(
        sent(
            "a1",
            "impression",
            at=T0 + 1,
            decision_id=decision["decision_id"],
            contents=(shown,),
        )
    )
    behind.give(link("a1", user, at=T0 + 2))
    behind.give(sent(user, "decision_requested", at=T0 + 3, placement="home"))
    assert len(behind.decisions) == 2, "history triggers no decision"
    assert behind.decisions[1]["rejections"] == {"capped": 1}


@pytest.mark.parametrize("same_shard", [False, True])
@pytest.mark.parametrize("by_user", [False, True])
def test_an_outcome_of_a_decision_before_the_link_is_attributed(
    same_shard: bool, by_user: bool
) -> None:
    user = user_like("a1", same_shard=same_shard)
    behind = Behind(linking_plan())
    behind.give(sent("a1", "decision_requested", at=T0, placement="home"))
    (decision,) = behind.decisions
    named = {
        "decision_id": decision["decision_id"],
        "content_id": decision["items"][0]["content_id"],
    }
    behind.give(link("a1", user, at=T0 + 1))
    click = sent(user if by_user else "a1", "click", at=T0 + 2, **named)
    behind.give(click)
    behind.give(click)
    made_for = behind.profile("a1")
    assert made_for is not None
    assert made_for.pending[0].items[0].rewards == {"click": 1.0}
    assert behind.counts == {"used": 3, "duplicate": 1}
    assert sum(n for fact, n in behind.facts.items() if fact[0] == "rewards") == 1


@pytest.mark.parametrize("asked", ["a1", "user"])
@pytest.mark.parametrize("same_shard", [False, True])
def test_an_erasure_leaves_no_profile_of_the_family(same_shard: bool, asked: str) -> None:
    user = user_like("a1", same_shard=same_shard)
    behind = Behind(linking_plan())
    behind.give(sent("a1", at=T0), sent("a2", at=T0), sent(user, at=T0))
    behind.give(link("a1", user, at=T0 + 1), link("a2", user, at=T0 + 2))
    request = sent(user if asked == "user" else asked, "erasure_requested", at=T0 + 3)
    # In one batch with what came before it: the groups go one after the other.
    behind.give(sent("a2", at=T0 + 3), request)
    assert [behind.profile(p) for p in ("a1", "a2", user)] == [None, None, None]
    behind.give(link("a1", user, at=T0 + 5), sent("a1", at=T0 + 6))
    behind.give(request)
    assert behind.views(user) == 1, "a redelivered request does not reach who came back"


def test_the_profile_of_an_alias_ends_with_its_link() -> None:
    """Its timers would otherwise tell of a visitor who left, while the person went on."""
    of = plan(
        policy(
            identity={"carry": "1d"},
            segments={"gone": {"when": {"done": "view", "within": "1d", "not_then": BOUGHT}}},
        )
    )
    behind = Behind(of)
    behind.give(sent("a1", at=T0))
    behind.give(link("a1", "u1", at=T0 + 1), sent("a1", "buy", at=T0 + 2))
    retired = behind.profile("a1")
    assert retired is not None
    assert (retired.signals, retired.segments, retired.deadline()) == ({}, {}, FAR)
    person = behind.profile("u1")
    assert person is not None
    assert len(person.signals) == 1


def test_an_unlinked_device_no_longer_feeds_the_profile() -> None:
    behind = Behind(linking_plan())
    behind.give(link("a1", "u1", at=T0), sent("a1", at=T0 + 1))
    behind.give(sent("u1", "identity_unlinked", at=T0 + 2, anonymous_id="a1"))
    behind.give(sent("a1", at=T0 + 3))
    assert behind.views("u1") == 1
    assert behind.views("a1") == 1


@pytest.mark.parametrize("user_said, expected", [(None, True), (False, False), (True, True)])
def test_a_grant_on_a_device_says_nothing_against_what_its_user_refused(
    user_said: bool | None, expected: bool
) -> None:
    behind = Behind(linking_plan(consent={"collect": "analytics"}))
    if user_said is not None:
        stated = {"analytics": user_said}
        behind.give(sent("u1", "consent_changed", at=T0, consent=stated))
    behind.give(sent("a1", "consent_changed", at=T0 + 1, consent={"analytics": True}))
    behind.give(sent("a1", at=T0 + 2), link("a1", "u1", at=T0 + 3))
    profile = behind.profile("u1")
    assert profile is not None
    assert profile.consent["analytics"][0] is expected
    assert behind.views("u1") == (1 if expected else 0)


def test_a_refusal_on_a_device_holds_for_its_user() -> None:
    behind = Behind(linking_plan(consent={"collect": "analytics"}))
    behind.give(sent("u1", "consent_changed", at=T0, consent={"analytics": True}))
    behind.give(sent("a1", "consent_changed", at=T0 + 1, consent={"analytics": False}))
    behind.give(link("a1", "u1", at=T0 + 2), sent("u1", at=T0 + 3))
    profile = behind.profile("u1")
    assert profile is not None
    assert profile.consent["analytics"][0] is False
    assert behind.views("u1") == 0


# The whole flow.


def shop_log() -> list[RawBatch]:
    """A visitor looks around, logs in on two devices, asks what is next, and logs out on one."""
    steps: list[dict[str, Any]] = [
        {"anonymous_id": "a1", "type": "view", "content_id": "c1"},
        {"anonymous_id": "a1", "type": "decision_requested", "placement": "home"},
        {"anonymous_id": "a2", "type": "view", "content_id": "c2"},
        {"user_id": "u1", "anonymous_id": "a1", "type": "identity_linked"},
        {"user_id": "u1", "type": "decision_requested", "placement": "home"},
        {"user_id": "u1", "anonymous_id": "a2", "type": "identity_linked"},
        {"anonymous_id": "a2", "type": "decision_requested", "placement": "home"},
        {"user_id": "u1", "anonymous_id": "a2", "type": "identity_unlinked"},
        {"anonymous_id": "a2", "type": "decision_requested", "placement": "home"},
    ]
    batches = []
    for n, step in enumerate(steps):
        at = T0 + n * SECOND
        told = event(at=at, event_id=f"s{n}", **{"user_id": None, **step})
        batches.append(RawBatch("log", 0, 1, [RawRecord(n, at, None, orjson.dumps(told))]))
    return batches


def shop_flow(store: Path) -> MemoryFlow:
    of = plan(
        policy(
            signals={"views": {"kind": "count", "events": "view", "within": "7d"}},
            segments={"looked": {"when": {"signal": "views", "at_least": 2}}},
            identity={"carry": "1d"},
        )
    )
    return MemoryFlow(of, shop_log(), store)


def test_the_whole_flow_decides_for_the_user_whatever_aborts_come(tmp_path: Path) -> None:
    usual = shop_flow(tmp_path / "usual")
    usual.run()
    decided = usual.topics["decisions"].values
    by_trigger = {d["trigger"]["event_id"]: d for d in decided.values()}
    assert {trigger: d["profile_id"] for trigger, d in by_trigger.items()} == {
        "s1": "a1",
        "s4": "u1",
        "s6": "u1",
        "s8": "a2",
    }
    # One view came with the first device, the other with the second.
    assert {trigger: d["segments"] for trigger, d in by_trigger.items()} == {
        "s1": [],
        "s4": [],
        "s6": ["looked"],
        "s8": [],
    }
    for abort_at in range(1, len(shop_log()) + 1):
        flow = shop_flow(tmp_path / f"aborted-{abort_at}")
        flow.run(abort_at=abort_at // 2)
        flow.run(abort_at=abort_at, epoch=NEVER)
        flow.run()
        again = flow.topics["decisions"].values
        assert {i: _without_version(d) for i, d in again.items()} == {
            i: _without_version(d) for i, d in decided.items()
        }
        assert flow.state() == usual.state()


def _without_version(decision: Record) -> Record:
    """Each life of the learner has names of its own for its parameter sets."""
    return {name: value for name, value in decision.items() if name != "model_version"}


def test_what_the_groups_make_of_a_batch_may_cross_processes() -> None:
    world = World(IDENTITY)
    world.give(sent("a1", at=T0, anonymous=True))
    parts = world.feed(decoded([link("a1", "u1", at=T0 + 1), sent("a1", at=T0 + 2)]))
    assert any(part.counts for part in parts)
    pickled = [pickle.dumps(part) for part in parts]
    undo = install_restricted_unpickler(allow=CROSSING)
    try:
        assert [pickle.loads(each) for each in pickled] == parts
    finally:
        undo()
