"""What does one shard hold, and what happens to it when a batch or time arrives?

Key: the shard (a stable hash of the profile id). State: its profiles (cold ones as bytes), one
timer heap, one set of recent event ids, and a watermark per source partition. The shard's own
watermark is the least of those: a backlog on one partition must make nobody late. It decides which
events are late or duplicates and when timers fire; what an event means is `operators.decide`'s.

Rules, in order, for each event: the watermark advances; timers it passed fire; a duplicate or late
event is put aside (control events are never late); the event is applied. After a batch, profiles
last evaluated under another policy are evaluated anew, a few at a time (the sweep).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Final

from operators.adopt import stale_profiles
from operators.aggregate_quota import Quota
from operators.arrival import LIVE, OUTCOME, Arrived
from operators.arrival import ShardBatch as ShardBatch
from operators.controls import states_something
from operators.decide import Decide
from operators.decode import NEVER
from operators.duplicates import no_contact
from operators.identify import carried_as, seen_as
from operators.ids import hash64
from operators.outputs import Outputs, ProfileState, late_record, receipt
from operators.profile import FAR, Profile, decode_profile, encode_profile, head_of
from operators.pseudonyms import UNSHARED, Pseudonyms
from operators.recent import RecentIds
from operators.shard_state import ShardWire, StateError, decode_shard, encode_shard, watched_since
from operators.views import profile_view
from schemas.events import CONTROL_TYPES, LINK_TYPES
from schemas.time import DAY

_SWEPT_AT_ONCE: Final = 64
_HOT: Final = 128
"""Profiles kept decoded per shard between snapshots: 4,096 took 6.8 KiB a profile, 128 took 1.4."""


@dataclass(slots=True)
class Shard:
    """The machine of one shard; pure: `process` takes a batch and returns what came of it."""

    number: int
    shards: int
    decide: Decide
    with_views: bool = False
    pseudonyms: Pseudonyms = UNSHARED
    _cold: dict[str, bytes] = field(default_factory=dict)
    _hot: dict[str, Profile] = field(default_factory=dict)
    _scheduled: dict[str, int] = field(default_factory=dict)
    _timers: list[tuple[int, str]] = field(default_factory=list)
    _seen: RecentIds = field(default_factory=RecentIds)
    _watermarks: dict[int, int] = field(default_factory=dict)
    _partitions: int = 1
    _watermark: int = NEVER
    _swept_day: int = NEVER
    _newest: int = NEVER
    _floor: int = 0
    _since: dict[int, int] = field(default_factory=dict)
    _erased: dict[int, int] = field(default_factory=dict)
    _quota: Quota = field(init=False)
    _stale: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._quota = Quota(self.decide.plan, shard=self.number, shards=self.shards)

    @property
    def watermark_ms(self) -> int:
        """The instant before which nothing is waited for any more."""
        return self._watermark

    @property
    def profiles(self) -> int:
        """How many profiles the shard holds."""
        return len(self._cold) + len(self._hot)

    @property
    def next_due_ms(self) -> int:
        """When the earliest timer is due; a watermark short of it changes nothing here."""
        if self._stale:
            return NEVER
        return self._timers[0][0] if self._timers else FAR

    def process(self, batch: ShardBatch) -> Outputs:
        """Apply a batch in order; the outputs in the order in which they came about."""
        out = Outputs(begun_ms=self._watermark)
        self._partitions = max(self._partitions, batch.partitions)
        touched: dict[str, None] = {}
        for event in batch.events:
            self._advance(event.partition, event.watermark_ms, touched, out)
            self._one(event, touched, out)
        for partition, watermark in batch.watermarks:
            self._advance(partition, watermark, touched, out)
        if self._stale:
            self._evaluate_anew(touched, out)
        self._settle(touched, out)
        return out

    def _one(self, event: Arrived, touched: dict[str, None], out: Outputs) -> None:
        live = event.mode == LIVE
        identity = hash64(seen_as(event))
        known = identity in self._seen or identity in self._erased
        # What a link has carried over already is not new when it is delivered again.
        linked = live and event.raw_id != event.profile_id
        if known or (linked and hash64(carried_as(event)) in self._seen):
            out.counts["duplicate"] += live
            return
        late = live and event.occurred_ms < self._watermark and event.type not in CONTROL_TYPES
        # Partitions may come in another order after a resume; what was decided is not late now.
        if late and not self.decide.is_recorded(event, shard=self.number):
            out.counts["late"] += 1
            out.late.append(late_record(event, self._watermark))
            return
        seen_ms = max(event.occurred_ms, self._watermark)
        self._seen.add(identity, seen_ms, dedupe_for=self._dedupe_for)
        self._newest = max(self._newest, event.occurred_ms)
        if event.type in LINK_TYPES and (self.decide.plan.policy.identity is None or not live):
            # Linking is the identify step's; a policy without an identity section has none.
            out.counts["suppressed"] += live
            if event.mode == OUTCOME:
                self._retire(event, touched, out)
            return
        profile = self._profile(event.profile_id)
        if event.type == "erasure_requested":
            self._erase(event, identity, profile, touched, out)
            return
        if event.mode == OUTCOME:
            if profile is not None:
                self.decide.apply_outcome(profile, event, out=out)
                self._schedule(profile)
            return
        came_new = profile is None
        if profile is None:
            # Versions begin at the clock, above those of all that is gone. A live event of before
            # the watermark is a control event: nobody was watched for it.
            first_ms = max(event.occurred_ms, self._watermark) if live else event.occurred_ms
            profile = Profile(
                event.profile_id, first_ms, first_ms, max(event.received_ms, self._floor)
            )
            self._hot[event.profile_id] = profile
            self._scheduled[event.profile_id] = FAR
        # A control event may be older than timers that fired: for the profile, time goes on.
        profile.now_ms, version = max(profile.now_ms, self._watermark), profile.version
        self.decide.apply(
            profile, event, shard=self.number, since=self._since, out=out, quota=self._quota
        )
        if self.decide.holds_nothing(profile):
            # Collecting is not allowed and nothing was stated: then there is no profile to keep.
            self._hot.pop(event.profile_id)
            self._scheduled.pop(event.profile_id)
            self._floor = max(self._floor, profile.version)
            if not came_new:
                # The version of before: a decision that this event led to stays served.
                self._drop(event.profile_id, version, out)
            touched.pop(event.profile_id, None)
            return
        touched[event.profile_id] = None
        self._schedule(profile)

    def _retire(self, event: Arrived, touched: dict[str, None], out: Outputs) -> None:
        """An alias from now on: nobody's duplicate, and nothing fires for it."""
        if self.decide.plan.suggest is not None:
            out.contacts.append(no_contact(event.profile_id, event.occurred_ms))
        profile = self._profile(event.profile_id)
        if profile is not None:
            self.decide.retire(profile, event, since=self._since, out=out)
            touched[event.profile_id] = None
            self._schedule(profile)

    def _erase(
        self,
        event: Arrived,
        identity: int,
        profile: Profile | None,
        touched: dict[str, None],
        out: Outputs,
    ) -> None:
        # On arrival, whatever its date; carried out once, so that a redelivery long after cannot
        # erase a profile that came back: these ids are remembered far longer than others.
        self._erased[identity] = max(event.occurred_ms, self._watermark)
        out.counts["used"] += event.mode == LIVE
        found = profile is not None
        version = max(0 if profile is None else profile.version + 1, event.received_ms)
        self._drop(event.profile_id, version, out)
        touched.pop(event.profile_id, None)
        out.receipts.append(receipt(event, found=found, pseudonyms=self.pseudonyms))

    def _profile(self, profile_id: str) -> Profile | None:
        profile = self._hot.get(profile_id)
        if profile is None and (block := self._cold.pop(profile_id, None)) is not None:
            profile = self._hot[profile_id] = decode_profile(block)
            self._scheduled[profile_id] = head_of(block)[0]
        return profile

    def _drop(self, profile_id: str, version: int, out: Outputs) -> None:
        self._hot.pop(profile_id, None)
        self._cold.pop(profile_id, None)
        self._scheduled.pop(profile_id, None)
        self._floor = max(self._floor, version)
        out.profiles.append(ProfileState(profile_id, version, None))
        if self.decide.plan.suggest is not None:
            out.contacts.append(no_contact(profile_id, self._newest))
        out.facts["profiles_dropped",] += 1

    # `_scheduled` (for a cold profile: its head) is when a profile's one valid timer is set for,
    # at or before its deadline. Other entries of the heap are leftovers and are dropped when they
    # come up: moving a deadline later, as nearly every event does, then costs nothing.
    def _schedule(self, profile: Profile) -> None:
        deadline = profile.deadline()
        if deadline < self._scheduled[profile.profile_id]:
            heapq.heappush(self._timers, (deadline, profile.profile_id))
            self._scheduled[profile.profile_id] = deadline

    def _advance(
        self, partition: int, watermark: int, touched: dict[str, None], out: Outputs
    ) -> None:
        if watermark <= self._watermarks.get(partition, NEVER):
            return
        self._watermarks[partition] = watermark
        if len(self._watermarks) < self._partitions:
            return
        least = min(self._watermarks.values())
        if least <= self._watermark:
            return
        self._watermark = least
        self._seen.forget(least, dedupe_for=self._dedupe_for)
        self._quota.expire(least)
        while self._timers and self._timers[0][0] <= least:
            due, profile_id = heapq.heappop(self._timers)
            self._fire(profile_id, due, least, touched, out)
        day = least // DAY
        if day > self._swept_day:
            self._swept_day = day
            self._sweep(least, touched, out)

    def _fire(
        self, profile_id: str, due_ms: int, until_ms: int, touched: dict[str, None], out: Outputs
    ) -> None:
        block = self._cold.get(profile_id)
        if due_ms != (head_of(block)[0] if block else self._scheduled.get(profile_id)):
            return
        profile = self._profile(profile_id)
        if profile is None:
            return
        deadline = profile.deadline()
        if deadline <= until_ms:
            if self.decide.pass_time(
                profile,
                until_ms,
                shard=self.number,
                since=self._since,
                out=out,
                quota=self._quota,
            ):
                touched[profile_id] = None
            deadline = profile.deadline()
        self._scheduled[profile_id] = deadline
        if deadline < FAR:
            heapq.heappush(self._timers, (deadline, profile_id))

    def _sweep(self, now_ms: int, touched: dict[str, None], out: Outputs) -> None:
        retention = self.decide.plan.policy.retention
        oldest = now_ms - retention.profile_ttl
        oldest_stated = now_ms - retention.statements
        idle = [p for p, block in self._cold.items() if head_of(block)[1] < oldest]
        idle += [p for p, profile in self._hot.items() if profile.now_ms < oldest]
        for profile_id in sorted(idle):
            profile = self._profile(profile_id)
            if profile is None:
                continue
            if self.decide.reduce_to_statements(profile, now_ms, out=out):
                touched[profile_id] = None
            if states_something(profile) and profile.now_ms >= oldest_stated:
                continue  # a refusal must not be forgotten with the behaviour it forbade keeping
            self._drop(profile_id, profile.version + 1, out)
            touched.pop(profile_id, None)
        forgotten = now_ms - self.decide.plan.policy.time.max_age
        self._erased = {i: at for i, at in self._erased.items() if at >= forgotten}

    def _evaluate_anew(self, touched: dict[str, None], out: Outputs) -> None:
        for _ in range(min(_SWEPT_AT_ONCE, len(self._stale))):
            profile_id = self._stale.pop()
            profile = self._profile(profile_id)
            if profile is None or profile.plan == self.decide.plan.mark:
                continue
            # Time moves only by events and watermarks: what has no newer instant keeps its own.
            now_ms = max(profile.now_ms, self._watermark)
            if self.decide.adopt_policy(profile, now_ms, since=self._since, out=out):
                touched[profile_id] = None
            self._schedule(profile)

    @property
    def _dedupe_for(self) -> int:
        return self.decide.plan.policy.time.dedupe_for

    def _settle(self, touched: dict[str, None], out: Outputs) -> None:
        if self.with_views:
            for profile_id in touched:
                profile = self._profile(profile_id)
                if profile is not None:
                    moment = self.decide.moment(profile.now_ms, since=self._since)
                    view = profile_view(profile, self.decide.plan, moment)
                    out.profiles.append(ProfileState(profile_id, profile.version, view))
        if len(self._hot) > _HOT:
            self._cool()

    def _cool(self) -> None:
        for profile_id, profile in self._hot.items():
            self._cold[profile_id] = encode_profile(profile, due_ms=self._scheduled[profile_id])
        self._hot.clear()
        self._scheduled.clear()

    def adopt(self, decide: Decide) -> None:
        """Go on under another plan, between two batches, as a resume under it would."""
        known, self.decide = self.decide.plan.slots, decide
        plan = decide.plan
        self._since = watched_since(known, self._since, plan.slots, newest_ms=self._newest)
        self._stale = stale_profiles(self._cold, self._hot, mark=plan.mark)
        self._quota.adopt(plan)

    def look(self, profile_id: str) -> Profile | None:
        """A profile as it is held now; None where there is none."""
        return self._profile(profile_id)

    def snapshot(self) -> bytes:
        """The whole state as versioned, sealed bytes; equal states give equal bytes.

        Only profiles touched since the last snapshot are encoded anew.
        """
        self._cool()
        wire = ShardWire(
            shard=self.number,
            shards=self.shards,
            watermarks=dict(sorted(self._watermarks.items())),
            partitions=self._partitions,
            swept_day=self._swept_day,
            seen=self._seen.by_bucket,
            profiles=self._cold,
            watermark=self._watermark,
            newest=self._newest,
            floor=self._floor,
            slots=sorted(self.decide.plan.slots),
            since=dict(sorted(self._since.items())),
            erased=dict(sorted(self._erased.items())),
            quota=self._quota.encode(),
        )
        return encode_shard(wire, self.pseudonyms)

    def restore(self, snapshot: bytes) -> None:
        """Take over a snapshot, under the plan of now.

        Raises StateError where it is damaged, of an unknown version, sealed with another key, or of
        another shard count.
        """
        self._take(decode_shard(snapshot, self.pseudonyms, self.decide.plan.signals))

    def _take(self, wire: ShardWire) -> None:
        if (wire.shard, wire.shards) != (self.number, self.shards):
            raise StateError(
                f"state is of shard {wire.shard} of {wire.shards}, the flow runs with "
                f"{self.number} of {self.shards}: the number of shards cannot change once state "
                "exists; start with the former number, or replay into a new recovery store"
            )
        plan = self.decide.plan
        self._cold = wire.profiles
        self._watermarks = wire.watermarks
        self._partitions = wire.partitions
        self._swept_day = wire.swept_day
        self._seen = RecentIds.of(wire.seen)
        self._watermark = wire.watermark
        self._newest = wire.newest
        self._floor = wire.floor
        self._erased = wire.erased
        self._quota.restore(wire.quota)
        self._since = watched_since(wire.slots, wire.since, plan.slots, newest_ms=wire.newest)
        due = [(head_of(block)[0], profile_id) for profile_id, block in wire.profiles.items()]
        self._timers = [timer for timer in due if timer[0] < FAR]
        heapq.heapify(self._timers)
        self._stale = stale_profiles(wire.profiles, {}, mark=plan.mark)


def restored(
    snapshot: bytes,
    *,
    shards: int,
    decide: Decide,
    with_views: bool,
    pseudonyms: Pseudonyms = UNSHARED,
) -> Shard:
    """The shard that a snapshot is of; raises StateError as `Shard.restore` does."""
    wire = decode_shard(snapshot, pseudonyms, decide.plan.signals)
    shard = Shard(wire.shard, shards, decide, with_views, pseudonyms)
    shard._take(wire)
    return shard
