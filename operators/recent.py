"""Was this event seen before? The ids of the last while, by hash, forgotten in buckets of time.

State: the hashes, and by bucket (named by its first instant, which still means the same under
another policy) which of them to forget together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from operators.profile import FAR

_BUCKETS: Final = 8


@dataclass(slots=True)
class RecentIds:
    """Hashes of event ids, each kept for at least the policy's `dedupe_for`."""

    by_bucket: dict[int, list[int]] = field(default_factory=dict)
    _all: set[int] = field(default_factory=set)
    _oldest: int = FAR

    @classmethod
    def of(cls, by_bucket: dict[int, list[int]]) -> RecentIds:
        """The ids of a snapshot."""
        everything = {identity for ids in by_bucket.values() for identity in ids}
        return cls(by_bucket, everything, min(by_bucket, default=FAR))

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, identity: int) -> bool:
        return identity in self._all

    def add(self, identity: int, instant: int, *, dedupe_for: int) -> None:
        """Remember an id as of an instant (ms)."""
        self._all.add(identity)
        bucket = instant - instant % _span(dedupe_for)
        ids = self.by_bucket.get(bucket)
        if ids is None:
            self.by_bucket[bucket] = [identity]
            self._oldest = min(bucket, self._oldest)
        else:
            ids.append(identity)

    def forget(self, watermark: int, *, dedupe_for: int) -> None:
        """Forget what is older than it must be remembered."""
        if watermark <= self._oldest:
            return
        oldest = watermark - dedupe_for - _span(dedupe_for)
        if self._oldest >= oldest:
            return  # as nearly always: the watermark moves with every event
        for bucket in [b for b in self.by_bucket if b < oldest]:
            self._all.difference_update(self.by_bucket.pop(bucket))
        self._oldest = min(self.by_bucket, default=FAR)


def _span(dedupe_for: int) -> int:
    return max(1, dedupe_for // _BUCKETS)
