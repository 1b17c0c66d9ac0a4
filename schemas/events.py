"""What may arrive: the event contract of topic `events`, key = profile id.

Behaviour types are open (a policy may count any type); the types in `CONTROL_TYPES` and the ones
with required fields in `REQUIRED_BY_TYPE` mean something to the flow itself. Unknown fields are
tolerated, because producers evolve before consumers do; decode counts them.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

Identifier = Annotated[str, Field(min_length=1, max_length=256)]
Scalar = str | int | float | bool | None

FeedbackKind = Literal["like", "dislike", "hide", "not_interested", "less_like_this"]

CONTROL_TYPES: Final = frozenset(
    {
        "consent_changed",
        "erasure_requested",
        "taste_reset",
        "feedback",
        "preferences_set",
        "identity_linked",
        "identity_unlinked",
    }
)
"""Types that apply on arrival whatever their date: refusing one for being late would be wrong."""

LINK_TYPES: Final = frozenset({"identity_linked", "identity_unlinked"})

REQUIRED_BY_TYPE: Final[dict[str, tuple[str, ...]]] = {
    "decision_requested": ("placement",),
    "impression": ("decision_id",),
    "feedback": ("feedback",),
    "consent_changed": ("consent",),
    "preferences_set": ("preferences",),
    "profile_updated": ("attributes",),
    "identity_linked": ("user_id", "anonymous_id"),
    "identity_unlinked": ("user_id", "anonymous_id"),
}


class Candidate(BaseModel):
    """One content offered by the caller of `decision_requested`."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    content_id: Identifier


class Event(BaseModel):
    """One behavioural or control event about one profile."""

    model_config = ConfigDict(
        extra="allow", frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    event_id: Identifier = Field(description="Unique per event; a second delivery is a duplicate.")
    type: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
    occurred_at: AwareDatetime = Field(description="Event time, RFC 3339 with an offset.")
    user_id: Identifier | None = None
    anonymous_id: Identifier | None = None
    received_at: AwareDatetime | None = Field(
        default=None, description="Append time; in a log only, on a topic the broker's own is used."
    )
    content_id: Identifier | None = None
    placement: Identifier | None = None
    decision_id: Identifier | None = None
    session_id: Identifier | None = None
    source: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        default=None, description="Which system says so: crm, app, web (see identity.attributes)."
    )
    value: float | None = Field(default=None, description="A number: a price, a dwell time.")
    context: dict[str, Scalar] = Field(
        default_factory=dict,
        description="Flat: device, locale, country, local_hour, channel; gpc says that the "
        "browser sent Global Privacy Control.",
    )
    properties: dict[str, JsonValue] = Field(default_factory=dict)
    candidates: list[Identifier | Candidate] | None = Field(
        default=None, max_length=10_000, description="decision_requested: contents to choose from."
    )
    slots: Annotated[int, Field(ge=1, le=100)] | None = Field(
        default=None, description="decision_requested: how many items, at most the placement's."
    )
    contents: list[Identifier] | None = Field(
        default=None, max_length=1_000, description="impression: the contents shown."
    )
    feedback: FeedbackKind | None = None
    tag: Identifier | None = Field(default=None, description="feedback on a tag, not a content.")
    attributes: dict[str, Scalar] | None = Field(
        default=None, description="profile_updated: attributes to set; null removes one."
    )
    preferences: dict[str, Annotated[int, Field(ge=0, le=5)]] | None = Field(
        default=None,
        max_length=64,
        description="preferences_set: how personal content may get: `level` 0 to 5 for all, "
        "`level.<placement>` for one; 5 takes a restriction back.",
    )
    consent: dict[str, bool] | None = Field(
        default=None, description="consent_changed: purpose to granted (true) or refused (false)."
    )


def event_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of an event, the fields required by type included."""
    schema = Event.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "nextbest event"
    # null is as good as absent where a field may be left out, and as bad where it may not.
    schema["anyOf"] = [_present(("user_id",)), _present(("anonymous_id",))]
    schema["allOf"] = [
        {
            "if": {"properties": {"type": {"const": kind}}, "required": ["type"]},
            "then": _present(fields),
        }
        for kind, fields in REQUIRED_BY_TYPE.items()
    ]
    schema["allOf"].append(
        {
            "if": {"properties": {"type": {"const": "feedback"}}, "required": ["type"]},
            "then": {"anyOf": [_present(("content_id",)), _present(("tag",))]},
        }
    )
    return schema


def _present(fields: tuple[str, ...]) -> dict[str, Any]:
    return {
        "required": list(fields),
        "properties": {name: {"not": {"type": "null"}} for name in fields},
    }
