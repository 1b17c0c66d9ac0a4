"""What is kept of a profile: the kinds of signal that a policy can declare."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.conditions import EventTypes, Filter, Model
from schemas.time import DAY, Duration

MAX_WINDOW = 90 * DAY

FieldPath = Annotated[
    str,
    Field(
        pattern=r"^(value|content_id|placement|session_id|content\.(type|tags)"
        r"|(content\.attributes|properties|context)\.[A-Za-z0-9_]+)$"
    ),
]


class _OverEvents(Model):
    events: EventTypes
    where: Filter = Field(default_factory=dict)


class _Windowed(_OverEvents):
    within: Duration = Field(description="The window, sliding with event time; at most 90d.")

    @model_validator(mode="after")
    def _window_is_bounded(self) -> _Windowed:
        if not 1_000 <= self.within <= MAX_WINDOW:
            raise ValueError("expected a window between 1s and 90d")
        return self


class Count(_Windowed):
    """How many events in the window."""

    kind: Literal["count"]


class Sum(_Windowed):
    """The sum of a number over the events in the window."""

    kind: Literal["sum"]
    of: FieldPath = "value"


class Distinct(_Windowed):
    """How many different values in the window."""

    kind: Literal["distinct"]
    of: FieldPath = "content_id"
    keep: Annotated[int, Field(ge=1, le=1_000)] = Field(
        default=100, description="Values remembered; the count saturates there."
    )


class Last(_OverEvents):
    """When it last happened."""

    kind: Literal["last"]


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


Signal = Annotated[Count | Sum | Distinct | Last | Affinity, Field(discriminator="kind")]
