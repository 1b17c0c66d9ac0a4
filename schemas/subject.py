"""Everything held of one person, in a portable form: what `nextbest profile --export` writes.

Instants are RFC 3339 in UTC. Consumers ignore fields they do not know. A signal's `state` is what
is kept to compute its value, as it is kept: counts by bucket of time, instants, texts.
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

EXPORT_VERSION: Final = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SignalHeld(_Part):
    """One signal: its value as of the newest event, and the state behind it."""

    name: str = Field(description="As in the policy; the condition's text where it is implied.")
    declared: bool = Field(description="False: implied by a condition, or of a former policy.")
    value: JsonValue = Field(description="Null where there is none.")
    state: JsonValue


class SegmentHeld(_Part):
    """A membership."""

    since: AwareDatetime
    because: list[str] = Field(description="What of its condition holds now.")


class AttributeHeld(_Part):
    """An attribute, and who said so when."""

    value: JsonValue
    source: str | None
    as_of: AwareDatetime | None


class ConsentHeld(_Part):
    """What was said about one purpose."""

    granted: bool
    as_of: AwareDatetime
    by: Literal["statement", "global privacy control"]


class PendingItemHeld(_Part):
    """One item of a decision whose outcome is awaited."""

    content_id: str
    rank: int
    propensity: float
    shown_at: AwareDatetime | None
    rewards: dict[str, float]
    learnable: bool
    score: float | None
    nth: int = Field(description="The how manieth impression of the content it is.")
    explored: bool


class PendingHeld(_Part):
    """A decision whose outcome is awaited."""

    decision_id: str
    placement: str
    decided_at: AwareDatetime
    closes_at: AwareDatetime
    learnable: bool
    variant: str | None
    slate_propensity: float
    features: list[int] = Field(description="Hashed feature cells of the profile.")
    followed: JsonValue = Field(description="What thresholds that follow feedback saw.")
    model: str
    tests: dict[str, str]
    groups: dict[str, str]
    items: list[PendingItemHeld]


class LastDecision(_Part):
    """The newest decision of a placement."""

    decision_id: str
    contents: list[str]
    at: AwareDatetime | None = Field(description="Known where the policy asks for it.")


class CaseHeld(_Part):
    """A case of a prediction whose label is awaited."""

    prediction: str
    at: AwareDatetime
    closes_at: AwareDatetime
    predicted: float | None
    total: float
    features: list[int]


class LessHeld(_Part):
    """When less was wanted of a content or a tag, and when it was last liked."""

    liked_at: AwareDatetime | None
    at: list[AwareDatetime]


class LevelHeld(_Part):
    """How personal a person lets content get."""

    level: int
    as_of: AwareDatetime


class ProfileHeld(_Part):
    """The flow's state of one profile, as of its newest snapshot."""

    profile_id: str
    first_seen: AwareDatetime
    as_of: AwareDatetime
    version: int
    policy: int = Field(description="Marks the policy it was last evaluated under.")
    signals: list[SignalHeld]
    segments: dict[str, SegmentHeld]
    waiting: dict[str, AwareDatetime | None] = Field(
        description="Conditions of segments that hold, or must not hold, for a while first."
    )
    due: list[AwareDatetime] = Field(description="When time alone may change a membership.")
    intent: str | None
    attributes: dict[str, AttributeHeld]
    records: dict[str, dict[str, AttributeHeld]] = Field(
        description="What each source said, where sources are weighed."
    )
    consent: dict[str, ConsentHeld]
    privacy_signal_since: AwareDatetime | None
    hidden: dict[str, AwareDatetime] = Field(description="c:CONTENT or t:TAG, and since when.")
    shown: dict[str, list[AwareDatetime]] = Field(description="Impressions counted for caps.")
    pending: list[PendingHeld]
    last_decisions: dict[str, LastDecision]
    cases: list[CaseHeld]
    sampled: dict[str, AwareDatetime] = Field(description="When a case was last taken, by name.")
    preferences: dict[str, LevelHeld] = Field(description="`level` or `level.PLACEMENT`.")
    less_wanted: dict[str, LessHeld] = Field(description="c:CONTENT or t:TAG.")
    turned: dict[str, list[AwareDatetime]] = Field(
        description="When the contents of a placement last changed."
    )
    prompted: dict[str, list[AwareDatetime]] = Field(
        description="When a prompt for consent was decided on."
    )


class LinksHeld(_Part):
    """Which ids are one person, and what is kept of an id that is not linked yet."""

    canonical: str
    aliases: dict[str, AwareDatetime] = Field(
        description="The other ids, and when the link was last stated."
    )
    recent_events: list[dict[str, JsonValue]]
    collection_allowed: ConsentHeld | None


class ServedHeld(_Part):
    """One key of Redis."""

    version: int
    value: JsonValue


class SubjectExport(_Part):
    """Everything held of one person by the flow's state and by Redis.

    What the topics still hold is named in `elsewhere`: they are kept by time, not by person.
    """

    exported_at: AwareDatetime
    user_id: str
    state_written_at: AwareDatetime | None = Field(
        description="When the newest snapshot was written; null where no store was at hand."
    )
    profile: ProfileHeld | None
    links: LinksHeld | None
    redis: dict[str, ServedHeld] | None = Field(
        description="By key, without the prefix; null where Redis was not asked."
    )
    elsewhere: list[str]
    schema_version: int = EXPORT_VERSION
