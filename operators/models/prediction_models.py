"""Which online models predict? One for a probability and one for a sum, behind one small interface.

A probability is a logistic regression (`operators.models.hashed_logistic`). A sum is River's linear
regression with the Poisson loss: the log of the expectation is linear, so a prediction is never
negative and right on average whatever the distribution, which is zero for most and heavy-tailed for
the rest (McCullagh and Nelder, "Generalized Linear Models", 2nd ed., 1989, chapter 9: only the mean
must be specified). Least squares on log(1 + y) would predict a fifth of the mean there.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from river import linear_model, optim

from operators.models.hashed_logistic import HashedLogistic

Floats = npt.NDArray[np.float64]
_HEAD: Final = "y"
_SUREST: Final = 1e-3
_LARGEST_LOG: Final = 30.0


class Kept(NamedTuple):
    """All that a model has learned: two numbers per cell, and where it started.

    `waited` counts the examples that came before there was anything to start from.
    """

    cells: npt.NDArray[np.uint32]
    first: Floats
    second: Floats
    intercept: float
    waited: int = 0


class PredictionModel(Protocol):
    """An online model over cells below `cells`; `x` maps a cell to its count."""

    @property
    def intercept(self) -> float:
        """What a profile without any known feature is taken for, before the link."""

    def learn(self, x: dict[int, float], y: float) -> float:
        """Test, then learn; the loss of the test (bounded: drift is looked for in it)."""

    def step(self, factor: float) -> None:
        """Multiply the configured step size from here on; what was learned stays."""

    def weights(self) -> npt.NDArray[np.float32]:
        """The weights of now, shape (1, cells)."""

    def keep(self) -> Kept:
        """Everything learned, to be given to `restore`."""

    def restore(self, kept: Kept) -> None:
        """Put back what `keep` gave; the step factor is set before."""


class Probability:
    """P(y = 1) by logistic regression."""

    def __init__(self, *, cells: int, alpha: float | None, l2: float) -> None:
        self._alpha = 0.2 if alpha is None else alpha
        self._model = HashedLogistic((_HEAD,), cells=cells, alpha=self._alpha, l2=l2)
        self.intercept = float(self._model.intercepts[0])

    def learn(self, x: dict[int, float], y: float) -> float:
        """The log loss of the test, of a prediction held away from 0 and 1."""
        p = self._model.predict_proba_one(x)[_HEAD][True]
        p = min(max(p, _SUREST), 1.0 - _SUREST)
        self._model.learn_one(x, {_HEAD: y > 0})
        return -math.log(p if y > 0 else 1.0 - p)

    def step(self, factor: float) -> None:
        """In FTRL the step also scales what is kept: it is rescaled, so that weights stay."""
        model, alpha = self._model, self._alpha * factor
        if alpha == model.alpha:
            return
        cells, z, n = model.head(_HEAD)
        root = model.beta + np.sqrt(n)
        z = z * (root / alpha + model.l2) / (root / model.alpha + model.l2)
        model.alpha = alpha
        model.restore_head(_HEAD, cells, z, n)

    def weights(self) -> npt.NDArray[np.float32]:
        """The weights of now, shape (1, cells)."""
        return self._model.weights.copy()

    def keep(self) -> Kept:
        """FTRL's z and n."""
        return Kept(*self._model.head(_HEAD), self.intercept)

    def restore(self, kept: Kept) -> None:
        """Put back z and n, and the intercept on top of which they were learned."""
        self.intercept = kept.intercept
        self._model.intercepts[0] = kept.intercept
        self._model.restore_head(_HEAD, kept.cells, kept.first, kept.second)


class Expectation:
    """E(y) of a sum that is never negative.

    It starts at the mean of everything up to the first sum that is not zero: sums have any unit,
    and a thousand examples would go by on the way from 1 to the right order of magnitude.
    """

    def __init__(self, *, cells: int, alpha: float | None) -> None:
        self._cells = cells
        self._alpha = 0.1 if alpha is None else alpha
        self._waited = 0
        self._started = False
        self._model: Any = linear_model.LinearRegression(
            optim.AdaGrad(self._alpha), loss=optim.losses.Poisson(), intercept_lr=0.0
        )

    @property
    def intercept(self) -> float:
        """The logarithm of what it started from."""
        return float(self._model.intercept)

    def learn(self, x: dict[int, float], y: float) -> float:
        """The error of the test in the logarithm: one large sum must not look like drift."""
        if not self._started:
            self._waited += 1
            if y <= 0:
                return 0.0
            self._start(math.log(y / self._waited))
        predicted = min(float(self._model.predict_one(x)), math.exp(_LARGEST_LOG))
        self._model.learn_one(x, y)
        return abs(math.log1p(predicted) - math.log1p(y))

    def _start(self, intercept: float) -> None:
        self._started = True
        self._model.intercept = intercept

    def step(self, factor: float) -> None:
        """Set the optimizer's rate; weights do not depend on it."""
        self._model.optimizer.lr = optim.schedulers.Constant(self._alpha * factor)

    def weights(self) -> npt.NDArray[np.float32]:
        """The weights of now, shape (1, cells)."""
        table = np.zeros((1, self._cells), np.float32)
        kept = self.keep()
        table[0, kept.cells] = kept.first
        return table

    def keep(self) -> Kept:
        """Weights and sums of squared gradients, in the order of River's own dictionary."""
        weights = self._model.weights
        squares = self._model.optimizer.g2
        return Kept(
            np.fromiter(weights, np.uint32, len(weights)),
            np.fromiter(weights.values(), np.float64, len(weights)),
            np.array([squares[cell] for cell in weights], np.float64),
            self.intercept,
            self._waited,
        )

    def restore(self, kept: Kept) -> None:
        """Put weights and sums back; River has no public way to set weights."""
        self._waited = kept.waited
        cells = kept.cells.tolist()
        if cells:
            self._start(kept.intercept)
        for cell, weight, square in zip(
            cells, kept.first.tolist(), kept.second.tolist(), strict=True
        ):
            self._model._weights[cell] = weight
            self._model.optimizer.g2[cell] = square
