"""How closely the input is watched: the policy's section `health`, all of it with defaults."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, field_validator

from schemas.conditions import Model
from schemas.time import DAY, HOUR, MINUTE, Duration

HealthAlarm = Literal[
    "silent",
    "rate_up",
    "rate_down",
    "missing_property",
    "new_property",
    "dated_old",
    "dead_letters",
]
"""silent: nothing comes where something was due; rate_up, rate_down: a sudden change;
missing_property: one that events usually bear is gone; new_property: one never seen before;
dated_old: events come later than the allowed lateness; dead_letters: more are refused."""

OTHER: Final = "other"
"""The name under which all event types beyond the bound are watched together."""
ALL: Final = "all"
"""The name under which what concerns no single event type is watched."""


class Health(Model):
    """When a change of the input counts as one. Times are those of the log's clock."""

    types: Annotated[int, Field(ge=1, le=256)] = Field(
        default=64, description="Event types watched one by one; the rest together, as `other`."
    )
    warm_up: Duration = Field(
        default=HOUR, description="How long a type is only watched before anything is said of it."
    )
    window: Duration = Field(
        default=5 * MINUTE, description="The least time over which a rate is judged."
    )
    factor: Annotated[float, Field(ge=1.2, le=10)] = Field(
        default=1.6, description="A rate this many times the expected one, or less than its part."
    )
    share: Annotated[float, Field(ge=0.01, le=1)] = Field(
        default=0.2, description="Change of a share (missing, dated old) that counts."
    )
    dead_letters: Annotated[float, Field(ge=0.001, le=1)] = Field(
        default=0.05, description="Change of the share of dead letters that counts."
    )
    accept_after: Duration = Field(
        default=DAY, description="After this long a change is the new normal (silence never is)."
    )

    @field_validator("warm_up", "window", "accept_after")
    @classmethod
    def _is_in_minutes(cls, duration_ms: int) -> int:
        if not MINUTE <= duration_ms <= 30 * DAY or duration_ms % MINUTE:
            raise ValueError("expected whole minutes, between 1m and 30d")
        return duration_ms
