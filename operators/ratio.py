"""What is one number signal divided by another?

It keeps nothing: its state is [state of the one, state of the other] as they are kept for these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from operators.arrival import Arrived
from operators.kinds import Holds, Kind, Outlook, State, Value
from operators.windows import AmountWindow, CountWindow
from schemas.catalogue import Content

_SAME: Final = object()
"""Stands where a part does not change."""


@dataclass(frozen=True, slots=True)
class Quotient:
    """The one divided by the other; no value while the other is 0 or either has none."""

    of: Kind
    to: Kind

    def add(self, state: State | None, event: Arrived, content: Content | None) -> State | None:  # noqa: ARG002
        """Nothing: the two are fed by themselves."""
        return None

    def value(self, state: State | None, now_ms: int, key: str | None = None) -> float | None:  # noqa: ARG002
        """The quotient at an instant."""
        of, to = (None, None) if state is None else state
        return _divided(self.of.value(of, now_ms), self.to.value(to, now_ms))

    def outlook(
        self,
        state: State | None,
        now_ms: int,
        holds: Holds,
        key: str | None = None,  # noqa: ARG002
        bounds: Sequence[float] = (),  # noqa: ARG002
    ) -> Outlook:
        """`holds(quotient)` now, and when it first differs with no new event."""
        of, to = (None, None) if state is None else state
        ahead: dict[int, list[Any]] = {
            instant: [value, _SAME] for instant, value in _course(self.of, of, now_ms)
        }
        for instant, value in _course(self.to, to, now_ms):
            ahead.setdefault(instant, [_SAME, _SAME])[1] = value
        current: list[Any] = [None, None]
        truth: bool | None = None
        for instant in sorted(ahead):
            for part, value in enumerate(ahead[instant]):
                if value is not _SAME:
                    current[part] = value
            seen = holds(_divided(*current))
            if truth is None:
                truth = seen
            elif seen != truth:
                return truth, instant
        return bool(truth), None

    def empty(self, state: State | None, now_ms: int) -> bool:
        """Whether neither has an event that counts."""
        of, to = (None, None) if state is None else state
        return self.of.empty(of, now_ms) and self.to.empty(to, now_ms)


def _course(kind: Kind, state: State | None, now_ms: int) -> list[tuple[int, Value]]:
    """Now and each later instant at which the value changes with no new event, with the values."""
    if isinstance(kind, CountWindow | AmountWindow) and state and state[0][-1] <= now_ms:
        return kind.course(state, now_ms)
    found: list[tuple[int, Value]] = []
    at: int | None = now_ms
    while at is not None:
        value = kind.value(state, at)
        found.append((at, value))
        _, at = kind.outlook(state, at, _is(value))
    return found


def _is(value: Value) -> Holds:
    return lambda other: other == value


def _divided(of: Value, to: Value) -> float | None:
    if isinstance(of, float) and isinstance(to, float) and to:
        return of / to
    return None
