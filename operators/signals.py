"""What is kept of a profile's behaviour: windowed and decayed signals, in event time.

State per profile and signal: a few numbers, bounded whatever happens, made of builtins so that it
encodes as it is. Adding is commutative: within the allowed lateness, arrival order never changes a
value. A window of length W is kept in about 64 buckets (its stated resolution): an event leaves the
window at most W after it happened, and at most two buckets (W/32) earlier.

Nothing here knows segments, policy files or time itself: "now" is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, TypeAlias

from operators.arrival import Arrived
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
from schemas.catalogue import Content
from schemas.conditions import Range
from schemas.signals import Affinity, Count, Last, Signal, Sum

_BUCKETS: Final = 64
_MICRO: Final = 1_000_000
_LARGEST: Final = 1e12
_MOST: Final = 1 << 62
_weight: Final = itemgetter(1)

State: TypeAlias = Any
"""Builtins only; each kind says which. `Any`, because it comes back from bytes untyped."""


@dataclass(frozen=True, slots=True)
class Windowed:
    """Amounts in a sliding window. State: {bucket number: amount in millionths}.

    Amounts are whole millionths, not floats: integer addition is associative, so a sum does not
    depend on the order of arrival even in its last digit.
    """

    resolution: int
    buckets: int
    amount: Callable[[Arrived, Content | None], int | None]

    def add(self, state: State | None, event: Arrived, content: Content | None) -> State | None:
        """The state with the event in it (None: the event carries no amount)."""
        amount = self.amount(event, content)
        if amount is None:
            return state
        amounts: dict[int, int] = {} if state is None else state
        bucket = event.occurred_ms // self.resolution
        total = amounts.get(bucket, 0) + amount
        # Snapshots hold 64 bits: beyond 4.6e12 in one bucket a sum stops growing.
        amounts[bucket] = total if -_MOST < total < _MOST else max(-_MOST, min(_MOST, total))
        if len(amounts) > self.buckets:
            oldest = max(amounts) - self.buckets
            for expired in [b for b in amounts if b <= oldest]:
                del amounts[expired]
        return amounts

    def value(self, state: State | None, now_ms: int) -> float:
        """The sum of the amounts in the window that ends now."""
        if not state:
            return 0.0
        oldest = now_ms // self.resolution - self.buckets
        total = 0
        for bucket, amount in state.items():
            if bucket > oldest:
                total += amount
        return float(total) / _MICRO

    def outlook(
        self, state: State | None, now_ms: int, holds: Callable[[float], bool]
    ) -> tuple[bool, int | None]:
        """`holds(value)` now, and when, without a new event, it first differs; None: never."""
        if not state:
            return holds(0.0), None
        first = now_ms // self.resolution - self.buckets
        live = sorted([bucket for bucket in state if bucket > first])
        total = 0
        for bucket in live:
            total += state[bucket]
        now = holds(float(total) / _MICRO)
        for bucket in live:
            total -= state[bucket]
            if holds(float(total) / _MICRO) != now:
                return now, int((bucket + self.buckets) * self.resolution)
        return now, None


@dataclass(frozen=True, slots=True)
class DistinctValues:
    """Different values in a sliding window. State: {value: newest bucket number}."""

    resolution: int
    buckets: int
    read: Read
    keep: int

    def add(self, state: State | None, event: Arrived, content: Content | None) -> State | None:
        """The state with the event's values in it; the stalest value gives way when full."""
        texts = values_of(self.read(event, content))
        if not texts:
            return state
        seen: dict[str, int] = {} if state is None else state
        bucket = event.occurred_ms // self.resolution
        for text in texts:
            seen[text] = max(bucket, seen.get(text, bucket))
        if len(seen) > self.keep:
            newest = max(seen.values())
            for stale in [v for v, b in seen.items() if b <= newest - self.buckets]:
                del seen[stale]
            for stale in sorted(seen, key=lambda v: (seen[v], v))[: max(0, len(seen) - self.keep)]:
                del seen[stale]
        return seen

    def value(self, state: State | None, now_ms: int) -> float:
        """How many different values the window holds."""
        if not state:
            return 0.0
        oldest = now_ms // self.resolution - self.buckets
        return float(len([bucket for bucket in state.values() if bucket > oldest]))

    def outlook(
        self, state: State | None, now_ms: int, holds: Callable[[float], bool]
    ) -> tuple[bool, int | None]:
        """`holds(value)` now, and when, without a new event, it first differs; None: never."""
        if not state:
            return holds(0.0), None
        first = now_ms // self.resolution - self.buckets
        live = sorted([bucket for bucket in state.values() if bucket > first])
        now = holds(float(len(live)))
        for left, bucket in enumerate(live, start=1):
            if holds(float(len(live) - left)) != now:
                return now, int((bucket + self.buckets) * self.resolution)
        return now, None


