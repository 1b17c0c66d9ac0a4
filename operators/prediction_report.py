"""How good was a prediction, told by what it said beforehand and what came true?

Figures are of a bounded window of the newest tests and are computed when asked for, by River's
metrics, so that they are a function of the window alone and a resume changes none of them.
"""

from __future__ import annotations

from typing import Any, Final, TypedDict

from river import metrics

_METRICS: Final[Any] = metrics  # River's metrics bear no types

_BINS: Final = 10


class Bin(TypedDict):
    """A tenth of the tests, by what was predicted: mean prediction and mean label."""

    count: int
    predicted: float
    observed: float


class Quality(TypedDict):
    """The figures of a window; None where there is too little to tell, or it does not apply."""

    tests: int
    roc_auc: float | None
    pr_auc: float | None
    log_loss: float | None
    mae: float | None
    calibration_error: float | None
    mean_predicted: float | None
    mean_observed: float | None
    reliability: list[Bin]


def measure(tests: list[tuple[float, float]], *, is_sum: bool) -> Quality:
    """The figures of (predicted, label) pairs.

    The calibration error is the expected one over ten bins of as many tests each (Naeini et al.,
    "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015, with equal-mass
    bins); that of a sum is relative to the mean. Of n tests at a base rate p, chance alone makes it
    about sqrt(p (1 - p) 10 / n).
    """
    bins = _reliability(tests)
    count = len(tests)
    observed = sum(label for _, label in tests) / count if count else None
    scale = (observed or 1.0) if is_sum else 1.0
    error = sum(b["count"] * abs(b["predicted"] - b["observed"]) for b in bins)
    quality = Quality(
        tests=count,
        roc_auc=None,
        pr_auc=None,
        log_loss=None,
        mae=None,
        calibration_error=error / count / scale if count else None,
        mean_predicted=sum(predicted for predicted, _ in tests) / count if count else None,
        mean_observed=observed,
        reliability=bins,
    )
    if is_sum and count:
        mae = _METRICS.MAE()
        for predicted, label in tests:
            mae.update(label, predicted)
        quality["mae"] = mae.get()
    elif count:
        _measure_probability(tests, quality)
    return quality


def _measure_probability(tests: list[tuple[float, float]], quality: Quality) -> None:
    roc = _METRICS.RollingROCAUC(window_size=len(tests))
    precision = _METRICS.RollingPRAUC(window_size=len(tests))
    loss = _METRICS.LogLoss()
    error = _METRICS.MAE()
    for predicted, label in tests:
        roc.update(label > 0, predicted)
        precision.update(label > 0, predicted)
        loss.update(label > 0, predicted)
        error.update(label, predicted)
    quality["log_loss"] = loss.get()
    quality["mae"] = error.get()
    if 0 < sum(label > 0 for _, label in tests) < len(tests):
        quality["roc_auc"] = roc.get()
        quality["pr_auc"] = precision.get()


def _reliability(tests: list[tuple[float, float]]) -> list[Bin]:
    # Sorted by prediction alone: ties broken by label would separate what the model did not.
    ordered = sorted(tests, key=lambda test: test[0])
    bins = min(_BINS, len(ordered))
    found: list[Bin] = []
    for i in range(bins):
        part = ordered[i * len(ordered) // bins : (i + 1) * len(ordered) // bins]
        found.append(
            {
                "count": len(part),
                "predicted": sum(predicted for predicted, _ in part) / len(part),
                "observed": sum(label for _, label in part) / len(part),
            }
        )
    return found
