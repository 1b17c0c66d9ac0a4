"""What does a policy and a catalogue ask for, made ready to run?

Everything that depends only on the two is worked out here once: signals by event type, segments in
the order they need each other, and per placement the pool of contents as arrays. A `Plan` is
immutable; another policy or catalogue is another plan, adopted between batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from operators.conditions import Compiler, Evaluate
from operators.features import (
    Cells,
    Hashes,
    ProfileFeatures,
    content_cells,
    content_features,
)
from operators.ids import hash32
from operators.score import Indices, Scores
from operators.signals import CompiledSignal, compile_signal
from schemas.catalogue import Cap, Content
from schemas.check_catalogue import qualifies
from schemas.conditions import AllOf, AnyOf, AttributeIs, Condition, InSegment, NotOf
from schemas.policy import Placement, Policy, Reward
from schemas.time import to_millis

Flags = npt.NDArray[np.bool_]
_ALWAYS = 1 << 62
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class CompiledSegment:
    """A segment ready to run, and what can change it besides time.

    `events` names the events that feed its signals, `segments` those it asks about.
    """

    name: str
    evaluate: Evaluate
    events: frozenset[str]
    segments: frozenset[str]
    of_attributes: bool


@dataclass(frozen=True, slots=True)
class Contents:
    """The catalogue as arrays, in the order of content ids.

    Times are milliseconds. `conditions` lists each different eligibility condition once, with the
    contents (flags) it binds.
    """

    ids: tuple[str, ...]
    by_id: dict[str, Content]
    index: dict[str, int]
    valid_from: npt.NDArray[np.int64]
    valid_until: npt.NDArray[np.int64]
    in_stock: Flags
    conditions: tuple[tuple[Evaluate, Flags], ...]
    caps: dict[str, tuple[Cap, ...]]
    tagged: dict[str, Flags]


@dataclass(frozen=True, slots=True)
class CompiledPlacement:
    """A placement ready to run.

    `pool` holds the positions of the contents that may ever appear, `order` the same in the order
    of the fallback, `values` what each reward kind is worth, shape (heads, contents). `cells` and
    `real` are the contents' features, shape (contents, widest).
    """

    name: str
    policy: Placement
    heads: tuple[str, ...]
    rewards: tuple[Reward, ...]
    values: Scores
    cells: Cells
    real: npt.NDArray[np.float32]
    pool: Indices
    in_pool: Flags
    order: tuple[int, ...]
    eligible: Evaluate | None
    features: ProfileFeatures
    attribution_ms: int


@dataclass(frozen=True, slots=True)
class Capping:
    """What must be counted of impressions for the caps of all placements.

    All read the same impressions, and a short window of one must not drop what a longer one of
    another still counts: `longest_ms` is the longest.
    """

    per_content: bool
    per_tag: bool
    longest_ms: int


@dataclass(frozen=True)
class Plan:
    """A policy and a catalogue, compiled.

    `signals_of` and `segment_events` say what an event's name touches; `mark` changes with the
    policy, so that a profile last evaluated under another one is evaluated anew.
    """

    policy: Policy
    policy_digest: str
    catalogue_version: str
    mark: int
    signals: tuple[CompiledSignal, ...]
    signals_of: dict[str, tuple[CompiledSignal, ...]]
    segments: tuple[CompiledSegment, ...]
    segment_events: frozenset[str]
    placements: dict[str, CompiledPlacement]
    triggered_by: dict[str, tuple[str, ...]]
    rewards_of: dict[str, tuple[str, ...]]
    contents: Contents
    capping: Capping
    hashes: Hashes

    @property
    def placement_names(self) -> frozenset[str]:
        """The placements a request may name."""
        return frozenset(self.placements)


def compile_plan(
    policy: Policy, catalogue: Iterable[Content], *, policy_digest: str, catalogue_version: str
) -> Plan:
    """Compile a checked policy and catalogue.

    Raises KeyError where one names what does not exist: `schemas.check` reports those properly.
    """
    hashes = Hashes()
    declared = {
        name: compile_signal(name, signal, sensitive_tags=policy.sensitive.tags)
        for name, signal in policy.signals.items()
    }
    compiler = Compiler(declared)
    segments = tuple(
        _segment(name, policy.segments[name].when, compiler) for name in segment_order(policy)
    )
    contents = _contents(catalogue, compiler)
    placements = {
        name: _placement(name, placement, policy, contents, compiler, declared, hashes)
        for name, placement in policy.placements.items()
    }
    signals = tuple(compiler.signals.values())
    caps = [cap for placement in policy.placements.values() for cap in placement.caps]
    return Plan(
        policy=policy,
        policy_digest=policy_digest,
        catalogue_version=catalogue_version,
        mark=hash32(policy_digest),
        signals=signals,
        signals_of=_index((event, signal) for signal in signals for event in signal.events),
        segments=segments,
        segment_events=frozenset().union(*(segment.events for segment in segments)),
        placements=placements,
        triggered_by=_index(
            (event, name)
            for name, placement in policy.placements.items()
            for event in placement.triggers
            if event != "decision_requested"
        ),
        rewards_of=_index(
            (event, name) for name, reward in policy.rewards.items() for event in reward.events
        ),
        contents=contents,
        capping=Capping(
            per_content=any(cap.per == "content" for cap in caps),
            per_tag=any(cap.per == "tag" for cap in caps),
            longest_ms=max((cap.within for cap in caps), default=0),
        ),
        hashes=hashes,
    )


def _index(pairs: Iterable[tuple[str, V]]) -> dict[str, tuple[V, ...]]:
    found: dict[str, tuple[V, ...]] = {}
    for key, value in pairs:
        found[key] = (*found.get(key, ()), value)
    return found


def segment_order(policy: Policy) -> list[str]:
    """Segment names so that each comes after those its condition mentions.

    Raises ValueError for a cycle, naming it.
    """
    order: list[str] = []
    entered: list[str] = []

    def visit(name: str) -> None:
        if name in order:
            return
        if name in entered:
            raise ValueError(f"segments depend on each other: {' -> '.join([*entered, name])}")
        entered.append(name)
        for needed in mentioned_segments(policy.segments[name].when):
            visit(needed)
        entered.pop()
        order.append(name)

    for name in policy.segments:
        visit(name)
    return order


def _segment(name: str, condition: Condition, compiler: Compiler) -> CompiledSegment:
    parts = list(_leaves(condition))
    asked = [compiler.signal_of(part) for part in parts]
    return CompiledSegment(
        name,
        compiler.compile(condition),
        frozenset(event for signal in asked if signal for event in signal.events),
        frozenset(mentioned_segments(condition)),
        any(isinstance(part, AttributeIs) for part in parts),
    )


def _leaves(condition: Condition) -> Iterator[Condition]:
    match condition:
        case AllOf():
            yield from chain.from_iterable(map(_leaves, condition.all))
        case AnyOf():
            yield from chain.from_iterable(map(_leaves, condition.any))
        case NotOf():
            yield from _leaves(condition.not_)
        case _:
            yield condition


def mentioned_segments(condition: Condition) -> list[str]:
    """The segments that a condition asks about, in order of mention."""
    return [part.segment for part in _leaves(condition) if isinstance(part, InSegment)]


def _contents(catalogue: Iterable[Content], compiler: Compiler) -> Contents:
    listed = sorted(catalogue, key=lambda content: content.content_id)
    count = len(listed)
    bound: dict[str, tuple[Evaluate, Flags]] = {}
    tagged: dict[str, Flags] = {}
    for i, content in enumerate(listed):
        if content.eligibility is not None:
            key = content.eligibility.model_dump_json()
            if key not in bound:
                bound[key] = (compiler.compile(content.eligibility), np.zeros(count, np.bool_))
            bound[key][1][i] = True
        for tag in content.tags:
            tagged.setdefault(tag, np.zeros(count, np.bool_))[i] = True
    return Contents(
        ids=tuple(c.content_id for c in listed),
        by_id={c.content_id: c for c in listed},
        index={c.content_id: i for i, c in enumerate(listed)},
        valid_from=np.array(
            [to_millis(c.valid_from) if c.valid_from else -_ALWAYS for c in listed], np.int64
        ),
        valid_until=np.array(
            [to_millis(c.valid_until) if c.valid_until else _ALWAYS for c in listed], np.int64
        ),
        in_stock=np.array([c.stock is None or c.stock > 0 for c in listed], np.bool_),
        conditions=tuple(bound.values()),
        caps={c.content_id: c.caps for c in listed if c.caps},
        tagged=tagged,
    )


def _placement(
    name: str,
    placement: Placement,
    policy: Policy,
    contents: Contents,
    compiler: Compiler,
    declared: dict[str, CompiledSignal],
    hashes: Hashes,
) -> CompiledPlacement:
    in_pool = np.array(
        [qualifies(contents.by_id[c], name, placement) for c in contents.ids], np.bool_
    )
    rewards = tuple(policy.rewards[kind] for kind in placement.rewards)
    values = np.array(
        [
            [
                reward.value * (_margin(contents.by_id[c]) if reward.times == "margin" else 1.0)
                for c in contents.ids
            ]
            for reward in rewards
        ],
        np.float64,
    ).reshape(len(rewards), len(contents.ids))
    cells, real = content_cells(
        [
            content_features(
                contents.by_id[c], policy.sensitive, attributes=placement.features.content
            )
            for c in contents.ids
        ],
        hashes,
    )
    first = [contents.index[c] for c in placement.fallback.contents if c in contents.index]
    by_priority = sorted(
        (int(i) for i in np.flatnonzero(in_pool)),
        key=lambda i: (-contents.by_id[contents.ids[i]].priority, contents.ids[i]),
    )
    return CompiledPlacement(
        name=name,
        policy=placement,
        heads=placement.rewards,
        rewards=rewards,
        values=values,
        cells=cells,
        real=real,
        pool=np.flatnonzero(in_pool),
        in_pool=in_pool,
        order=tuple(dict.fromkeys([*first, *by_priority])),
        eligible=compiler.compile(placement.eligibility) if placement.eligibility else None,
        features=ProfileFeatures(
            placement.features,
            level=placement.level,
            signals=declared,
            segments=frozenset(policy.segments),
            sensitive=policy.sensitive,
            hashes=hashes,
        ),
        attribution_ms=max((reward.within for reward in rewards), default=0),
    )


def _margin(content: Content) -> float:
    return 1.0 if content.margin is None else content.margin
