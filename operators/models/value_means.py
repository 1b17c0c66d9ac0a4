"""What is one event worth on average, where its own value counts (revenue, seconds of dwell)?

A mean per content, drawn towards the mean of all: with few events behind it a content is taken for
the average one (James and Stein, 1961, with a fixed strength instead of an estimated one).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

from operators.parameters import Means

_STRENGTH: Final = 10.0
"""Events of its own after which a content's mean counts as much as that of all."""
_MOST: Final = 100_000
_FADED: Final = 1e-3


class ValueMeans:
    """Means of one reward kind's event values, by content; at most 100,000 contents are kept."""

    def __init__(self) -> None:
        self._by_content: dict[str, tuple[float, float]] = {}
        self._total = self._count = 0.0

    def add(self, content_id: str, value: float, weight: float) -> None:
        """Book one event; a value that is not finite is left out."""
        if not math.isfinite(value * weight):
            return
        if content_id not in self._by_content and len(self._by_content) >= _MOST:
            del self._by_content[next(iter(self._by_content))]
        total, count = self._by_content.get(content_id, (0.0, 0.0))
        self._by_content[content_id] = (total + weight * value, count + weight)
        self._total += weight * value
        self._count += weight

    def forget(self, share: float) -> None:
        """Let everything so far count `share` of what it did; what has faded is dropped."""
        self._total *= share
        self._count *= share
        self._by_content = {
            content: (total * share, count * share)
            for content, (total, count) in self._by_content.items()
            if count * share >= _FADED
        }

    def means(self, contents: Iterable[str]) -> Means:
        """The mean of all (1 before the first), and of each of these contents that has its own."""
        overall = self._total / self._count if self._count else 1.0
        known = self._by_content
        return Means(
            overall,
            {
                content: (known[content][0] + _STRENGTH * overall) / (known[content][1] + _STRENGTH)
                for content in contents
                if content in known
            },
        )

    def keep(self) -> dict[str, tuple[float, float]]:
        """Everything booked, to be given to `restore`; that of all stands under the empty id."""
        return {"": (self._total, self._count), **self._by_content}

    def restore(self, kept: Mapping[str, tuple[float, float]]) -> None:
        """Put back what `keep` gave."""
        self._total, self._count = kept.get("", (0.0, 0.0))
        self._by_content = {content: pair for content, pair in kept.items() if content}
