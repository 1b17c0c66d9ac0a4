"""Which variant of which test is a profile in, and how do shares move to what earns more?

Assignment is a stable hash of the profile: the same on every machine, in every replay, at every
decision; nothing is stored. A layer is the range [0, 1), every profile has its place in it, and the
tests of the layer have parts of it that do not overlap: no profile is in two. Each layer has a hash
of its own, so being in a test of one layer says nothing about another's.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from operators.conditions import Compiler
from operators.ids import uniform
from operators.moment import Moment
from operators.profile import Profile
from operators.verdicts import Evaluate
from schemas.experiments import Changes, Holdout, Promotion, Test, parts
from schemas.policy import Policy
from schemas.time import to_millis

_ALWAYS: Final = 1 << 62
_STEP: Final = 1_000
"""Shares move in steps of a thousandth: last-bit differences between machines move nobody."""
_REACH: Final = 8.0
_POINTS: Final = 400


class Assigned(NamedTuple):
    """The variant of a test that decides for a profile now.

    `share` is the chance that the variant had among those of its test.
    """

    test: str
    layer: str
    variant: str
    share: float
    changes: Changes


@dataclass(frozen=True, slots=True)
class CompiledTest:
    """A test ready to assign; `begin` and `end` bound its part of the layer, times are ms."""

    name: str
    policy: Test
    begin: float
    end: float
    from_ms: int
    until_ms: int
    placements: frozenset[str]
    when: Evaluate | None
    weights: dict[str, float]


@dataclass(frozen=True, slots=True)
class Tests:
    """All tests of a policy, by layer, in the order of the file."""

    holdout: Holdout | None
    layers: Mapping[str, tuple[CompiledTest, ...]]

    def held(self, profile_id: str) -> bool:
        """Whether a profile is in the holdout: never personalised, in no test."""
        holdout = self.holdout
        return holdout is not None and in_holdout(holdout, profile_id)

    def assign(
        self,
        profile: Profile,
        moment: Moment,
        placement: str,
        shares: Mapping[str, Mapping[str, float]],
    ) -> list[Assigned]:
        """The variants that decide for a profile in a placement now, at most one of each layer.

        `shares` holds those in force of tests that promote, by test, then variant; where a test is
        not in it, or not whole, its weights count.
        """
        if not self.layers or self.held(profile.profile_id):
            return []
        return list(self._assigned(profile, moment, placement, shares))

    def _assigned(
        self,
        profile: Profile,
        moment: Moment,
        placement: str,
        shares: Mapping[str, Mapping[str, float]],
    ) -> Iterator[Assigned]:
        for layer, tests in self.layers.items():
            place = uniform(f"layer|{layer}|{profile.profile_id}")
            test = next((t for t in tests if _has(t, place, moment.now_ms)), None)
            if test is None or placement not in test.placements:
                continue
            if test.when is not None and not test.when(profile, moment).holds:
                continue
            in_force = _in_force(test, shares.get(test.name))
            variant = _cut(in_force, uniform(f"test|{test.name}|{profile.profile_id}"))
            changes = test.policy.variants[variant].changes
            yield Assigned(test.name, layer, variant, in_force[variant], changes)


def compile_tests(policy: Policy, compiler: Compiler) -> Tests:
    """The tests of a checked policy; raises KeyError for an undeclared signal in a condition."""
    experiments = policy.experiments
    personal = {n for n, placement in policy.placements.items() if not placement.never_personalised}
    layers: dict[str, tuple[CompiledTest, ...]] = {}
    for name, (begin, end) in parts(experiments.tests).items():
        test = experiments.tests[name]
        compiled = CompiledTest(
            name=name,
            policy=test,
            begin=begin,
            end=end,
            from_ms=to_millis(test.valid_from) if test.valid_from else -_ALWAYS,
            until_ms=to_millis(test.valid_until) if test.valid_until else _ALWAYS,
            placements=frozenset(
                personal if test.placements is None else personal.intersection(test.placements)
            ),
            when=compiler.compile(test.when) if test.when is not None else None,
            weights=_normalised({v: variant.weight for v, variant in test.variants.items()}),
        )
        layers[test.layer] = (*layers.get(test.layer, ()), compiled)
    return Tests(experiments.holdout, layers)


def in_holdout(holdout: Holdout, profile_id: str) -> bool:
    """Whether a profile is held out, by a hash that no layer uses."""
    return uniform(f"holdout|{holdout.salt}|{profile_id}") < holdout.share


def _has(test: CompiledTest, place: float, now_ms: int) -> bool:
    return test.begin <= place < test.end and test.from_ms <= now_ms < test.until_ms


def _in_force(test: CompiledTest, shares: Mapping[str, float] | None) -> dict[str, float]:
    if test.policy.promote is None or shares is None:
        return test.weights
    named = {variant: shares.get(variant, 0.0) for variant in test.weights}
    # A set of a former policy may lack a variant: nobody would ever get it.
    if not all(math.isfinite(share) and share > 0.0 for share in named.values()):
        return test.weights
    return _normalised(named)


def _normalised(weights: Mapping[str, float]) -> dict[str, float]:
    total = math.fsum(weights.values())
    return {variant: weight / total for variant, weight in weights.items()}


def _cut(shares: dict[str, float], place: float) -> str:
    """The variant whose piece of [0, 1) holds the place; pieces lie in the order of the file.

    When shares move, the cuts between the pieces move, and only profiles between an old cut and the
    new one change their variant.
    """
    end = 0.0
    for variant, share in shares.items():
        end += share
        if place < end:
            return variant
    return next(reversed(shares))  # the sum of the shares was rounded to just under 1


class Earned(NamedTuple):
    """What a variant has earned: rewards per decision, as a number, a sum and a sum of squares."""

    decisions: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    def plus(self, reward: float, *, decisions: float = 1.0) -> Earned:
        """The same with one more decision and its reward; a reward that comes later: with 0."""
        return Earned(
            self.decisions + decisions, self.total + reward, self.squares + reward * reward
        )


def shares_of(
    stats: Mapping[str, Earned], promotion: Promotion, weights: Mapping[str, float]
) -> dict[str, float]:
    """The share that each variant gets: how likely it is the best, and at least the floor.

    That is Thompson sampling in expectation (Thompson 1933), worked out instead of drawn: the
    mean reward of each variant is taken as normal around what was observed. Until every variant
    has `promotion.after` decisions, the weights hold. Shares sum to 1, in steps of a thousandth.
    """
    known = {variant: stats.get(variant, Earned()) for variant in weights}
    least = min(earned.decisions for earned in known.values())
    spread = _pooled_variance(list(known.values()))
    if least < promotion.after or spread <= 0.0:
        return _normalised(weights)
    means = [earned.total / earned.decisions for earned in known.values()]
    errors = []
    for earned, mean in zip(known.values(), means, strict=True):
        # One decision of the pooled spread: what never earned is not certain to earn nothing.
        around = max(0.0, earned.squares - earned.decisions * mean * mean) + spread
        errors.append(math.sqrt(around) / earned.decisions)
    floor = min(promotion.floor, 1.0 / len(weights))
    best = _chances_of_best(means, errors)
    shares = [floor + (1.0 - floor * len(weights)) * chance for chance in best]
    return dict(zip(weights, _in_steps(shares, floor), strict=True))


def _pooled_variance(known: Collection[Earned]) -> float:
    """The variance of a decision's reward around its variant's mean, over all variants."""
    decisions = math.fsum(earned.decisions for earned in known)
    around = math.fsum(
        max(0.0, earned.squares - earned.total * earned.total / earned.decisions)
        for earned in known
        if earned.decisions
    )
    return around / decisions if decisions else 0.0


def _chances_of_best(means: list[float], errors: list[float]) -> list[float]:
    """P(variant i has the largest mean), for independent normal means: an integral over a grid."""
    low = min(mean - _REACH * error for mean, error in zip(means, errors, strict=True))
    high = max(mean + _REACH * error for mean, error in zip(means, errors, strict=True))
    chances = []
    for i, (mean, error) in enumerate(zip(means, errors, strict=True)):
        # Each on a grid of its own: a narrow density would fall between the points of a wide one.
        begin, end = max(low, mean - _REACH * error), min(high, mean + _REACH * error)
        step = (end - begin) / _POINTS
        total = 0.0
        for point in range(_POINTS + 1):
            at = begin + point * step
            density = math.exp(-0.5 * ((at - mean) / error) ** 2)
            others = (
                _below((at - m) / e)
                for j, (m, e) in enumerate(zip(means, errors, strict=True))
                if j != i
            )
            total += density * math.prod(others)
        chances.append(total * step / (error * math.sqrt(2.0 * math.pi)))
    whole = math.fsum(chances)
    return [chance / whole for chance in chances]


def _below(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def _in_steps(shares: list[float], floor: float) -> list[float]:
    """Shares in whole steps that sum to 1, none below the floor or a step; the largest gives."""
    least = min(max(1, math.ceil(floor * _STEP - 1e-6)), _STEP // len(shares))
    steps = [max(least, round(share * _STEP)) for share in shares]
    largest = steps.index(max(steps))
    steps[largest] += _STEP - sum(steps)
    return [count / _STEP for count in steps]
