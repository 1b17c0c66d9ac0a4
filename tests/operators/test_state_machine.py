"""Does a shard, whatever happens to it, know what one knows who keeps every event?

Hypothesis drives both: events in and out of order, time passing, a stop and a resume, another
policy, consent, a reset, an erasure. After every step all signals and memberships are compared;
every change must be true at its instant, and the opposite a millisecond before.
"""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from operators.arrival import Arrived
from operators.outputs import Outputs, Record
from operators.plan import Plan
from operators.profile import Profile
from operators.shard import Shard, restored
from schemas import conditions as asked
from schemas.policy import Policy
from tests.operators.builders import T0, arrived, content, decide, plan, policy, shard_batch, tick
from tests.operators.naive import Happened, Person, Value, World, leaves_of

LATENESS = 60_000
EXACT = 16
"""How many events of a window the machine keeps one by one; of a sequence and of sessions, 32."""
KEPT = 32
FADING = 2
"""Milliseconds within which a fading liking crosses a bound: it is no whole number."""
PEOPLE = ("ann", "bob")
KEYS = {"taste": ("shoes", "hats"), "worth": ("score", "recency", "frequency", "monetary")}
TAGS = {"boot": ("shoes", "winter"), "air": ("shoes",), "cap": ("hats",)}

SIGNALS: dict[str, Any] = {
    "quick": {"kind": "count", "events": "view", "within": "1m"},
    "views": {"kind": "count", "events": ["view", "cart"], "within": "1h"},
    "spent": {"kind": "sum", "events": "buy", "within": "1h"},
    "basket": {"kind": "mean", "events": "buy", "within": "1h"},
    "cheap": {"kind": "min", "events": "buy", "within": "1h"},
    "dear": {"kind": "max", "events": "buy", "within": "1d"},
    "contents": {"kind": "distinct", "events": "view", "within": "10m"},
    "bought": {"kind": "last", "events": "buy"},
    "came": {"kind": "first", "events": ["view", "buy", "cart"]},
    "last_seen": {"kind": "last", "events": "view", "of": "content_id"},
    "rate": {"kind": "ratio", "of": "spent", "to": "views"},
    "taste": {"kind": "affinity", "weights": {"view": 1, "buy": 4}, "half_life": "1h"},
    "followed": {
        "kind": "sequence",
        "first": {"events": "cart"},
        "then": {"events": "buy"},
        "gap": "1m",
        "within": "1h",
    },
    "left": {
        "kind": "sequence",
        "first": {"events": "cart"},
        "not_then": {"events": "buy"},
        "gap": "1m",
        "within": "1h",
    },
    "days": {"kind": "streak", "events": "view", "per": "day", "zone": "Europe/Berlin"},
    "visits": {"kind": "session", "measure": "sessions", "gap": "1m", "within": "1d"},
    "depth": {"kind": "session", "measure": "depth", "gap": "1m"},
    "dwell": {"kind": "session", "measure": "dwell", "gap": "10m"},
    "worth": {
        "kind": "rfm",
        "events": "buy",
        "within": "1d",
        "recency": ["1m", "10m", "1h", "5h"],
        "monetary": [1, 5, 10, 20],
    },
}
SEGMENTS: dict[str, Any] = {
    "eager": {"signal": "quick", "at_least": 2},
    "buyer": {"done": "buy", "within": "1h", "at_least": 2},
    "few": {"done": "view", "within": "10m", "at_least": 0, "at_most": 2},
    "exact": {"done": ["buy", "cart"], "within": "1h", "exactly": 1},
    "idle": {"not_done": "buy", "within": "1h"},
    "finished": {"done": "cart", "within": "1h", "then": {"done": "buy", "gap": "1m"}},
    "abandoned": {"done": "cart", "within": "1h", "not_then": {"done": "buy", "gap": "1m"}},
    "lapsed": {"signal": "bought", "not_within": "10m"},
    "modest": {"signal": "basket", "below": 3},
    "booted": {"signal": "last_seen", "is": "boot"},
    "liking": {"signal": "taste", "key": "shoes", "at_least": 1.5},
    "daily": {"signal": "days", "at_least": 2},
    "deep": {"signal": "depth", "at_least": 2},
    "recent": {"signal": "worth", "key": "score", "at_least": 8},
    "paying": {"attribute": "plan", "is": "pro"},
    "evening": {"local_time": {"from": "18:00", "to": "02:00"}, "zone": "Europe/Berlin"},
    "either": {"any": [{"segment": "eager"}, {"not": {"done": "buy", "within": "10m"}}]},
    "nested": {"all": [{"segment": "either"}, {"not": {"segment": "paying"}}]},
}


