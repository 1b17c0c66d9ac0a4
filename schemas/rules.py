"""What do people decide beside the model: rules that force, pin, boost, bury or exclude content."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field, StrictBool, model_validator

from schemas.conditions import Condition, Model
from schemas.events import Identifier


class Select(Model):
    """Contents by id, tag, type or attribute: those that fit any of what is named."""

    contents: tuple[Identifier, ...] = Field(default=(), description="These contents.")
    tags: tuple[str, ...] = Field(default=(), description="Contents with any of these tags.")
    types: tuple[str, ...] = Field(default=(), description="Contents of any of these types.")
    attributes: dict[str, str | float | bool] = Field(
        default_factory=dict, description="Attribute to value: any of the pairs fits."
    )

    @model_validator(mode="after")
    def _selects_something(self) -> Select:
        if not (self.contents or self.tags or self.types or self.attributes):
            raise ValueError("expected contents, tags, types or attributes to select")
        return self


class Weigh(Select):
    """Selected contents, and the factor of their score."""

    by: Annotated[float, Field(gt=0, le=1_000)] = Field(
        default=2.0, description="How many times; above 1."
    )


class Pin(Model):
    """One content at one rank."""

    content: Identifier = Field(description="Which content.")
    rank: Annotated[int, Field(ge=1, le=100)] = Field(default=1, description="1 is the top.")


class Rule(Model):
    """What holds for the candidates of some placements while a condition holds.

    Rules apply in the order of the policy, before the draw. What they put in place themselves
    (force, pin) has propensity 1 and teaches nothing.
    """

    description: str = Field(default="", description="What it is for, for people.")
    when: Condition | None = Field(default=None, description="Absent: always.")
    placements: tuple[str, ...] | None = Field(default=None, description="Absent: all.")
    valid_from: AwareDatetime | None = Field(
        default=None, description="RFC 3339; in force from then on."
    )
    valid_until: AwareDatetime | None = Field(
        default=None, description="RFC 3339; not in force from then on."
    )
    force: tuple[Identifier, ...] = Field(
        default=(), description="These contents first, in this order, as far as eligible."
    )
    pin: tuple[Pin, ...] = Field(
        default=(), description="Contents at ranks of their own, as far as eligible."
    )
    only: Select | None = Field(default=None, description="No other candidates.")
    exclude: Select | None = Field(default=None, description="Not these candidates.")
    boost: Weigh | None = Field(default=None, description="Their score times `by` (above 1).")
    bury: Weigh | None = Field(default=None, description="Their score divided by `by`.")
    explore: StrictBool = Field(
        default=True, description="false: the best is shown; nobody is experimented on."
    )
    reason: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)] | None = Field(
        default=None, description="Template of the reason of what this rule puts in place."
    )

    @model_validator(mode="after")
    def _does_something(self) -> Rule:
        acts = (self.force, self.pin, self.only, self.exclude, self.boost, self.bury)
        if not any(acts) and self.explore:
            raise ValueError("expected force, pin, only, exclude, boost, bury or explore: false")
        if self.valid_from and self.valid_until and self.valid_from >= self.valid_until:
            raise ValueError("valid_from must be before valid_until")
        return self
