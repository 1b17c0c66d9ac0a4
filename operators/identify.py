"""Whose profile is this event about? Anonymous ids follow their links; a link carries history over.

Key: an identity group (a stable hash of the id as sent). State: where each linked id of the group
leads, and of each anonymous id that is not linked its newest events, encoded, for `carry` of event
time. Output: the events under their canonical ids, and two kinds of copies outside the accounting:

* HISTORY: the held events of an id that was linked just now, under its canonical id, oldest first;
* OUTCOME: an event that names a decision of another id of the family, for the profile that made it;
  an erasure, for every other profile that holds something of the erased family.

A batch with events that change who is who waits for what `operators.links` makes of them. Each
takes effect at its place in the batch: what comes of it never depends on which step was faster.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Final, NamedTuple

import msgspec

from operators.arrival import HISTORY, LIVE, OUTCOME, Arrived
from operators.decode import NEVER, Decoded
from operators.history import Held, Histories, HistoriesWire
from operators.ids import shard_of
from operators.links import CHANGES, GROUPS, BatchId, GroupUpdates, LinkBatch, Routing, group_of
from operators.sealed_state import Seal, decode_state, encode_state
from operators.shard_state import StateError
from schemas.identity import Identity
from schemas.policy import Consent

MAGIC: Final = b"NBID"
VERSION: Final = 1


class GroupBatch(NamedTuple):
    """What a source batch holds for one identity group, with the events' places in that batch.

    `awaits` says that the batch changes who is who, so that its updates are awaited.
    """

    group: int
    batch: BatchId
    events: list[Arrived]
    places: list[int]
    watermarks: tuple[tuple[int, int], ...]
    partitions: int
    awaits: bool


class Identified(NamedTuple):
    """What one group makes of one source batch, with the places at which it belongs there.

    `operators.gather` puts the parts of all groups together, so that no event is late, and none is
    early, because another group was faster.
    """

    group: int
    batch: BatchId
    events: list[Arrived]
    places: list[int]
    watermarks: tuple[tuple[int, int], ...]
    partitions: int
    counts: dict[str, int]


_Route = tuple[str, tuple[str, ...]]
"""(canonical id, the other ids of the family)."""


class _Wire(msgspec.Struct, array_like=True):
    group: int
    groups: int
    watermarks: dict[int, int]
    partitions: int
    routes: dict[str, _Route]
    histories: HistoriesWire


def split(decoded: Decoded, running: int) -> tuple[LinkBatch | None, list[GroupBatch]]:
    """A decoded batch for `operators.links` (None: nothing there for it) and for each group.

    `running` numbers the batches of this process; no two of one run may share a number.
    """
    events: list[list[Arrived]] = [[] for _ in range(GROUPS)]
    places: list[list[int]] = [[] for _ in range(GROUPS)]
    changes: list[tuple[int, Arrived]] = []
    for place, event in enumerate(decoded.arrived):
        group = group_of(event.raw_id)
        events[group].append(event)
        places[group].append(place)
        if event.type in CHANGES:
            changes.append((place, event))
    batch = (decoded.partition, running)
    return LinkBatch(batch, changes) if changes else None, [
        GroupBatch(
            group,
            batch,
            events[group],
            places[group],
            decoded.watermarks,
            decoded.partitions,
            bool(changes),
        )
        for group in range(GROUPS)
    ]


def seen_as(event: Arrived) -> str:
    """The text by which a shard knows an event again; a copy is another event than its original."""
    if event.mode == LIVE:
        return event.event_id
    if event.mode == HISTORY:
        return carried_as(event)
    return f"{event.event_id}|{event.profile_id}|outcome"


def carried_as(event: Arrived) -> str:
    """The text by which a shard knows an event that a link already carried over to its profile."""
    return f"{event.event_id}|{event.profile_id}"


class IdentityGroup:
    """The machine of one identity group; pure: `process` takes one item, returns what came of it.

    `shards` are DECIDE's, `consent` says what may be held of an anonymous id.
    """

    def __init__(
        self, number: int, policy: Identity, consent: Consent, *, shards: int, seal: Seal
    ) -> None:
        self.number = number
        self._carry = policy.carry
        self._shards = shards
        self._seal = seal
        self._histories = Histories(policy, consent, most=max(1, policy.anonymous // GROUPS))
        self._routes: dict[str, _Route] = {}
        self._watermarks: dict[int, int] = {}
        self._partitions = 1
        self._waiting: deque[GroupBatch] = deque()
        self._updates: dict[BatchId, GroupUpdates] = {}

    @property
    def watermark_ms(self) -> int:
        """The instant before which nothing is waited for any more."""
        known = self._watermarks
        return NEVER if len(known) < self._partitions else min(known.values())

    def process(self, item: GroupBatch | GroupUpdates) -> list[Identified]:
        """Take in a batch or the updates it awaits; every batch that is complete now, in order."""
        if isinstance(item, GroupUpdates):
            self._updates[item.batch] = item
        else:
            self._waiting.append(item)
        done = []
        while self._waiting:
            first = self._waiting[0]
            if first.awaits and first.batch not in self._updates:
                break
            routings = self._updates.pop(first.batch).routings if first.awaits else []
            done.append(self._identify(self._waiting.popleft(), routings))
        return done

    def _identify(self, batch: GroupBatch, routings: list[tuple[int, Routing]]) -> Identified:
        self._partitions = max(self._partitions, batch.partitions)
        out: list[Arrived] = []
        places: list[int] = []
        counts: Counter[str] = Counter()
        ahead = deque(routings)
        for place, event in zip(batch.places, batch.events, strict=True):
            while ahead and ahead[0][0] <= place:
                at, routing = ahead.popleft()
                self._reroute(routing, out, counts)
                places += [at] * (len(out) - len(places))
            self._advance(event.partition, event.watermark_ms)
            self._one(event, out, counts)
            places += [place] * (len(out) - len(places))
        for at, routing in ahead:
            self._reroute(routing, out, counts)
            places += [at] * (len(out) - len(places))
        for partition, watermark in batch.watermarks:
            self._advance(partition, watermark)
        self._histories.sweep(self.watermark_ms, counts)
        return Identified(
            self.number,
            batch.batch,
            out,
            places,
            batch.watermarks,
            batch.partitions,
            dict(counts),  # plain: it crosses processes, and those let in no class but their own
        )

    def _one(self, event: Arrived, out: list[Arrived], counts: Counter[str]) -> None:
        route = self._routes.get(event.raw_id)
        if event.type == "erasure_requested":
            # Under the id as sent, linked or not: a redelivery then meets the shard that knows it.
            out.append(event)
            return
        canonical, aliases = route or (event.raw_id, ())
        if canonical == event.raw_id == event.anonymous_id:
            self._histories.hold(event, self.watermark_ms, counts)
        out.append(event._replace(profile_id=canonical))
        if not aliases:
            return
        made_in = None if event.decision_id is None else _shard_in(event.decision_id)
        if made_in is None:
            return
        for alias in aliases:
            if shard_of(alias, shards=self._shards) == made_in:
                out.append(self._copy(event, alias, OUTCOME))
                counts["outcome_copied"] += 1

    def _copy(self, event: Arrived, profile_id: str, mode: int) -> Arrived:
        """An event for another profile; it says nothing about how far its source has come."""
        return event._replace(
            profile_id=profile_id,
            watermark_ms=NEVER,
            mode=mode,
        )

    def _reroute(self, routing: Routing, out: list[Arrived], counts: Counter[str]) -> None:
        member, canonical, cause = routing.member, routing.canonical, routing.cause
        former = self._routes.pop(member, (member, ()))
        if routing.aliases:
            self._routes[member] = (canonical, routing.aliases)
        if routing.erased_of is not None:
            self._histories.take(member, since_ms=NEVER)
            # The request itself goes to the profile of the id it names, from that id's group: a
            # copy that came before it would leave it nothing to find.
            for profile_id in dict.fromkeys((member, routing.erased_of)):
                if profile_id != cause.raw_id:
                    out.append(self._copy(cause, profile_id, OUTCOME))
            counts["erased"] += 1
        elif canonical not in (member, former[0]):
            # What was kept of the alias itself ends: its person has one profile now.
            out.append(self._copy(cause, member, OUTCOME))
            oldest = max(cause.occurred_ms, self.watermark_ms) - self._carry
            held = self._histories.take(member, since_ms=oldest)
            out += [self._history(event, routing) for event in held]
            if held:
                counts["carried"] += len(held)

    def _history(self, held: Held, routing: Routing) -> Arrived:
        return Arrived(
            held.event_id,
            routing.canonical,
            held.type,
            held.occurred_ms,
            # The clock of the link: a profile that begins with history is newer than one erased.
            routing.cause.received_ms,
            NEVER,
            routing.cause.partition,
            held.content_id,
            held.placement,
            held.decision_id,
            held.session_id,
            held.value,
            held.context,
            held.properties,
            None,
            None,
            held.contents,
            held.feedback,
            held.tag,
            held.attributes,
            held.consent,
            held.source,
            routing.member,
            HISTORY,
            routing.member,
        )

    def _advance(self, partition: int, watermark: int) -> None:
        if watermark > self._watermarks.get(partition, NEVER):
            self._watermarks[partition] = watermark

    def snapshot(self) -> bytes:
        """The whole state as versioned, sealed bytes; equal states give equal bytes.

        To be taken between two batches of the source, when none awaits its updates.
        """
        assert not self._waiting, "an epoch closed over a batch that still awaits its updates"
        wire = _Wire(
            self.number,
            GROUPS,
            dict(sorted(self._watermarks.items())),
            self._partitions,
            dict(sorted(self._routes.items())),
            self._histories.wire(),
        )
        return encode_state(wire, self._seal, magic=MAGIC, version=VERSION)

    def _take(self, wire: _Wire) -> None:
        if wire.groups != GROUPS:
            raise StateError(
                f"state is of {wire.groups} identity groups, the flow runs with {GROUPS}"
            )
        self._watermarks = wire.watermarks
        self._partitions = wire.partitions
        self._routes = wire.routes
        self._histories.restore(wire.histories)


def restored_group(
    snapshot: bytes, *, policy: Identity, consent: Consent, shards: int, seal: Seal
) -> IdentityGroup:
    """The group that a snapshot is of; raises StateError where it cannot be read."""
    wire = decode_state(snapshot, seal, _Wire, magic=MAGIC, version=VERSION)
    group = IdentityGroup(wire.group, policy, consent, shards=shards, seal=seal)
    group._take(wire)
    return group


def _shard_in(decision_id: str) -> int | None:
    """The shard that a decision's id begins with; None for an id that is not one of ours."""
    head, dash, _ = decision_id.partition("-")
    if not dash or len(head) != 3:
        return None
    try:
        return int(head, 16)
    except ValueError:
        return None
