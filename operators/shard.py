"""What does one shard hold, and what happens to it when a batch or time arrives?

Key: the shard (a stable hash of the profile id). State: its profiles (cold ones as bytes), one
timer heap, one set of recent event ids, and a watermark per source partition. The shard's own
watermark is the least of those: a backlog on one partition must make nobody late. It decides which
events are late or duplicates and when timers fire; what an event means is `operators.decide`'s.

Rules, in order, for each event: the watermark advances; timers it passed fire; a duplicate or late
event is put aside (control events are never late); the event is applied.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from zlib import crc32

import lz4.block
import msgspec

from operators.arrival import Arrived
from operators.attribute import close_windows
from operators.decide import Decide
from operators.decode import NEVER
from operators.ids import hash64, shard_of
from operators.outputs import Outputs, ProfileState
from operators.profile import FAR, Profile, decode_profile, encode_profile, head_of
from operators.segments import pass_time
from operators.views import profile_view
from schemas.decisions import SCHEMA_VERSION
from schemas.events import CONTROL_TYPES
from schemas.time import DAY, rfc3339

MAGIC: Final = b"NBSH"
VERSION: Final = 1
_DEDUPE_BUCKETS: Final = 8
_HOT: Final = 128
"""Profiles kept decoded per shard between snapshots; beyond it they all turn cold.

