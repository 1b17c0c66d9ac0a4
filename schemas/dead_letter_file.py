"""What does a dead letter look like in a file: one JSON object a line, the original bytes kept?

On Kafka the original record itself is the dead letter, with the error in headers. A file has
neither headers nor bytes, so a line carries both, the bytes in base64.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from schemas.dead_letters import Code, DeadLetter, Stage

Base64 = Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]


class DeadLetterLine(BaseModel):
    """One refused record: where it was, why it was refused, and the record itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dead_letter_id: str = Field(description="By coordinates: the same record has the same id.")
    source: str = Field(description="The topic, or the log's name.")
    partition: int
    offset: int
    stage: Stage
    code: Code
    message: str = Field(description="Names fields and types, never a value.")
    key_base64: Base64 | None
    value_base64: Base64 | None
    headers: list[tuple[str, Base64]] = Field(description="Name and value of each, in order.")

    def letter(self) -> DeadLetter:
        """The dead letter with its original bytes; raises ValueError where that is no base64."""
        return DeadLetter(
            self.source,
            self.partition,
            self.offset,
            self.stage,
            self.code,
            self.message,
            _bytes(self.key_base64),
            _bytes(self.value_base64),
            tuple((name, base64.b64decode(value, validate=True)) for name, value in self.headers),
        )


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)


def dead_letter_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of one line of a file of dead letters."""
    schema = DeadLetterLine.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "nextbest dead letter"
    return schema
