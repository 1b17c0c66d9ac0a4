"""How is one content chosen among several: what is seen, what is learned, how the draw explores."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, field_validator

from schemas.conditions import EventTypes, Filter, Model
from schemas.time import Duration

ModelKind = Literal["shared", "per_content", "factorised", "popularity"]
ExplorationKind = Literal["igw", "epsilon_greedy", "softmax", "thompson", "uniform", "greedy"]


class Reward(Model):
    """An outcome worth something, attributed to the decision that led to it."""

    events: EventTypes
    where: Filter = Field(
        default_factory=dict,
        description="Only events with these fields count: a dwell of 30 s and more, one channel.",
    )
    value: Annotated[float, Field(ge=-1e12, le=1e12)] = Field(
        description="What one is worth; negative for a dislike or a skip."
    )
    times: Annotated[str, Field(pattern=r"^(margin|value|attributes\.[A-Za-z0-9_]+)$")] | None = (
        Field(
            default=None,
            description="Multiply by the content's margin or numeric attribute (1 where absent), "
            "or by the value that the event bears (revenue, seconds of dwell).",
        )
    )
    at_most: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="A larger event value counts as this much (with times: value)."
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
    match: StrictBool = Field(
        default=True,
        description="One feature more where a content has what an affinity of the profile names: "
        "a liking holds for contents never shown.",
    )


class Learner(Model):
    """One logistic model per reward kind (River), over profile and content features."""

    kind: ModelKind = Field(
        default="shared",
        description="shared: profile x content crosses; per_content: each content by itself; "
        "factorised: crosses through a few factors; popularity: the same for every profile.",
    )
    factors: Annotated[int, Field(ge=0, le=64)] = Field(
        default=0,
        description="Factors of the factorised crosses, beside shared ones too; 0 with kind "
        "factorised means 8.",
    )
    alpha: Annotated[float, Field(gt=0, le=10)] = Field(
        default=0.05,
        description="FTRL step, for examples of 100 crosses; fewer take larger ones (by the root).",
    )
    l2: Annotated[float, Field(ge=0)] = 1.0
    bits: Annotated[int, Field(ge=10, le=24)] = Field(
        default=18, description="The weight table has 2^bits cells per reward kind."
    )
    base_rate: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.05, description="The prior reward rate: what is believed before anything is seen."
    )
    forget_after: Annotated[int, Field(ge=100)] | None = Field(
        default=None,
        description="After so many learned examples the old count half; absent: all count.",
    )
    negatives: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0,
        description="Share of unrewarded examples learned, each weighted by its inverse: less "
        "where learning cannot keep up. It costs the more the more often rewards come.",
    )
    publish_every: Annotated[int, Field(ge=1)] = Field(
        default=200, description="Learned examples between two parameter sets, at most."
    )


class Exploration(Model):
    """How the draw departs from the greedy choice, with known propensities."""

    kind: ExplorationKind = "igw"
    gamma: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="igw: higher is greedier; absent: grows with the rewarded examples.",
    )
    epsilon: Annotated[float, Field(ge=0, le=1)] = Field(default=0.05, description="epsilon_greedy")
    temperature: Annotated[float, Field(gt=0)] = Field(
        default=0.1, description="softmax, relative to the mean score: lower is greedier."
    )
    draws: Annotated[int, Field(ge=16, le=4_096)] = Field(
        default=256, description="thompson: how many samples of the model make the propensities."
    )
    spread: Annotated[float, Field(ge=0, le=10)] = Field(
        default=0.3, description="thompson: the scale of the samples' uncertainty."
    )
    optimism: Annotated[float, Field(ge=0, le=10)] = Field(
        default=2.0, description="How much the benefit of the doubt raises what is little known."
    )
    floor: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.02, description="Share drawn uniformly whatever the scores."
    )
    budget: Annotated[float, Field(ge=0, le=1)] = Field(
        default=1.0, description="Most probability that one draw gives to other than the best."
    )
