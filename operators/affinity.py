"""What does a profile like, how strongly, and how does liking decay?

State: [landmark in ms, {value: weight}]. Weights are kept as of the landmark and grow with time
instead of decaying (forward decay: Cormode, Shkapenyuk, Srivastava and Xu, 2009), so that an event
touches only its own values and arrival order does not matter. The landmark moves by whole half
lives: an exact scaling. A liking reads to nine decimals, because the last digits of a
floating-point sum do depend on the order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from operators.arrival import Arrived
from operators.filters import Read, values_of
from operators.kinds import Holds, Outlook, State, first_flip
from schemas.catalogue import Content

_weight: Final = itemgetter(1)
_DIGITS: Final = 9
_LEAST: Final = 0.5 * 10.0**-_DIGITS
"""Less than that reads as 0."""
_GONE: Final = 1_200
"""Half lives after which nothing is left of any number."""


@dataclass(frozen=True, slots=True)
class DecayedAffinity:
    """Liking per value, halving every half life, in milliseconds."""

    half_life: int
    weights: dict[str, float]
    read: Read
    keep: int
    sensitive: frozenset[str]
    read_content: Callable[[Content], object] | None

    def add(self, state: State | None, event: Arrived, content: Content | None) -> State | None:
        """The state with the event's weight on each of its values; the weakest gives way."""
        texts = values_of(self.read(event, content))
        weight = sum(self.weights.get(name, 0.0) for name in event.names)
        if not texts or not weight:
            return state
        if state is None:
            state = [event.occurred_ms, {}]
        landmark, liked = state
        halvings = (event.occurred_ms - landmark) / self.half_life
        if halvings > 32:
            shift = int(halvings)
            landmark += shift * self.half_life
            liked = {text: math.ldexp(w, -shift) for text, w in liked.items()}
            state[:] = [landmark, liked]
            halvings = (event.occurred_ms - landmark) / self.half_life
        for text in texts:
            if text not in self.sensitive:
                liked[text] = liked.get(text, 0.0) + weight * 2.0**halvings
        while len(liked) > self.keep:
            least = min(map(abs, liked.values()))
            del liked[min([text for text, w in liked.items() if abs(w) == least])]
        return state

    def value(self, state: State | None, now_ms: int, key: str | None = None) -> float:
        """The liking of one value now, to nine decimals; 0 without a key."""
        return round(self._exact(state, now_ms, key), _DIGITS)

    def _exact(self, state: State | None, now_ms: int, key: str | None) -> float:
        if not state or key not in state[1] or key in self.sensitive:
            return 0.0
        return float(state[1][key] * 2.0 ** ((state[0] - now_ms) / self.half_life))

    def top(self, state: State | None, now_ms: int, count: int) -> list[tuple[str, float]]:
        """The strongest positive values now, strongest first (ties by name)."""
        if not state:
            return []
        scale = 2.0 ** ((state[0] - now_ms) / self.half_life)
        # What became sensitive after it was kept is not read any more either.
        hidden = self.sensitive
        liked = [(t, w * scale) for t, w in state[1].items() if w > 0 and t not in hidden]
        # By name, then by weight: sorting keeps the order of equals, and two sorts without a
        # function of Python's cost half of one with it.
        liked.sort()
        liked.sort(key=_weight, reverse=True)
        return liked[:count]

    def outlook(
        self,
        state: State | None,
        now_ms: int,
        holds: Holds,
        key: str | None = None,
        bounds: Sequence[float] = (),
    ) -> Outlook:
        """`holds(liking)` now, and when decay alone first makes it differ."""
        exact = self._exact(state, now_ms, key)
        truth = holds(round(exact, _DIGITS))
        if abs(exact) <= _LEAST or state is None:
            return truth, None

        # As `value` has it, to the last digit: the instant must be the one at which that differs.
        weight, elapsed, half_life = state[1][key], state[0] - now_ms, self.half_life

        def flipped(ahead: int) -> bool:
            liking = weight * 2.0 ** ((elapsed - ahead) / half_life)
            return holds(round(liking, _DIGITS)) != truth

        if not bounds:
            found = first_flip(flipped, _GONE * half_life)
            return truth, None if found is None else now_ms + found
        for ahead in self._crossings(abs(exact), bounds, exact > 0):
            if flipped(ahead):
                return truth, now_ms + ahead
        return truth, None

    def _crossings(self, liking: float, bounds: Sequence[float], positive: bool) -> list[int]:
        """How far ahead decay takes a liking onto each bound and beyond it, soonest first."""
        found: set[int] = set()
        for bound in bounds:
            if bound and (bound > 0) != positive:
                continue
            # It reads as the bound while it is that near: decay passes both ends of that.
            for end in (abs(bound) + _LEAST, abs(bound) - _LEAST):
                if end > 0 and liking >= end:
                    crossing = math.floor(self.half_life * math.log2(liking / end))
                    # Two milliseconds either way for what is lost in the last digits.
                    found.update(range(max(1, crossing - 1), crossing + 3))
        return sorted(found)

    def empty(self, state: State | None, now_ms: int) -> bool:  # noqa: ARG002
        """Whether nothing is liked or disliked."""
        return not state or not state[1]
