"""What do tests of conditions build on? A profile, declared signals, a condition, events.

Times are milliseconds since the epoch, counted from `T0`. Unless told otherwise the profile has
been watched since long before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import TypeAdapter

from operators.arrival import Arrived
from operators.conditions import Compiler
from operators.explain import explained
from operators.moment import Moment
from operators.profile import Profile
from operators.signals import compile_signals
from operators.verdicts import Verdict
from schemas.conditions import Condition
from schemas.signals import Signal
from schemas.time import DAY
from tests.operators.builders import T0, profile

CONDITION: Final[TypeAdapter[Any]] = TypeAdapter(Condition)
_SIGNALS: Final[TypeAdapter[Any]] = TypeAdapter(dict[str, Signal])
SIGNALS: Final[dict[str, dict[str, Any]]] = {
    "views": {"kind": "count", "events": "view", "within": "1h"},
    "spent": {"kind": "sum", "events": "buy", "within": "1d"},
    "pages": {"kind": "distinct", "events": "view", "of": "properties.tag", "within": "2h"},
    "bought": {"kind": "last", "events": "buy"},
    "brand": {"kind": "last", "events": "view", "of": "properties.tag"},
    "share": {"kind": "ratio", "of": "spent", "to": "views"},
    "tastes": {
        "kind": "affinity",
        "of": "properties.tag",
        "weights": {"view": 1, "buy": 4, "dislike": -2},
        "half_life": "6h",
    },
    "value": {"kind": "rfm", "events": "buy", "monetary": [10, 20, 30, 40]},
}


class World:
    """A profile with the signals above, a condition, and events to feed it with."""

    def __init__(
        self, condition: dict[str, Any], *, first: int = T0 - 1_000 * DAY, **attributes: Any
    ) -> None:
        compiler = Compiler(compile_signals(_SIGNALS.validate_python(SIGNALS)))
        self.rule = explained(CONDITION.validate_python(condition), compiler)
        self.evaluate = compiler.compile(CONDITION.validate_python(condition))
        self.signals = compiler.signals
        self.profile: Profile = profile(at=first, attributes=attributes)
        self.since: Mapping[int, int] = {}
        self.predicted: float | None = None

    def see(self, *events: Arrived) -> World:
        """Fold events into every signal that they feed."""
        for event in events:
            for signal in self.signals.values():
                if not signal.events or not signal.events.isdisjoint(event.names):
                    signal.add(self.profile.signals, event, None)
        return self

    def watched(self, since: int) -> World:
        """Every signal has been watched since then only."""
        self.since = {signal.slot: since for signal in self.signals.values()}
        return self

    def moment(self, at: int = T0, **context: Any) -> Moment:
        """An instant; the context is that of an event."""
        return Moment(at, context, self.since, lambda *_: self.predicted)

    def verdict(self, at: int = T0, **context: Any) -> Verdict:
        return self.evaluate(self.profile, self.moment(at, **context))

    def holds(self, at: int = T0, **context: Any) -> bool | None:
        return self.verdict(at, **context).holds

    def until(self, at: int = T0) -> int | None:
        return self.verdict(at).until_ms


def holds(
    condition: dict[str, Any], *events: Arrived, at: int = T0, **attributes: Any
) -> bool | None:
    """Whether a condition holds of a profile that has long been watched."""
    return World(condition, **attributes).see(*events).holds(at)
