"""Which streams leave the flow? Each is a topic, or a file of a replay."""

from __future__ import annotations

from typing import Final, Literal

StreamName = Literal[
    "decisions",
    "segment-changes",
    "outcomes",
    "late",
    "dead-letters",
    "parameters",
    "predictions",
    "audiences",
    "thresholds",
    "suggestions",
    "erasures",
]

REPORTS: Final[tuple[StreamName, ...]] = ("predictions", "audiences", "thresholds")
"""Streams about everybody together, given by what learns."""
