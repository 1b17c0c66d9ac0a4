"""Logistic regression over a fixed table of cells, one head per label, as a River model.

The interface is River's (`base.MultiLabelClassifier`), the loss is the log loss, and the step is
FTRL-Proximal with L2 regularisation (McMahan et al., "Ad click prediction: a view from the
trenches", KDD 2013, algorithm 1). It exists because River keeps weights in a dictionary: with some
150 crosses an example, two heads and two passes cost several times what the same arithmetic costs
on arrays (docs/benchmarks.md has both). River's own `FTRLProximal` also writes a weight only when
its feature is next seen, so exported weights would lack their last gradient; here they never do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
from river import base

Floats = npt.NDArray[np.float64]

_LARGEST_LOGIT: Final = 30.0
_BASE_RATE: Final = 0.05


class HashedLogistic(base.MultiLabelClassifier):
    """P(label) for each of `labels`, from the same features.

    Features are cell numbers below `cells`; an example maps cells to counts. `z` and `n` (float64)
    and `weights` (float32) have shape (labels, cells); weights follow from z and n. An intercept
    is the log-odds of the label's base rate and stays put: the bias feature learns what it gets
    wrong, where plain gradient steps would swing with every importance-weighted example.
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
    ) -> None:
        self.labels = labels
        self.cells = cells
        self.base_rates = dict(base_rates or {})
        self.alpha = alpha
        self.beta = beta
        self.l2 = l2
        rates = [self.base_rates.get(label, _BASE_RATE) for label in labels]
        self.intercepts = np.array([math.log(rate / (1.0 - rate)) for rate in rates])
        self.z = np.zeros((len(labels), cells))
        self.n = np.zeros((len(labels), cells))
        self.weights = np.zeros((len(labels), cells), np.float32)
        self._row = {label: row for row, label in enumerate(labels)}

    def predict_proba_one(self, x: Mapping[int, float]) -> dict[str, dict[bool, float]]:  # type: ignore[override]
        """P(True) and P(False) of each label."""
        at, counts = _arrays(x)
        rates = self._rates(slice(None), at, counts)
        return {
            label: {False: 1.0 - float(rates[row]), True: float(rates[row])}
            for label, row in self._row.items()
        }

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
        at, counts = _arrays(x)
        rows = np.fromiter((self._row[label] for label in y), np.intp, len(y))[:, None]
        truth = np.fromiter(y.values(), np.float64, len(y))
        rates = self._rates(rows, at, counts)
        weight = np.full(len(y), w)
        if fake_negatives:
            weight *= np.where(truth > 0, 1.0 + rates, (1.0 - rates) * (1.0 + rates))
        # The log loss's gradient by the logit is p - y.
        gradient = (weight * (rates - truth))[:, None] * counts
        before, z = self.n[rows, at], self.z[rows, at]
        after = before + gradient * gradient
        root_before, root = np.sqrt(before), np.sqrt(after)
        weights = -z / ((self.beta + root_before) / self.alpha + self.l2)
        z += gradient - (root - root_before) / self.alpha * weights
        self.n[rows, at] = after
        self.z[rows, at] = z
        self.weights[rows, at] = -z / ((self.beta + root) / self.alpha + self.l2)

    def _rates(
        self, rows: slice | npt.NDArray[np.intp], at: npt.NDArray[np.intp], counts: Floats
    ) -> Floats:
        intercepts = self.intercepts[rows if isinstance(rows, slice) else rows[:, 0]]
        logits = (self.weights[rows, at] * counts).sum(axis=1) + intercepts
        rates: Floats = 1.0 / (1.0 + np.exp(-np.clip(logits, -_LARGEST_LOGIT, _LARGEST_LOGIT)))
        return rates

    def head(self, label: str) -> tuple[npt.NDArray[np.uint32], Floats, Floats]:
        """What was learned of one label: the cells ever touched, and their z and n."""
        row = self._row[label]
        at = np.flatnonzero(self.n[row])
        return at.astype(np.uint32), self.z[row, at], self.n[row, at]

    def restore_head(self, label: str, cells: npt.NDArray[np.uint32], z: Floats, n: Floats) -> None:
        """Put back what `head` gave."""
        row = self._row[label]
        self.z[row, cells] = z
        self.n[row, cells] = n
        self.weights[row, cells] = -z / ((self.beta + np.sqrt(n)) / self.alpha + self.l2)


def _arrays(x: Mapping[int, float]) -> tuple[npt.NDArray[np.intp], Floats]:
    return np.fromiter(x.keys(), np.intp, len(x)), np.fromiter(x.values(), np.float64, len(x))
