"""When did it first or last happen, and what did a field say then?

State: the instant in ms, or [instant, value of the field]. Of events at the same instant the one
with the greatest text counts, so that the order of arrival does not. An event without the field is
passed over. The value is the field's, or else the time since in ms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from operators.arrival import Arrived
from operators.kinds import Holds, Outlook, State, Value, at_instants, of_age
from schemas.catalogue import Content

Field = Callable[[Arrived, Content | None], float | str | None]


@dataclass(frozen=True, slots=True)
class TimeSince:
    """How long ago it last (or first) happened, in milliseconds. State: the instant."""

    newest: bool

    def add(self, state: State | None, event: Arrived, content: Content | None) -> State | None:  # noqa: ARG002
        """The newer (or the older) of the two instants."""
        at = event.occurred_ms
        if state is None:
            return at
        return max(state, at) if self.newest else min(state, at)

    def value(self, state: State | None, now_ms: int, key: str | None = None) -> float | None:  # noqa: ARG002
        """Milliseconds since then; None where it never happened."""
        return None if state is None or state > now_ms else float(now_ms - state)

    def outlook(
        self,
        state: State | None,
        now_ms: int,
        holds: Holds,
        key: str | None = None,  # noqa: ARG002
        bounds: Sequence[float] = (),
    ) -> Outlook:
        """`holds(age)` now, and when it first differs with no new event."""
        if state is None:
            return holds(None), None
        if state > now_ms:
            return at_instants(lambda at: self.value(state, at), [state], now_ms, holds)
        truth, ahead = of_age(now_ms - state, holds, bounds)
        return truth, None if ahead is None else now_ms + ahead

    def empty(self, state: State | None, now_ms: int) -> bool:
        """Whether it never happened."""
        return state is None or state > now_ms


@dataclass(frozen=True, slots=True)
class FieldThen:
    """What a field said when it last (or first) happened. State: [instant, value]."""

    newest: bool
    field: Field

    def add(self, state: State | None, event: Arrived, content: Content | None) -> State | None:
        """The newer (or the older) of the two, by instant and then by text."""
        value = self.field(event, content)
        if value is None:
            return state
        at = event.occurred_ms
        if state is None:
            return [at, value]
        held_at, held = state
        if at == held_at:
            # A number and a text may be written alike: the text counts.
            wins = (str(value), isinstance(value, str)) > (str(held), isinstance(held, str))
        else:
            wins = (at > held_at) == self.newest
        if wins:
            state[:] = [at, value]
        return state

    def value(self, state: State | None, now_ms: int, key: str | None = None) -> Value:  # noqa: ARG002
        """The field's value then; None where it never happened."""
        if state is None or state[0] > now_ms:
            return None
        value: float | str = state[1]
        return value

    def outlook(
        self,
        state: State | None,
        now_ms: int,
        holds: Holds,
        key: str | None = None,  # noqa: ARG002
        bounds: Sequence[float] = (),  # noqa: ARG002
    ) -> Outlook:
        """`holds(value)` now; it changes by events alone."""
        instants = [] if state is None else [state[0]]
        return at_instants(lambda at: self.value(state, at), instants, now_ms, holds)

    def empty(self, state: State | None, now_ms: int) -> bool:
        """Whether it never happened."""
        return state is None or state[0] > now_ms
