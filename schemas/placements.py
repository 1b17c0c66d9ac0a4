"""Where is content shown, and by which rules: the placement and all that guards it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, field_validator, model_validator

from schemas.catalogue import Cap
from schemas.conditions import Condition, EventTypes, Model
from schemas.events import Identifier
from schemas.learning import Exploration, Features, Learner
from schemas.time import MINUTE, Duration

Learning = Literal["online", "apprentice", "logging_only"]
ContentField = Annotated[str, Field(pattern=r"^(tags|type|attributes\.[A-Za-z0-9_]+)$")]


MOST_PER_PROFILE = 1_000


class Candidates(Model):
    """Where candidates come from, and which contents qualify."""

    source: Literal["catalogue", "request"] = Field(alias="from", default="catalogue")
    types: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = Field(default=None, description="Any of these tags.")
    sensitive: StrictBool = Field(
        default=True, description="false: contents marked sensitive are never candidates."
    )


class Fallback(Model):
    """What is shown when nothing can be decided, in this order: segment, popular, editorial.

    The editorial contents come last, then all others by priority.
    """

    segments: dict[str, tuple[Identifier, ...]] = Field(
        default_factory=dict,
        description="Contents of the first of these segments that the profile is in.",
    )
    popular: StrictBool = Field(
        default=False, description="Then the contents with the highest reward per impression."
    )
    contents: tuple[Identifier, ...] = ()
    none: StrictBool = Field(
        default=False, description="Show nothing instead: a message that is not worth sending."
    )


class PlacementCap(Cap):
    """At most `max` impressions within a window: 1,000 for one profile, 10^9 for everybody."""

    max: Annotated[int, Field(ge=1, le=1_000_000_000)]
    per: Literal["content", "tag", "placement", "channel"] = Field(
        default="content",
        description="What is counted: each content, each tag, this placement, or all placements "
        "of this one's channel.",
    )
    over: Literal["profile", "everybody"] = Field(
        default="profile",
        description="everybody: one count for all profiles (per content or tag), soft by what is "
        "shown between two counts.",
    )
    hard: StrictBool = Field(
        default=False,
        description="With everybody: never above max; each shard has its share of it.",
    )

    @model_validator(mode="after")
    def _is_countable(self) -> PlacementCap:
        if self.over == "profile" and self.max > MOST_PER_PROFILE:
            raise ValueError(f"expected at most {MOST_PER_PROFILE} for one profile")
        return self


class Diversity(Model):
    """At most `most` items of one slate share a value of a content field."""

    by: ContentField = "type"
    most: Annotated[int, Field(ge=1, le=100)] = 1


class Coherence(Model):
    """How often the slate of a placement may change for one profile."""

    within: Duration = Field(description="What is shown stays for this long, and ...")
    changes: Annotated[int, Field(ge=0, le=16)] = Field(
        default=0, description="... may change so many times in it."
    )


class Needs(Model):
    """What must be known before the model decides; short of it the fallback answers."""

    signals: tuple[str, ...] = Field(
        default=(), description="At least one of these signals has a value."
    )
    rewarded: Annotated[int, Field(ge=0)] = Field(
        default=0, description="The model has learned from so many rewards."
    )


class Placement(Model):
    """One place where content is shown, and how its content is chosen."""

    description: str = ""
    triggers: EventTypes | tuple[()] = Field(
        default=("decision_requested",),
        description="Event types that cause a decision. decision_requested names its placement.",
    )
    entering: tuple[str, ...] = Field(
        default=(), description="Segments: entering one causes a decision, by time alone too."
    )
    leaving: tuple[str, ...] = Field(
        default=(), description="Segments: leaving one causes a decision, by time alone too."
    )
    channel: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)] | None = Field(
        default=None, description="web, app, email, push ...: caps may count all of a channel."
    )
    page: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)] | None = Field(
        default=None,
        description="Placements of one page do not repeat each other's contents.",
    )
    page_within: Duration = Field(
        default=MINUTE, description="Decisions this close together are of one view of the page."
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
    never_personalised: StrictBool = Field(
        default=False,
        description="Legal notices, critical navigation: level 0, no rules, no experiments.",
    )
    rewards: tuple[str, ...] = ()
    features: Features = Field(default_factory=Features)
    model: Learner = Field(default_factory=Learner)
    exploration: Exploration = Field(default_factory=Exploration)
    learning: Learning = Field(
        default="online",
        description="online: the model acts and learns; apprentice: the incumbent (the order of "
        "the request, else the fallback's) acts and the model learns; logging_only: the incumbent "
        "acts and nothing is learned.",
    )
    impressions: Literal["required", "assumed"] = Field(
        default="required",
        description="required: the client reports them; assumed: shown when decided.",
    )
    caps: tuple[PlacementCap, ...] = ()
    diversity: tuple[Diversity, ...] = ()
    coherence: Coherence | None = None
    needs: Needs = Field(default_factory=Needs)
    fallback: Fallback = Field(default_factory=Fallback)
    shared: StrictBool = Field(
        default=False,
        description="The answer is the same for everybody in the same segments until it expires: "
        "a fragment that a cache may keep. Level 0 or 1 only.",
    )
    expires_after: Duration = 30 * MINUTE

    @field_validator("level", mode="before")
    @classmethod
    def _six_is_reserved(cls, value: object) -> object:
        if value == 6:
            raise ValueError("level 6 (emotional) is reserved and refused: expected 0 to 5")
        return value

    @model_validator(mode="before")
    @classmethod
    def _never_is_level_0(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("never_personalised") is True:
            if given.get("level", 0) != 0:
                raise ValueError("expected no level: a placement never personalised has level 0")
            return {**given, "level": 0}
        return given