def policy_of(signals: dict[str, Any], segments: dict[str, Any]) -> Policy:
    return policy(
        time={"allowed_lateness": "1m", "dedupe_for": "10m"},
        consent={"collect": "analytics", "before_known": "granted"},
        retention={"profile_ttl": "400d"},
        placements={"home": {}},
        rewards={},
        signals=signals,
        segments={name: {"when": when} for name, when in segments.items()},
    )


def the_other() -> Policy:
    """The same with a signal and a window changed, a segment gone, and another there."""
    without = {name: when for name, when in SEGMENTS.items() if name != "booted"}
    return policy_of(
        SIGNALS | {"quick": {"kind": "count", "events": "view", "within": "2m"}},
        without
        | {
            "idle": {"not_done": "buy", "within": "2h"},
            "cartless": {"not_done": "cart", "within": "1h"},
        },
    )


PLANS: list[Plan] = [
    plan(of, [content(name, tags=list(tags)) for name, tags in TAGS.items()])
    for of in (policy_of(SIGNALS, SEGMENTS), the_other())
]
BEHAVIOUR = st.sampled_from(["view", "view", "view", "buy", "cart"])
AGES = st.sampled_from([0, 0, 0, 1, 999, 30_000, 59_999, 60_000, 60_001, 3_600_000])
PAUSES = st.sampled_from(
    [0, 1, 1_000, 29_000, 59_999, 60_000, 60_001, 599_000, 3_600_000, 5 * 3_600_000, 86_400_000]
)


def instant(change: Record) -> int:
    at = datetime.fromisoformat(str(change["changed_at"]))
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


