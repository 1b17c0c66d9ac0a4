"""What does the policy want predicted, made ready to run?

A target becomes a function from an event to what it adds to a case's total, the features a reader
of profiles. Predictions that see the same share the reader, and so one reading per moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from operators.arrival import Arrived
from operators.features import Hashes, ProfileFeatures
from operators.filters import compile_filter, number_of, reader
from operators.ids import hash32
from operators.predict_features import visible
from operators.signals import CompiledSignal
from schemas.catalogue import Content
from schemas.policy import Policy
from schemas.predictions import LooksLike, Prediction, WillDo, WillNotDo, WillSum

_ATTRIBUTES: Final = 4
"""The level of features that a prediction sees: segments, signals, attributes."""

Gain = Callable[[Arrived, Content | None], float | None]
"""What an event adds to a case's total; None where it is not of the target."""


@dataclass(frozen=True, slots=True)
class CompiledPrediction:
    """A prediction ready to run.

    `model` names its parameters, `mark` its target (another target is another model). `at_once`
    is the label that a target event settles (1 done, 0 not done), None where only the horizon's
    end does; `segment` is what a look-alike looks like. No case is taken of a profile that has been
    idle for `idle_ms`: it would be dropped before its horizon ends, and only those that come back
    would ever teach anything.
    """

    name: str
    model: str
    mark: int
    events: frozenset[str]
    gain: Gain
    at_once: float | None
    segment: str | None
    is_sum: bool
    horizon_ms: int
    every_ms: int
    idle_ms: int
    features: ProfileFeatures


def model_of_prediction(name: str) -> str:
    """The model under which a prediction's parameters are published."""
    return f"prediction.{name}"


def head_of(prediction: Prediction) -> str:
    """The name of the one head of a prediction's model: another target is another head."""
    return f"{hash32(prediction.target.model_dump_json()):08x}"


def compile_predictions(
    policy: Policy, signals: Mapping[str, CompiledSignal], hashes: Hashes
) -> tuple[CompiledPrediction, ...]:
    """The policy's predictions over its declared signals.

    Raises KeyError for a signal that is not declared.
    """
    shared: dict[str, ProfileFeatures] = {}
    found = []
    for name, prediction in policy.predictions.items():
        features, segments = visible(policy, prediction, signals)
        key = f"{features.model_dump_json()}{sorted(segments)}"
        if key not in shared:
            shared[key] = ProfileFeatures(
                features,
                level=_ATTRIBUTES,
                signals=dict(signals),
                segments=segments,
                sensitive=policy.sensitive,
                hashes=hashes,
            )
        idle_ms = policy.retention.profile_ttl - prediction.horizon_ms
        found.append(_compiled(name, prediction, idle_ms, shared[key]))
    return tuple(found)


def _compiled(
    name: str, prediction: Prediction, idle_ms: int, features: ProfileFeatures
) -> CompiledPrediction:
    target = prediction.target
    events: tuple[str, ...] = ()
    at_once: float | None = None
    gain: Gain = _nothing
    match target:
        case WillDo():
            events, at_once, gain = target.done, 1.0, _gain(target, None)
        case WillNotDo():
            events, at_once, gain = target.not_done, 0.0, _gain(target, None)
        case WillSum():
            events, gain = target.sum, _gain(target, target.of)
        case LooksLike():
            pass
    return CompiledPrediction(
        name=name,
        model=model_of_prediction(name),
        mark=int(head_of(prediction), 16),
        events=frozenset(events),
        gain=gain,
        at_once=at_once,
        segment=target.segment if isinstance(target, LooksLike) else None,
        is_sum=isinstance(target, WillSum),
        horizon_ms=prediction.horizon_ms,
        every_ms=prediction.every_ms,
        idle_ms=idle_ms,
        features=features,
    )


def _nothing(_event: Arrived, _content: Content | None) -> float | None:
    return None


def _gain(target: WillDo | WillNotDo | WillSum, of: str | None) -> Gain:
    matches = compile_filter(target.where)
    read = None if of is None else reader(of)

    def gain(event: Arrived, content: Content | None) -> float | None:
        if matches is not None and not matches(event, content):
            return None
        return 1.0 if read is None else number_of(read(event, content))

    return gain
