"""What do tests of signals build on? A declared signal made runnable, events folded into it.

Times are milliseconds since the epoch, counted from `T0`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec
from pydantic import TypeAdapter

from operators.arrival import Arrived
from operators.signals import CompiledSignal, State, Value, compile_signal, compile_signals
from schemas.catalogue import Content
from schemas.signals import Signal
from schemas.time import DAY, HOUR, MINUTE, SECOND
from tests.operators.builders import arrived

DECLARED: Final[TypeAdapter[Any]] = TypeAdapter(Signal)
WINDOWS: Final = {
    "1s": SECOND,
    "7s": 7 * SECOND,
    "1m": MINUTE,
    "1h": HOUR,
    "1d": DAY,
    "10d": 10 * DAY,
    "90d": 90 * DAY,
    "400d": 400 * DAY,
}
_DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "affinity": {"weights": {"view": 1}},
    "sequence": {
        "first": {"events": "view"},
        "then": {"events": "buy"},
        "gap": "1h",
        "within": "10d",
    },
    "streak": {"events": "view", "per": "day"},
    "session": {"measure": "sessions"},
    "rfm": {"events": "buy", "monetary": [10, 100, 1_000, 10_000]},
    "first": {"events": "view"},
    "last": {"events": "view"},
    "ratio": {},
}


def declare(kind: str, **fields: Any) -> Signal:
    """A signal as a policy file declares it; unless told otherwise, of views within 10 days."""
    default = _DEFAULTS.get(kind, {"events": "view", "within": "10d"})
    whole = {"kind": kind, **default, **fields}
    signal: Signal = DECLARED.validate_python({k: v for k, v in whole.items() if v is not None})
    return signal


def signal(kind: str = "count", *, name: str = "s", **fields: Any) -> CompiledSignal:
    """A declared signal made runnable."""
    hidden = fields.pop("sensitive_tags", ())
    return compile_signal(name, declare(kind, **fields), sensitive_tags=hidden)


def ratio(of: Mapping[str, Any], to: Mapping[str, Any]) -> dict[str, CompiledSignal]:
    """A ratio `r` of two other signals, `a` to `b`, all three."""
    return compile_signals(
        {
            "r": declare("ratio", of="a", to="b"),
            "a": declare(**of),
            "b": declare(**to),
        }
    )


def fold(
    of: CompiledSignal | Iterable[CompiledSignal],
    events: Iterable[Arrived],
    held: dict[int, State] | None = None,
    *,
    content: Content | None = None,
    stored: bool = False,
) -> dict[int, State]:
    """The state after events, by slot; `stored`: encoded and decoded again after each."""
    signals = {} if held is None else held
    fed = [of] if isinstance(of, CompiledSignal) else list(of)
    for event in events:
        for one in fed:
            if not one.events or not one.events.isdisjoint(event.names):
                one.add(signals, event, content)
        if stored:
            signals = msgspec.msgpack.decode(msgspec.msgpack.encode(signals), type=dict[int, Any])
    return signals


def encoded(signals: Mapping[int, State]) -> bytes:
    """The bytes of a state: equal states must encode alike."""
    return msgspec.msgpack.encode(signals)


def view(at: int, **fields: Any) -> Arrived:
    """A view at an instant."""
    return arrived("view", at=at, **fields)


def number(value: Value) -> float:
    """A value that must be a number."""
    assert isinstance(value, float)
    return value


def first_difference(truth: Callable[[int], bool], now: int, instants: Iterable[int]) -> int | None:
    """When a truth first differs from that of now, found by asking at every instant given."""
    return next((at for at in sorted(set(instants)) if at > now and truth(at) != truth(now)), None)
