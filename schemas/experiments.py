"""Who is in which arm: the holdout, layers of tests that exclude each other, and their variants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, Field, model_validator

from schemas.conditions import Condition, Model
from schemas.learning import Exploration, Features, Learner
from schemas.placements import Candidates, Coherence, Diversity, Fallback, Learning

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
_ROUNDING: Final = 1e-9


class Holdout(Model):
    """A share of profiles, by stable hash, that is not personalised: the yardstick of uplift."""

    share: Annotated[float, Field(gt=0, lt=1)]
    serve: Literal["uniform", "fallback"] = "uniform"
    salt: str = ""


class Changes(Model):
    """What a variant changes of its placements; absent: as the placement says."""

    level: Annotated[int, Field(ge=0, le=5)] | None = None
    slots: Annotated[int, Field(ge=1, le=100)] | None = None
    candidates: Candidates | None = None
    features: Features | None = None
    model: Learner | None = None
    exploration: Exploration | None = None
    learning: Learning | None = None
    diversity: tuple[Diversity, ...] | None = None
    coherence: Coherence | None = None
    fallback: Fallback | None = None
    rewards: tuple[str, ...] | None = None
    rules: tuple[str, ...] | None = Field(
        default=None, description="The rules that apply to this variant; absent: all."
    )

    @property
    def own_model(self) -> bool:
        """Whether the variant learns by itself: its model would not be the placement's."""
        own = (self.features, self.model, self.rewards, self.level)
        return any(part is not None for part in own)


class Variant(Model):
    """One arm of a test."""

    weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    changes: Changes = Field(default_factory=Changes)


class Promotion(Model):
    """Shares that move to what earns more: a bandit between variants."""

    reward: Name = Field(description="The reward kind, per decision, that says what is better.")
    floor: Annotated[float, Field(ge=0, le=0.5)] = Field(
        default=0.05, description="Each variant keeps at least this share."
    )
    after: Annotated[int, Field(ge=1)] = Field(
        default=500, description="Decisions of each variant before shares move."
    )


class Test(Model):
    """An A/B/n test: variants by stable hash, sticky per profile."""

    description: str = ""
    layer: Name = Field(
        default="main", description="Tests of one layer never share a profile; layers are crossed."
    )
    share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="Share of the layer's profiles that take part."
    )
    offset: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None,
        description="Where its part of the layer begins; absent: where the one before it ends.",
    )
    placements: tuple[str, ...] | None = Field(default=None, description="Absent: all.")
    when: Condition | None = Field(default=None, description="Who takes part; absent: everybody.")
    valid_from: AwareDatetime | None = None
    valid_until: AwareDatetime | None = None
    variants: dict[Name, Variant] = Field(min_length=2, description="The first is the control.")
    metrics: tuple[str, ...] = Field(
        default=("conversion",),
        description="conversion, order_value (each also of one reward: conversion.purchase), "
        "retention, session_time, satisfaction, or a reward: its value per profile.",
    )
    guardrails: tuple[str, ...] = Field(default=(), description="Metrics that must not get worse.")
    promote: Promotion | None = None

    @model_validator(mode="after")
    def _is_valid_for_some_time(self) -> Test:
        if self.valid_from and self.valid_until and self.valid_from >= self.valid_until:
            raise ValueError("valid_from must be before valid_until")
        return self


class Experiments(Model):
    """Who is in which arm."""

    holdout: Holdout | None = None
    tests: dict[Name, Test] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _layers_are_not_overbooked(self) -> Experiments:
        placed = list(parts(self.tests).items())
        for i, (name, (begin, end)) in enumerate(placed):
            test = self.tests[name]
            if end > 1.0 + _ROUNDING:
                raise ValueError(
                    f"parts of layer {test.layer} that add up to 1 at most: its tests ask for more"
                )
            for other, (first, last) in placed[:i]:
                apart = last <= begin + _ROUNDING or end <= first + _ROUNDING
                if not apart and _meet(test, self.tests[other]):
                    raise ValueError(
                        f"parts of layer {test.layer} that do not overlap: {name} and {other} "
                        "share profiles, and times"
                    )
        return self


def parts(tests: Mapping[str, Test]) -> dict[str, tuple[float, float]]:
    """Which part of its layer each test has: [begin, end) within [0, 1)."""
    ends: dict[str, float] = {}
    found: dict[str, tuple[float, float]] = {}
    for name, test in tests.items():
        begin = ends.get(test.layer, 0.0) if test.offset is None else test.offset
        ends[test.layer] = begin + test.share
        found[name] = begin, ends[test.layer]
    return found


def _meet(one: Test, other: Test) -> bool:
    """Whether two tests are of one layer and at some time both valid."""
    before = one.valid_until and other.valid_from and one.valid_until <= other.valid_from
    after = other.valid_until and one.valid_from and other.valid_until <= one.valid_from
    return one.layer == other.layer and not (before or after)


def changed(fields: dict[str, Any], changes: Changes) -> dict[str, Any]:
    """A placement's fields with a variant's changes in place."""
    own = {name: value for name, value in changes if value is not None and name != "rules"}
    return {**fields, **own}
