"""What is each content worth to this profile? All contents at once, from one parameter set.

For a profile feature the sum of its crosses with each content's features is a row over contents,
gathered once per parameter set and kept; a decision then adds up a dozen rows. That is what makes
300 candidates cost about what 30 do. Nothing here knows rewards' names, policies or exploration.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from operators.features import Cells
from operators.parameters import ParameterSet

Scores = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

_ROWS: Final = 2_048
_KEPT_CELLS: Final = 8_000_000
"""Floats kept in rows (32 MB): beyond that many contents, fewer rows are kept."""


class Scorer:
    """Scores contents with one parameter set; rebuilt when the set or the catalogue changes.

    `values` has shape (heads, contents): what a reward of that kind on that content is worth.
    """

    def __init__(
        self,
        parameters: ParameterSet,
        *,
        cells: Cells,
        real: npt.NDArray[np.float32],
        values: Scores,
    ) -> None:
        self.parameters = parameters
        self._cells = cells
        self._real = real
        self._values = values
        self._mask = (1 << parameters.bits) - 1
        heads, contents = parameters.weights.shape[0], cells.shape[0]
        self.mixed = bool((values < 0).any()) and bool((values > 0).any())
        self._capacity = max(16, min(_ROWS, _KEPT_CELLS // max(1, heads * contents)))
        self._rows = np.empty((64, heads, contents), np.float32)
        self._row_of: dict[int, int] = {}
        self._intercepts = parameters.intercepts[:, None]

    def scale(self, profile: list[int], candidates: Indices) -> float | None:
        """The mean size of what is at stake, where rewards of both signs cancel in the scores.

        None where they cannot: the mean score says it then.
        """
        if not self.mixed:
            return None
        return float(self._worth(profile, candidates, np.abs(self._values)).mean())

    def score(self, profile: list[int], candidates: Indices) -> Scores:
        """Expected reward of each candidate: sum over kinds of value times probability."""
        return self._worth(profile, candidates, self._values)

    def _worth(self, profile: list[int], candidates: Indices, values: Scores) -> Scores:
        known = self._row_of
        try:
            rows = [known[cell] for cell in profile]
        except KeyError:
            rows = self._gather(profile)
        # Few of many contents: pick them before the costly part. Most of them: pick them after.
        logits = np.add.reduce(self._rows[rows], axis=0)
        early = 2 * len(candidates) < logits.shape[1]
        if early:
            logits, values = logits[:, candidates], values[:, candidates]
        # float32 sums in a fixed order, then rounding the probability to float32: last-bit
        # differences of `exp` between processors do not reach a decision.
        odds = np.exp(np.negative(logits + self._intercepts, dtype=np.float64))
        odds += 1.0
        probabilities = np.reciprocal(odds).astype(np.float32)
        worth: Scores = np.add.reduce(probabilities * values, axis=0)
        return worth if early else worth[candidates]

    def _gather(self, profile: list[int]) -> list[int]:
        if len(self._row_of) + len(profile) > self._capacity:
            self._row_of.clear()
        rows = []
        for cell in profile:
            row = self._row_of.get(cell)
            if row is None:
                row = self._row_of[cell] = len(self._row_of)
                if row >= len(self._rows):
                    self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
                at = (self._cells + cell) & self._mask
                for head, weights in enumerate(self.parameters.weights):
                    np.sum(weights[at] * self._real, axis=1, out=self._rows[row, head])
            rows.append(row)
        return rows