class ShardAgainstNaive(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.shard = Shard(0, 1, decide(PLANS[0]))
        self.plan = PLANS[0]
        self.world = World(PLANS[0].policy)
        self.people: dict[str, Person] = {}
        self.members: dict[str, set[str]] = {name: set() for name in PEOPLE}
        self.said: set[str] = set()
        self.clock = self.newest = T0
        self.number = 0
        self.late = 0

    # --- what may happen --------------------------------------------------------------------------

    @initialize(hour=st.integers(0, 23))
    def begins(self, hour: int) -> None:
        self.clock = self.newest = T0 + hour * 3_600_000

    @rule(
        who=st.sampled_from(PEOPLE),
        kind=BEHAVIOUR,
        ago=AGES,
        value=st.sampled_from([None, 0, 0.25, 2, 3.5, 10]),
        what=st.sampled_from([None, "boot", "air", "cap"]),
    )
    def happens(self, who: str, kind: str, ago: int, value: float | None, what: str | None) -> None:
        self.send(who, kind, ago, value=value, content_id=what)

    @rule(who=st.sampled_from(PEOPLE), times=st.integers(2, 25), pause=st.sampled_from([0, 10_000]))
    def looks_around(self, who: str, times: int, pause: int) -> None:
        for n in range(times):
            self.clock += pause
            self.send(who, "view", 0, content_id=("boot", "air", "cap")[n % 3])

    @rule(who=st.sampled_from(PEOPLE), pause=st.sampled_from([0, 1, 59_999, 60_000, 60_001]))
    def fills_a_cart_and_buys(self, who: str, pause: int) -> None:
        self.send(who, "cart", 0)
        self.clock += pause
        self.send(who, "buy", 0, value=2)

    @rule(pause=PAUSES)
    def time_passes(self, pause: int) -> None:
        self.clock += pause
        self.process(shard=tick(self.clock - LATENESS))

    @rule(who=st.sampled_from(PEOPLE), plan=st.sampled_from([None, "free", "pro"]))
    def says_something_of_themselves(self, who: str, plan: str | None) -> None:
        self.clock += 1  # of two statements of one instant it is not the later that counts
        self.send(who, "profile_updated", 0, attributes={"plan": plan})

    @rule()
    def stops_and_resumes(self) -> None:
        self.shard = restored(
            self.shard.snapshot(), shards=1, decide=decide(self.plan), with_views=False
        )

    @rule()
    def another_policy(self) -> None:
        # Not twice at one instant of a profile's time: then its changes could not be told apart.
        self.clock += LATENESS + 1
        self.process(shard=tick(self.clock - LATENESS))
        self.plan = PLANS[1 - PLANS.index(self.plan)]
        self.stops_and_resumes()
        self.world.adopt(self.plan.policy, number=self.number, newest_ms=self.newest)
        # A profile that nothing is heard of is evaluated anew as well.
        self.process(shard=tick(self.clock - LATENESS), adopted=True)

    @rule(who=st.sampled_from(PEOPLE), allowed=st.booleans())
    def is_asked(self, who: str, allowed: bool) -> None:
        self.clock += 1  # likewise
        self.send(who, "consent_changed", 0, consent={"analytics": allowed})

    @precondition(lambda self: self.people)
    @rule(who=st.sampled_from(PEOPLE))
    def starts_over(self, who: str) -> None:
        self.send(who, "taste_reset", 0)

    @precondition(lambda self: self.people)
    @rule(who=st.sampled_from(PEOPLE))
    def wants_to_be_forgotten(self, who: str) -> None:
        self.send(who, "erasure_requested", 0)

    # --- both are told ----------------------------------------------------------------------------

    def send(self, who: str, kind: str, ago: int, **fields: Any) -> None:
        self.number += 1
        event = arrived(
            kind,
            at=self.clock - ago,
            watermark=self.clock - LATENESS,
            profile_id=who,
            event_id=f"e{self.number}",
            received=self.clock,
            **fields,
        )
        self.process(event, shard=shard_batch([event]))

    def process(self, event: Arrived | None = None, *, shard: Any, adopted: bool = False) -> None:
        out = self.shard.process(shard)
        changes = [change for change in out.changes if change["profile_id"] in PEOPLE]
        if not adopted:
            for change in changes:
                if change["cause"] == "timer":
                    self.was_due(change)
        if event is not None:
            self.take_in(event, out)
        for change in changes:
            self.counts_once(change)

    def take_in(self, event: Arrived, out: Outputs) -> None:
        who = event.profile_id
        control = event.type in ("consent_changed", "taste_reset", "erasure_requested")
        if event.occurred_ms < self.shard.watermark_ms and not control:
            self.late += 1
            assert out.counts == Counter(late=1)
            assert [late["event_id"] for late in out.late] == [event.event_id]
            return
        self.newest = max(self.newest, event.occurred_ms)
        if event.type == "erasure_requested":
            self.people.pop(who, None)
            self.members[who].clear()  # what is forgotten leaves without a word
            return
        person = self.people.setdefault(who, Person(event.occurred_ms))
        if event.type == "consent_changed":
            self.states(person, event)
            return
        if not person.allowed:
            assert out.counts == Counter(suppressed=1)
            return
        person.first_ms = min(person.first_ms, event.occurred_ms)
        if event.type == "taste_reset":
            person.taste_from = self.number
        elif event.attributes is not None:
            person.attributes.update(event.attributes)
        else:
            person.events.append(
                Happened(
                    self.number,
                    event.type,
                    event.occurred_ms,
                    event.value,
                    event.content_id,
                    TAGS.get(event.content_id or "", ()),
                )
            )

    @staticmethod
    def states(person: Person, event: Arrived) -> None:
        allowed = (event.consent or {})["analytics"]
        if allowed and not person.allowed:
            person.first_ms = event.occurred_ms
        if not allowed:
            person.events.clear()
            person.attributes.clear()
        person.allowed = allowed

    # --- and must agree ---------------------------------------------------------------------------

    def was_due(self, change: Record) -> None:
        """A change by time alone is true from its very millisecond on, as far as was known."""
        person, name, at = self.people[change["profile_id"]], change["segment"], instant(change)
        if self.is_rounded(person, name, at):
            return
        around = FADING if name == "liking" else 0
        entered = change["direction"] == "entered"
        assert self.world.member(person, name, at + around) == entered, change
        assert self.world.member(person, name, at - 1 - around) != entered, change

    def counts_once(self, change: Record) -> None:
        """Each change is told once, and entries and exits take turns."""
        assert change["change_id"] not in self.said, change
        self.said.add(change["change_id"])
        members = self.members[change["profile_id"]]
        assert (change["segment"] in members) == (change["direction"] == "left"), change
        members.symmetric_difference_update({change["segment"]})

    def is_rounded(self, person: Person, segment: str, now_ms: int) -> bool:
        """Whether a segment asks for a number that too many events have made inexact by now."""
        when = self.world.policy.segments.get(segment)
        asks = [] if when is None else [*leaves_of(when.when)]
        return any(
            isinstance(leaf, asked.SignalIs)
            and leaf.signal in ("basket", "worth")
            and self.world.in_window(leaf.signal, person, now_ms) > EXACT
            for leaf in asks
        )

    @invariant()
    def the_same_profiles_are_known(self) -> None:
        for who in PEOPLE:
            assert (self.shard.look(who) is not None) == (who in self.people)

    @invariant()
    def memberships_agree(self) -> None:
        for who, person in self.people.items():
            profile = self.profile_of(who)
            now_ms = max(profile.now_ms, self.shard.watermark_ms)
            assert set(profile.segments) == self.members[who]
            for name in self.world.policy.segments:
                expected = person.allowed and self.world.member(person, name, now_ms)
                # A bound that a fading liking has just crossed, or is about to.
                close = name == "liking" and self.world.member(
                    person, name, now_ms - FADING
                ) != self.world.member(person, name, now_ms + FADING)
                if not close and not self.is_rounded(person, name, now_ms):
                    assert (name in profile.segments) == expected, (who, name)

    @invariant()
    def signals_agree(self) -> None:
        for who, person in self.people.items():
            profile = self.profile_of(who)
            for signal in self.plan.signals:
                if signal.name not in self.world.policy.signals:
                    continue  # what a condition implies has no name
                for key in KEYS.get(signal.name, (None,)):
                    for now_ms in (self.clock, self.clock + 59_999, self.clock + 3_600_000):
                        got = signal.value(profile.signals, now_ms, key)
                        self.agrees(signal.name, person, now_ms, key, got)

    def agrees(self, name: str, person: Person, now_ms: int, key: str | None, got: Value) -> None:
        expected = self.world.value(name, person, now_ms, key)
        kept = self.world.in_window(name, person, now_ms)
        kind = self.world.policy.signals[name].kind
        if kind in ("sequence", "session") and kept > KEPT:
            return
        if kind in ("count", "sum", "mean", "min", "max", "rfm", "ratio") and kept > EXACT:
            if kind == "count":
                # The oldest may leave a 64th of the window early, and never late.
                within = getattr(self.world.policy.signals[name], "within")  # noqa: B009
                least = self.world.value(name, person, now_ms + within // 64 + 1)
                newer = [e for e in person.events if e.at_ms > now_ms]
                assert isinstance(least, float)
                assert isinstance(got, float)
                assert isinstance(expected, float)
                assert least - len(newer) <= got <= expected, (name, least, got, expected)
            return
        if isinstance(expected, float) and isinstance(got, (int, float)):
            assert math.isclose(expected, got, rel_tol=1e-9, abs_tol=1e-6), (name, key, now_ms)
        else:
            assert expected == got, (name, key, expected, got)

    def profile_of(self, who: str) -> Profile:
        profile = self.shard.look(who)
        assert profile is not None
        return profile


ShardAgainstNaive.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestShardAgainstNaive = ShardAgainstNaive.TestCase
