"""Who is who: the policy's `identity` section, and the suggestion that two profiles are one.

Anonymous ids become profiles by links that somebody states (`identity_linked`). A duplicate that
the flow itself suspects is only ever suggested: topic `suggestions`, key = `suggestion_id`.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from schemas.conditions import Model
from schemas.time import DAY, Duration

SUGGESTION_VERSION: Final = 1
Rule = Literal["recency", "priority", "most_complete"]
Source = Annotated[str, Field(min_length=1, max_length=64)]
AttributeName = Annotated[str, Field(min_length=1, max_length=256)]


class Attributes(Model):
    """Which source is believed where several state attributes of one profile."""

    rule: Rule = Field(
        default="recency",
        description="recency: the newest statement; priority: the first of `sources` that states "
        "it; most_complete: the source that states most attributes.",
    )
    sources: tuple[Source, ...] = Field(
        default=(),
        max_length=8,
        description="Best first; sources not listed come after them. It also decides a draw.",
    )

    @model_validator(mode="after")
    def _sources_are_told_apart(self) -> Attributes:
        if len(set(self.sources)) != len(self.sources):
            raise ValueError("expected each source once")
        if self.rule == "priority" and not self.sources:
            raise ValueError("rule priority needs sources: the most trusted first")
        return self


class Suggest(Model):
    """Which attributes tell that two profiles may be one person; they are never merged."""

    email: AttributeName | None = Field(default=None, description="The attribute with the e-mail.")
    phone: AttributeName | None = Field(default=None, description="The attribute with the phone.")
    name: AttributeName | None = Field(default=None, description="The attribute with the name.")
    region: Annotated[str, Field(pattern="^[A-Z]{2}$")] | None = Field(
        default=None,
        description="Country of phone numbers without a prefix, as in DE; absent: those are left.",
    )
    at_least: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.9, description="Suggested from this score on."
    )

    @model_validator(mode="after")
    def _names_something(self) -> Suggest:
        if self.email is None and self.phone is None and self.name is None:
            raise ValueError("expected one of email, phone, name: the attribute that has it")
        return self

    @property
    def asked(self) -> tuple[str, ...]:
        """The attributes named, each once, in order of kind."""
        named = (self.email, self.phone, self.name)
        return tuple(dict.fromkeys(name for name in named if name is not None))


class Identity(Model):
    """How anonymous ids are linked to profiles, and what a link carries over."""

    carry: Duration = Field(
        default=DAY, description="How far back a link carries an anonymous id's history over."
    )
    events: Annotated[int, Field(ge=0, le=500)] = Field(
        default=50, description="At most this many of its newest events; 0 carries none."
    )
    devices: Annotated[int, Field(ge=1, le=64)] = Field(
        default=16,
        description="Ids linked to one profile at most; the one linked longest ago gives way.",
    )
    keep: Duration = Field(
        default=400 * DAY, description="A link is forgotten that long after it was last stated."
    )
    links: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        default=1_000_000, description="Links held in all; those stated longest ago give way."
    )
    anonymous: Annotated[int, Field(ge=8, le=10_000_000)] = Field(
        default=1_000_000,
        description="Anonymous ids whose history is held in all; the stalest give way.",
    )
    attributes: Attributes | None = Field(
        default=None, description="Absent: the newest statement of an attribute is its value."
    )
    suggest: Suggest | None = Field(
        default=None, description="Absent: no probable duplicates are looked for."
    )


MatchedOn = Literal["email", "phone", "local_part", "name"]
"""local_part: of two e-mail addresses what stands before the @ is equal, the rest is not."""


class Suggestion(BaseModel):
    """Two profiles that are probably one person. Nothing is done with it but to say so."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    suggestion_id: str = Field(description="Stable: the same two profiles give the same id.")
    profile_a: str = Field(description="The two profile ids, in order of text.")
    profile_b: str
    score: Annotated[float, Field(gt=0, le=1)] = Field(
        description="How strongly the evidence speaks for one person; not a probability."
    )
    matched_on: list[MatchedOn] = Field(min_length=1)
    suggested_at: AwareDatetime = Field(description="Event time, not wall time.")
    schema_version: int = SUGGESTION_VERSION
