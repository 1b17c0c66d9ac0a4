"""How good were scores and probabilities, told by what came of the items that bore them?

In whole arrays, because a report over thousands of tests falls due in every placement at once.
"""

from __future__ import annotations

from typing import Final, TypedDict

import numpy as np
import numpy.typing as npt

from operators.prediction_report import Bin
from operators.score import Scores

_BINS: Final = 10
_LEAST: Final = 1e-6


class Quality(TypedDict):
    """The figures of some tests; None where there is too little to tell, or no probability."""

    tests: int
    roc_auc: float | None
    log_loss: float | None
    calibration_error: float | None
    mean_predicted: float | None
    mean_observed: float | None
    reliability: list[Bin]


def quality_of(scores: Scores, chances: Scores, rewarded: npt.NDArray[np.bool_]) -> Quality:
    """The figures of tests, shape (tests,) each; a chance below 0 is unknown.

    The AUC is of the scores. What is said of probabilities is None unless every test has one. The
    calibration error is the expected one over ten bins of as many tests each (see
    `operators.prediction_report.measure`); tests of one probability share their outcomes, so that
    no order among them decides.
    """
    count = len(scores)
    quality = Quality(
        tests=count,
        roc_auc=roc_auc(scores, rewarded),
        log_loss=None,
        calibration_error=None,
        mean_predicted=None,
        mean_observed=float(rewarded.mean()) if count else None,
        reliability=[],
    )
    if not count or bool((chances < 0.0).any()):
        return quality
    p = chances.clip(_LEAST, 1.0 - _LEAST)
    quality["log_loss"] = float(-np.log(np.where(rewarded, p, 1.0 - p)).mean())
    quality["mean_predicted"] = float(chances.mean())
    bins = _reliability(chances, rewarded)
    error = sum(b["count"] * abs(b["predicted"] - b["observed"]) for b in bins)
    quality["calibration_error"] = error / count
    quality["reliability"] = bins
    return quality


def roc_auc(scores: Scores, positive: npt.NDArray[np.bool_]) -> float | None:
    """The exact area under the ROC curve: the chance that a positive has the higher score.

    A tie counts half. None where all are of one kind.

    >>> roc_auc(np.array([0.1, 0.2, 0.2]), np.array([False, False, True]))
    0.75
    """
    positives = int(np.count_nonzero(positive))
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    # Mann and Whitney's U from mid-ranks.
    ranks = (sizes.cumsum() - (sizes - 1) / 2)[group]
    wins = float(ranks[positive].sum()) - positives * (positives + 1) / 2
    return wins / (positives * negatives)


def _reliability(chances: Scores, rewarded: npt.NDArray[np.bool_]) -> list[Bin]:
    _, group, sizes = np.unique(chances, return_inverse=True, return_counts=True)
    shared = (np.bincount(group, weights=rewarded) / sizes)[group]
    order = chances.argsort(kind="stable")
    return [
        {
            "count": len(part),
            "predicted": float(chances[part].mean()),
            "observed": float(shared[part].mean()),
        }
        for part in np.array_split(order, min(_BINS, len(order)))
    ]
