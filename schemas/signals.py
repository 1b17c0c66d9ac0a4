"""What is kept of a profile: the kinds of signal that a policy can declare."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, model_validator

from schemas.conditions import EventTypes, Filter, Model
from schemas.time import DAY, MINUTE, SECOND, Duration

MAX_WINDOW = 400 * DAY

FieldPath = Annotated[
    str,
    Field(
        pattern=r"^(value|content_id|placement|session_id|content\.(type|tags)"
        r"|(content\.attributes|properties|context)\.[A-Za-z0-9_]+)$"
    ),
]


def _bounded(duration_ms: int) -> int:
    if not SECOND <= duration_ms <= MAX_WINDOW:
        raise ValueError("expected a time between 1s and 400d")
    return duration_ms


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError) as error:
        raise ValueError(
            "expected a time zone of the IANA database, such as Europe/Berlin"
        ) from error
    return name


Bounded = Annotated[Duration, AfterValidator(_bounded)]
"""A duration between 1s and 400d."""

Zone = Annotated[str, AfterValidator(_zone)]
"""The name of a time zone that this machine knows."""


class _OverEvents(Model):
    events: EventTypes
    where: Filter = Field(default_factory=dict)


class _Windowed(_OverEvents):
    within: Duration = Field(description="The window, sliding with event time; 1s to 400d.")

    @model_validator(mode="after")
    def _window_is_bounded(self) -> _Windowed:
        if not SECOND <= self.within <= MAX_WINDOW:
            raise ValueError("expected a window between 1s and 400d")
        return self


class Count(_Windowed):
    """How many events in the window."""

    kind: Literal["count"]


class Sum(_Windowed):
    """The sum of a number over the events in the window."""

    kind: Literal["sum"]
    of: FieldPath = "value"


class Mean(_Windowed):
    """The mean of a number over the events in the window; no value without one."""

    kind: Literal["mean"]
    of: FieldPath = "value"


class Min(_Windowed):
    """The least of a number over the events in the window; no value without one."""

    kind: Literal["min"]
    of: FieldPath = "value"


class Max(_Windowed):
    """The greatest of a number over the events in the window; no value without one."""

    kind: Literal["max"]
    of: FieldPath = "value"


class Distinct(_Windowed):
    """How many different values in the window."""

    kind: Literal["distinct"]
    of: FieldPath = "content_id"
    keep: Annotated[int, Field(ge=1, le=1_000)] = Field(
        default=100, description="Values remembered; the count saturates there."
    )


class Last(_OverEvents):
    """When it last happened, or what a field said then."""

    kind: Literal["last"]
    of: FieldPath | None = Field(
        default=None, description="The field that is the value; absent: the time since."
    )


class First(_OverEvents):
    """When it first happened, or what a field said then."""

    kind: Literal["first"]
    of: FieldPath | None = Field(
        default=None, description="The field that is the value; absent: the time since."
    )


class Ratio(Model):
    """One number signal divided by another; no value while the other is 0."""

    kind: Literal["ratio"]
    of: str = Field(description="The declared signal that is divided.")
    to: str = Field(description="The declared signal that divides.")


class Affinity(Model):
    """Exponentially decayed liking per tag or attribute value of the contents touched."""

    kind: Literal["affinity"]
    weights: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], float] = Field(
        min_length=1, description="Event type to the weight that one event adds."
    )
    of: FieldPath = "content.tags"
    half_life: Duration = 7 * DAY
    keep: Annotated[int, Field(ge=1, le=200)] = Field(
        default=24, description="The strongest values kept; the weakest gives way."
    )
    where: Filter = Field(default_factory=dict)

    @model_validator(mode="after")
    def _decays(self) -> Affinity:
        if self.half_life < 1_000:
            raise ValueError("expected a half life of at least 1s")
        return self


class Step(_OverEvents):
    """One step of a sequence: an event of these types that matches."""


class Sequence(Model):
    """How often one thing followed, or did not follow, another within a gap."""

    kind: Literal["sequence"]
    first: Step
    then: Step | None = Field(
        default=None, description="Counted: these, where `first` came at most `gap` before."
    )
    not_then: Step | None = Field(
        default=None, description="Counted: `first`, where its gap passed without one of these."
    )
    gap: Bounded
    within: Bounded

    @model_validator(mode="after")
    def _one_second_step(self) -> Sequence:
        if (self.then is None) == (self.not_then is None):
            raise ValueError("expected one of then, not_then")
        return self


class Streak(_OverEvents):
    """How many periods in a row, up to now, had one: the current one may still be without."""

    kind: Literal["streak"]
    per: Literal["day", "week"] = Field(description="Weeks are ISO weeks: they begin on Monday.")
    zone: Zone = Field(default="UTC", description="Where a day begins, such as Europe/Berlin.")


class Session(Model):
    """What the visits are like: events closer together than `gap` are one session."""

    kind: Literal["session"]
    measure: Literal["sessions", "events", "length", "depth", "dwell"]
    events: EventTypes | None = Field(
        default=None, description="Absent: whatever the person does, impressions left aside."
    )
    where: Filter = Field(default_factory=dict)
    gap: Bounded = Field(default=30 * MINUTE, description="Silence that long ends a session.")
    within: Bounded | None = Field(default=None, description="sessions: the window; 30d if absent.")
    of: FieldPath | None = Field(
        default=None, description="depth: what is told apart; content_id if absent."
    )

    @model_validator(mode="after")
    def _asks_what_it_measures(self) -> Session:
        if self.within is not None and self.measure != "sessions":
            raise ValueError("expected within with measure sessions only")
        if self.of is not None and self.measure != "depth":
            raise ValueError("expected of with measure depth only")
        return self


class Rfm(_Windowed):
    """Recency, frequency and monetary value, each scored 1 to 5, and the sum of the scores."""

    kind: Literal["rfm"]
    of: FieldPath = "value"
    within: Duration = 365 * DAY
    recency: tuple[Duration, Duration, Duration, Duration] = Field(
        default=(7 * DAY, 30 * DAY, 90 * DAY, 180 * DAY),
        description="Ages below these score 5, 4, 3 and 2.",
    )
    frequency: tuple[int, int, int, int] = Field(
        default=(2, 4, 8, 16), description="So many events score 2, 3, 4 and 5."
    )
    monetary: tuple[float, float, float, float] = Field(
        description="Sums of at least these score 2, 3, 4 and 5."
    )

    @model_validator(mode="after")
    def _bounds_ascend(self) -> Rfm:
        for name in ("recency", "frequency", "monetary"):
            bounds = getattr(self, name)
            if any(low >= high for low, high in pairwise(bounds)):
                raise ValueError(f"expected ascending bounds in {name}")
        return self


Signal = Annotated[
    Count
    | Sum
    | Mean
    | Min
    | Max
    | Distinct
    | Last
    | First
    | Ratio
    | Affinity
    | Sequence
    | Streak
    | Session
    | Rfm,
    Field(discriminator="kind"),
]

KEYED = frozenset({"affinity", "rfm"})
"""Kinds with several values, one per key."""

RFM_PARTS = ("score", "recency", "frequency", "monetary")
"""The keys of an rfm signal, the one that is read without a key first."""


def value_type(signal: Signal, *, key: str | None = None) -> Literal["number", "age", "any"]:
    """What a condition may ask of it: a number's bounds, a time since, or whatever a field says.

    An affinity's and an rfm's type is that of the one value under the key.
    """
    if isinstance(signal, (Last, First)):
        return "age" if signal.of is None else "any"
    return "age" if isinstance(signal, Rfm) and key == "recency" else "number"
