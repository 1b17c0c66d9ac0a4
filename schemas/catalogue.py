"""What can be shown: the catalogue contract (a file, or the compacted topic `catalogue`)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AwareDatetime, Field, StrictBool, model_validator

from schemas.conditions import Condition, Model
from schemas.events import Identifier
from schemas.time import DAY, Duration

Purpose = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
Language = Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]


class Cap(Model):
    """At most `max` impressions within a window, for one profile."""

    max: Annotated[int, Field(ge=1, le=1_000)]
    within: Duration


class Content(Model):
    """One thing that can be shown."""

    content_id: Identifier
    type: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")] = "content"
    tags: tuple[Identifier, ...] = ()
    attributes: dict[str, str | float | bool] = Field(
        default_factory=dict, description="Numbers are numeric, everything else categorical."
    )
    placements: tuple[Identifier, ...] | None = Field(
        default=None, description="Where it may appear; absent: anywhere."
    )
    title: str | dict[Language, str] | None = Field(
        default=None, description="What people call it, as reasons name it; by language or one."
    )
    valid_from: AwareDatetime | None = None
    valid_until: AwareDatetime | None = None
    needs_consent: Purpose | None = Field(
        default=None, description="A purpose that must be granted before it may be shown."
    )
    asks_consent: Purpose | None = Field(
        default=None,
        description="A prompt that asks for this purpose: shown while it is neither granted nor "
        "lately refused, also to people who have not consented to anything.",
    )
    ask_again_after: Duration = Field(
        default=180 * DAY, description="How long after a refusal a prompt stays away."
    )
    eligibility: Condition | None = None
    priority: float = Field(default=0.0, description="Editorial order of the fallback, high first.")
    caps: tuple[Cap, ...] = ()
    margin: Annotated[float, Field(ge=-1e12, le=1e12)] | None = Field(
        default=None, description="What a reward on it is worth."
    )
    stock: int | None = Field(default=None, description="0 or less: not eligible.")
    sensitive: StrictBool = Field(
        default=False, description="Never a source of signals, features or reasons."
    )

    @model_validator(mode="after")
    def _is_valid_for_some_time(self) -> Content:
        if self.valid_from and self.valid_until and self.valid_from >= self.valid_until:
            raise ValueError("valid_from must be before valid_until")
        return self


def catalogue_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of one content of the catalogue."""
    schema = Content.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "nextbest content"
    return schema
