"""In which order did it all happen? What the identity groups make of a batch, as one again.

Key: the source partition. State: the parts of batches that are not complete yet, which is none
between two epochs. A batch goes on when every group has given its part, in the order of its log: a
request never overtakes the history that an earlier link of the same batch carries over.
"""

from __future__ import annotations

from typing import NamedTuple

from operators.arrival import Arrived
from operators.identify import Identified
from operators.links import GROUPS, BatchId


class Gathered(NamedTuple):
    """One source batch with all events under their canonical ids, copies at their place."""

    events: list[Arrived]
    watermarks: tuple[tuple[int, int], ...]
    partitions: int


class Gather:
    """Puts the parts of each batch together; pure, and empty whenever all parts are in."""

    def __init__(self) -> None:
        self._parts: dict[BatchId, list[Identified]] = {}

    def add(self, part: Identified) -> Gathered | None:
        """The batch that this part completes; None: others are still to come."""
        parts = self._parts.setdefault(part.batch, [])
        parts.append(part)
        if len(parts) < GROUPS:
            return None
        del self._parts[part.batch]
        parts.sort(key=lambda one: one.group)
        placed = [
            (place, event)
            for one in parts
            for place, event in zip(one.places, one.events, strict=True)
        ]
        # By place alone: what one group gives at one place stays in its order.
        placed.sort(key=lambda at: at[0])
        return Gathered([event for _, event in placed], part.watermarks, part.partitions)

    @property
    def waiting(self) -> int:
        """How many batches are not complete."""
        return len(self._parts)
