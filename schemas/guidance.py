"""What is said of decisions and what is watched of them: feedback, reasons, monitoring."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, field_validator

from schemas.catalogue import Language
from schemas.conditions import Model
from schemas.time import DAY, HOUR, MINUTE, Duration

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
Template = Annotated[str, Field(min_length=1, max_length=240)]
REFUSED_TAGS = ("guilt", "confirmshaming", "false_urgency", "fake_scarcity", "dark_pattern")


class LessLikeThis(Model):
    """What `less_like_this` on a content or a tag does to scores, fading by half-lives.

    Said again it takes more: n times take 1 - (1 - share)^n. A later like takes it back.
    """

    content: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.8, description="How much of the content's own score is taken away at once."
    )
    tags: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.4, description="The same for contents that share its tags, or bear the tag."
    )
    half_life: Duration = Field(default=14 * DAY, description="After which it counts half.")

    @field_validator("half_life")
    @classmethod
    def _decays(cls, half_life: int) -> int:
        if half_life < MINUTE:
            raise ValueError("expected a half life of at least 1m")
        return half_life


class Feedback(Model):
    """How explicit feedback is honoured; do-not-show needs no setting."""

    less_like_this: LessLikeThis = Field(default_factory=LessLikeThis)
    dislike: StrictBool = Field(default=True, description="A dislike counts as less_like_this too.")


class Reasons(Model):
    """The sentences that say why an item is shown."""

    language: Language = Field(
        default="en", description="Where the person's is unknown or has no sentence."
    )
    templates: dict[Name, dict[Language, Template]] = Field(
        default_factory=dict,
        description="Reason code (before any colon) to language to sentence; {title}, {value}.",
    )
    private: tuple[str, ...] = Field(
        default=(), description="Signals that are never named in a reason."
    )


class Group(Model):
    """A declared division of profiles or contents, compared for fairness."""

    of: Literal["profile", "content"] = "profile"
    attribute: str


class Monitoring(Model):
    """What is watched of decisions and their outcomes."""

    every: Duration = Field(default=HOUR, description="Event time between two reports.")
    groups: dict[Name, Group] = Field(default_factory=dict, description="Compared for fairness.")
    shift_above: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.35,
        description="How far (total variation) what is shown may move from one report to the next "
        "before it is called sudden.",
    )
