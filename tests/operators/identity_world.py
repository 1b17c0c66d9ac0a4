"""How do the machines of identity behave together? The links, all groups, and what passes between.

A log is a list of batches of events; what comes out is, per batch, the events of every group. The
naive model beside it keeps every event of the log and recomputes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from operators.arrival import HISTORY, LIVE, Arrived
from operators.decode import NEVER, Decoded
from operators.identify import GroupBatch, Identified, IdentityGroup, restored_group, split
from operators.ids import hash64
from operators.links import GROUPS, GroupUpdates, LinkGraph, group_of
from operators.pseudonyms import Pseudonyms
from schemas.events import LINK_TYPES
from schemas.identity import Identity
from schemas.policy import Consent
from tests.operators.builders import T0, arrived

SEAL: Final = Pseudonyms(b"a secret of more than sixteen bytes")
SHARDS: Final = 8
LATENESS: Final = 60_000


def sent(raw_id: str, type: str = "view", *, at: int = T0, **fields: Any) -> Arrived:
    """An event as decode hands it on; `anonymous=True` for an id that is nobody's user id."""
    anonymous = fields.pop("anonymous", raw_id.startswith("a"))
    given = {"profile_id": raw_id, "raw_id": raw_id, "at": at, **fields}
    given.setdefault("anonymous_id", raw_id if anonymous else None)
    return arrived(type, **given)


def link(alias: str, user: str, *, at: int = T0, **fields: Any) -> Arrived:
    """The statement that an id is a user's."""
    return sent(user, "identity_linked", at=at, anonymous_id=alias, **fields)


def unlink(alias: str, user: str, *, at: int = T0, **fields: Any) -> Arrived:
    """The statement that an id is a user's no more."""
    return sent(user, "identity_unlinked", at=at, anonymous_id=alias, **fields)


def decoded(events: Iterable[Arrived] = (), *, watermark: int | None = None) -> Decoded:
    """A batch of one partition; `watermark` where it says how far that has come."""
    watermarks = () if watermark is None else ((0, watermark),)
    return Decoded(list(events), [], 0, watermarks, 1)


@dataclass
class World:
    """One flow of identity machines."""

    policy: Identity = field(default_factory=Identity)
    consent: Consent = field(default_factory=Consent)
    seal: Pseudonyms = SEAL
    counts: Counter[str] = field(default_factory=Counter)
    running: int = 0

    def __post_init__(self) -> None:
        self.graph = LinkGraph(self.policy, self.seal)
        self.groups = [
            IdentityGroup(number, self.policy, self.consent, shards=SHARDS, seal=self.seal)
            for number in range(GROUPS)
        ]

    def feed(self, batch: Decoded, *, updates_first: bool = False) -> list[Identified]:
        """One batch through all machines; every group's answer, in order of groups."""
        links, groups = split(batch, self.running)
        self.running += 1
        updates: list[GroupUpdates] = []
        if links is not None:
            updates, counts = self.graph.process(links)
            self.counts += counts
        done: list[Identified] = []
        for group in groups:
            items: list[GroupBatch | GroupUpdates] = [group]
            items += [update for update in updates if update.group == group.group]
            for item in reversed(items) if updates_first else items:
                done += self.groups[group.group].process(item)
        for identified in done:
            self.counts += identified.counts
        return done

    def give(self, *events: Arrived, watermark: int | None = None) -> list[Arrived]:
        """Events as one batch; what comes out, in order of groups."""
        return [
            event
            for identified in self.feed(decoded(events, watermark=watermark))
            for event in identified.events
        ]

    def resumed(self) -> World:
        """The same world, after every machine was stored and restored."""
        other = World(self.policy, self.consent, self.seal, Counter(self.counts), self.running)
        other.graph.restore(self.graph.snapshot())
        other.groups = [
            restored_group(
                group.snapshot(),
                policy=self.policy,
                consent=self.consent,
                shards=SHARDS,
                seal=self.seal,
            )
            for group in self.groups
        ]
        return other

    def snapshots(self) -> list[bytes]:
        """The state of every machine."""
        return [self.graph.snapshot(), *(group.snapshot() for group in self.groups)]


Said = tuple[str, str, int]
"""(event id, profile, mode): what is compared between the machines and the model."""


def said(events: Iterable[Arrived], *modes: int) -> list[Said]:
    """What is compared of events of these modes (all where none is named)."""
    return [(e.event_id, e.profile_id, e.mode) for e in events if not modes or e.mode in modes]


def naive(events: list[Arrived], policy: Identity) -> dict[int, list[Said]]:
    """What each group gives for a log of one partition, live and history, by keeping everything."""
    statements: dict[str, tuple[int, bool, str]] = {}
    held: dict[str, list[Arrived]] = {}
    given: dict[int, list[Said]] = {group: [] for group in range(GROUPS)}
    watermarks = dict.fromkeys(range(GROUPS), NEVER)

    def canonical(member: str) -> str:
        while (known := statements.get(member)) is not None and known[2]:
            member = known[2]
        return member

    def is_under(member: str, other: str) -> bool:
        while member != other:
            known = statements.get(member)
            if known is None or not known[2]:
                return False
            member = known[2]
        return True

    for event in events:
        before = {member: canonical(member) for member in held}
        alias = event.anonymous_id
        if event.type == "identity_linked" and alias is not None:
            told = (event.occurred_ms, False, event.raw_id)
            if told > statements.get(alias, (NEVER, False, "")) and not is_under(
                event.raw_id, alias
            ):
                statements[alias] = told
        if event.type == "identity_unlinked" and alias is not None:
            told = (event.occurred_ms, True, "")
            if told > statements.get(alias, (NEVER, False, "")):
                statements[alias] = told
        for member in sorted(held, key=lambda m: (canonical(m), m)):
            to, group = canonical(member), group_of(member)
            if before[member] == member != to:
                oldest = max(event.occurred_ms, watermarks[group]) - policy.carry
                # Of one instant, by the hash of the id: any order will do that is always the same.
                whole = sorted(held[member], key=lambda e: (e.occurred_ms, hash64(e.event_id)))
                newest = whole[-policy.events :] if policy.events else []
                given[group] += [
                    (e.event_id, to, HISTORY) for e in newest if e.occurred_ms > oldest
                ]
            if to != member:
                held[member] = []
        group = group_of(event.raw_id)
        watermarks[group] = max(watermarks[group], event.watermark_ms)
        to = canonical(event.raw_id)
        if to == event.raw_id == event.anonymous_id and event.type not in LINK_TYPES:
            held.setdefault(to, []).append(event)
        given[group].append((event.event_id, to, LIVE))
    return given


def batches(events: list[Arrived], cuts: Callable[[int], bool]) -> list[Decoded]:
    """A log cut into batches before each place where `cuts` says so."""
    found: list[list[Arrived]] = [[]]
    for place, event in enumerate(events):
        if place and cuts(place):
            found.append([])
        found[-1].append(event)
    return [decoded(batch) for batch in found]