A decoded profile takes 6 KiB, its bytes less than one, and memory once taken is not given back.
Measured at 200,000 profiles, all touched once: 4,096 held 6.8 KiB per profile, 512 held 2.0, 128
held 1.4. Where the profiles that keep coming back are more than
128 a shard, decoding them again costs: 10 % of DECIDE with 20,000 of them coming back at random.
"""


class StateError(Exception):
    """State that this program must not run on: another version, another shard count, damaged."""


class ShardBatch(NamedTuple):
    """What a source batch holds for one shard, and how far its partitions have come.

    `watermarks` lists (partition, watermark in ms); `partitions` is how many feed the shard.
    """

    shard: int
    events: list[Arrived]
    watermarks: tuple[tuple[int, int], ...]
    partitions: int


class _Wire(msgspec.Struct, array_like=True):
    shard: int
    shards: int
    watermarks: dict[int, int]
    partitions: int
    swept_day: int
    seen: dict[int, list[int]]
    profiles: dict[str, bytes]
    watermark: int


@dataclass(slots=True)
class Shard:
    """The machine of one shard; pure: `process` takes a batch and returns what came of it."""

    number: int
    shards: int
    decide: Decide
    with_views: bool = False
    _cold: dict[str, bytes] = field(default_factory=dict)
    _hot: dict[str, Profile] = field(default_factory=dict)
    _scheduled: dict[str, int] = field(default_factory=dict)
    _timers: list[tuple[int, str]] = field(default_factory=list)
    _seen: set[int] = field(default_factory=set)
    _seen_by_bucket: dict[int, list[int]] = field(default_factory=dict)
    _oldest_bucket: int = FAR
    _watermarks: dict[int, int] = field(default_factory=dict)
    _partitions: int = 1
    _watermark: int = NEVER
    _swept_day: int = NEVER

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
        return self._timers[0][0] if self._timers else FAR

    def process(self, batch: ShardBatch) -> Outputs:
        """Apply a batch in order; the outputs in the order in which they came about."""
        out = Outputs()
        self._partitions = max(self._partitions, batch.partitions)
        touched: dict[str, None] = {}
        for event in batch.events:
            self._advance(event.partition, event.watermark_ms, touched, out)
            self._one(event, touched, out)
        for partition, watermark in batch.watermarks:
            self._advance(partition, watermark, touched, out)
        self._settle(touched, out)
        return out

    def _one(self, event: Arrived, touched: dict[str, None], out: Outputs) -> None:
        identity = hash64(event.event_id)
        if identity in self._seen:
            out.counts["duplicate"] += 1
            return
        late = event.occurred_ms < self._watermark and event.type not in CONTROL_TYPES
        # Partitions may come in another order after a resume; what was decided is not late now.
        if late and not self.decide.is_recorded(event, shard=self.number):
            out.counts["late"] += 1
            out.late.append(
                {
                    "event_id": event.event_id,
                    "profile_id": event.profile_id,
                    "type": event.type,
                    "occurred_at": rfc3339(event.occurred_ms),
                    "watermark": rfc3339(self._watermark),
                    "schema_version": SCHEMA_VERSION,
                }
            )
            return
        self._seen.add(identity)
        # Buckets are named by their first instant, which still means the same under another policy.
        instant = max(event.occurred_ms, self._watermark)
        bucket = instant - instant % self._dedupe_span()
        ids = self._seen_by_bucket.get(bucket)
        if ids is None:
            self._seen_by_bucket[bucket] = [identity]
            self._oldest_bucket = min(bucket, self._oldest_bucket)
        else:
            ids.append(identity)
        if event.type == "identity_linked":
            # Linking needs the identify step, which a policy without an identity section has not.
            out.counts["suppressed"] += 1
            return
        profile = self._profile(event.profile_id)
        if event.type == "erasure_requested":
            out.counts["used"] += 1
            # A redelivered request must not erase a profile that came back after it.
            if profile is not None and profile.first_ms <= event.occurred_ms:
                self._drop(event.profile_id, profile.version + 1, out)
                touched.pop(event.profile_id, None)
            return
        if profile is None:
            # Versions begin at the clock: one that comes back is newer than what was erased of it.
            profile = Profile(
                event.profile_id, event.occurred_ms, event.occurred_ms, max(0, event.received_ms)
            )
            self._hot[event.profile_id] = profile
            self._scheduled[event.profile_id] = FAR
        profile.first_ms = min(profile.first_ms, event.occurred_ms)
        # A control event may be older than timers that fired: for the profile, time goes on.
        profile.now_ms = max(profile.now_ms, self._watermark)
        touched[event.profile_id] = None
        self.decide.apply(profile, event, shard=self.number, out=out)
        self._schedule(profile)

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
        out.profiles.append(ProfileState(profile_id, version, None))
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
        self._forget_ids()
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
            plan = self.decide.plan
            changes = pass_time(profile, plan, until_ms)
            if changes:
                profile.version += len(changes)
                touched[profile_id] = None
            out.changes += changes
            close_windows(profile, until_ms, out=out)
            deadline = profile.deadline()
        self._scheduled[profile_id] = deadline
        if deadline < FAR:
            heapq.heappush(self._timers, (deadline, profile_id))

    def _sweep(self, now_ms: int, touched: dict[str, None], out: Outputs) -> None:
        oldest = now_ms - self.decide.plan.policy.retention.profile_ttl
        idle = [p for p, block in self._cold.items() if head_of(block)[1] < oldest]
        idle += [p for p, profile in self._hot.items() if profile.now_ms < oldest]
        for profile_id in sorted(idle):
            profile = self._profile(profile_id)
            if profile is not None:
                close_windows(profile, FAR, out=out)
                self._drop(profile_id, profile.version + 1, out)
                touched.pop(profile_id, None)

    def _dedupe_span(self) -> int:
        return max(1, self.decide.plan.policy.time.dedupe_for // _DEDUPE_BUCKETS)

    def _forget_ids(self) -> None:
        if self._watermark <= self._oldest_bucket:
            return
        oldest = self._watermark - self.decide.plan.policy.time.dedupe_for - self._dedupe_span()
        if self._oldest_bucket >= oldest:
            return  # as nearly always: the watermark moves with every event
        for bucket in [b for b in self._seen_by_bucket if b < oldest]:
            self._seen.difference_update(self._seen_by_bucket.pop(bucket))
        self._oldest_bucket = min(self._seen_by_bucket, default=FAR)

    def _settle(self, touched: dict[str, None], out: Outputs) -> None:
        if self.with_views:
            for profile_id in touched:
                profile = self._profile(profile_id)
                if profile is not None:
                    view = profile_view(profile, self.decide.plan)
                    out.profiles.append(ProfileState(profile_id, profile.version, view))
        if len(self._hot) > _HOT:
            self._cool()

    def _cool(self) -> None:
        for profile_id, profile in self._hot.items():
            self._cold[profile_id] = encode_profile(profile, due_ms=self._scheduled[profile_id])
        self._hot.clear()
        self._scheduled.clear()

    def look(self, profile_id: str) -> Profile | None:
        """A profile as it is held now; None where there is none."""
        return self._profile(profile_id)

    def snapshot(self) -> bytes:
        """The whole state as versioned, compressed bytes; equal states give equal bytes.

        Only profiles touched since the last snapshot are encoded anew; the others are bytes
        already. lz4 at this size costs less than writing what it saves.
        """
        self._cool()
        wire = _Wire(
            shard=self.number,
            shards=self.shards,
            watermarks=dict(sorted(self._watermarks.items())),
            partitions=self._partitions,
            swept_day=self._swept_day,
            seen=self._seen_by_bucket,
            profiles=self._cold,
            watermark=self._watermark,
        )
        body: bytes = lz4.block.compress(msgspec.msgpack.encode(wire), mode="fast")
        # lz4 has no checksum of its own: damage within a text would be read as another text.
        return MAGIC + VERSION.to_bytes(2, "big") + crc32(body).to_bytes(4, "big") + body

    def restore(self, snapshot: bytes) -> None:
        """Take over a snapshot.

        Raises StateError where it is damaged, of an unknown version, or of another shard count.
        """
        self._take(_decode(snapshot))

    def _take(self, wire: _Wire) -> None:
        if (wire.shard, wire.shards) != (self.number, self.shards):
            raise StateError(
                f"state is of shard {wire.shard} of {wire.shards}, the flow runs with "
                f"{self.number} of {self.shards}: the number of shards cannot change once state "
                "exists; start with the former number, or replay into a new recovery store"
            )
        self._cold = wire.profiles
        self._watermarks = wire.watermarks
        self._partitions = wire.partitions
        self._swept_day = wire.swept_day
        self._seen_by_bucket = wire.seen
        self._seen = {identity for ids in wire.seen.values() for identity in ids}
        self._oldest_bucket = min(wire.seen, default=FAR)
        self._watermark = wire.watermark
        deadlines = ((head_of(block)[0], profile) for profile, block in wire.profiles.items())
        self._timers = [timer for timer in deadlines if timer[0] < FAR]
        heapq.heapify(self._timers)


def restored(snapshot: bytes, *, shards: int, decide: Decide, with_views: bool) -> Shard:
    """The shard that a snapshot is of; raises StateError as `Shard.restore` does."""
    wire = _decode(snapshot)
    shard = Shard(wire.shard, shards, decide, with_views)
    shard._take(wire)
    return shard


def _decode(snapshot: bytes) -> _Wire:
    if snapshot[:4] != MAGIC:
        raise StateError("the recovery store holds something that is not a shard's snapshot")
    version = int.from_bytes(snapshot[4:6], "big")
    if version != VERSION:
        raise StateError(
            f"the state has version {version}, this program reads {VERSION}: "
            "run the release that wrote it, or a newer one that upgrades it"
        )
    body = snapshot[10:]
    if crc32(body) != int.from_bytes(snapshot[6:10], "big"):
        raise StateError("the state is damaged: its checksum does not fit")
    try:
        return msgspec.msgpack.decode(lz4.block.decompress(body), type=_Wire)
    except (lz4.block.LZ4BlockError, msgspec.MsgspecError, ValueError) as error:
        raise StateError(f"the state is damaged: {error}") from error


def group_by_shard(arrived: list[Arrived], *, shards: int) -> dict[int, list[Arrived]]:
    """Events by shard, each list in order of arrival."""
    grouped: dict[int, list[Arrived]] = {}
    for event in arrived:
        grouped.setdefault(shard_of(event.profile_id, shards=shards), []).append(event)
    return grouped
