"""Logistic regression over a fixed table of cells, one head per label, as a River model.

The interface is River's (`base.MultiLabelClassifier`), the loss is the log loss, and the step is
FTRL-Proximal with L2 regularisation (McMahan et al., "Ad click prediction: a view from the
trenches", KDD 2013, algorithm 1). It exists because River keeps weights in a dictionary: with some
150 crosses an example, two heads and two passes cost several times what the same arithmetic costs
on arrays (docs/benchmarks.md has both). River's own `FTRLProximal` also writes a weight only when
its feature is next seen, so exported weights would lack their last gradient; here they never do.

An `implicit` step takes the gradient where the step ends instead of where it begins (Kulis and
Bartlett, "Implicit online learning", ICML 2010): it never goes past its label, however many cells
an example has and however much it weighs. A plain step with a hundred crosses moves the log-odds
by several units at once; only steps beyond one are held back so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
from river import base

from operators.models.factors import Factors

Floats = npt.NDArray[np.float64]
Positions = npt.NDArray[np.intp]

_LARGEST_LOGIT: Final = 30.0
_BASE_RATE: Final = 0.05
_SOLVED: Final = 1e-9
_MOST_STEPS: Final = 60
_BOLDEST: Final = 1.0


class HashedLogistic(base.MultiLabelClassifier):
    """P(label) for each of `labels`, from the same features.

    Features are cell numbers below `cells`; an example maps cells to counts. `z` and `n` (float64)
    and `weights` (float32) have shape (labels, cells); weights follow from z and n. An intercept
    is the log-odds of the label's base rate and stays put: the bias feature learns what it gets
    wrong, where plain gradient steps would swing with every importance-weighted example.

    With `factors` the features from `cells` on are rows of factors (see `operators.models.factors`)
    whose product adds to the log-odds.
    """

    def __init__(
        self,
        labels: tuple[str, ...],
        *,
        cells: int = 1 << 18,
        base_rates: Mapping[str, float] | None = None,
        alpha: float = 0.1,
        beta: float = 1.0,
        l2: float = 1.0,
        implicit: bool = False,
        factors: int = 0,
        factor_rows: int = 1 << 14,
    ) -> None:
        self.labels = labels
        self.cells = cells
        self.base_rates = dict(base_rates or {})
        self.alpha = alpha
        self.beta = beta
        self.l2 = l2
        self.implicit = implicit
        self.factors = factors
        self.factor_rows = factor_rows
        rates = [self.base_rates.get(label, _BASE_RATE) for label in labels]
        self.intercepts = np.array([math.log(rate / (1.0 - rate)) for rate in rates])
        self.z = np.zeros((len(labels), cells))
        self.n = np.zeros((len(labels), cells))
        self.weights = np.zeros((len(labels), cells), np.float32)
        self.bilinear = Factors(len(labels), factor_rows, factors) if factors else None
        self._row = {label: row for row, label in enumerate(labels)}

    def predict_proba_one(self, x: Mapping[int, float]) -> dict[str, dict[bool, float]]:  # type: ignore[override]
        """P(True) and P(False) of each label."""
        at, counts = _arrays(x)
        at, counts, rows = self._parted(at, counts)
        found = {}
        for label, row in self._row.items():
            rate = _sigmoid(self._logit(row, at, counts, rows))
            found[label] = {False: 1.0 - rate, True: rate}
        return found

    def learn_one(  # type: ignore[override]
        self,
        x: Mapping[int, float],
        y: Mapping[str, bool],
        w: float = 1.0,
        *,
        fake_negatives: bool = False,
    ) -> None:
        """One step on the labels in `y`; the others stay as they are.

        With `fake_negatives` the weight is also that of Ktena et al. (2019): with p the prediction,
        1 + p for a positive and (1 - p)(1 + p) for a negative that may yet turn out otherwise.
        """
        at, counts, rows = self._parted(*_arrays(x))
        for label, truth in y.items():
            self._learn(self._row[label], at, counts, rows, truth, w, fake_negatives)

    def _learn(
        self,
        row: int,
        at: Positions,
        counts: Floats,
        rows: tuple[Positions, Positions] | None,
        truth: bool,
        weight: float,
        fake_negatives: bool,
    ) -> None:
        logit = self._logit(row, at, counts, rows)
        rate = _sigmoid(logit)
        if fake_negatives:
            weight *= 1.0 + rate if truth else (1.0 - rate) * (1.0 + rate)
        before, z = self.n[row, at], self.z[row, at]
        root_before = np.sqrt(before)
        precision = (self.beta + root_before) / self.alpha + self.l2
        # The log loss's gradient by the logit is p - y.
        slope = weight * (rate - truth)
        if self.implicit:
            reach = float(counts @ (counts / precision))
            if self.bilinear is not None and rows is not None:
                reach += self.bilinear.reach(row, *rows)
            slope = _implicit(logit, float(truth), weight, reach)
        gradient = slope * counts
        after = before + gradient * gradient
        root = np.sqrt(after)
        weights = -z / precision
        z += gradient - (root - root_before) / self.alpha * weights
        self.n[row, at] = after
        self.z[row, at] = z
        self.weights[row, at] = -z / ((self.beta + root) / self.alpha + self.l2)
        if self.bilinear is not None and rows is not None:
            self.bilinear.learn(row, *rows, slope)

    def _logit(
        self,
        row: int,
        at: Positions,
        counts: Floats,
        rows: tuple[Positions, Positions] | None,
    ) -> float:
        total = float(self.weights[row, at] @ counts) + float(self.intercepts[row])
        if self.bilinear is not None and rows is not None:
            total += self.bilinear.product(row, *rows)
        return total

    def _parted(
        self, at: Positions, counts: Floats
    ) -> tuple[Positions, Floats, tuple[Positions, Positions] | None]:
        """Cells, their counts, and the rows of factors of both sides."""
        if self.bilinear is None:
            return at, counts, None
        plain = at < self.cells
        rows = at[~plain] - self.cells
        other = rows >= self.factor_rows
        return at[plain], counts[plain], (rows[~other], rows[other] - self.factor_rows)

    def forget(self, share: float) -> None:
        """Let everything learned count `share` of what it did: what is not confirmed fades."""
        for row in range(len(self.labels)):
            at = np.flatnonzero(self.n[row])
            z, n = self.z[row, at] * share, self.n[row, at] * share
            self.z[row, at], self.n[row, at] = z, n
            self.weights[row, at] = -z / ((self.beta + np.sqrt(n)) / self.alpha + self.l2)
        if self.bilinear is not None:
            self.bilinear.forget(share)

    def head(self, label: str) -> tuple[npt.NDArray[np.uint32], Floats, Floats]:
        """What was learned of one label: the cells ever touched, and their z and n."""
        row = self._row[label]
        at = np.flatnonzero(self.n[row])
        return at.astype(np.uint32), self.z[row, at], self.n[row, at]

    def restore_head(
        self,
        label: str,
        cells: npt.NDArray[np.uint32],
        z: Floats,
        n: Floats,
        *,
        alpha: float | None = None,
        l2: float | None = None,
    ) -> None:
        """Put back what `head` gave, of a model with that step and regularisation (None: this).

        The weights are then what they were there: z is rescaled where the two differ.
        """
        row, root = self._row[label], np.sqrt(n)
        precision = (self.beta + root) / self.alpha + self.l2
        former = self.alpha if alpha is None else alpha
        if former != self.alpha or (l2 is not None and l2 != self.l2):
            z = z * precision / ((self.beta + root) / former + (self.l2 if l2 is None else l2))
        self.z[row, cells] = z
        self.n[row, cells] = n
        self.weights[row, cells] = -z / precision


def _arrays(x: Mapping[int, float]) -> tuple[Positions, Floats]:
    return np.fromiter(x.keys(), np.intp, len(x)), np.fromiter(x.values(), np.float64, len(x))


def _sigmoid(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-min(max(logit, -_LARGEST_LOGIT), _LARGEST_LOGIT)))


def _implicit(logit: float, truth: float, weight: float, reach: float) -> float:
    """The slope at the end of the step that it causes; `reach` is how far slope 1 would move.

    A step of at most one in log-odds is taken as it is, with the slope where it begins: held back
    ever so little, heavy examples would count for less than as many light ones. Otherwise solves
    slope = weight * (sigmoid(logit - reach * slope) - truth) by Newton's method within the
    bounds that always hold the one solution.
    """
    plain = weight * (_sigmoid(logit) - truth)
    boldest = math.copysign(_BOLDEST / max(reach, 1e-300), plain)
    if abs(plain) <= abs(boldest):
        return plain
    low, high = min(0.0, plain), max(0.0, plain)
    slope = plain / (1.0 + reach * weight * 0.25)
    for _ in range(_MOST_STEPS):
        rate = _sigmoid(logit - reach * slope)
        error = slope - weight * (rate - truth)
        if abs(error) <= _SOLVED * max(1.0, abs(slope)):
            break
        low, high = (low, slope) if error > 0 else (slope, high)
        slope -= error / (1.0 + reach * weight * rate * (1.0 - rate))
        if not low <= slope <= high:
            slope = (low + high) / 2.0
    return max(slope, boldest, key=abs)
