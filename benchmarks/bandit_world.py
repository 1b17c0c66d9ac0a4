"""What would have happened? A simulated shop front whose reward probabilities are known.

Every step a visitor with `fields` categorical fields meets the live contents of a rotating
catalogue. A content has a category, a brand, a style and a tag. The log-odds of a reward are a
content's own appeal, what each field's value thinks of the content's category, brand and style,
and (less) of the content itself. Appeals drift as random walks, at half time a share of the tastes
is drawn anew, and contents leave and others join. All chance comes from the seed: every policy
meets the same visitors, the same contents and the same luck.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.intp]

_CATEGORIES: Final = 6
_BRANDS: Final = 9
_STYLES: Final = 4
_TAGS: Final = 12
_SETTINGS: Final = 400
"""Visitors whose mean probability the base rate is fitted to."""


@dataclass(frozen=True)
class Setting:
    """One kind of world. `base_rate` is the mean reward rate of a uniformly chosen content."""

    name: str = "rotating catalogue"
    steps: int = 40_000
    live: int = 30
    contents: int = 90
    fields: int = 12
    values: tuple[int, ...] = (2, 3, 4, 6, 8, 12)
    informative: float = 0.5
    base_rate: float = 0.05
    appeal: float = 0.5
    taste: float = 0.8
    own: float = 0.25
    drift: float = 1.0
    shift: float = 0.5
    rotates: bool = True


@dataclass
class Content:
    """What a policy is told of a content."""

    name: str
    category: str
    brand: str
    style: str
    tag: str


class Visit(NamedTuple):
    """One step: the visitor's values, the live contents, their probabilities, one luck for all."""

    values: tuple[int, ...]
    live: Numbers
    probabilities: Floats
    luck: float


@dataclass
class World:
    """The visits of one setting and one seed, one after the other."""

    setting: Setting
    seed: int
    contents: list[Content] = field(init=False)
    cardinalities: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        of, rng = self.setting, np.random.default_rng(self.seed)
        self._rng = rng
        self.cardinalities = tuple(of.values[f % len(of.values)] for f in range(of.fields))
        parts = [
            rng.integers(kinds, size=of.contents)
            for kinds in (_CATEGORIES, _BRANDS, _STYLES, _TAGS)
        ]
        self.contents = [
            Content(f"c{i:04d}", f"k{a}", f"b{b}", f"s{c}", f"t{d}")
            for i, (a, b, c, d) in enumerate(zip(*(p.tolist() for p in parts), strict=True))
        ]
        self._parts = parts
        self._matters = rng.random(of.fields) < of.informative
        self._matters[rng.integers(of.fields)] = True
        self._tastes = [self._taste(f) for f in range(of.fields)]
        self._appeal = of.appeal * rng.standard_normal(of.contents)
        self._live = np.arange(of.live)
        self._joins = of.live
        self._visitors = [
            rng.dirichlet(np.full(kinds, 3.0)).cumsum() for kinds in self.cardinalities
        ]
        self._intercept = 0.0
        self._intercept = self._fitted()

    def _taste(self, number: int) -> Floats:
        """Log-odds of each value of a field for each content, shape (values, contents)."""
        of, rng = self.setting, self._rng
        kinds = self.cardinalities[number]
        size = of.taste / np.sqrt(max(1.0, of.fields * of.informative)) if of.fields else 0.0
        drawn = np.zeros((kinds, of.contents))
        for part, options, share in zip(
            self._parts, (_CATEGORIES, _BRANDS, _STYLES), (1.0, 0.6, 0.6), strict=False
        ):
            drawn += share * rng.standard_normal((kinds, options))[:, part]
        drawn += of.own / max(of.taste, 1e-9) * rng.standard_normal((kinds, of.contents))
        return drawn * size * float(self._matters[number])

    def _fitted(self) -> float:
        """The intercept under which a uniformly chosen content is rewarded at the base rate."""
        logits = np.concatenate([self._logits(self._visitor()) for _ in range(_SETTINGS)])
        low, high = -15.0, 5.0
        for _ in range(40):
            middle = (low + high) / 2
            if float((1 / (1 + np.exp(-(logits + middle)))).mean()) < self.setting.base_rate:
                low = middle
            else:
                high = middle
        return low

    def _visitor(self) -> tuple[int, ...]:
        luck = self._rng.random(len(self._visitors)).tolist()
        return tuple(
            int(np.searchsorted(line, chance)) if chance < line[-1] else len(line) - 1
            for line, chance in zip(self._visitors, luck, strict=True)
        )

    def _logits(self, values: tuple[int, ...]) -> Floats:
        total = self._appeal + self._intercept
        for taste, value in zip(self._tastes, values, strict=True):
            total = total + taste[value]
        chosen: Floats = total[self._live]
        return chosen

    def visits(self) -> Any:
        """All visits in order; a generator that may be run once."""
        of, rng = self.setting, self._rng
        turn = max(1, of.steps // max(1, of.contents - of.live))
        for step in range(of.steps):
            if of.drift and step % 100 == 99:
                # A standard deviation of a third in log-odds over 20,000 steps.
                self._appeal += of.drift * 0.33 / np.sqrt(200) * rng.standard_normal(of.contents)
            if of.shift and step == of.steps // 2:
                for number in range(of.fields):
                    if rng.random() < of.shift:
                        self._tastes[number] = self._taste(number)
            if of.rotates and step % turn == turn - 1 and self._joins < of.contents:
                self._live[int(rng.integers(of.live))] = self._joins
                self._joins += 1
            values = self._visitor()
            yield Visit(
                values,
                np.sort(self._live),
                1 / (1 + np.exp(-self._logits(values)))[np.argsort(self._live)],
                float(rng.random()),
            )
