"""What does a policy and a catalogue ask for, made ready to run?

Everything that depends only on the two is worked out here once: signals by event type, segments in
the order they need each other, and per placement the pool of contents as arrays. A `Plan` is
immutable; another policy or catalogue is another plan, adopted between batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from operators.adaptive import Following, followings
from operators.affinity import DecayedAffinity
from operators.aggregate_asked import asked_of_everybody
from operators.audience import compared
from operators.conditions import Compiler
from operators.contents import Contents, compile_contents
from operators.experiments import Assigned, Tests, compile_tests
from operators.features import Hashes
from operators.filters import Matches, compile_filter
from operators.ids import hash32
from operators.placement_plan import CompiledPlacement, PlacementCompiler
from operators.predict import CompiledPrediction, compile_predictions
from operators.profile import Pending
from operators.prompts import Prompts
from operators.reason_texts import Texts
from operators.rules import compile_rules
from operators.segments import CompiledSegment, SegmentIndex, compile_segments, index_segments
from operators.signals import CompiledSignal, compile_signals
from schemas.catalogue import Content
from schemas.experiments import Changes, changed
from schemas.identity import Suggest
from schemas.placements import Placement
from schemas.policy import Policy
from schemas.reads import reads

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Capping:
    """What must be counted of impressions for the caps of all placements.

    All read the same impressions, and a short window of one must not drop what a longer one of
    another still counts: `longest_ms` is the longest, `most` the largest number that any asks for.
    `placements` and `channels` are those whose slates are counted as a whole.
    """

    per_content: bool
    per_tag: bool
    placements: frozenset[str]
    channels: frozenset[str]
    longest_ms: int
    most: int


@dataclass(frozen=True)
class Plan:
    """A policy and a catalogue, compiled.

    `signals_of` and `segments_of` say what an event's name touches, `any_signals` what every
    behavioural event does; `mark` changes with the policy, so that a profile last evaluated under
    another one is evaluated anew. `slots` are where the signals of this policy keep their state,
    `tastes` those that tell what a person likes. `models` are the placements by the learner they
    teach, those of variants that learn by themselves included; `arms` what variants make of
    placements, compiled when first needed. `on_change` maps (direction, segment) to the placements
    that it triggers, `pages` a page to its placements. `in_force` holds the thresholds that follow
    feedback, by segment: the one thing here that changes, between activations. `timed_last` says
    whether it matters when a placement was last decided on, `aggregated` whether anything is asked
    about all profiles together.
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

    placements: dict[str, CompiledPlacement]
    models: dict[str, CompiledPlacement]
    arms: dict[str, CompiledPlacement]
    compiler: PlacementCompiler
    prompts: Prompts
    texts: Texts
    tests: Tests | None
    triggered_by: dict[str, tuple[str, ...]]
    on_change: dict[tuple[str, str], tuple[str, ...]]
    pages: dict[str, tuple[str, ...]]
    rewards_of: dict[str, tuple[str, ...]]
    reward_filters: dict[str, Matches | None]
    profile_groups: tuple[tuple[str, str], ...]
    contents: Contents
    capping: Capping
    hashes: Hashes
    timed_last: bool
    monitored: bool
    aggregated: bool

    @property
    def suggest(self) -> Suggest | None:
        """What duplicates are looked for by; None: they are not."""
        return None if self.policy.identity is None else self.policy.identity.suggest

    @property
    def placement_names(self) -> frozenset[str]:
        """The placements a request may name."""
        return frozenset(self.placements)

    def teaches(self, pending: Pending) -> CompiledPlacement | None:
        """The placement whose learner a decision teaches; None where the policy has it no more."""
        return self.models.get(pending.model) or self.placements.get(pending.placement)

    def exposed(self, exposures: Iterable[Mapping[str, Any]]) -> list[Assigned]:
        """The variants that a record names, as far as the policy still has them."""
        found = []
        for told in exposures:
            test = self.policy.experiments.tests.get(told["test"])
            variant = None if test is None else test.variants.get(told["variant"])
            if variant is not None:
                names = told["test"], told["layer"], told["variant"]
                found.append(Assigned(*names, told["share"], variant.changes))
        return found

    def arm(self, name: str, assigned: Sequence[Assigned]) -> CompiledPlacement:
        """What the variants of tests make of a placement."""
        if not assigned:
            return self.placements[name]
        key = "|".join([name, *(f"{one.test}={one.variant}" for one in assigned)])
        known = self.arms.get(key)
        if known is None:
            known = self.arms[key] = _arm(self.compiler, self.policy, name, key, assigned)
        return known


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
    contents = compile_contents(catalogue, compiler)
    rules = compile_rules(policy, contents, compiler)
    placing = PlacementCompiler(policy, contents, compiler, declared, hashes, rules)
    placements = {
        name: placing.compile(name, placement, key=name, model=name)
        for name, placement in policy.placements.items()
    }
    tests = compile_tests(policy, compiler) if policy.experiments.tests else None
    signals = tuple(compiler.signals.values())
    fed = [signal for signal in signals if signal.slot in signal.needs]  # a ratio is not
    consent = policy.consent
    uses = {consent.collect, consent.personalise, consent.learn}
    caps = [
        cap
        for placement in policy.placements.values()
        for cap in placement.caps
        if cap.over == "profile"
    ]
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
        purposes=tuple(sorted({*filter(None, uses), *consent.purposes})),
        attributes=_attributes_asked(policy, contents.by_id.values()),
        by_name=declared,
        compared=tuple(declared[name] for name in _compared(policy)),
        followings=followings(policy),
        in_force=in_force,
        placements=placements,
        models=_models(policy, placing, placements),
        arms={},
        compiler=placing,
        prompts=Prompts(contents),
        texts=Texts(policy.reasons),
        tests=tests,
        triggered_by=_index(
            (event, name)
            for name, placement in policy.placements.items()
            for event in placement.triggers
            if event != "decision_requested"
        ),
        on_change=_index(
            ((direction, segment), name)
            for name, placement in policy.placements.items()
            for direction, segments in (
                ("entered", placement.entering),
                ("left", placement.leaving),
            )
            for segment in segments
        ),
        pages=_index(
            (placement.page, name)
            for name, placement in policy.placements.items()
            if placement.page is not None
        ),
        rewards_of=_index(
            (event, name) for name, reward in policy.rewards.items() for event in reward.events
        ),
        reward_filters={name: compile_filter(r.where) for name, r in policy.rewards.items()},
        profile_groups=tuple(
            (name, group.attribute)
            for name, group in (policy.monitoring.groups if policy.monitoring else {}).items()
            if group.of == "profile"
        ),
        contents=contents,
        capping=Capping(
            per_content=any(cap.per == "content" for cap in caps),
            per_tag=any(cap.per == "tag" for cap in caps),
            placements=frozenset(
                name
                for name, placement in policy.placements.items()
                if any(cap.per == "placement" for cap in placement.caps)
            ),
            channels=frozenset(
                placement.channel
                for placement in policy.placements.values()
                if placement.channel and any(cap.per == "channel" for cap in placement.caps)
            ),
            longest_ms=max((cap.within for cap in caps), default=0),
            most=max((cap.max for cap in caps), default=0),
        ),
        hashes=hashes,
        timed_last=_timed_last(policy),
        monitored=policy.monitoring is not None,
        aggregated=asked_of_everybody(policy),
    )