@dataclass(frozen=True, slots=True)
class LastTime:
    """When it last happened. State: milliseconds since the epoch."""

    def add(self, state: State | None, event: Arrived, content: Content | None) -> State | None:  # noqa: ARG002
        """The newer of the two instants."""
        return event.occurred_ms if state is None else max(int(state), event.occurred_ms)

    def value(self, state: State | None, now_ms: int) -> float:
        """Milliseconds since then; infinite where it never happened."""
        return math.inf if state is None else float(max(0, now_ms - int(state)))


@dataclass(frozen=True, slots=True)
class DecayedAffinity:
    """Liking per value, halving every half life. State: [landmark in ms, {value: weight}].

    Weights are kept as of the landmark and grow with time instead of decaying (forward decay:
    Cormode, Shkapenyuk, Srivastava and Xu, 2009), so that an event touches only its own values and
    arrival order does not matter. The landmark moves by whole half lives: an exact scaling.
    """

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
        if len(liked) > self.keep:
            for weakest in sorted(liked, key=lambda t: (abs(liked[t]), t))[: -self.keep]:
                del liked[weakest]
        return state

    def value_of(self, state: State | None, key: str, now_ms: int) -> float:
        """The liking of one value now."""
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

    def next_change_of(
        self, state: State | None, key: str, now_ms: int, bounds: Range
    ) -> int | None:
        """When decay alone first takes the value across a bound; None: never."""
        value = self.value_of(state, key, now_ms)
        crossings = [
            now_ms + math.floor(self.half_life * math.log2(value / bound)) + 1
            for bound in (
                bounds.at_least,
                bounds.at_most,
                bounds.above,
                bounds.below,
                bounds.equals,
            )
            # A dislike decays too: towards 0, across the bounds between.
            if bound and value / bound >= 1
        ]
        return min(crossings, default=None)


Kind = Windowed | DistinctValues | LastTime | DecayedAffinity


@dataclass(frozen=True, slots=True)
class CompiledSignal:
    """A signal ready to run: where its state lives, what feeds it, how it adds and reads.

    `slot` is a hash of its name and definition: a changed definition starts a new state instead of
    mixing two meanings in one number.
    """

    name: str
    slot: int
    events: frozenset[str]
    matches: Matches | None
    kind: Kind


def compile_signal(
    name: str, signal: Signal, *, sensitive_tags: Iterable[str] = ()
) -> CompiledSignal:
    """Make a declared signal runnable."""
    sensitive = frozenset(sensitive_tags)
    kind: Kind
    if isinstance(signal, Affinity):
        events = frozenset(signal.weights)
        kind = DecayedAffinity(
            signal.half_life,
            dict(signal.weights),
            reader(signal.of),
            signal.keep,
            sensitive,
            content_reader(signal.of),
        )
    else:
        events = frozenset(signal.events)
        if isinstance(signal, Last):
            kind = LastTime()
        else:
            size = max(1, signal.within // _BUCKETS)
            buckets = signal.within // size
            if isinstance(signal, Count):
                kind = Windowed(size, buckets, lambda _event, _content: _MICRO)
            elif isinstance(signal, Sum):
                kind = Windowed(size, buckets, _amount(reader(signal.of)))
            else:
                kind = DistinctValues(size, buckets, reader(signal.of), signal.keep)
    # Defaults are left out, so that a later version's new optional field changes no slot.
    definition = signal.model_dump_json(exclude_defaults=True)
    return CompiledSignal(
        name,
        hash32(f"{name}\0{signal.kind}\0{definition}"),
        events,
        compile_filter(signal.where),
        kind,
    )


def _amount(read: Read) -> Callable[[Arrived, Content | None], int | None]:
    def amount(event: Arrived, content: Content | None) -> int | None:
        number = number_of(read(event, content))
        if number is None:
            return None
        return round(max(-_LARGEST, min(_LARGEST, number)) * _MICRO)

    return amount
