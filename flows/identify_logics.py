"""The few lines that know the engine for identity: links, identity groups, probable duplicates.

What decides is in `operators.links`, `operators.identify` and `operators.duplicates`. The steps:

    decoded -> identities -+-> links (one key: who is linked to whom) -+-> identify (keyed by group)
                           +-------------------------------------------+
                                                                       |
                        each batch as one again <- gather (by source partition)
    activations -> evidence -> duplicates (keyed by block group) -> suggestions
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Final, NamedTuple

import bytewax.operators as op
from bytewax.dataflow import Stream
from bytewax.operators import KeyedStream, StatefulBatchLogic

from operators import duplicates
from operators.decode import Decoded
from operators.duplicates import Contact, DuplicateGroup, Evidence, evidence_of, restored_duplicates
from operators.gather import Gather, Gathered
from operators.identify import GroupBatch, Identified, IdentityGroup, restored_group, split
from operators.links import LINKS_KEY, GroupUpdates, LinkBatch, LinkGraph, Routing
from operators.outputs import Record
from operators.sealed_state import Seal
from schemas.identity import Identity, Suggest
from schemas.policy import Consent

IDENTITY_CROSSING: Final[tuple[type, ...]] = (
    LinkBatch,
    GroupBatch,
    GroupUpdates,
    Identified,
    Routing,
    Contact,
    Evidence,
)
"""What may cross processes between these steps, beside `Arrived`."""

Count = Callable[[str, int], None]
"""Passes a count of the identity steps to the metrics: (outcome, how many)."""


class _Split(NamedTuple):
    links: LinkBatch | None
    groups: list[GroupBatch]


def identify_step(
    decoded: Stream[Decoded],
    *,
    identity: Identity,
    consent: Consent,
    shards: int,
    seal: Seal,
    count_outcome: Count = lambda _outcome, _n: None,
) -> Stream[Gathered]:
    """Each batch of the source again, its events under their canonical ids."""
    running = count()

    def build_links(resume: bytes | None) -> LinksLogic:
        return LinksLogic(resume, identity=identity, seal=seal, count_outcome=count_outcome)

    def build_group(resume: bytes | None) -> IdentityLogic:
        return IdentityLogic(
            resume,
            identity=identity,
            consent=consent,
            shards=shards,
            seal=seal,
            count_outcome=count_outcome,
        )

    identities = op.map("identities", decoded, lambda d: _Split(*split(d, next(running))))
    changes: KeyedStream[LinkBatch] = op.flat_map("links-route", identities, _changes)
    updates = op.stateful_batch("links", changes, build_links)
    told = op.map("links-told", updates, lambda keyed: (_group_key(keyed[1].group), keyed[1]))
    events: KeyedStream[GroupBatch] = op.flat_map(
        "identify-route", identities, lambda s: [(_group_key(b.group), b) for b in s.groups]
    )
    joined: KeyedStream[GroupBatch | GroupUpdates] = op.merge("identify-merge", events, told)
    identified = op.stateful_batch("identify", joined, build_group)
    parts: KeyedStream[Identified] = op.map(
        "identified", identified, lambda keyed: (_batch_key(keyed[1]), keyed[1])
    )
    gathered = op.stateful_batch("gather", parts, GatherLogic)
    return op.map("gathered", gathered, lambda keyed: keyed[1])


def suggest_step(
    contacts: Stream[Contact],
    *,
    suggest: Suggest,
    seal: Seal,
    count_outcome: Count = lambda _outcome, _n: None,
) -> Stream[Record]:
    """Suggestions of probable duplicates, from what profiles say of how to reach their person."""

    def build(resume: bytes | None) -> DuplicatesLogic:
        return DuplicatesLogic(resume, suggest=suggest, seal=seal, count_outcome=count_outcome)

    def routed(contact: Contact) -> list[tuple[str, tuple[int, Evidence]]]:
        # Hashed before it leaves the process. Every group is told, for it may hold what was before.
        evidence = evidence_of(contact, suggest, seal)
        return [(f"d{group}", (group, evidence)) for group in range(duplicates.GROUPS)]

    evidence: KeyedStream[tuple[int, Evidence]] = op.flat_map("evidence", contacts, routed)
    found = op.stateful_batch("duplicates", evidence, build)
    return op.map("suggested", found, lambda keyed: keyed[1])


class LinksLogic(StatefulBatchLogic[LinkBatch, GroupUpdates, bytes]):
    """Every link of the flow: one key, awoken only by events that change who is who."""

    def __init__(
        self, resume: bytes | None, *, identity: Identity, seal: Seal, count_outcome: Count
    ) -> None:
        self._graph = LinkGraph(identity, seal)
        self._count = count_outcome
        if resume is not None:
            self._graph.restore(resume)

    def on_batch(self, values: list[LinkBatch]) -> tuple[Iterable[GroupUpdates], bool]:
        """What each batch means to every group; never discarded."""
        told: list[GroupUpdates] = []
        for batch in values:
            updates, counts = self._graph.process(batch)
            told += updates
            _pass_on(counts, self._count)
        return told, StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes:
        """The links."""
        return self._graph.snapshot()


class IdentityLogic(StatefulBatchLogic[GroupBatch | GroupUpdates, Identified, bytes]):
    """One identity group. A new one learns its number from its first item, as a shard does."""

    def __init__(
        self,
        resume: bytes | None,
        *,
        identity: Identity,
        consent: Consent,
        shards: int,
        seal: Seal,
        count_outcome: Count,
    ) -> None:
        self._identity = identity
        self._consent = consent
        self._shards = shards
        self._seal = seal
        self._count = count_outcome
        self._group: IdentityGroup | None = None
        if resume is not None:
            self._group = restored_group(
                resume, policy=identity, consent=consent, shards=shards, seal=seal
            )

    def on_batch(
        self, values: list[GroupBatch | GroupUpdates]
    ) -> tuple[Iterable[Identified], bool]:
        """Every batch that is complete now, in order; never discarded."""
        if self._group is None:
            self._group = IdentityGroup(
                values[0].group,
                self._identity,
                self._consent,
                shards=self._shards,
                seal=self._seal,
            )
        done: list[Identified] = []
        for item in values:
            done += self._group.process(item)
        for identified in done:
            _pass_on(identified.counts, self._count)
        return done, StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes:
        """Routes and histories of the group."""
        assert self._group is not None  # the engine snapshots only what it has awoken
        return self._group.snapshot()


class GatherLogic(StatefulBatchLogic[Identified, Gathered, None]):
    """The parts of the batches of one source partition; between two epochs it holds nothing."""

    def __init__(self, _resume: None) -> None:
        self._gather = Gather()

    def on_batch(self, values: list[Identified]) -> tuple[Iterable[Gathered], bool]:
        """Every batch that is complete now, in order; never discarded."""
        complete = [batch for part in values if (batch := self._gather.add(part)) is not None]
        return complete, StatefulBatchLogic.RETAIN

    def snapshot(self) -> None:
        """Nothing: an epoch closes when all parts of its batches are in."""
        assert not self._gather.waiting, "an epoch closed over a batch that is not complete"


class DuplicatesLogic(StatefulBatchLogic[tuple[int, Evidence], Record, bytes]):
    """One block group of the search for duplicates."""

    def __init__(
        self, resume: bytes | None, *, suggest: Suggest, seal: Seal, count_outcome: Count
    ) -> None:
        self._suggest = suggest
        self._seal = seal
        self._count = count_outcome
        self._group: DuplicateGroup | None = None
        if resume is not None:
            self._group = restored_duplicates(resume, suggest=suggest, seal=seal)

    def on_batch(self, values: list[tuple[int, Evidence]]) -> tuple[Iterable[Record], bool]:
        """Suggestions, in order; never discarded."""
        if self._group is None:
            self._group = DuplicateGroup(values[0][0], self._suggest, self._seal)
        records: list[Record] = []
        for _, evidence in values:
            records += self._group.process(evidence)
        if records:
            self._count("suggested", len(records))
        return records, StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes:
        """Blocks and evidence of the group."""
        assert self._group is not None  # the engine snapshots only what it has awoken
        return self._group.snapshot()


def _changes(parts: _Split) -> list[tuple[str, LinkBatch]]:
    return [] if parts.links is None else [(LINKS_KEY, parts.links)]


def _group_key(group: int) -> str:
    return f"i{group}"


def _batch_key(part: Identified) -> str:
    return f"b{part.batch[0]}"


def _pass_on(counts: Mapping[str, int], count_outcome: Count) -> None:
    for outcome, n in counts.items():
        count_outcome(outcome, n)
