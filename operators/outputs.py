"""What one activation of a shard gives: named streams, late and suppressed events among them.

Records are plain dicts in the shape of `schemas.decisions` (tests hold them to it): building
pydantic models would cost more than deciding.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from operators.arrival import Arrived
from operators.decode import NEVER
from operators.pseudonyms import Pseudonyms
from schemas.decisions import SCHEMA_VERSION
from schemas.time import rfc3339

if TYPE_CHECKING:  # these give records themselves
    from operators.aggregate import Seen
    from operators.audience import Sampled
    from operators.duplicates import Contact
    from operators.monitor_watch import Watched
    from operators.profile import Pending

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
    decision (uint32), `weight` undoes subsampling, `value` is the event's own (revenue) where that
    counts.
    """

    model: str
    content_id: str
    features: bytes
    kind: str | None
    weight: float
    at_ms: int
    value: float = 1.0


class Labelled(NamedTuple):
    """What a prediction learns from: features as of a moment, and what came of it since.

    `predicted` is what was predicted at that moment (None: nothing was learned yet).
    """

    model: str
    features: bytes
    label: float
    predicted: float | None
    at_ms: int
    closed_ms: int


class ProfileState(NamedTuple):
    """A profile's serving view at the end of an activation; None: it was erased or dropped."""

    profile_id: str
    version: int
    view: Record | None


@dataclass(slots=True)
class Outputs:
    """Named output streams of one activation; `counts` and `facts` are for the metrics.

    `counts` has the accounting of events (used, suppressed, duplicate, late); every event is in
    exactly one. `begun_ms` is the shard's watermark before it: all that is new is at or after it.
    `facts` maps (name, label values ...) to an amount.
    """

    begun_ms: int = NEVER
    decisions: list[Made] = field(default_factory=list)
    changes: list[Record] = field(default_factory=list)
    outcomes: list[Record] = field(default_factory=list)
    late: list[Record] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    labelled: list[Labelled] = field(default_factory=list)
    samples: list[Sampled] = field(default_factory=list)
    closed: list[Pending] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)
    contacts: list[Contact] = field(default_factory=list)
    receipts: list[Record] = field(default_factory=list)
    profiles: list[ProfileState] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    facts: defaultdict[tuple[str, ...], float] = field(default_factory=lambda: defaultdict(float))


def late_record(event: Arrived, watermark_ms: int) -> Record:
    """What is written of an event that came too late."""
    return {
        "event_id": event.event_id,
        "profile_id": event.profile_id,
        "type": event.type,
        "occurred_at": rfc3339(event.occurred_ms),
        "watermark": rfc3339(watermark_ms),
        "schema_version": SCHEMA_VERSION,
    }


def receipt(event: Arrived, *, found: bool, pseudonyms: Pseudonyms) -> Record:
    """What is written of an erasure that was carried out; it does not name whose.

    Its id is a keyed hash: with a plain one, who knows the request could try ids one by one.
    """
    return {
        "receipt_id": pseudonyms.key_of(f"{event.event_id}|{event.profile_id}").hex(),
        "request_event_id": event.event_id,
        "erased_at": rfc3339(event.received_ms),
        "found": found,
        "schema_version": SCHEMA_VERSION,
    }
