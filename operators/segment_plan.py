"""In which order are segments evaluated, and which of them does an event touch?

Segments and intents compile to the same thing: an intent is an internal segment of its own, which
holds where its condition does and no earlier intent's. Each comes after those it asks about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from operators.conditions import INTENT, Compiler, leaves, segment_asked
from operators.explain import Moving, Rule, explained
from operators.ids import hash32
from operators.verdicts import Evaluate
from schemas.conditions import (
    AllOf,
    AnyOf,
    AttributeIs,
    Condition,
    HasIntent,
    LocalTimeIs,
    NotOf,
    PredictionIs,
    SignalIs,
    WeekdayIs,
)
from schemas.policy import Policy, Segment

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class CompiledSegment:
    """A segment ready to run, and what can change it besides time.

    `events` names the events that feed its signals (`any_event`: whatever they are), `segments`
    those it asks about. Spans are milliseconds: entered once the condition has held for `for_ms`,
    not left for `stay_ms`, left at an age of `leave_ms` (None: not). `waits` is the key of what is
    noted in a profile meanwhile; it changes with the definition. `timed`: there is such a span.
    """

    name: str
    rule: Rule
    evaluate: Evaluate
    events: frozenset[str]
    any_event: bool
    segments: frozenset[str]
    of_attributes: bool
    of_predictions: bool
    for_ms: int
    stay_ms: int
    leave_ms: int | None
    waits: str
    timed: bool


@dataclass(frozen=True, slots=True)
class SegmentIndex:
    """Positions of segments by what touches them.

    `of_event` by event name, `at_every_event` those that any event may change, `of_attributes`
    those that ask about attributes, `dependents` by the name of a segment that they ask about.
    """

    of_event: dict[str, tuple[int, ...]]
    at_every_event: tuple[int, ...]
    of_attributes: tuple[int, ...]
    dependents: dict[str, tuple[int, ...]]
    names: frozenset[str]
    waits: frozenset[str]


Threshold = Callable[[str], float | None]
"""Where the followed bound of a segment lies now, by the segment's name; None: as declared."""


def compile_segments(
    policy: Policy, compiler: Compiler, threshold: Threshold | None = None
) -> tuple[CompiledSegment, ...]:
    """The segments and intents of a policy, each after those it asks about.

    `threshold` is asked whenever a segment with `follow` is evaluated. Raises KeyError for a signal
    that is not declared, ValueError for a cycle.
    """
    declared = declarations(policy)
    return tuple(
        [_compiled(name, declared[name], compiler, threshold) for name in segment_order(policy)]
    )


def index_segments(segments: Iterable[CompiledSegment]) -> SegmentIndex:
    """What touches which of the segments."""
    listed = list(enumerate(segments))
    return SegmentIndex(
        of_event=_index((event, i) for i, segment in listed for event in sorted(segment.events)),
        at_every_event=tuple([i for i, s in listed if s.any_event or s.of_predictions]),
        of_attributes=tuple([i for i, segment in listed if segment.of_attributes]),
        dependents=_index((name, i) for i, segment in listed for name in sorted(segment.segments)),
        names=frozenset([segment.name for _, segment in listed]),
        waits=frozenset([segment.waits for _, segment in listed if segment.timed]),
    )


def _index(pairs: Iterable[tuple[K, int]]) -> dict[K, tuple[int, ...]]:
    found: dict[K, list[int]] = {}
    for key, position in pairs:
        found.setdefault(key, []).append(position)
    return {key: tuple(positions) for key, positions in found.items()}


def declarations(policy: Policy) -> dict[str, Segment]:
    """Every segment by name, in the order of declaration; the intents' come last."""
    declared = dict(policy.segments)
    earlier: list[Condition] = []
    for intent, condition in policy.intents.items():
        when = AllOf(all=(condition, *earlier)) if earlier else condition
        declared[INTENT + intent] = Segment(when=when)
        earlier.append(NotOf.model_validate({"not": HasIntent(intent=intent)}))
    return declared


def segment_order(policy: Policy) -> list[str]:
    """Segment names so that each comes after those its condition mentions.

    Raises ValueError for a cycle, naming it.
    """
    declared = declarations(policy)
    # A dict keeps the order of insertion, and finds a name at once.
    order: dict[str, None] = {}
    route: dict[str, None] = {}

    def visit(name: str) -> None:
        if name in order:
            return
        if name in route:
            raise ValueError(f"segments depend on each other: {' -> '.join([*route, name])}")
        route[name] = None
        for needed in mentioned_segments(declared[name].when):
            visit(needed)
        del route[name]
        order[name] = None

    for name in declared:
        visit(name)
    return list(order)


def mentioned_segments(condition: Condition) -> list[str]:
    """The segments that a condition asks about, intents' included, in order of mention."""
    asked = map(segment_asked, leaves(condition))
    return [name for name in asked if name is not None]


def _compiled(
    name: str, segment: Segment, compiler: Compiler, threshold: Threshold | None
) -> CompiledSegment:
    rule = explained(segment.when, compiler, _moving(name, segment, threshold))
    parts = list(leaves(segment.when))
    asked = [signal for part in parts if (signal := compiler.signal_of(part)) is not None]
    # A slot is a hash of its signal's definition: another definition is another wait.
    definition = segment.when.model_dump_json(exclude_defaults=True)
    slots = ",".join([str(signal.slot) for signal in asked])
    return CompiledSegment(
        name=name,
        rule=rule,
        evaluate=rule.evaluate,
        events=frozenset([event for signal in asked for event in signal.events]),
        any_event=any(not signal.events for signal in asked),
        segments=frozenset(mentioned_segments(segment.when)),
        of_attributes=any(map(_of_attributes, parts)),
        of_predictions=any(isinstance(part, PredictionIs) for part in parts),
        for_ms=segment.for_at_least or 0,
        stay_ms=segment.stay_at_least or 0,
        leave_ms=segment.leave_after,
        waits=f"{name}:{hash32(f'{definition}|{slots}'):08x}",
        timed=bool(segment.for_at_least or segment.stay_at_least or segment.leave_after),
    )


def _moving(name: str, segment: Segment, threshold: Threshold | None) -> Moving | None:
    """The leaf whose bound follows feedback: one outside any `not`, which would turn it round."""
    follow = segment.follow
    if follow is None or threshold is None:
        return None
    for leaf in _affirmed(segment.when):
        if (
            isinstance(leaf, SignalIs)
            and leaf.signal == follow.signal
            and leaf.key is None
            and getattr(leaf, follow.bound) is not None
        ):
            return Moving(leaf, follow.bound, lambda: threshold(name))
    return None


def _affirmed(condition: Condition) -> Iterator[Condition]:
    match condition:
        case AllOf():
            for part in condition.all:
                yield from _affirmed(part)
        case AnyOf():
            for part in condition.any:
                yield from _affirmed(part)
        case NotOf():
            return
        case _:
            yield condition


def _of_attributes(part: Condition) -> bool:
    if isinstance(part, (LocalTimeIs, WeekdayIs)):
        return part.zone is None  # the profile's own, then: an attribute
    return isinstance(part, AttributeIs)
