"""What does a policy and a catalogue ask for, made ready to run?

Everything that depends only on the two is worked out here once: signals by event type, segments in
the order they need each other, and per placement the pool of contents as arrays. A `Plan` is
immutable; another policy or catalogue is another plan, adopted between batches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from operators.adaptive import Following, followings
from operators.affinity import DecayedAffinity
from operators.audience import compared
from operators.conditions import INTENT, Compiler
from operators.features import (
    Cells,
    Hashes,
    ProfileFeatures,
    content_cells,
    content_features,
)
from operators.ids import hash32
from operators.predict import CompiledPrediction, compile_predictions
from operators.score import Indices, Scores
from operators.segments import CompiledSegment, SegmentIndex, compile_segments, index_segments
from operators.signals import CompiledSignal, compile_signals
from operators.verdicts import Evaluate
from schemas.catalogue import Cap, Content
from schemas.check_catalogue import qualifies
from schemas.identity import Suggest
from schemas.policy import Placement, Policy, Reward
from schemas.reads import reads
from schemas.time import to_millis

Flags = npt.NDArray[np.bool_]
_ALWAYS = 1 << 62
V = TypeVar("V")


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
    another still counts: `longest_ms` is the longest, `most` the largest number that any asks for.
    """

    per_content: bool
    per_tag: bool
    longest_ms: int
    most: int


@dataclass(frozen=True)
class Plan:
    """A policy and a catalogue, compiled.

    `signals_of` and `segments_of` say what an event's name touches, `any_signals` what every
    behavioural event does; `mark` changes with the policy, so that a profile last evaluated under
    another one is evaluated anew. `slots` are where the signals of this policy keep their state,
    `tastes` those that tell what a person likes. `in_force` holds the thresholds that follow
    feedback, by segment: the one thing here that changes, between activations.
    """

    policy: Policy
    policy_digest: str
    catalogue_version: str
    mark: int
    signals: tuple[CompiledSignal, ...]
    signals_of: dict[str, tuple[CompiledSignal, ...]]
    any_signals: tuple[CompiledSignal, ...]
    slots: frozenset[int]
    tastes: tuple[CompiledSignal, ...]
    segments: tuple[CompiledSegment, ...]
    segments_of: SegmentIndex
    predictions: tuple[CompiledPrediction, ...]
    purposes: tuple[str, ...]
    attributes: frozenset[str]
    by_name: dict[str, CompiledSignal]
    compared: tuple[CompiledSignal, ...]
    followings: tuple[Following, ...]
    in_force: dict[str, float]

    @property
    def suggest(self) -> Suggest | None:
        """What duplicates are looked for by; None: they are not."""
        return None if self.policy.identity is None else self.policy.identity.suggest

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
    declared = compile_signals(policy.signals, sensitive_tags=policy.sensitive.tags)
    compiler = Compiler(declared, {name: p.refresh for name, p in policy.predictions.items()})
    in_force: dict[str, float] = {}
    segments = compile_segments(policy, compiler, in_force.get)
    contents = _contents(catalogue, compiler)
    placements = {
        name: _placement(name, placement, policy, contents, compiler, declared, hashes)
        for name, placement in policy.placements.items()
    }
    signals = tuple(compiler.signals.values())
    fed = [signal for signal in signals if signal.slot in signal.needs]  # a ratio is not
    consent = policy.consent
    purposes = {consent.collect, consent.personalise, consent.learn} - {None}
    caps = [cap for placement in policy.placements.values() for cap in placement.caps]
    return Plan(
        policy=policy,
        policy_digest=policy_digest,
        catalogue_version=catalogue_version,
        mark=hash32(policy_digest),
        signals=signals,
        signals_of=_index((event, signal) for signal in fed for event in signal.events),
        any_signals=tuple(signal for signal in fed if not signal.events),
        slots=frozenset(signal.slot for signal in fed),
        tastes=tuple(s for s in declared.values() if isinstance(s.kind, DecayedAffinity)),
        segments=segments,
        segments_of=index_segments(segments),
        predictions=compile_predictions(policy, declared, hashes),
        purposes=tuple(sorted(filter(None, purposes))),
        attributes=_attributes_asked(policy, contents.by_id.values()),
        by_name=declared,
        compared=tuple(declared[name] for name in _compared(policy)),
        followings=followings(policy),
        in_force=in_force,
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
            most=max((cap.max for cap in caps), default=0),
        ),
        hashes=hashes,
    )


def _index(pairs: Iterable[tuple[str, V]]) -> dict[str, tuple[V, ...]]:
    found: dict[str, tuple[V, ...]] = {}
    for key, value in pairs:
        found[key] = (*found.get(key, ()), value)
    return found


def _compared(policy: Policy) -> tuple[str, ...]:
    return () if policy.audiences is None else compared(policy, policy.audiences.signals)


def _attributes_asked(policy: Policy, catalogue: Iterable[Content]) -> frozenset[str]:
    """The profile attributes that policy and catalogue use: they are kept before all others."""
    asked = reads(policy.model_dump(mode="json", by_alias=True), {}).attributes | {"timezone"}
    for content in catalogue:
        if content.eligibility is not None:
            plain = content.eligibility.model_dump(mode="json", by_alias=True)
            asked |= reads(plain, {}).attributes
    if policy.identity is not None and policy.identity.suggest is not None:
        suggest = policy.identity.suggest
        asked.update(filter(None, (suggest.email, suggest.phone, suggest.name)))
    for placement in policy.placements.values():
        asked.update(placement.features.attributes)
    for prediction in policy.predictions.values():
        asked.update(prediction.features.attributes)
    return frozenset(asked)


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
            segments=frozenset([*policy.segments, *(f"{INTENT}{i}" for i in policy.intents)]),
            sensitive=policy.sensitive,
            hashes=hashes,
        ),
        attribution_ms=max((reward.within for reward in rewards), default=0),
    )


def _margin(content: Content) -> float:
    return 1.0 if content.margin is None else content.margin
