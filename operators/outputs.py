"""What one activation of a shard gives: named streams, late and suppressed events among them.

Records are plain dicts in the shape of `schemas.decisions` (tests hold them to it): building
pydantic models would cost more than deciding.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Record = dict[str, Any]


class Made(NamedTuple):
    """A decision, and whether it was adopted from the topic instead of chosen now.

    `version` orders a profile's decisions; `received_ms` is when the log received the trigger.
    """

    record: Record
    version: int
    adopted: bool
    received_ms: int


class Example(NamedTuple):
    """What LEARN learns from: logged features of one shown item, and its label.

    `kind` is the reward that came, or None for the negative that every shown item gives at once
    (fake negatives; see `operators.learn`). `features` are the profile's cells as logged at the
    decision (uint32), `weight` undoes subsampling.
    """

    model: str
    content_id: str
    features: bytes
    kind: str | None
    weight: float
    at_ms: int


class ProfileState(NamedTuple):
    """A profile's serving view at the end of an activation; None: it was erased or dropped."""

    profile_id: str
    version: int
    view: Record | None


@dataclass(slots=True)
class Outputs:
    """Named output streams of one activation; `counts` and `facts` are for the metrics.

    `counts` has the accounting of events (used, suppressed, duplicate, late); every event is in
    exactly one. `facts` maps (name, label values ...) to an amount.
    """

    decisions: list[Made] = field(default_factory=list)
    changes: list[Record] = field(default_factory=list)
    outcomes: list[Record] = field(default_factory=list)
    late: list[Record] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    profiles: list[ProfileState] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    facts: defaultdict[tuple[str, ...], float] = field(default_factory=lambda: defaultdict(float))
