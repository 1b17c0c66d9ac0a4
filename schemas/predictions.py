"""What can be predicted of a profile: the policy's `predictions` section.

A prediction names its target (what may happen within a horizon, or a segment to look like) and
what its model may see. Cross-references (signals, segments) are `check_predictions`' business.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from schemas.conditions import EventTypes, Filter, Model
from schemas.time import DAY, SECOND, Duration

MAX_HORIZON: Final = 400 * DAY
MAX_CASES: Final = 8
"""Open cases of one prediction in one profile."""


class _Ahead(Model):
    within: Duration = Field(description="The horizon, from the moment of the case; at most 400d.")
    where: Filter = Field(default_factory=dict)

    @model_validator(mode="after")
    def _horizon_is_bounded(self) -> _Ahead:
        if not SECOND <= self.within <= MAX_HORIZON:
            raise ValueError("expected a horizon between 1s and 400d")
        return self


class WillDo(_Ahead):
    """The probability that one of these events happens within the horizon."""

    done: EventTypes


class WillNotDo(_Ahead):
    """The probability that none of these events happens within the horizon (churn)."""

    not_done: EventTypes


class WillSum(_Ahead):
    """The expected sum of a number over the events within the horizon; never below 0."""

    sum: EventTypes
    of: Annotated[str, Field(pattern=r"^(value|(content\.attributes|properties)\.[A-Za-z0-9_]+)$")]


class LooksLike(Model):
    """The probability that a profile is in a segment, by what the segment does not ask about."""

    segment: str


_TARGETS: Final = ("done", "not_done", "sum", "segment")


def _kind(value: Any) -> str | None:
    if isinstance(value, dict):
        return next((kind for kind in _TARGETS if kind in value), None)
    return next((kind for kind in _TARGETS if hasattr(value, kind)), None)


Target = Annotated[
    Annotated[WillDo, Tag("done")]
    | Annotated[WillNotDo, Tag("not_done")]
    | Annotated[WillSum, Tag("sum")]
    | Annotated[LooksLike, Tag("segment")],
    Discriminator(
        _kind,
        custom_error_type="target_kind",
        custom_error_message="expected a target: a mapping with one of done, not_done, sum, "
        "segment",
    ),
]


class PredictionFeatures(Model):
    """What the model of a prediction sees of the profile; never the context of an event."""

    signals: tuple[str, ...] | None = Field(default=None, description="Absent: all signals.")
    segments: tuple[str, ...] | None = Field(
        default=None, description="Absent: all segments that ask about no prediction."
    )
    attributes: tuple[str, ...] = Field(default=(), description="Profile attributes.")
    top: Annotated[int, Field(ge=0, le=20)] = Field(
        default=3, description="How many of an affinity's strongest values are features."
    )


class PredictionModel(Model):
    """The online model of one prediction."""

    alpha: Annotated[float, Field(gt=0, le=10)] | None = Field(
        default=None, description="The step size; absent: 0.2 for a probability, 0.1 for a sum."
    )
    l2: Annotated[float, Field(ge=0)] = Field(
        default=1.0, description="Regularisation of a probability; a sum has none."
    )
    bits: Annotated[int, Field(ge=8, le=20)] = Field(
        default=14, description="The weight table has 2^bits cells."
    )


class Prediction(Model):
    """Something about a profile's future, learned online from what became of others."""

    target: Target
    description: str = ""
    features: PredictionFeatures = Field(default_factory=PredictionFeatures)
    every: Duration = Field(
        default=DAY,
        description="How often a profile gives a case; at least an eighth of the horizon.",
    )
    on_drift: Literal["report", "faster"] = Field(
        default="report", description="faster: learn in larger steps for a while, too."
    )
    refresh: Duration = Field(
        default=DAY, description="How often a condition on it is asked again with no new event."
    )
    model: PredictionModel = Field(default_factory=PredictionModel)

    @model_validator(mode="after")
    def _is_asked_at_a_human_pace(self) -> Prediction:
        if self.every < SECOND or self.refresh < SECOND:
            raise ValueError("expected every and refresh of at least 1s")
        return self

    @property
    def horizon_ms(self) -> int:
        """How far ahead the target lies; 0 for a look-alike, which is known at once."""
        return 0 if isinstance(self.target, LooksLike) else self.target.within

    @property
    def every_ms(self) -> int:
        """How often a profile really gives a case, so that no more than `MAX_CASES` are open."""
        return max(self.every, -(-self.horizon_ms // MAX_CASES))
