"""What to decide and how: the policy contract, one YAML file a product manager can read.

Every cross-reference (a segment in a condition, a reward of a placement) is checked by
`schemas.check`, which reports all mistakes at once with file and line; this module only says what
shape each part has.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from schemas.audiences import Audiences, Follow
from schemas.conditions import Condition, Model
from schemas.experiments import Experiments
from schemas.guidance import REFUSED_TAGS, Feedback, Monitoring, Reasons
from schemas.health import Health
from schemas.identity import Identity
from schemas.learning import Reward
from schemas.placements import Placement
from schemas.predictions import Prediction
from schemas.rules import Rule
from schemas.signals import Signal
from schemas.time import DAY, MINUTE, Duration

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]


class Time(Model):
    """How the flow treats event time."""

    allowed_lateness: Duration = Field(
        default=MINUTE, description="How long an earlier-dated event is waited for."
    )
    future_tolerance: Duration = Field(
        default=5 * MINUTE, description="How far ahead of the clock an event may be dated."
    )
    max_age: Duration = Field(default=400 * DAY, description="Older events are dead letters.")
    dedupe_for: Duration = Field(
        default=10 * MINUTE, description="How long event ids are remembered, in event time."
    )

    @model_validator(mode="after")
    def _remembers_what_may_still_come(self) -> Time:
        if self.dedupe_for < self.allowed_lateness:
            raise ValueError("dedupe_for must be at least allowed_lateness")
        return self


class Segment(Model):
    """A named group of profiles, entered and left as its condition changes."""

    when: Condition
    description: str = ""
    for_at_least: Duration | None = Field(
        default=None, description="Entered once the condition has held that long."
    )
    stay_at_least: Duration | None = Field(
        default=None, description="Not left before, whatever the condition says."
    )
    leave_after: Duration | None = Field(
        default=None,
        description="Left then even if the condition holds; entered again after it was false.",
    )
    follow: Follow | None = Field(
        default=None, description="A threshold of the condition that follows feedback."
    )


class Consent(Model):
    """Which purpose each use of personal data needs; absent section: no consent is asked."""

    collect: Name | None = Field(default=None, description="Purpose needed to keep signals.")
    personalise: Name | None = Field(default=None, description="Purpose needed to personalise.")
    learn: Name | None = Field(default=None, description="Purpose needed to learn from outcomes.")
    purposes: tuple[Name, ...] = Field(
        default=(), description="Other purposes, that contents need or ask for."
    )
    before_known: Literal["granted", "refused"] = "refused"
    gpc: tuple[Literal["collect", "personalise", "learn"], ...] = Field(
        default=("personalise", "learn"),
        description="Uses refused when an event's context says gpc (Global Privacy Control).",
    )


class Sensitive(Model):
    """What must never be kept or used: stripped at decode."""

    tags: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    context: tuple[str, ...] = ()
    properties: tuple[str, ...] = ()


class Retention(Model):
    """How long, and how much, is kept of one profile."""

    profile_ttl: Duration = Field(default=90 * DAY, description="Idle profiles are dropped.")
    statements: Duration = Field(
        default=730 * DAY,
        description="What a person stated (consent, do-not-show) outlives the profile that long.",
    )
    profile_bytes: Annotated[int, Field(ge=2_048, le=1 << 20)] = Field(
        default=32_768, description="A larger profile gives up detail, in a documented order."
    )
    pending: Annotated[int, Field(ge=1, le=64)] = Field(
        default=8, description="Open decisions per profile; the oldest is closed early."
    )


class Policy(Model):
    """Everything that decides: signals, segments, rewards, placements and the rules around them."""

    name: Name
    description: str = ""
    time: Time = Field(default_factory=Time)
    consent: Consent = Field(default_factory=Consent)
    sensitive: Sensitive = Field(default_factory=Sensitive)
    signals: dict[Name, Signal] = Field(default_factory=dict)
    segments: dict[Name, Segment] = Field(default_factory=dict)
    intents: dict[Name, Condition] = Field(
        default_factory=dict,
        description="What a visit is about: the first that holds is the profile's intent.",
    )
    predictions: dict[Name, Prediction] = Field(default_factory=dict)
    audiences: Audiences | None = Field(
        default=None, description="Groups of alike profiles, found by the flow itself."
    )
    identity: Identity | None = Field(
        default=None, description="Linking anonymous ids to profiles; absent: no linking."
    )
    health: Health = Field(default_factory=Health)
    rewards: dict[Name, Reward] = Field(default_factory=dict)
    placements: dict[Name, Placement] = Field(min_length=1)
    rules: dict[Name, Rule] = Field(
        default_factory=dict, description="What people decide beside the model, in this order."
    )
    feedback: Feedback = Field(default_factory=Feedback)
    reasons: Reasons = Field(default_factory=Reasons)
    monitoring: Monitoring | None = Field(
        default_factory=Monitoring, description="null: nothing is watched."
    )
    refused_tags: tuple[str, ...] = Field(
        default=REFUSED_TAGS, description="Content with one of these tags is refused by `check`."
    )
    experiments: Experiments = Field(default_factory=Experiments)
    retention: Retention = Field(default_factory=Retention)


def policy_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a policy file."""
    schema = Policy.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "nextbest policy"
    return schema
