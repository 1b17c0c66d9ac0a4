"""Which audiences are there: what a policy asks for, and what is reported of them.

`Audiences` is the policy's section, `Follow` the option of a segment whose threshold learns.
`AudienceReport` is the record of topic `audiences`, `ThresholdChange` that of topic `thresholds`.
Neither names a profile.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from schemas.conditions import Model
from schemas.time import DAY, HOUR, Duration

SCHEMA_VERSION: Final = 1

Named = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
Bound = Literal["at_least", "at_most"]

COMPARABLE: Final = frozenset(
    {"count", "sum", "mean", "min", "max", "distinct", "ratio", "sequence", "streak", "session"}
)
"""Kinds of signal that are one number whose size means more or less of something."""


class Audiences(Model):
    """Discover groups of profiles that behave alike, from their signals."""

    clusters: Annotated[int, Field(ge=2, le=32)] = Field(
        default=6, description="How many groups are looked for."
    )
    signals: tuple[Named, ...] | None = Field(
        default=None, description="Numeric signals compared; absent: all of them."
    )
    every: Duration = Field(default=DAY, description="How often one profile is looked at, at most.")
    top: Annotated[int, Field(ge=1, le=10)] = Field(
        default=3, description="How many traits describe a group."
    )
    memory: Annotated[int, Field(ge=200, le=10_000)] = Field(
        default=2_000, description="How many of the newest profiles looked at form the groups."
    )
    report_every: Annotated[int, Field(ge=10)] = Field(
        default=500, description="Profiles looked at between two reports."
    )
    smallest: Annotated[int, Field(ge=1)] = Field(
        default=50, description="Groups of fewer profiles are not described: that protects people."
    )

    @field_validator("every")
    @classmethod
    def _is_not_constant(cls, every_ms: int) -> int:
        if not HOUR <= every_ms <= 90 * DAY:
            raise ValueError("expected between 1h and 90d")
        return every_ms

    @field_validator("signals")
    @classmethod
    def _can_be_compared(cls, signals: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if signals is not None and not 1 <= len(signals) <= 64:
            raise ValueError("expected 1 to 64 signals")
        if signals is not None and len(set(signals)) < len(signals):
            raise ValueError("expected each signal once")
        return signals


class Follow(Model):
    """Let a segment's threshold follow what its members do, within declared bounds."""

    signal: Named = Field(description="The signal whose bound in the segment's condition moves.")
    bound: Bound = "at_least"
    between: tuple[float, float] = Field(description="Lowest and highest threshold ever used.")
    reward: Named = Field(description="The reward whose rate decides.")
    target: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="The rate that members at the threshold should have; absent: that of all.",
    )
    step: Annotated[float, Field(gt=0, le=0.5)] = Field(
        default=0.05, description="Share of the bounds that one change moves at most."
    )

    @field_validator("between")
    @classmethod
    def _is_a_range(cls, between: tuple[float, float]) -> tuple[float, float]:
        if not between[0] < between[1]:
            raise ValueError("expected [lowest, highest] with lowest below highest")
        return between


class _Out(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Trait(_Out):
    """How a group differs from all profiles in one signal."""

    signal: str
    centre: float = Field(description="The signal's typical value in the group, in its own units.")
    deviations: float = Field(description="Standard deviations above (below: negative) all.")


class Audience(_Out):
    """One group of profiles that behave alike."""

    audience: str = Field(description="Keeps its name while the group goes on existing.")
    share: Annotated[float, Field(ge=0, le=1)] = Field(description="Of the profiles looked at.")
    profiles: Annotated[int, Field(ge=0)] = Field(
        description="How many of them; one profile may have been looked at more than once."
    )
    description: str
    traits: list[Trait] = Field(description="Strongest first; empty for a group too small.")
    centre: dict[str, float] = Field(
        description="Typical value by signal, in its own units; empty for a group too small."
    )


class AudienceReport(_Out):
    """The audiences found (topic `audiences`), largest first."""

    report_id: str
    looked_at: Annotated[int, Field(ge=0)] = Field(description="Profiles looked at so far.")
    of: Annotated[int, Field(ge=0)] = Field(description="How many the shares are of: the newest.")
    quality: float = Field(
        description="Share of the spread that the groups explain: 0 none, 1 all of it."
    )
    audiences: list[Audience]
    model_version: str
    reported_at: AwareDatetime
    schema_version: int = SCHEMA_VERSION


class Because(_Out):
    """What moved a threshold."""

    reward: str
    rate: float = Field(description="Of the members near the threshold.")
    target: float
    examples: Annotated[int, Field(ge=1)]


class ThresholdChange(_Out):
    """A segment's threshold followed its feedback (topic `thresholds`)."""

    change_id: str
    segment: str
    signal: str
    bound: Bound
    threshold_from: float
    threshold_to: float
    because: Because
    model_version: str
    changed_at: AwareDatetime
    schema_version: int = SCHEMA_VERSION
