"""That something was erased: the record of topic `erasures`, key = the request's event id.

It names no one: who asked knows the event id of the request.
"""

from __future__ import annotations

from typing import Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

RECEIPT_VERSION: Final = 1


class Receipt(BaseModel):
    """One profile was erased from the flow's state, as the request asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    receipt_id: str = Field(description="Stable: the same erasure gives the same id.")
    request_event_id: str = Field(description="The `event_id` of the `erasure_requested` event.")
    erased_at: AwareDatetime = Field(description="The flow's clock: when the request arrived.")
    found: bool = Field(description="False where nothing was held of the profile.")
    schema_version: int = RECEIPT_VERSION
