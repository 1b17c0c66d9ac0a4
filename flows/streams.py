"""Which streams leave the flow? Each is a topic, or a file of a replay."""

from __future__ import annotations

from typing import Final, Literal, get_args

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
    "monitoring",
    "suggestions",
    "erasures",
]

STREAMS: Final[tuple[StreamName, ...]] = get_args(StreamName)
REPORTS: Final[tuple[StreamName, ...]] = ("predictions", "audiences", "thresholds")
"""Streams about everybody together, given by what learns."""
