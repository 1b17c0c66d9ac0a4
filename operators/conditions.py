"""Does a condition hold for this profile now, and until when, if nothing else arrives?

A condition is compiled to a function from (profile, moment) to a verdict: the truth (True, False or
unknown), and the first instant at which time alone may change it. A segment's timer is that
instant. `done` and `not_done` become signals of their own, compiled beside the declared ones.

Truth has three values after Kleene: what was not watched for all of its window is unknown where an
event missed could make the difference, and so is the negation of it; what is unknown does not hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from pydantic import TypeAdapter

from operators.filters import compile_filter
from operators.fixed_dates import BetweenDates
from operators.ids import hash32
from operators.leaves import (
    attribute_leaf,
    context_leaf,
    done_leaf,
    local_time_leaf,
    membership_leaf,
    prediction_leaf,
    signal_leaf,
)
from operators.signals import CompiledSignal, compile_signal
from operators.verdicts import Evaluate as Evaluate
from operators.verdicts import Verdict as Verdict
from operators.verdicts import all_of, any_of, negation
from schemas.conditions import INTENT as INTENT
from schemas.conditions import (
    AllOf,
    AnyOf,
    AttributeIs,
    Condition,
    ContextIs,
    Done,
    HasIntent,
    InSegment,
    LocalTimeIs,
    NotDone,
    NotOf,
    PredictionIs,
    SignalIs,
    WeekdayIs,
)
from schemas.signals import Signal
from schemas.time import DAY, format_duration

_SIGNAL: Final[TypeAdapter[Signal]] = TypeAdapter(Signal)


class Compiler:
    """Compiles conditions against declared signals, collecting the signals that they imply.

    `signals` grows by an unnamed signal for each different `done`/`not_done`. `refresh` says per
    prediction how often (ms) a condition on it is asked again with no new event.
    """

    def __init__(
        self, signals: Mapping[str, CompiledSignal], refresh: Mapping[str, int] | None = None
    ) -> None:
        self.signals: dict[str, CompiledSignal] = dict(signals)
        self._refresh = refresh or {}

    def compile(self, condition: Condition) -> Evaluate:
        """The condition as a function; raises KeyError for a signal that is not declared."""
        match condition:
            case AllOf():
                return all_of([self.compile(part) for part in condition.all])
            case AnyOf():
                return any_of([self.compile(part) for part in condition.any])
            case NotOf():
                return negation(self.compile(condition.not_))
            case SignalIs():
                return signal_leaf(condition, self.signals[condition.signal])
            case AttributeIs():
                return attribute_leaf(condition)
            case ContextIs():
                return context_leaf(condition)
            case InSegment():
                return membership_leaf(condition.segment)
            case HasIntent():
                return membership_leaf(INTENT + condition.intent)
            case PredictionIs():
                return prediction_leaf(condition, self._refresh.get(condition.prediction, DAY))
            case Done() | NotDone():
                return done_leaf(condition, self.implied(condition))
            case LocalTimeIs() | WeekdayIs():
                return local_time_leaf(condition)

    def signal_of(self, condition: Condition) -> CompiledSignal | None:
        """The signal that a condition reads, implied ones included; None where it reads none."""
        match condition:
            case SignalIs():
                return self.signals[condition.signal]
            case Done() | NotDone():
                return self.implied(condition)
            case _:
                return None

    def implied(self, condition: Done | NotDone) -> CompiledSignal:
        """The signal that counts what a `done` or `not_done` asks about."""
        if condition.from_ is not None:
            signal = _between_dates(condition, condition.from_)
            return self.signals.setdefault(signal.name, signal)
        first = {"events": _events(condition), "where": condition.where}
        within = format_duration(condition.within or 0)
        definition: dict[str, object] = {"kind": "count", **first, "within": within}
        for role in ("then", "not_then"):
            if (other := getattr(condition, role, None)) is not None:
                definition = {
                    "kind": "sequence",
                    "first": first,
                    role: {"events": other.done, "where": other.where},
                    "gap": format_duration(other.gap),
                    "within": within,
                }
        declared = _SIGNAL.validate_python(definition)
        name = f"done:{declared.model_dump_json(exclude_defaults=True)}"
        if name not in self.signals:
            self.signals[name] = compile_signal(name, declared)
        return self.signals[name]


def _events(condition: Done | NotDone) -> tuple[str, ...]:
    return condition.done if isinstance(condition, Done) else condition.not_done


def _between_dates(condition: Done | NotDone, begin: int) -> CompiledSignal:
    events, end = _events(condition), condition.until
    where = condition.model_dump_json(include={"where"})
    name = f"done:{','.join(events)}|{begin}|{end}|{where}"
    slot = hash32(f"2|{name}")
    return CompiledSignal(
        name,
        slot,
        frozenset(events),
        (slot,),
        compile_filter(condition.where),
        BetweenDates(begin, end),
        slot,
    )


def leaves(condition: Condition) -> Iterator[Condition]:
    """The conditions within a condition that are no combination, in order of mention."""
    match condition:
        case AllOf():
            for part in condition.all:
                yield from leaves(part)
        case AnyOf():
            for part in condition.any:
                yield from leaves(part)
        case NotOf():
            yield from leaves(condition.not_)
        case _:
            yield condition


def segment_asked(condition: Condition) -> str | None:
    """The segment, declared or an intent's, whose membership a leaf asks; None: it asks none."""
    match condition:
        case InSegment():
            return condition.segment
        case HasIntent():
            return INTENT + condition.intent
        case _:
            return None
