"""What is each content worth to this profile? All contents at once, from one parameter set.

For a profile feature the sum of its crosses with each content's features is a row over contents,
gathered once per parameter set and kept; a decision then adds up a dozen rows. That is what makes
300 candidates cost about what 30 do. Nothing here knows rewards' names, policies or exploration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from operators.crosses import Crosses, crosses_of
from operators.features import BIAS, Cells
from operators.parameters import ParameterSet

if TYPE_CHECKING:  # compiled with Scores
    from operators.contents import Contents
    from operators.placement_plan import CompiledPlacement

Scores = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

_DOUBT: Final = 1.5
_ROWS: Final = 2_048
_KEPT_CELLS: Final = 8_000_000
"""Floats kept in rows (32 MB): beyond that many contents, fewer rows are kept."""


class Scorer:
    """Scores contents with one parameter set; rebuilt when the set or the catalogue changes.

    `values` has shape (heads, contents): what a reward of that kind on that content is worth.
    `crosses` says which pairs of features the model has (None: all that `real` marks).
    """

    def __init__(
        self,
        parameters: ParameterSet,
        *,
        cells: Cells,
        real: npt.NDArray[np.float32],
        values: Scores,
        crosses: Crosses | None = None,
    ) -> None:
        self.parameters = parameters
        self._cells = cells
        self._biased = real if crosses is None else crosses.biased
        self._real = real if crosses is None else crosses.real
        self._matches = {} if crosses is None else crosses.matches
        self._values = values
        self._mask = (1 << parameters.bits) - 1
        heads, contents = parameters.weights.shape[0], cells.shape[0]
        self.mixed = bool((values < 0).any()) and bool((values > 0).any())
        self._capacity = max(16, min(_ROWS, _KEPT_CELLS // max(1, heads * contents)))
        self._rows = np.empty((64, heads, contents), np.float32)
        self._row_of: dict[int, int] = {}
        sure = parameters.evidence is None
        self._doubts = np.empty((64, heads, 0 if sure else contents), np.float32)
        self._last: tuple[list[int] | None, Scores] = (None, np.empty((heads, 0)))
        self._widths = self._biased.sum(axis=1), self._real.sum(axis=1)
        self._intercepts = parameters.intercepts[:, None]
        self._content_sums: npt.NDArray[np.float32] | None = None
        tables = parameters.factors
        if tables is not None and crosses is not None and tables.rows == crosses.factor_rows:
            # A content's side of the factors, shape (heads, factors, contents).
            rows = tables.content[:, cells & (tables.rows - 1)]
            self._content_sums = np.ascontiguousarray(
                np.einsum("hcwf,cw->hfc", rows, crosses.features)
            )

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

    def spread(self, profile: list[int], candidates: Indices) -> Scores | None:
        """The standard deviation of each candidate's score upwards, as far as the model knows it.

        None where the set does not bear it. Of the log-odds it is a prior one of `_DOUBT` that the
        features of an example share alike, each having seen of it what FTRL's sum of squared
        gradients says: the variance is then the mean over the features of 1 / (1 + n), which is
        right for what was never seen and where all features came together. A score follows by how
        much the probability grows with one deviation: rates are skewed, and what has a chance of
        one in twenty may well have one in five.
        """
        if self.parameters.evidence is None:
            return None
        biases = profile.count(BIAS)
        count = biases * self._widths[0] + (len(profile) - biases) * self._widths[1]
        rows = self._rows_of(profile)
        doubts = np.add.reduce(self._doubts[rows], axis=0)
        doubts /= np.maximum(count, 1.0)
        # The logistic function of the log-odds and a deviation more, less that of the log-odds.
        rates = self._probabilities(profile)
        raised = 1.0 - rates
        raised *= np.exp(-_DOUBT * np.sqrt(doubts, dtype=np.float64)).astype(np.float32)
        raised += rates
        gains = (rates / raised - rates) * self._values
        several = len(gains) > 1
        found: Scores = np.sqrt(np.add.reduce(gains * gains, axis=0)) if several else abs(gains[0])
        chosen: Scores = found[candidates]
        return chosen

    def _worth(self, profile: list[int], candidates: Indices, values: Scores) -> Scores:
        # Few of many contents: pick them before the costly part. Most of them: pick them after.
        if 2 * len(candidates) < self._cells.shape[0]:
            probabilities, values = self._probabilities(profile, candidates), values[:, candidates]
            early: Scores = np.add.reduce(probabilities * values, axis=0)
            return early
        worth: Scores = np.add.reduce(self._probabilities(profile) * values, axis=0)
        return worth[candidates]

    def _probabilities(self, profile: list[int], candidates: Indices | None = None) -> Scores:
        # A decision asks twice of the same profile where it also asks how sure the scores are.
        if candidates is None and profile == self._last[0]:
            return self._last[1]
        rows = self._rows_of(profile)  # first: it may put others in the place of all rows
        logits = np.add.reduce(self._rows[rows], axis=0)
        if candidates is not None:
            logits = logits[:, candidates]
        # float32 sums in a fixed order, then rounding the probability to float32: last-bit
        # differences of `exp` between processors do not reach a decision.
        odds = np.exp(np.negative(logits + self._intercepts, dtype=np.float64))
        odds += 1.0
        rounded: Scores = np.reciprocal(odds).astype(np.float32)
        if candidates is None:
            self._last = list(profile), rounded
        return rounded

    def _rows_of(self, profile: list[int]) -> list[int]:
        known = self._row_of
        try:
            return [known[cell] for cell in profile]
        except KeyError:
            return self._gather(profile)

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
                    self._doubts = np.concatenate([self._doubts, np.empty_like(self._doubts)])
                self._fill(row, cell)
            rows.append(row)
        return rows

    def _fill(self, number: int, cell: int) -> None:
        """What a profile's cell adds to every content's log-odds, and to the doubt about them."""
        row = self._rows[number]
        at = (self._cells + cell) & self._mask
        mask = self._biased if cell == BIAS else self._real
        match = self._matches.get(cell)
        for head, weights in enumerate(self.parameters.weights):
            np.sum(weights[at] * mask, axis=1, out=row[head])
            if match is not None:
                row[head, match.positions] += weights[match.cell & self._mask]
        tables = self.parameters.factors
        if tables is not None and self._content_sums is not None:
            own = tables.profile[:, cell & (tables.rows - 1)]
            row += np.einsum("hf,hfc->hc", own, self._content_sums)
        if self.parameters.evidence is not None:
            for head, seen in enumerate(self.parameters.evidence):
                np.sum(mask / (1.0 + seen[at]), axis=1, out=self._doubts[number, head])


def scorer_of(
    placement: CompiledPlacement,
    contents: Contents,
    parameters: ParameterSet,
    *,
    crosses: Crosses | None = None,
) -> Scorer:
    """The scorer of a compiled placement over the whole catalogue.

    Reward kinds are matched by name: a set learned under a former policy may have others. Where an
    event's own value multiplies a reward, the mean of that value as learned does so here. `crosses`
    are those of the placement where they are at hand.
    """
    values = np.zeros((len(parameters.heads), len(contents.ids)))
    for row, head in enumerate(parameters.heads):
        if head not in placement.heads:
            continue
        at = placement.heads.index(head)
        values[row] = placement.values[at]
        means = parameters.means.get(head)
        if means is not None and placement.rewards[at].times == "value":
            values[row] *= [
                means.by_content.get(content, means.overall) for content in contents.ids
            ]
    return Scorer(
        parameters,
        cells=placement.cells,
        real=placement.real,
        values=values,
        crosses=crosses or crosses_of(placement, contents),
    )
