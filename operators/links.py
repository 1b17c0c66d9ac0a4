"""Which ids stand for one person, by what was stated? One machine holds every link of the flow.

Key: one, for all. State: of each linked id (an *alias*) whom it is linked to and since when; links
form trees, whose root is the *canonical* id of all in it (its *family*). Input: the events that
link, unlink and erase, no others; output: for each identity group, where its ids lead from then on.

A link is a register: of two statements about one alias the newer-dated holds, whatever order they
arrive in; of one instant, that it is linked to nobody. A link that would close a circle is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from operators.arrival import Arrived
from operators.decode import NEVER
from operators.ids import hash64
from operators.sealed_state import Seal, decode_state, encode_state
from schemas.events import LINK_TYPES
from schemas.identity import Identity
from schemas.time import DAY

GROUPS: Final = 8
"""Identity groups: fixed for good, because sources of watermarks are numbered by them."""
LINKS_KEY: Final = "links"
MAGIC: Final = b"NBLK"
VERSION: Final = 1
CHANGES: Final = LINK_TYPES | {"erasure_requested"}
"""Events that change who is who."""
_MOST_ERASED: Final = 100_000
_NOBODY: Final = ""

BatchId = tuple[int, int]
"""(source partition, running number in this process) of a batch that holds such events."""


def group_of(raw_id: str) -> int:
    """The identity group of an id as sent.

    >>> group_of("u1") == group_of("u1") < GROUPS
    True
    """
    return hash64(f"identity|{raw_id}") % GROUPS


class Routing(NamedTuple):
    """Where one id leads from now on: its canonical id, and all others of that family.

    `cause` is the event that led to it. Where that is an erasure of the id, `erased_of` is the
    former canonical id: the id's data are to be erased in that profile and in its own.
    """

    member: str
    canonical: str
    aliases: tuple[str, ...]
    cause: Arrived
    erased_of: str | None = None


class LinkBatch(NamedTuple):
    """The events of one source batch that change who is who, each with its place in the batch."""

    batch: BatchId
    events: list[tuple[int, Arrived]]


class GroupUpdates(NamedTuple):
    """What such a batch means to one group: routings, each with the place where it takes effect."""

    group: int
    batch: BatchId
    routings: list[tuple[int, Routing]]


class Link(msgspec.Struct, array_like=True):
    """What holds of one alias: whom it is linked to (nobody: unlinked), as last stated when."""

    user: str
    since_ms: int

    @property
    def order(self) -> tuple[int, bool, str]:
        """The larger of two statements about one alias is the one that holds."""
        return (self.since_ms, self.user == _NOBODY, self.user)


class _Wire(msgspec.Struct, array_like=True):
    links: dict[str, Link]
    erased: dict[bytes, int]
    requests: dict[bytes, int]
    mark: int
    now_ms: int


class LinkGraph:
    """Every link there is. Pure: `process` takes a batch and returns what came of it."""

    def __init__(self, policy: Identity, seal: Seal) -> None:
        self._policy = policy
        self._seal = seal
        self._links: dict[str, Link] = {}
        self._under: dict[str, set[str]] = {}
        # Keyed hashes, to know again without holding it: what was erased, and on which request.
        self._erased: dict[bytes, int] = {}
        self._requests: dict[bytes, int] = {}
        self._now = NEVER

    def process(self, batch: LinkBatch) -> tuple[list[GroupUpdates], Counter[str]]:
        """Apply events in order: what each group is to know, and counts for the metrics."""
        counts: Counter[str] = Counter()
        routings: list[list[tuple[int, Routing]]] = [[] for _ in range(GROUPS)]
        for place, event in batch.events:
            for routing in [*self._expire(event, counts), *self._apply(event, counts)]:
                routings[group_of(routing.member)].append((place, routing))
        return [GroupUpdates(g, batch.batch, found) for g, found in enumerate(routings)], counts

    def canonical(self, member: str) -> str:
        """The id that stands for a member's family: itself where it is linked to nobody."""
        while (link := self._links.get(member)) is not None and link.user != _NOBODY:
            member = link.user
        return member

    def family(self, member: str) -> list[str]:
        """All ids of the member's family, the canonical one first, the others in order of text."""
        canonical = self.canonical(member)
        return [canonical, *sorted(_reach([canonical], self._under) - {canonical})]

    def _apply(self, event: Arrived, counts: Counter[str]) -> list[Routing]:
        if event.type == "erasure_requested":
            return self._erase(event)
        alias = event.anonymous_id
        if alias is None:
            return []
        forgotten = self._erased_at(alias)
        stated = Link(_NOBODY, event.occurred_ms)
        if event.type == "identity_linked":
            forgotten = max(forgotten, self._erased_at(event.raw_id))
            stated.user = event.raw_id
        known = self._links.get(alias)
        if event.occurred_ms <= forgotten:
            counts["stale"] += 1
            return []
        if known is not None and known.user == stated.user:
            # Said again: nothing changes but how long it is kept.
            known.since_ms = max(known.since_ms, stated.since_ms)
            counts["repeated"] += 1
            return []
        if known is not None and known.order > stated.order:
            counts["stale"] += 1
            return []
        if stated.user != _NOBODY and alias in self._path(stated.user):
            counts["refused_circle"] += 1
            return []
        touched = {*self.family(alias), *([stated.user] if stated.user else [])}
        self._set(alias, stated)
        counts["linked" if stated.user else "unlinked"] += 1
        self._hold_bounds(self.canonical(alias), touched, counts)
        return self._tell(touched, event)

    def _hold_bounds(self, canonical: str, touched: set[str], counts: Counter[str]) -> None:
        members = self.family(canonical)
        while len(members) - 1 > self._policy.devices:
            touched.update(members)
            oldest = min(members[1:], key=lambda alias: (self._links[alias].since_ms, alias))
            self._unlink(oldest)
            counts["unlinked_bound"] += 1
            members = self.family(canonical)
        if len(self._links) > self._policy.links:
            # Many at once: finding the oldest takes a sort.
            by_age = sorted(self._links, key=lambda alias: (self._links[alias].since_ms, alias))
            self._forget(by_age[: max(1, len(by_age) // 64)], touched, counts)

    def _expire(self, event: Arrived, counts: Counter[str]) -> list[Routing]:
        before, self._now = self._now, max(self._now, event.watermark_ms)
        if self._now // DAY == before // DAY:
            return []
        oldest = self._now - self._policy.keep
        touched: set[str] = set()
        self._forget(
            [a for a, link in self._links.items() if link.since_ms < oldest], touched, counts
        )
        self._erased = {key: at for key, at in self._erased.items() if at >= oldest}
        self._requests = {key: at for key, at in self._requests.items() if at >= oldest}
        return self._tell(touched, event)

    def _forget(self, aliases: Iterable[str], touched: set[str], counts: Counter[str]) -> None:
        for alias in aliases:
            if self._links[alias].user != _NOBODY:
                touched.update(self.family(alias))
                self._unlink(alias)
                counts["forgotten"] += 1
            del self._links[alias]

    def _erase(self, event: Arrived) -> list[Routing]:
        # On arrival, whatever its date, and once: a redelivery must not reach who came back since.
        request = self._seal.key_of(f"{event.event_id}|{event.raw_id}")
        if request in self._requests:
            return []
        _note(self._requests, request, event.occurred_ms)
        family = self.family(event.raw_id)
        for member in family:
            _note(self._erased, self._seal.key_of(member), event.occurred_ms)
            self._unlink(member)
            self._links.pop(member, None)
        return [told._replace(erased_of=family[0]) for told in self._tell(set(family), event)]

    def _tell(self, members: set[str], event: Arrived) -> list[Routing]:
        """Where each of these ids, and all now in a family with one of them, leads from now on."""
        families = {canonical: self.family(canonical) for canonical in map(self.canonical, members)}
        return [
            Routing(member, canonical, tuple(family[1:]), event)
            for canonical, family in sorted(families.items())
            for member in family
        ]

    def _path(self, member: str) -> list[str]:
        """The member, whom it is linked to, and so on up to its canonical id."""
        path = [member]
        while (link := self._links.get(path[-1])) is not None and link.user != _NOBODY:
            path.append(link.user)
        return path

    def _set(self, alias: str, link: Link) -> None:
        self._unlink(alias)
        self._links[alias] = link
        if link.user != _NOBODY:
            self._under.setdefault(link.user, set()).add(alias)

    def _unlink(self, alias: str) -> None:
        link = self._links.get(alias)
        if link is None or link.user == _NOBODY:
            return
        siblings = self._under[link.user]
        siblings.discard(alias)
        if not siblings:
            del self._under[link.user]
        # The user is not written down: an erasure of theirs would not find it here.
        self._links[alias] = Link(_NOBODY, link.since_ms)

    def _erased_at(self, member: str) -> int:
        return self._erased.get(self._seal.key_of(member), NEVER) if self._erased else NEVER

    def snapshot(self) -> bytes:
        """The whole state as versioned, sealed bytes; equal states give equal bytes."""
        links = dict(sorted(self._links.items()))
        wire = _Wire(links, self._erased, self._requests, self._seal.mark, self._now)
        return encode_state(wire, self._seal, magic=MAGIC, version=VERSION)

    def restore(self, snapshot: bytes) -> None:
        """Take over a snapshot; raises StateError where it cannot be read."""
        wire = decode_state(snapshot, self._seal, _Wire, magic=MAGIC, version=VERSION)
        self._links = wire.links
        self._now = wire.now_ms
        # Under another secret the ids that were erased cannot be recognised any more.
        same = wire.mark == self._seal.mark
        self._erased, self._requests = (wire.erased, wire.requests) if same else ({}, {})
        self._under = {}
        for alias, link in wire.links.items():
            if link.user != _NOBODY:
                self._under.setdefault(link.user, set()).add(alias)


def _reach(start: Iterable[str], under: dict[str, set[str]]) -> set[str]:
    """These ids and everything linked to them, directly or by others."""
    found: set[str] = set()
    ahead = list(start)
    while ahead:
        member = ahead.pop()
        if member not in found:
            found.add(member)
            ahead += under.get(member, ())
    return found


def _note(held: dict[bytes, int], key: bytes, at_ms: int) -> None:
    held[key] = max(at_ms, held.pop(key, at_ms))
    if len(held) > _MOST_ERASED:
        del held[next(iter(held))]
