"""What is kept of a profile's behaviour: signals in event time, made ready to run.

State per profile and signal: a few numbers and texts, bounded whatever happens. Adding is
commutative: within the allowed lateness, arrival order never changes a value, and what is dated
after "now" never counts. A window is exact to the millisecond while it holds at most 16 events; of
more, the older ones leave up to a 64th of the window early, never late (`operators.windows`).

Nothing here knows segments, policy files or time itself: "now" is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from zoneinfo import ZoneInfo

from operators.affinity import DecayedAffinity
from operators.arrival import Arrived
from operators.distinct import DistinctValues, Texts
from operators.filters import (
    Matches,
    Read,
    compile_filter,
    content_reader,
    number_of,
    reader,
    values_of,
)
from operators.ids import hash32
from operators.kinds import Holds, Kind, Outlook, State, Value, micros
from operators.occurrences import FieldThen, TimeSince
from operators.ratio import Quotient
from operators.rfm import Rfm
from operators.sequences import FollowedBy, StepOf
from operators.sessions import Sessions
from operators.signals_v1 import from_v1
from operators.streaks import Streak
from operators.windows import (
    GREATEST,
    LEAST,
    MEAN,
    SUM,
    AmountWindow,
    CountWindow,
    Measure,
    bucket_size,
)
from schemas import signals as declared
from schemas.catalogue import Content
from schemas.events import CONTROL_TYPES
from schemas.signals import Signal
from schemas.time import DAY

__all__ = ["CompiledSignal", "State", "Value", "compile_signal", "compile_signals"]

_NOT_BEHAVIOUR: Final = CONTROL_TYPES | {"decision_requested", "impression", "profile_updated"}
"""What "any event" leaves out: not something that a person does of their own."""

_MEASURES: Final[dict[str, Measure]] = {"sum": SUM, "mean": MEAN, "min": LEAST, "max": GREATEST}


@dataclass(frozen=True, slots=True)
class CompiledSignal:
    """A signal ready to run: where its state lives, what feeds it, how it adds and reads.

    `slot` is a hash of its name and definition: a changed definition starts a new state instead of
    mixing two meanings in one number. `slot_v1` is the slot that 0.1.0 gave it. `events` names the
    types that feed it; empty: any type of behaviour. `needs` names the slots that its value reads.
    """

    name: str
    slot: int
    events: frozenset[str]
    needs: tuple[int, ...]
    matches: Matches | None
    kind: Kind
    slot_v1: int

    def add(self, signals: dict[int, State], event: Arrived, content: Content | None) -> None:
        """Add an event of one of its types to its state, where it matches the filter."""
        if not self.events and event.type in _NOT_BEHAVIOUR:
            return
        if self.matches is not None and not self.matches(event, content):
            return
        slot = self.slot
        state = self.kind.add(signals.get(slot), event, content)
        if state is not None:
            signals[slot] = state

    def value(self, signals: Mapping[int, State], now_ms: int, key: str | None = None) -> Value:
        """The value at an instant; None: it has none. Ages and durations are milliseconds."""
        return self.kind.value(self._state(signals), now_ms, key)

    def outlook(
        self,
        signals: Mapping[int, State],
        now_ms: int,
        holds: Holds,
        key: str | None = None,
        *,
        bounds: Sequence[float] = (),
    ) -> Outlook:
        """`holds(value)` now, and the first later instant at which it differs with no new event.

        Exact. `bounds` are the numbers at which `holds` may differ; it should be given for values
        that change by the millisecond (ages, likings): left out, `holds` is taken to differ at
        most once as the value grows (an age) or fades (a liking), and the search costs more.
        """
        return self.kind.outlook(self._state(signals), now_ms, holds, key, bounds)

    def empty(self, signals: Mapping[int, State], now_ms: int) -> bool:
        """Whether not one event counts at that instant: nothing in the window."""
        return self.kind.empty(self._state(signals), now_ms)

    def upgrade_v1(self, signals_v1: Mapping[int, State]) -> State | None:
        """Its state from those of 0.1.0, as near as its buckets tell; None: there was none."""
        state = signals_v1.get(self.slot_v1)
        return None if state is None else from_v1(self.kind, state)

    def _state(self, signals: Mapping[int, State]) -> State | None:
        return signals.get(self.slot)


class _Ratio(CompiledSignal):
    """A signal without a state of its own: it reads those of two others."""

    __slots__ = ()

    def add(self, signals: dict[int, State], event: Arrived, content: Content | None) -> None:
        """Nothing: the two others are fed by themselves."""

    def _state(self, signals: Mapping[int, State]) -> State | None:
        return [signals.get(slot) for slot in self.needs]


def compile_signals(
    signals: Mapping[str, Signal], *, sensitive_tags: Iterable[str] = ()
) -> dict[str, CompiledSignal]:
    """Make declared signals runnable, in the order in which they are declared.

    Raises KeyError for a ratio of something that is not declared, ValueError for one of something
    that is not a plain number: `schemas.check` reports those properly.
    """
    hidden = frozenset(sensitive_tags)
    made = {
        name: compile_signal(name, signal, sensitive_tags=hidden)
        for name, signal in signals.items()
        if not isinstance(signal, declared.Ratio)
    }
    return {
        name: _ratio(name, signal, made[signal.of], made[signal.to])
        if isinstance(signal, declared.Ratio)
        else made[name]
        for name, signal in signals.items()
    }


def compile_signal(
    name: str, signal: Signal, *, sensitive_tags: Iterable[str] = ()
) -> CompiledSignal:
    """Make one signal runnable; a ratio needs the others (`compile_signals`)."""
    if isinstance(signal, declared.Ratio):
        raise ValueError(f"{name} is a ratio: compile it together with the signals it divides")
    slot = _slot(name, signal)
    if isinstance(signal, declared.Affinity):
        events = frozenset(signal.weights)
    elif isinstance(signal, declared.Sequence):
        events = frozenset(event for step in _steps(signal) for event in step.events)
    else:
        events = frozenset(signal.events or ())
    return CompiledSignal(
        name,
        slot,
        events,
        (slot,),
        None if isinstance(signal, declared.Sequence) else compile_filter(signal.where),
        _kind(signal, frozenset(sensitive_tags)),
        _slot_v1(name, signal),
    )


def _slot(name: str, signal: Signal) -> int:
    # Defaults are left out, so that a later version's new optional field changes no slot.
    return hash32(f"2|{name}\0{signal.kind}\0{signal.model_dump_json(exclude_defaults=True)}")


def _slot_v1(name: str, signal: Signal) -> int:
    return hash32(f"{name}\0{signal.kind}\0{signal.model_dump_json(exclude_defaults=True)}")


def _ratio(
    name: str, signal: declared.Ratio, of: CompiledSignal, to: CompiledSignal
) -> CompiledSignal:
    events = of.events | to.events if of.events and to.events else frozenset[str]()
    return _Ratio(
        name,
        _slot(name, signal),
        events,
        (of.slot, to.slot),
        None,
        Quotient(of.kind, to.kind),
        _slot_v1(name, signal),
    )


def _steps(signal: declared.Sequence) -> list[declared.Step]:
    return [step for step in (signal.first, signal.then, signal.not_then) if step is not None]


def _kind(signal: Signal, sensitive: frozenset[str]) -> Kind:
    match signal:
        case declared.Count():
            return CountWindow(signal.within, bucket_size(signal.within))
        case declared.Sum() | declared.Mean() | declared.Min() | declared.Max():
            return AmountWindow(
                signal.within,
                bucket_size(signal.within),
                _amount(reader(signal.of)),
                _MEASURES[signal.kind],
            )
        case declared.Rfm():
            return Rfm(
                AmountWindow(
                    signal.within,
                    bucket_size(signal.within),
                    _amount(reader(signal.of), absent=0),
                    MEAN,
                ),
                signal.recency,
                signal.frequency,
                signal.monetary,
            )
        case declared.Distinct():
            return DistinctValues(signal.within, _texts(signal.of, sensitive), signal.keep)
        case declared.Last() | declared.First():
            newest = signal.kind == "last"
            if signal.of is None:
                return TimeSince(newest)
            return FieldThen(newest, _field(reader(signal.of), sensitive))
        case declared.Sequence():
            first, second = [
                StepOf(frozenset(step.events), compile_filter(step.where))
                for step in _steps(signal)
            ]
            return FollowedBy(first, second, signal.gap, signal.within, signal.then is None)
        case declared.Streak():
            zone = None if signal.zone == "UTC" else ZoneInfo(signal.zone)
            return Streak(1 if signal.per == "day" else 7, zone)
        case declared.Session():
            return Sessions(
                signal.measure,
                signal.gap,
                signal.within or 30 * DAY,
                _texts(signal.of or "content_id", sensitive),
            )
        case declared.Affinity():
            return DecayedAffinity(
                signal.half_life,
                dict(signal.weights),
                reader(signal.of),
                signal.keep,
                sensitive,
                content_reader(signal.of),
            )
        case declared.Ratio():
            raise ValueError("a ratio is compiled from the two signals it divides")


def _amount(
    read: Read, *, absent: int | None = None
) -> Callable[[Arrived, Content | None], int | None]:
    def amount(event: Arrived, content: Content | None) -> int | None:
        number = number_of(read(event, content))
        return absent if number is None else micros(number)

    return amount


def _texts(path: str, sensitive: frozenset[str]) -> Texts:
    read = reader(path)
    if not sensitive:
        return lambda event, content: values_of(read(event, content))
    return lambda event, content: tuple(
        [text for text in values_of(read(event, content)) if text not in sensitive]
    )


def _field(
    read: Read, sensitive: frozenset[str]
) -> Callable[[Arrived, Content | None], float | str | None]:
    def field(event: Arrived, content: Content | None) -> float | str | None:
        value = read(event, content)
        number = number_of(value)
        if number is not None:
            return number
        # Of several values the first that may be kept: the order is the producer's.
        return next((text for text in values_of(value) if text not in sensitive), None)

    return field
