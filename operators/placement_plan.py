"""What does one placement ask for, made ready to run?

Everything about a placement that depends on the policy and the catalogue only: its pool of contents
as arrays, what rewards are worth there, what its model may see.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from operators.conditions import INTENT, Compiler
from operators.contents import Contents, Flags
from operators.diversity import Limit, compile_limits
from operators.features import Cells, Hashes, ProfileFeatures, content_cells, content_features
from operators.filters import number_of
from operators.rules import CompiledRule, rules_of
from operators.score import Indices, Scores
from operators.signals import CompiledSignal
from operators.verdicts import Evaluate
from schemas.catalogue import Content
from schemas.check_catalogue import qualifies
from schemas.learning import Reward
from schemas.placements import Placement, PlacementCap
from schemas.policy import Policy
from schemas.reads import reads

_BY_EVENT: Final = "value"
_MOST_WORTH: Final = 1e12
"""A larger factor of a reward would end in scores that are not finite."""
_MOST: Final = 1e12
"""What an event's own value counts at most: sums of larger ones would not stay finite."""


@dataclass(frozen=True, slots=True)
class CompiledPlacement:
    """A placement ready to run, or what the variants of tests make of it.

    `key` tells the two apart, `model` is the learner that it teaches and is scored by. `pool` holds
    the positions of the contents that may ever appear, `order` the same in the order of the
    fallback, `values` what each reward kind is worth, shape (heads, contents); where the event's
    own value multiplies it (`by_event`), what one unit is worth. `cells` and `real` are the
    contents' features, shape (contents, widest). `lower` is what the model sees of people who want
    less of it, by level. `varies` are the segments that a shared answer depends on.
    """

    key: str
    name: str
    model: str
    policy: Placement
    heads: tuple[str, ...]
    rewards: tuple[Reward, ...]
    values: Scores
    by_event: tuple[bool, ...]
    cells: Cells
    real: npt.NDArray[np.float32]
    pool: Indices
    in_pool: Flags
    order: tuple[int, ...]
    by_segment: tuple[tuple[str, tuple[int, ...]], ...]
    eligible: Evaluate | None
    features: ProfileFeatures
    lower: dict[int, ProfileFeatures]
    attribution_ms: int
    limit: Limit | None
    rules: tuple[CompiledRule, ...]
    everybody: tuple[PlacementCap, ...]
    varies: tuple[str, ...]

    def features_at(self, level: int) -> ProfileFeatures:
        """What the model may see at a level; at most what it sees at the placement's own."""
        return self.lower.get(level, self.features)


class PlacementCompiler:
    """Compiles placements of one policy and catalogue."""

    def __init__(
        self,
        policy: Policy,
        contents: Contents,
        compiler: Compiler,
        declared: dict[str, CompiledSignal],
        hashes: Hashes,
        rules: tuple[CompiledRule, ...],
    ) -> None:
        self._policy = policy
        self._contents = contents
        self._compiler = compiler
        self._declared = declared
        self._hashes = hashes
        self._rules = rules
        self._segments = frozenset([*policy.segments, *(f"{INTENT}{i}" for i in policy.intents)])

    def compile(
        self,
        name: str,
        placement: Placement,
        *,
        key: str,
        model: str,
        rules: Collection[str] | None = None,
    ) -> CompiledPlacement:
        """One placement; `rules` are those that apply (None: all that name it)."""
        contents, policy = self._contents, self._policy
        listed = [contents.by_id[c] for c in contents.ids]
        in_pool = np.array([qualifies(content, name, placement) for content in listed], np.bool_)
        rewards = tuple(policy.rewards[kind] for kind in placement.rewards)
        values = np.array(
            [[reward.value * factor(reward, content) for content in listed] for reward in rewards],
            np.float64,
        ).reshape(len(rewards), len(listed))
        seen = placement.features.content
        cells, real = content_cells(
            [content_features(content, policy.sensitive, attributes=seen) for content in listed],
            self._hashes,
        )
        by_priority = sorted(
            (int(i) for i in np.flatnonzero(in_pool)),
            key=lambda i: (-listed[i].priority, contents.ids[i]),
        )
        return CompiledPlacement(
            key=key,
            name=name,
            model=model,
            policy=placement,
            heads=placement.rewards,
            rewards=rewards,
            values=values,
            by_event=tuple(reward.times == _BY_EVENT for reward in rewards),
            cells=cells,
            real=real,
            pool=np.flatnonzero(in_pool),
            in_pool=in_pool,
            order=tuple(dict.fromkeys([*self._known(placement.fallback.contents), *by_priority])),
            by_segment=tuple(
                (segment, tuple(self._known(ids)))
                for segment, ids in placement.fallback.segments.items()
            ),
            eligible=(
                self._compiler.compile(placement.eligibility) if placement.eligibility else None
            ),
            features=self._features(placement, placement.level),
            lower={level: self._features(placement, level) for level in range(1, placement.level)},
            attribution_ms=max((reward.within for reward in rewards), default=0),
            limit=compile_limits(placement.diversity, contents),
            everybody=tuple(cap for cap in placement.caps if cap.over == "everybody"),
            varies=tuple(sorted(self._asked(name, placement))) if placement.shared else (),
            rules=() if placement.never_personalised else rules_of(self._rules, name, rules),
        )

    def _known(self, ids: Iterable[str]) -> list[int]:
        return [self._contents.index[c] for c in ids if c in self._contents.index]

    def _asked(self, name: str, placement: Placement) -> set[str]:
        """The segments that an answer may depend on: the model's, the fallback's, conditions'."""
        if placement.level == 0:
            return set()
        seen, policy = placement.features.segments, self._policy
        asked = {*(self._segments if seen is None else seen), *placement.fallback.segments}
        of_rules = [
            rule.when
            for rule in policy.rules.values()
            if rule.placements is None or name in rule.placements
        ]
        listed = self._contents.by_id.values()
        of_contents = [c.eligibility for c in listed if qualifies(c, name, placement)]
        conditions = [placement.eligibility, *of_rules, *of_contents]
        for condition in conditions:
            if condition is not None:
                asked |= reads(condition.model_dump(mode="json", by_alias=True), {}).segments
        return asked

    def _features(self, placement: Placement, level: int) -> ProfileFeatures:
        return ProfileFeatures(
            placement.features,
            level=level,
            signals=self._declared,
            segments=self._segments,
            sensitive=self._policy.sensitive,
            hashes=self._hashes,
        )


def factor(reward: Reward, content: Content) -> float:
    """What multiplies a reward on a content, the event's own value left aside; 1 where absent."""
    if reward.times == "margin":
        return 1.0 if content.margin is None else content.margin
    if reward.times is None or reward.times == _BY_EVENT:
        return 1.0
    number = number_of(content.attributes.get(reward.times.partition(".")[2]))
    return 1.0 if number is None else max(-_MOST_WORTH, min(_MOST_WORTH, number))


def event_factor(reward: Reward, value: float | None) -> float:
    """What an event's own value multiplies its reward by; 1 where it does not, or bears none."""
    if reward.times != _BY_EVENT or value is None:
        return 1.0
    most = _MOST if reward.at_most is None else min(reward.at_most, _MOST)
    return max(-_MOST, min(value, most))
