"""With what probability was each item of a logged slate drawn, worked out from scratch?

The yardstick of the draw: one candidate after the other, in plain numbers, from what a log says
(scores, exploration, what is on the slate above). It shares the schemas with the product, and the
hash that seeds chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

from operators.ids import hash64
from schemas.learning import Exploration

_WORD = (1 << 64) - 1

Blocked = Callable[[Sequence[int]], Collection[int]]
"""Which candidates may not follow those chosen."""


def _nothing(_chosen: Sequence[int]) -> Collection[int]:
    return ()


@dataclass(frozen=True)
class Logged:
    """What a decision was drawn from; `fixed` maps ranks (from 0) to candidates put there."""

    scores: Sequence[float] | None
    exploration: Exploration
    count: int
    rewarded: int = 0
    scale: float | None = None
    spread: Sequence[float] | None = None
    noise_of: str = ""
    fixed: Mapping[int, int] = field(default_factory=dict)
    blocked: Blocked = _nothing


def chances_at(logged: Logged, above: Sequence[int]) -> dict[int, float]:
    """The probability of each open candidate at the rank below the items drawn `above`."""
    taken = [*logged.fixed.values(), *above]
    closed = {*taken, *logged.blocked(taken)}
    open_ = [i for i in range(logged.count) if i not in closed]
    if not open_:
        return {}
    even = 1 / len(open_)
    rule = logged.exploration
    if logged.scores is None:
        return dict.fromkeys(open_, even)
    sizes = [abs(score) for score in logged.scores]
    unit = (logged.scale if logged.scale is not None else sum(sizes) / len(sizes)) or 1.0
    scores = list(logged.scores)
    if logged.spread is not None:
        scores = [
            s + rule.optimism * sd for s, sd in zip(logged.scores, logged.spread, strict=True)
        ]
    best = max(open_, key=lambda i: (scores[i], -i))
    kind = rule.kind
    if kind == "thompson" and logged.spread is None:
        kind = "igw"
    given: dict[int, float]
    match kind:
        case "greedy":
            return {i: float(i == best) for i in open_}
        case "uniform":
            given = dict.fromkeys(open_, even)
        case "epsilon_greedy":
            given = dict.fromkeys(open_, rule.epsilon * even)
        case "igw":
            gamma = rule.gamma
            if gamma is None:
                gamma = 30 * math.sqrt(1 + logged.rewarded)
            given = {i: 1 / (len(open_) + gamma * (scores[best] - scores[i]) / unit) for i in open_}
        case "softmax":
            odds = {
                i: math.exp((scores[i] - scores[best]) / (rule.temperature * unit)) for i in open_
            }
            given = {i: odd / sum(odds.values()) for i, odd in odds.items()}
        case "thompson":
            given = _wins(logged, scores, open_)
    given[best] += 1 - sum(given.values())
    given = {i: p * (1 - rule.floor) + rule.floor * even for i, p in given.items()}
    others = 1 - given[best]
    if others > rule.budget:
        given = {i: p * rule.budget / others for i, p in given.items()}
        given[best] = 1 - rule.budget
    return given


def slates(logged: Logged, slots: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """All slates of that length that can be drawn, each with the product of its propensities."""

    def below(slate: tuple[int, ...], above: tuple[int, ...], p: float, rank: int) -> None:
        if rank == slots:
            found.append((slate, p))
            return
        if rank in logged.fixed:
            below((*slate, logged.fixed[rank]), above, p, rank + 1)
            return
        chances = chances_at(logged, above)
        if not chances:
            below(slate, above, p, rank + 1)
        for candidate, chance in chances.items():
            if chance > 0:
                below((*slate, candidate), (*above, candidate), p * chance, rank + 1)

    found: list[tuple[tuple[int, ...], float]] = []
    below((), (), 1.0, 0)
    yield from found


def _wins(logged: Logged, scores: Sequence[float], open_: Sequence[int]) -> dict[int, float]:
    assert logged.spread is not None
    draws = logged.exploration.draws
    wins = dict.fromkeys(open_, 0)
    for draw in range(draws):
        sampled = {
            i: scores[i]
            + logged.exploration.spread * logged.spread[i] * _normal(logged, draw, candidate=i)
            for i in open_
        }
        wins[max(sampled, key=lambda i: (sampled[i], -i))] += 1
    return {i: won / draws for i, won in wins.items()}


def _normal(logged: Logged, draw: int, *, candidate: int) -> float:
    """SplitMix64, sixteen bits of it, and the quantile in the middle of that share."""
    word = draw * math.ceil(logged.count / 4) + candidate // 4
    mixed = (hash64(logged.noise_of) + (word + 1) * 0x9E3779B97F4A7C15) & _WORD
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _WORD
    mixed ^= mixed >> 31
    share = mixed >> 16 * (candidate % 4) & 0xFFFF
    return NormalDist().inv_cdf((share + 0.5) / 65_536)
