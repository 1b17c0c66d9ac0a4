"""What to decide and how: the policy contract, one YAML file a product manager can read.

Every cross-reference (a segment in a condition, a reward of a placement) is checked by
`schemas.check`, which reports all mistakes at once with file and line; this module only says what
shape each part has.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from schemas.audiences import Audiences, Follow
from schemas.catalogue import Cap
from schemas.conditions import Condition, EventTypes, Model
from schemas.events import Identifier
from schemas.health import Health
from schemas.identity import Identity
from schemas.predictions import Prediction
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


class Reward(Model):
    """An outcome worth something, attributed to the decision that led to it."""

    events: EventTypes
    value: float = Field(description="What one is worth; negative for a dislike.")
    times: Literal["margin"] | None = Field(
        default=None, description="Multiply by this field of the content (1 where absent)."
    )
    within: Duration = Field(description="The attribution window, from the impression.")
    base_rate: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="How often it is expected per shown item; absent: the model's base_rate.",
    )

    @field_validator("value")
    @classmethod
    def _is_not_zero(cls, value: float) -> float:
        if value == 0:
            raise ValueError("expected a value other than 0: a worthless reward teaches nothing")
        return value


class Candidates(Model):
    """Where candidates come from, and which contents qualify."""

    source: Literal["catalogue", "request"] = Field(alias="from", default="catalogue")
    types: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = Field(default=None, description="Any of these tags.")


class Features(Model):
    """What the model sees of the profile; crossed with every content feature."""

    signals: tuple[str, ...] | None = Field(default=None, description="Absent: all signals.")
    segments: tuple[str, ...] | None = Field(default=None, description="Absent: all segments.")
    context: tuple[str, ...] = Field(default=(), description="Fields of the trigger's context.")
    attributes: tuple[str, ...] = Field(default=(), description="Profile attributes.")
    predictions: tuple[str, ...] = Field(
        default=(), description="Predictions of the profile, from level 4 on."
    )
    content: tuple[str, ...] | None = Field(
        default=None, description="Content attributes crossed with them. Absent: all."
    )
    top: Annotated[int, Field(ge=0, le=20)] = Field(
        default=3, description="How many of an affinity's strongest values are features."
    )


class Learner(Model):
    """One shared logistic model per reward kind (River), over profile x content crosses."""

    alpha: Annotated[float, Field(gt=0, le=10)] = Field(default=0.1, description="FTRL step.")
    l2: Annotated[float, Field(ge=0)] = 1.0
    bits: Annotated[int, Field(ge=10, le=24)] = Field(
        default=18, description="The weight table has 2^bits cells per reward kind."
    )
    base_rate: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.05, description="The prior reward rate: what is believed before anything is seen."
    )
    negatives: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.25,
        description="Share of unrewarded examples learned, each weighted by its inverse.",
    )
    publish_every: Annotated[int, Field(ge=1)] = Field(
        default=500, description="Learned examples between two parameter sets, at most."
    )


class Exploration(Model):
    """How the draw departs from the greedy choice, with known propensities."""

    kind: Literal["igw", "epsilon_greedy", "uniform", "greedy"] = "igw"
    gamma: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="igw: higher is greedier; absent: grows with the rewarded examples.",
    )
    epsilon: Annotated[float, Field(ge=0, le=1)] = Field(default=0.05, description="epsilon_greedy")
    floor: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.02, description="Share drawn uniformly whatever the scores."
    )


class Fallback(Model):
    """What is shown when nothing can be decided: these contents first, then by priority."""

    contents: tuple[Identifier, ...] = ()


class PlacementCap(Cap):
    """At most `max` impressions within a window, counted per content or per tag."""

    per: Literal["content", "tag"] = "content"


class Placement(Model):
    """One place where content is shown, and how its content is chosen."""

    triggers: EventTypes = Field(
        default=("decision_requested",),
        description="Event types that cause a decision. decision_requested names its placement.",
    )
    candidates: Candidates = Field(default_factory=Candidates)
    eligibility: Condition | None = Field(
        default=None, description="Asked of the profile; where it fails, the fallback is shown."
    )
    slots: Annotated[int, Field(ge=1, le=100)] = 1
    level: Annotated[int, Field(ge=0, le=5)] = Field(
        default=4,
        description="0 none, 1 segmented, 2 behavioural, 3 contextual, 4 predictive, 5 one-to-one. "
        "What the model may see grows with the level; 0 shows the fallback.",
    )
    rewards: tuple[str, ...] = ()
    features: Features = Field(default_factory=Features)
    model: Learner = Field(default_factory=Learner)
    exploration: Exploration = Field(default_factory=Exploration)
    impressions: Literal["required", "assumed"] = Field(
        default="required",
        description="required: the client reports them; assumed: shown when decided.",
    )
    caps: tuple[PlacementCap, ...] = ()
    fallback: Fallback = Field(default_factory=Fallback)
    expires_after: Duration = 30 * MINUTE

    @field_validator("level", mode="before")
    @classmethod
    def _six_is_reserved(cls, value: object) -> object:
        if value == 6:
            raise ValueError("level 6 (emotional) is reserved and refused: expected 0 to 5")
        return value


class Consent(Model):
    """Which purpose each use of personal data needs; absent section: no consent is asked."""

    collect: Name | None = Field(default=None, description="Purpose needed to keep signals.")
    personalise: Name | None = Field(default=None, description="Purpose needed to personalise.")
    learn: Name | None = Field(default=None, description="Purpose needed to learn from outcomes.")
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


class Holdout(Model):
    """A share of profiles, by stable hash, that is not personalised: the yardstick of uplift."""

    share: Annotated[float, Field(gt=0, lt=1)]
    serve: Literal["uniform", "fallback"] = "uniform"
    salt: str = ""


class Experiments(Model):
    """Who is in which arm."""

    holdout: Holdout | None = None


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
    experiments: Experiments = Field(default_factory=Experiments)
    retention: Retention = Field(default_factory=Retention)


def policy_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a policy file."""
    schema = Policy.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "nextbest policy"
    return schema
