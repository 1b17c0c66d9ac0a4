"""Where bad input goes: the dead letter, its stages and its codes.

On Kafka a dead letter is the original key, value and headers, with the error in headers added
(`__dlq.errors.*` after KIP-1191, `__errors.*` for ours). In files it is one JSON object a line.
The message quotes field names and types only, never a value: values are personal data.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Stage = Literal["decode", "time"]
Code = Literal[
    "oversize",
    "not_utf8",
    "not_json",
    "not_an_object",
    "invalid_field",
    "missing_field",
    "missing_profile",
    "unknown_placement",
    "in_the_future",
    "too_old",
]


class DeadLetter(NamedTuple):
    """One refused record, with its original bytes and why it was refused."""

    source: str
    partition: int
    offset: int
    stage: Stage
    code: Code
    message: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    @property
    def dead_letter_id(self) -> str:
        """Identity by coordinates: the same record refused twice is the same dead letter."""
        return f"{self.source}-{self.partition}-{self.offset}"
