"""FTRL-Proximal as a River optimizer over a fixed table of cells, one vector step per example.

McMahan et al., "Ad click prediction: a view from the trenches" (KDD 2013), algorithm 1. It differs
from River's own `optim.FTRLProximal` in two ways that matter here. River writes a weight only when
its feature is next seen, so exported weights would lack their last gradient: this one writes it at
once. And z, n and the weights are arrays, so that a step over a hundred crosses is a dozen array
operations instead of a hundred turns of a loop.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from river import optim


class Ftrl(optim.base.Optimizer):
    """Per-coordinate adaptive steps with L2 regularisation.

    Features are cell numbers below `cells`; `z`, `n` (float64) and `weights` (float32) have that
    length.
    """

    def __init__(
        self, alpha: float = 0.1, beta: float = 1.0, l2: float = 1.0, *, cells: int = 1 << 18
    ) -> None:
        self.alpha = alpha
        self.beta = beta
        self.l2 = l2
        self.z = np.zeros(cells)
        self.n = np.zeros(cells)
        self.weights = np.zeros(cells, np.float32)
        self.n_iterations = 0

    def _step_with_dict(self, w: Any, g: Any) -> Any:
        at = np.fromiter(g.keys(), np.intp, len(g))
        gradient = np.fromiter(g.values(), np.float64, len(g))
        before, z = self.n[at], self.z[at]
        after = before + gradient * gradient
        root_before, root = np.sqrt(before), np.sqrt(after)
        weights = -z / ((self.beta + root_before) / self.alpha + self.l2)
        z += gradient - (root - root_before) / self.alpha * weights
        weights = -z / ((self.beta + root) / self.alpha + self.l2)
        self.n[at] = after
        self.z[at] = z
        self.weights[at] = weights
        w.update(dict(zip(g.keys(), weights.tolist(), strict=True)))
        return w

    def restored_weights(self) -> dict[int, float]:
        """After z and n were put back: fill `weights`, and give them by feature for the model."""
        at = np.flatnonzero(self.n)
        scale = (self.beta + np.sqrt(self.n[at])) / self.alpha + self.l2
        weights = -self.z[at] / scale
        self.weights[at] = weights
        return dict(zip(at.tolist(), weights.tolist(), strict=True))
