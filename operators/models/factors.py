"""How much do a profile's and a content's features agree, through a few factors?

Every profile feature and every content feature has a row of `factors` numbers; the sum of the
profile's rows times the sum of the content's adds to the log-odds. That is a factorisation machine
restricted to pairs of one of each side (Rendle, "Factorization machines", ICDM 2010), learned one
example at a time with AdaGrad. With the profile's own id among its features it is online matrix
factorisation (Koren, Bell and Volinsky, IEEE Computer, 2009) in tables whose size is fixed.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Positions = npt.NDArray[np.intp]

_STEP: Final = 0.1
_SHRINK: Final = 0.002
"""What a step takes off a row, per unit of its gradient's size: an L2 penalty on what is used."""
_FIRST: Final = 0.1
_MOST: Final = 3.0
"""No factor grows beyond this, so that no product can explode."""


def first_rows(rows: int, factors: int) -> npt.NDArray[np.float32]:
    """The content side before anything was learned: small numbers of a fixed pattern.

    Were both sides zero, neither would ever move. By integer arithmetic, so that every machine
    has the same.
    """
    seeds = np.arange(rows * factors, dtype=np.uint64) + np.uint64(1)
    # The finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
    seeds *= np.uint64(0x9E3779B97F4A7C15)
    seeds = (seeds ^ (seeds >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    seeds = (seeds ^ (seeds >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    seeds ^= seeds >> np.uint64(31)
    unit = (seeds >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return ((2.0 * unit - 1.0) * _FIRST).astype(np.float32).reshape(rows, factors)


class Kept(NamedTuple):
    """One side's rows that were ever learned: their numbers, factors, and squares."""

    rows: npt.NDArray[np.uint32]
    values: npt.NDArray[np.float32]
    squares: Floats


class Factors:
    """Tables of both sides for each of `heads`, shape (heads, rows, factors), float32.

    `squares` of each side holds the sum of squared gradients per row, shape (heads, rows).
    """

    def __init__(self, heads: int, rows: int, factors: int) -> None:
        self.rows = rows
        self.factors = factors
        self.profile = np.zeros((heads, rows, factors), np.float32)
        self.content = np.broadcast_to(first_rows(rows, factors), (heads, rows, factors)).copy()
        self.profile_squares = np.zeros((heads, rows))
        self.content_squares = np.zeros((heads, rows))

    def product(self, head: int, profile: Positions, content: Positions) -> float:
        """What the two sides add to the log-odds."""
        return float(
            self._sum(self.profile[head], profile) @ self._sum(self.content[head], content)
        )

    def reach(self, head: int, profile: Positions, content: Positions) -> float:
        """How far a step of slope 1 would move the log-odds."""
        u = self._sum(self.profile[head], profile)
        v = self._sum(self.content[head], content)
        rates = _STEP / np.sqrt(1.0 + self.profile_squares[head, profile])
        others = _STEP / np.sqrt(1.0 + self.content_squares[head, content])
        return float((v @ v) * rates.sum() + (u @ u) * others.sum())

    def learn(self, head: int, profile: Positions, content: Positions, slope: float) -> None:
        """One step of both sides along the gradient whose slope by the log-odds is given."""
        u = self._sum(self.profile[head], profile)
        v = self._sum(self.content[head], content)
        self._step(self.profile[head], self.profile_squares[head], profile, slope * v, slope)
        self._step(self.content[head], self.content_squares[head], content, slope * u, slope)

    def forget(self, share: float) -> None:
        """Let what was learned count `share` of what it did: steps grow again."""
        self.profile_squares *= share
        self.content_squares *= share

    @staticmethod
    def _sum(table: npt.NDArray[np.float32], rows: Positions) -> Floats:
        total: Floats = table[rows].sum(axis=0, dtype=np.float64)
        return total

    @staticmethod
    def _step(
        table: npt.NDArray[np.float32],
        squares: Floats,
        rows: Positions,
        gradient: Floats,
        slope: float,
    ) -> None:
        size = float(gradient @ gradient)
        if size == 0.0:  # the other side has learned nothing yet
            return
        known = squares[rows]
        rates = (_STEP / np.sqrt(1.0 + known))[:, None]
        shrunk = table[rows] * (1.0 - rates * min(1.0, _SHRINK * abs(slope)))
        table[rows] = np.clip(shrunk - rates * gradient, -_MOST, _MOST)
        squares[rows] = known + size

    def keep(self, head: int) -> tuple[Kept, Kept]:
        """What was learned of one head: of the profile's side and of the content's."""
        return (
            _kept(self.profile[head], self.profile_squares[head]),
            _kept(self.content[head], self.content_squares[head]),
        )

    def restore(
        self,
        head: int,
        content: bool,
        rows: npt.NDArray[np.uint32],
        values: npt.NDArray[np.float32],
        squares: Floats,
    ) -> None:
        """Put back one side of what `keep` gave; rows beyond the table are left out."""
        table = (self.content if content else self.profile)[head]
        sums = (self.content_squares if content else self.profile_squares)[head]
        inside = rows < self.rows
        table[rows[inside]] = values.reshape(len(rows), self.factors)[inside]
        sums[rows[inside]] = squares[inside]


def _kept(table: npt.NDArray[np.float32], squares: Floats) -> Kept:
    rows = np.flatnonzero(squares)
    return Kept(rows.astype(np.uint32), table[rows], squares[rows])
