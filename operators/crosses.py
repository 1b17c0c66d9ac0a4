"""Which pairs of a profile's and a content's features does a kind of model see?

- shared: every pair, one table of weights for all contents.
- per_content: pairs with the content's own id only: contents teach each other nothing.
- popularity: pairs with the profile's bias only: the same for every profile.
- factorised: pairs of which one is a bias; all others go through factors.

Beside them stand the matches: one feature where a content has what an affinity of the profile
names. It is worked out from the profile's logged cells and the content, in learning and in scoring
alike, so nothing more is logged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from operators.features import BIAS, Cells, crossed_cells

if TYPE_CHECKING:  # compiled from these
    from operators.contents import Contents
    from operators.placement_plan import CompiledPlacement

Mask = npt.NDArray[np.float32]

_FACTORS: Final = 8
_FACTOR_BITS: Final = 3
"""There are as many rows of factors as the weight table has cells, divided by 2 to the power of
this."""


class Match(NamedTuple):
    """What a profile's cell matches: the feature that says so, and positions of contents."""

    cell: int
    positions: npt.NDArray[np.intp]


Matches = Mapping[int, Match]


@dataclass(frozen=True)
class Crosses:
    """What a model of one placement sees of each content.

    `cells` are the contents' feature hashes, shape (contents, widest); `biased` marks with 1 those
    that are paired with the profile's bias, `real` those paired with its other features. `factors`
    is how many factors there are (0: none), `features` marks the content features that have some.
    `width` is about how many crosses an example has.
    """

    cells: Cells
    biased: Mask
    real: Mask
    features: Mask
    matches: Matches
    matched: tuple[frozenset[int], ...]
    factors: int
    bits: int
    width: float

    @property
    def factor_rows(self) -> int:
        """How many rows of factors each side has."""
        return 1 << max(1, self.bits - _FACTOR_BITS)

    def example(self, own: Cells, index: int) -> dict[int, float]:
        """The features of one profile (logged cells) and one content (position), with counts.

        Numbers below 2^bits are cells of the weight table; those above are rows of factors, first
        the profile's, then the content's.
        """
        cells = self.cells[index]
        bias = own == BIAS
        with_bias, with_rest = self.biased[index] > 0, self.real[index] > 0
        if np.array_equal(with_bias, with_rest):
            crossed = crossed_cells(own, cells[with_rest], bits=self.bits)
        else:
            crossed = crossed_cells(own[bias], cells[with_bias], bits=self.bits)
            crossed += crossed_cells(own[~bias], cells[with_rest], bits=self.bits)
        if self.matches:
            known, mask = self.matched[index], (1 << self.bits) - 1
            crossed += [self.matches[cell].cell & mask for cell in own.tolist() if cell in known]
        if self.factors:
            rows, first = self.factor_rows - 1, 1 << self.bits
            crossed += ((own & rows) + first).tolist()
            mine = cells[self.features[index] > 0]
            crossed += ((mine & rows) + (first + rows + 1)).tolist()
        features = dict.fromkeys(crossed, 1.0)
        if len(features) < len(crossed):
            # Two crosses in one cell count twice, in learning as in scoring.
            features = {cell: float(n) for cell, n in Counter(crossed).items()}
        return features


def crosses_of(placement: CompiledPlacement, contents: Contents) -> Crosses:
    """What the model of a compiled placement sees."""
    policy = placement.policy.model
    cells, real = placement.cells, placement.real
    first = np.zeros_like(real)
    first[:, :1] = 1.0
    biased, rest = real, real
    if policy.kind == "per_content":
        # The id stands second; a sensitive content has none of its own and is known by the bias.
        own = np.zeros_like(real)
        own[:, 1:2] = real[:, 1:2]
        biased = rest = np.where(own.any(axis=1, keepdims=True), own, first)
    elif policy.kind == "popularity":
        rest = np.zeros_like(real)
    elif policy.kind == "factorised":
        rest = first
    factors = policy.factors or (_FACTORS if policy.kind == "factorised" else 0)
    listed = [contents.by_id[content_id] for content_id in contents.ids]
    free = policy.kind in ("shared", "factorised")
    matches = _matches(placement.features.liked(listed)) if free else {}
    return Crosses(
        cells=cells,
        biased=biased,
        real=rest,
        features=real,
        matches=matches,
        matched=_by_content(matches, len(listed)),
        factors=factors if free else 0,
        bits=policy.bits,
        width=_width(biased, rest, placement.features.width),
    )


def _width(biased: Mask, real: Mask, profile: int) -> float:
    if not len(real):
        return 1.0
    pairs = biased.sum(axis=1) + (profile - 1) * real.sum(axis=1)
    return max(1.0, float(pairs.mean()))


def _by_content(matches: Matches, contents: int) -> tuple[frozenset[int], ...]:
    known: list[set[int]] = [set() for _ in range(contents if matches else 0)]
    for cell, match in matches.items():
        for position in match.positions.tolist():
            known[position].add(cell)
    return tuple(frozenset(cells) for cells in known)


def _matches(found: Mapping[int, tuple[int, Sequence[int]]]) -> Matches:
    return {
        cell: Match(feature, np.array(positions, np.intp))
        for cell, (feature, positions) in found.items()
    }
