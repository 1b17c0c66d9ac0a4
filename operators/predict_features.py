"""What may the model of a prediction see, so that it cannot see its own answer?

A case's label lies after its features in time (`operators.predict`), which a look-alike's does not:
membership is known at once. `schemas.reads.hidden_from` says what is left out.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from operators.signals import CompiledSignal
from schemas.learning import Features
from schemas.policy import Policy
from schemas.predictions import LooksLike, Prediction
from schemas.reads import counted_events, definitions, hidden_from


def visible(
    policy: Policy, prediction: Prediction, signals: Mapping[str, CompiledSignal]
) -> tuple[Features, frozenset[str]]:
    """The features of a prediction, and the segments that may be among them."""
    conditions = definitions(
        {name: {"when": _plain(segment.when)} for name, segment in policy.segments.items()},
        {name: _plain(condition) for name, condition in policy.intents.items()},
    )
    declared = {name: _plain(signal) for name, signal in policy.signals.items()}
    target, asked = prediction.target, prediction.features
    looks_like = target.segment if isinstance(target, LooksLike) else None
    hidden = hidden_from(looks_like, conditions, declared)
    if asked.segments is None:
        segments = [
            name
            for name, condition in conditions.items()
            if hidden.events.isdisjoint(counted_events(condition, conditions, declared))
        ]
    else:
        segments = list(asked.segments)
    if asked.signals is None:
        seen = [name for name in signals if hidden.events.isdisjoint(signals[name].events)]
    else:
        seen = list(asked.signals)
    allowed = frozenset(segments) - hidden.segments
    features = Features(
        signals=tuple(name for name in seen if name not in hidden.signals),
        segments=tuple(sorted(allowed)),
        attributes=tuple(name for name in asked.attributes if name not in hidden.attributes),
        top=asked.top,
    )
    return features, allowed


def _plain(part: object) -> object:
    assert isinstance(part, BaseModel)
    return part.model_dump(mode="json", by_alias=True)
