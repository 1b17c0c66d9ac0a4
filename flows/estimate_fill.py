"""What does a profile hold under a policy: a typical one, and the largest that there can be?

The policy's own compiled signals are fed made-up events, and the rest of the profile is filled to
what its bounds allow, so that the bytes are those of the real encoding. Typical: 20 events spread
over each signal's window, texts of 12 characters (or those of the catalogue, where a field is
read from it), half of the segments, one open decision. Largest: everything saturated, texts as
long as they may be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, islice
from typing import Any, Final

import numpy as np

from operators.affinity import DecayedAffinity
from operators.arrival import Arrived
from operators.consent import MOST_PURPOSES
from operators.controls import MOST_HIDDEN
from operators.distinct import DistinctValues
from operators.filters import content_reader, values_of
from operators.fixed_dates import BetweenDates
from operators.golden_record import MOST_ATTRIBUTES, MOST_CHARACTERS, MOST_SOURCES
from operators.kinds import Kind, State
from operators.levels import MOST_KEPT
from operators.occurrences import FieldThen, TimeSince
from operators.penalties import MOST_KEYS, MOST_TIMES
from operators.placement_plan import CompiledPlacement
from operators.plan import Plan
from operators.predict_state import Case
from operators.profile import Pending, PendingItem, Profile
from operators.prompts import MOST_PROMPTS
from operators.prompts import MOST_TIMES as MOST_ASKED
from operators.rfm import Rfm
from operators.sequences import FollowedBy, StepOf
from operators.sessions import Sessions
from operators.signals import CompiledSignal
from operators.streaks import Streak
from operators.windows import AmountWindow, CountWindow
from schemas.catalogue import Content
from schemas.predictions import MAX_CASES
from schemas.time import DAY, HOUR

NOW_MS: Final = 1_767_225_600_000
"""2026-01-01: any instant will do, and the same one gives the same figures."""

_TYPICAL: Final = 20
_SATURATED: Final = 2_000
_LONGEST: Final = 128
"""Characters at which a signal's texts are cut."""
_IDENTIFIER: Final = 256
_CAPPED: Final = 128
_NAME: Final = 64
_DECISION: Final = "0" * 28
_FED: Final = ("first", "second")


def fed(signal: CompiledSignal, plan: Plan, *, largest: bool) -> State | None:
    """The state of a signal after made-up events; None where it keeps none."""
    declared = plan.policy.signals.get(signal.name)
    path = getattr(declared, "of", None)
    texts = _texts(path if isinstance(path, str) else None, plan, largest=largest)
    kind = _over(signal.kind, texts, largest=largest)
    if kind is None:
        return None
    state: State | None = None
    times = _saturating(kind) if largest else _spread(kind, _TYPICAL)
    for number, at in enumerate(times):
        state = kind.add(state, _event(number, at), None)
    return state


def _event(number: int, at_ms: int) -> Arrived:
    """The n-th event at an instant: its `content_id` tells the made-up readers which one it is."""
    blank: dict[str, Any] = dict.fromkeys(Arrived._fields)
    blank |= {"type": _FED[number % 2], "occurred_ms": at_ms, "content_id": str(number)}
    return Arrived(**blank)


