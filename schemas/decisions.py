"""What goes out: the decision record of topic `decisions`, key = profile id.

The hot path builds this record as a plain dict; this model is the contract that the record is
tested against and the JSON Schema that consumers read. Consumers ignore unknown fields; reason
codes are an open set; read with `isolation.level=read_committed`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from schemas.events import Scalar

SCHEMA_VERSION: Final = 1

FallbackReason = Literal[
    "consent_refused",
    "consent_unknown",
    "no_eligible_candidate",
    "holdout",
    "not_personalised",
    "not_eligible",
    "privacy_signal",
    "too_little_known",
    "capped",
]


class _Out(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Trigger(_Out):
    """What caused the decision."""

    event_id: str
    type: str


ItemSource = Literal["model", "incumbent", "forced", "pinned", "sticky", "fallback"]


class Reason(_Out):
    """Why an item was chosen: a code for machines, a sentence for people."""

    code: str
    text: str
    language: str | None = Field(default=None, description="Of the text; absent: English.")


class Item(_Out):
    """One chosen content."""

    content_id: str
    rank: Annotated[int, Field(ge=1)]
    score: float | None = Field(description="Expected reward by the model; null without a model.")
    propensity: Annotated[float, Field(gt=0, le=1)] = Field(
        description="P(this content at this rank | the ranks above, context, candidates)."
    )
    source: ItemSource = Field(default="model", description="Who put it there.")
    learnable: bool = Field(
        default=True,
        description="False where it teaches the model nothing: forced, pinned, kept, a fallback.",
    )
    reasons: list[Reason]


class Experiment(_Out):
    """Which arm of which experiment the profile was in."""

    id: str
    variant: str


class Exposure(_Out):
    """Which variant of which test decided, and with what share it was given out."""

    test: str
    layer: str
    variant: str
    share: Annotated[float, Field(gt=0, le=1)]


class Shadow(_Out):
    """What the model would have shown where an incumbent acts (learning: apprentice)."""

    content_ids: list[str]
    agrees: bool


class Fragment(_Out):
    """How a shared answer may be cached: until when, and for whom it is the same."""

    key: str = Field(description="Equal for everybody who gets this answer.")
    max_age_s: Annotated[int, Field(ge=0)]
    vary: list[str] = Field(description="The segments the answer depends on.")


class Decision(_Out):
    """The next best content for one profile, at one moment, in one placement."""

    decision_id: str = Field(description="Stable: the same trigger gives the same id.")
    profile_id: str
    placement: str
    decided_at: AwareDatetime = Field(description="Event time, not wall time.")
    expires_at: AwareDatetime
    trigger: Trigger
    items: list[Item]
    candidates: Annotated[int, Field(ge=0)]
    rejections: dict[str, int] = Field(description="Candidates refused, by reason.")
    segments: list[str]
    intent: str | None = Field(default=None, description="What the visit is about, by the policy.")
    experiment: Experiment | None
    exposures: list[Exposure] = Field(default_factory=list, description="Tests it counts for.")
    rules: list[str] = Field(default_factory=list, description="Rules that shaped it.")
    shadow: Shadow | None = None
    fragment: Fragment | None = None
    explored: bool = Field(description="Some item was not the greedy choice at its rank.")
    learnable: bool = Field(description="False where the choice was not the model's (fallback).")
    fallback: str | None = Field(description="Null, or why the default was shown.")
    slate_propensity: Annotated[float, Field(gt=0, le=1)]
    model_version: str | None = Field(
        description="The parameter set used; `prior` before the first one; null without a model."
    )
    policy_digest: str
    catalogue_version: str
    level: Annotated[int, Field(ge=0, le=5)]
    schema_version: int = SCHEMA_VERSION


class SegmentChange(_Out):
    """A profile entered or left a segment (topic `segment-changes`)."""

    change_id: str
    profile_id: str
    segment: str
    direction: Literal["entered", "left"]
    changed_at: AwareDatetime
    cause: str = Field(
        description="The event id; `timer` where time itself made the change, `policy` where a "
        "changed definition did, `expired` where the profile was idle beyond its TTL."
    )
    rule: str = Field(default="", description="The rule, or the part of it, that decided.")
    values: dict[str, Scalar] = Field(
        default_factory=dict, description="What each part of the rule saw."
    )
    entered_at: AwareDatetime | None = Field(
        default=None, description="Since when the profile had been in it; null when it enters."
    )
    policy_digest: str
    schema_version: int = SCHEMA_VERSION


class OutcomeItem(_Out):
    """What became of one item of a decision."""

    content_id: str
    rank: Annotated[int, Field(ge=1)]
    propensity: Annotated[float, Field(gt=0, le=1)]
    learnable: bool = True
    shown: bool
    nth: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="The how manieth impression of the content for this profile, as far as its "
        "caps and open decisions tell; 0: not shown.",
    )
    rewards: dict[str, float] = Field(description="Value by reward kind; absent: none came.")


class Outcome(_Out):
    """The books of one decision, written once, when its attribution window closes."""

    decision_id: str
    profile_id: str
    placement: str
    decided_at: AwareDatetime
    closed_at: AwareDatetime
    learnable: bool
    variant: str | None
    slate_propensity: Annotated[float, Field(gt=0, le=1)]
    items: list[OutcomeItem]
    reward: float = Field(description="The sum over items and kinds.")
    tests: dict[str, str] = Field(default_factory=dict, description="Variant by test.")
    schema_version: int = SCHEMA_VERSION


class Late(_Out):
    """An event that came after the watermark had passed it (topic `late`)."""

    event_id: str
    profile_id: str
    type: str
    occurred_at: AwareDatetime
    watermark: AwareDatetime
    schema_version: int = SCHEMA_VERSION


def out_schema(model: type[BaseModel]) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of an output record; `additionalProperties` is left open.

    Consumers must ignore fields they do not know, so the published schema allows them although
    the flow itself never writes one.
    """
    schema = model.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema.pop("additionalProperties", None)
    for definition in schema.get("$defs", {}).values():
        definition.pop("additionalProperties", None)
    return schema
