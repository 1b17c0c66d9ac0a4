"""How often was something shown lately, and how well did it do? Counts of everybody, in slices.

Everything is whole numbers in slices of event time, so a state is a function of the *set* of what
was counted: the order of arrival changes nothing, and nothing here knows a profile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from schemas.time import DAY

SLICES: Final = 64
"""Slices that a window is held in, the present one among them."""
NEVER: Final = -(1 << 62)
FOREVER: Final = 1 << 62
UNIT: Final = 10_000
"""Rewards are counted in ten-thousandths: sums of whole numbers have no order."""
HALF_LIFE: Final = 7 * DAY
SHRINK: Final = 50
"""Impressions that a content's rate must outweigh before it is believed over the placement's."""
_LARGEST_REWARD: Final = 1e9
_LARGEST_SUM: Final = 1 << 62
_PER_HALF_LIFE: Final = 4
_AGE_MS: Final = HALF_LIFE // _PER_HALF_LIFE
_ONE: Final = 1 << 20
_WEIGHTS: Final = tuple(
    round(_ONE * 2.0 ** (-age / _PER_HALF_LIFE)) for age in range(6 * _PER_HALF_LIFE)
)
"""What an impression of so many slices ago still counts; after six half-lives it is dropped."""

Held = dict[str, dict[int, int]]


def slice_ms(within_ms: int) -> int:
    """How long one slice of a window is, in milliseconds.

    An impression leaves between `within_ms` and one slice later: never early, because a cap is a
    promise, and a 63rd of the window late at most (and some milliseconds: slices are whole ones).
    """
    return -(-within_ms // (SLICES - 1))


class Counts:
    """Impressions by key within one window."""

    def __init__(self, within_ms: int, held: Mapping[str, Mapping[int, int]] | None = None) -> None:
        self.width = slice_ms(within_ms)
        self._held: Held = {key: dict(slices) for key, slices in (held or {}).items()}

    def add(self, key: str, at_ms: int) -> None:
        """Count one impression."""
        slices = self._held.setdefault(key, {})
        at = at_ms // self.width
        slices[at] = slices.get(at, 0) + 1

    def full_until(self, key: str, most: int) -> int:
        """From which instant (ms) on fewer than `most` are within the window, all that came known.

        At or before the instant that is asked about: fewer than `most` are in it already. NEVER:
        fewer are held at all, FOREVER: `most` is 0.
        """
        if most <= 0:
            return FOREVER
        slices = self._held.get(key)
        if slices is None:
            return NEVER
        for at in sorted(slices, reverse=True):
            most -= slices[at]
            if most <= 0:
                return (at + SLICES) * self.width
        return NEVER

    def forget(self, until_ms: int) -> None:
        """Drop what is in no window that ends after an instant."""
        gone = until_ms // self.width - SLICES
        for key in [key for key, slices in self._held.items() if min(slices) <= gone]:
            kept = {at: n for at, n in self._held[key].items() if at > gone}
            if kept:
                self._held[key] = kept
            else:
                del self._held[key]

    def keep(self, keys: Iterable[str]) -> None:
        """Drop every key but these."""
        self._held = {key: self._held[key] for key in keys if key in self._held}

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that something is held of, in order."""
        return tuple(sorted(self._held))

    @property
    def state(self) -> Held:
        """What is held, in order: equal counts give an equal state."""
        return {key: dict(sorted(self._held[key].items())) for key in self.keys}


def in_units(value: float) -> int:
    """A reward as the whole number it is counted as.

    >>> in_units(1.5), in_units(float("inf")), in_units(1e12) == in_units(1e9)
    (15000, 0, True)
    """
    if value - value != 0.0:  # infinite, or no number
        return 0
    return round(min(max(value, -_LARGEST_REWARD), _LARGEST_REWARD) * UNIT)


class Popularity:
    """Reward per impression of each content in one placement; what is older counts less.

    Weights halve every `HALF_LIFE` of event time, in steps of a quarter of it; after six half-lives
    nothing is left.
    """

    def __init__(self, held: Mapping[str, Mapping[int, tuple[int, int]]] | None = None) -> None:
        self._held: dict[str, dict[int, tuple[int, int]]] = {
            content: dict(slices) for content, slices in (held or {}).items()
        }
        self._newest = NEVER
        self._totals: dict[str, tuple[int, int]] = {}

    def add(
        self, content: str, at_ms: int, *, impressions: int, reward: int, newest_ms: int
    ) -> None:
        """Count impressions and reward units of a content; `newest_ms` is the newest of all."""
        self.move(newest_ms)
        at = at_ms // _AGE_MS
        age = self._newest - at
        if age >= len(_WEIGHTS):
            return
        slices = self._held.setdefault(content, {})
        shown, earned = slices.get(at, (0, 0))
        slices[at] = (
            min(shown + impressions, _LARGEST_SUM),
            min(max(earned + reward, -_LARGEST_SUM), _LARGEST_SUM),
        )
        weight = _WEIGHTS[age]
        total = self._totals.get(content, (0, 0))
        self._totals[content] = (total[0] + weight * impressions, total[1] + weight * reward)

    def move(self, newest_ms: int) -> None:
        """Let time pass: drop what is too old, weigh the rest anew."""
        newest = newest_ms // _AGE_MS
        if newest <= self._newest:
            return
        self._newest = newest
        oldest = newest - len(_WEIGHTS)
        held = {
            content: {at: pair for at, pair in slices.items() if at > oldest}
            for content, slices in self._held.items()
        }
        self._held = {content: slices for content, slices in held.items() if slices}
        self._totals = {
            content: (
                sum(_WEIGHTS[newest - at] * shown for at, (shown, _) in slices.items()),
                sum(_WEIGHTS[newest - at] * earned for at, (_, earned) in slices.items()),
            )
            for content, slices in self._held.items()
        }

    def ranked(self, most: int) -> list[tuple[str, float]]:
        """The best contents with their rate: best first, equal ones by id.

        A rate is the decayed reward per decayed impression, shrunk to the placement's mean as if
        `SHRINK` more impressions had earned that.
        """
        shown = sum(total[0] for total in self._totals.values())
        if shown <= 0:
            return []
        mean = sum(total[1] for total in self._totals.values()) / shown
        prior = SHRINK * _ONE
        rates = [
            (content, (earned + prior * mean) / (n + prior) / UNIT)
            for content, (n, earned) in self._totals.items()
        ]
        return sorted(rates, key=lambda one: (-one[1], one[0]))[:most]

    def keep(self, contents: Iterable[str]) -> None:
        """Drop every content but these."""
        self._held = {content: self._held[content] for content in contents if content in self._held}
        self._totals = {c: total for c, total in self._totals.items() if c in self._held}

    @property
    def state(self) -> dict[str, dict[int, tuple[int, int]]]:
        """What is held, in order: (impressions, reward units) by content and slice."""
        return {
            content: dict(sorted(slices.items())) for content, slices in sorted(self._held.items())
        }