def _texts(path: str | None, plan: Plan, *, largest: bool) -> Callable[[int], tuple[str, ...]]:
    """The texts that the n-th event has in a field: the catalogue's where they come from it."""
    contents = plan.contents.by_id.values()
    read = (lambda content: content.content_id) if path == "content_id" else None
    read = content_reader(path) if path is not None and read is None else read
    known = [texts for content in contents if read and (texts := values_of(read(content)))]
    if known and not largest:
        return lambda number: known[number * len(known) // _TYPICAL % len(known)]
    if known and path != "content_id":
        longest = sorted({text for texts in known for text in texts}, key=lambda t: (-len(t), t))
        return lambda number: (longest[number % len(longest)],)
    # An open vocabulary: whatever the events say.
    width = _LONGEST if largest else 12
    return lambda number: (f"{number}".rjust(width, "v"),)


def _over(kind: Kind, texts: Callable[[int], tuple[str, ...]], *, largest: bool) -> Kind | None:
    """The kind, reading made-up fields instead of those that its events have."""
    amount = 10**18 if largest else 19_990_000

    def read(event: Arrived, _content: Content | None) -> tuple[str, ...]:
        return texts(int(event.content_id or 0))

    match kind:
        case AmountWindow():
            return replace(kind, amount=lambda _event, _content: amount)
        case Rfm():
            return replace(
                kind, window=replace(kind.window, amount=lambda _event, _content: amount)
            )
        case DistinctValues() | Sessions():
            return replace(kind, texts=read)
        case FieldThen():
            return replace(kind, field=lambda event, content: read(event, content)[0])
        case DecayedAffinity():
            return replace(kind, read=read, weights=dict.fromkeys(_FED, 1.1))
        case FollowedBy():
            first, second = (StepOf(frozenset({name}), None) for name in _FED)
            return replace(kind, first=first, second=second)
        case CountWindow() | TimeSince() | Streak() | BetweenDates():
            return kind
        case _:
            return None  # a ratio reads the states of two others


def _spread(kind: Kind, number: int) -> list[int]:
    """So many instants over what the signal looks back on, ascending to now."""
    match kind:
        case Streak():
            return [NOW_MS - turn * kind.days * DAY for turn in reversed(range(number))]
        case Sessions():
            # Visits of a few events each, well apart.
            within = kind.within if kind.measure == "sessions" else number * 2 * kind.gap
            span, each = max(1, within * 4 // number), max(1, kind.gap // 8)
            begins = [NOW_MS - turn * span for turn in range(number // 4)]
            return sorted(begin - step * each for begin in begins for step in range(4))
        case Rfm():
            span = kind.window.within
        case BetweenDates():
            end = min(NOW_MS, kind.end or NOW_MS)
            begin = kind.begin if kind.begin < end else end - DAY
            return [begin + (end - 1 - begin) * turn // number for turn in range(number)]
        case CountWindow() | AmountWindow() | DistinctValues() | FollowedBy():
            span = kind.within
        case DecayedAffinity():
            span = kind.half_life
        case _:
            span = DAY
    return [NOW_MS - span * turn // number for turn in reversed(range(number))]


def _saturating(kind: Kind) -> list[int]:
    match kind:
        case Streak():
            return [NOW_MS - turn * 2 * kind.days * DAY for turn in reversed(range(40))]
        case Sessions():
            step = max(1, kind.gap // 100)
            return [
                NOW_MS - visit * (kind.gap + 90 * step) - event * step
                for visit in reversed(range(40))
                for event in reversed(range(90))
            ]
        case _:
            return _spread(kind, _SATURATED)


def whole_profile(plan: Plan, *, largest: bool) -> Profile:
    """A profile that holds all that the policy makes it hold."""
    profile = Profile("p" * (_IDENTIFIER if largest else 36), NOW_MS, NOW_MS, NOW_MS, plan.mark)
    for signal in plan.signals:
        state = fed(signal, plan, largest=largest)
        if state is not None:
            profile.signals[signal.slot] = state
    for position, segment in enumerate(plan.segments):
        if largest or position % 2 == 0:
            profile.segments[segment.name] = NOW_MS
            profile.deadlines[position] = NOW_MS
        if largest and segment.timed:
            profile.holding[segment.waits] = NOW_MS
    _fill_attributes(profile, plan, largest=largest)
    _fill_statements(profile, plan, largest=largest)
    _fill_caps(profile, plan, largest=largest)
    _fill_decisions(profile, plan, largest=largest)
    _fill_cases(profile, plan, largest=largest)
    return profile


def _fill_attributes(profile: Profile, plan: Plan, *, largest: bool) -> None:
    asked = sorted(plan.attributes)
    names, length = asked, 12
    if largest:
        others = (f"{n}".rjust(20, "a") for n in range(MOST_ATTRIBUTES))
        names, length = [*asked, *others][:MOST_ATTRIBUTES], MOST_CHARACTERS
    profile.attributes = dict.fromkeys(names, "v" * length)
    source = "s" * (_NAME if largest else 3)
    profile.provenance = dict.fromkeys(names, (source, NOW_MS))
    identity = plan.policy.identity
    if identity is not None and identity.attributes is not None:
        sources = [source, *(f"{n}".rjust(len(source), "s") for n in range(MOST_SOURCES - 1))]
        stated = dict.fromkeys(names, ("v" * length, NOW_MS))
        profile.records = {name: dict(stated) for name in sources[: None if largest else 2]}


def _fill_statements(profile: Profile, plan: Plan, *, largest: bool) -> None:
    purposes = list(plan.purposes)
    if largest:
        others = (f"{n}".rjust(_NAME, "p") for n in range(MOST_PURPOSES))
        purposes = [*purposes, *others][:MOST_PURPOSES]
        profile.gpc_ms = NOW_MS
        # Clients may hide what the catalogue does not have, but its ids tell how long ids are.
        names = [*plan.contents.ids, *plan.contents.tagged]
        width = max(12, *map(len, names)) if names else 12
        profile.hidden = {f"c:{n:0{width}}": NOW_MS for n in range(MOST_HIDDEN)}
        times = [NOW_MS] * (1 + MOST_TIMES)
        profile.less = {f"c:{n:0{width}}": times for n in range(MOST_KEYS)}
        profile.preferences = {f"level.{n:0{_NAME}}": (1, NOW_MS) for n in range(MOST_KEPT)}
        prompts = [name for names in plan.contents.asks.values() for name in np.flatnonzero(names)]
        asked = [plan.contents.ids[int(at)] for at in prompts][:MOST_PROMPTS]
        profile.prompted = {name: [NOW_MS] * MOST_ASKED for name in asked}
    profile.consent = dict.fromkeys(purposes, (True, NOW_MS, 0))


def _fill_caps(profile: Profile, plan: Plan, *, largest: bool) -> None:
    capping = plan.capping
    own = [cap for caps in plan.contents.caps.values() for cap in caps]
    most = max([capping.most, *(cap.max for cap in own)])
    keys = [f"c:{name}" for name in plan.contents.ids] if capping.per_content else []
    keys += [f"c:{name}" for name in plan.contents.caps] if own else []
    keys += [f"t:{tag}" for tag in plan.contents.tagged] if capping.per_tag else []
    keys += [f"p:{name}" for name in capping.placements]
    keys += [f"n:{name}" for name in capping.channels]
    counted = sorted(set(keys), key=lambda key: (-len(key) if largest else 0, key))
    for key in counted[: _CAPPED if largest else 8]:
        profile.shown[key] = [NOW_MS] * (most if largest else min(most, 2))


def _fill_decisions(profile: Profile, plan: Plan, *, largest: bool) -> None:
    made = {name: _pending(profile, plan, name, largest=largest) for name in plan.placements}
    for name, pending in made.items():
        profile.last[name] = (_DECISION, [item.content_id for item in pending.items])
        if plan.timed_last:
            profile.last_ms[name] = NOW_MS
        coherence = plan.placements[name].policy.coherence
        if coherence is not None:
            profile.turned[name] = [NOW_MS] * (coherence.changes + 1)
    open_ = plan.policy.retention.pending if largest else 1
    # The one with most items is what fills a profile.
    widest = max(made.values(), key=lambda p: (len(p.items), len(p.features)))
    profile.pending = [widest] * open_


def _pending(profile: Profile, plan: Plan, name: str, *, largest: bool) -> Pending:
    placement = plan.placements[name]
    from_request = placement.policy.candidates.source == "request"
    ids = [plan.contents.ids[at] for at in placement.pool] or ["c" * 12]
    if largest:
        ids.sort(key=lambda content_id: (-len(content_id), content_id))
    slots = placement.policy.slots if from_request else min(placement.policy.slots, len(ids))
    rewards = dict.fromkeys(placement.heads, 1.0) if largest else {}
    tests = plan.policy.experiments.tests
    return Pending(
        _DECISION,
        name,
        NOW_MS,
        NOW_MS + HOUR,
        True,
        "holdout" if plan.policy.experiments.holdout else None,
        0.1,
        _cells(profile, placement),
        [
            PendingItem(content_id, rank, 0.1, NOW_MS, dict(rewards), True, 0.1, 1)
            for rank, content_id in enumerate(islice(cycle(ids), slots), start=1)
        ],
        model=placement.model,
        tests={test: next(iter(of.variants)) for test, of in tests.items()},
        groups={group: "x" * 64 for group, _ in plan.profile_groups},
    )


def _cells(profile: Profile, placement: CompiledPlacement) -> bytes:
    context = dict.fromkeys(placement.policy.features.context, "x")
    cells = placement.features.cells(profile, NOW_MS, context)
    predicted = len(placement.policy.features.predictions)
    return np.zeros(len(cells) + predicted, "<u4").tobytes()


def _fill_cases(profile: Profile, plan: Plan, *, largest: bool) -> None:
    for prediction in plan.predictions:
        profile.sampled[prediction.name] = NOW_MS
        most = 0
        if prediction.horizon_ms:
            most = min(MAX_CASES, -(-prediction.horizon_ms // prediction.every_ms))
        cells = prediction.features.cells(profile, NOW_MS, {})
        features = np.zeros(len(cells), "<u4").tobytes()
        case = Case(prediction.name, NOW_MS, NOW_MS, features, 0.1, 0.1, prediction.mark)
        idle = Case(prediction.name, NOW_MS, NOW_MS, b"", mark=prediction.mark)
        profile.cases += [*[case] * (most if largest else -(-most // 2)), idle]