def _arm(
    placing: PlacementCompiler,
    policy: Policy,
    name: str,
    key: str,
    assigned: Sequence[Assigned],
) -> CompiledPlacement:
    """A placement with the changes of variants in place, in the order of the tests."""
    placement, model = policy.placements[name], name
    rules: set[str] | None = None
    for one in assigned:
        placement = _with(placement, one.changes)
        if one.changes.own_model:
            model = f"{name}.{one.test}.{one.variant}"
        if one.changes.rules is not None:
            rules = set(one.changes.rules) if rules is None else rules & set(one.changes.rules)
    return placing.compile(name, placement, key=key, model=model, rules=rules)


def _models(
    policy: Policy, placing: PlacementCompiler, placements: Mapping[str, CompiledPlacement]
) -> dict[str, CompiledPlacement]:
    """The placements that learn, by model: each one's own, and those of variants."""
    found = dict(placements)
    for test_name, test in policy.experiments.tests.items():
        for variant_name, variant in test.variants.items():
            for name in test.placements or policy.placements if variant.changes.own_model else ():
                if policy.placements[name].never_personalised:
                    continue  # which is in no test
                model = f"{name}.{test_name}.{variant_name}"
                placement = _with(policy.placements[name], variant.changes)
                found[model] = placing.compile(name, placement, key=model, model=model)
    return {model: placement for model, placement in found.items() if placement.heads}


def _timed_last(policy: Policy) -> bool:
    arms = [v for test in policy.experiments.tests.values() for v in test.variants.values()]
    return any(p.page or p.coherence for p in policy.placements.values()) or any(
        variant.changes.coherence for variant in arms
    )


def _with(placement: Placement, changes: Changes) -> Placement:
    return placement.model_copy(update=changed({}, changes))


def _index(pairs: Iterable[tuple[K, V]]) -> dict[K, tuple[V, ...]]:
    found: dict[K, tuple[V, ...]] = {}
    for key, value in pairs:
        found[key] = (*found.get(key, ()), value)
    return found


def _compared(policy: Policy) -> tuple[str, ...]:
    return () if policy.audiences is None else compared(policy, policy.audiences.signals)


def _attributes_asked(policy: Policy, catalogue: Iterable[Content]) -> frozenset[str]:
    """The profile attributes that policy and catalogue use: they are kept before all others."""
    asked = reads(policy.model_dump(mode="json", by_alias=True), {}).attributes
    asked |= {"timezone", "language"}
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
