"""Which candidate is shown: the draw, and the exact probability with which it was drawn.

The draw is the last thing that happens to a slate; whatever shapes candidates or scores came
before. Slots are filled from the top without replacement: the propensity of an item is its
probability at its rank given the ranks above it. Chance is an argument (a number in [0, 1) per
rank), so the same decision is drawn the same way for ever.

Inverse-gap weighting: Foster and Rakhlin (2020), after Abe and Long (1999). A non-best candidate
gets 1 / (K + gamma * gap), the best the rest. The gap is relative to the candidates' mean score:
the rule is then free of the rewards' unit, and gamma means the same for clicks and for euros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple, assert_never

import numpy as np

from operators.score import Scores
from schemas.policy import Exploration

GAMMA_PER_ROOT_REWARD: Final = 30.0


class Drawn(NamedTuple):
    """One slot filled: the candidate's position, its propensity, whether it was the greedy one."""

    position: int
    propensity: float
    greedy: bool


def gamma_of(exploration: Exploration, *, rewarded: int) -> float:
    """The greediness of inverse-gap weighting after so many rewarded examples.

    The error of a rate shrinks with the root of the number of rewards behind it, so the trust in a
    gap grows with that root (Foster and Rakhlin choose gamma by the root of the horizon).
    """
    if exploration.gamma is not None:
        return exploration.gamma
    return GAMMA_PER_ROOT_REWARD * math.sqrt(1 + rewarded)


def draw_slate(
    scores: Scores | None,
    *,
    count: int,
    slots: int,
    exploration: Exploration,
    rewarded: int,
    chances: Sequence[float],
    scale: float | None = None,
) -> list[Drawn]:
    """Fill up to `slots` slots from `count` candidates with the given scores (None: no model).

    `chances` holds one number in [0, 1) per slot; `scale` is what gaps are relative to (None: the
    mean of the scores' sizes). Without scores every candidate is as good as
    another, so the draw is uniform.
    """
    if scores is None or exploration.kind == "uniform":
        return _draw_uniform(count, chances[: min(slots, count)])
    drawn: list[Drawn] = []
    left = scores
    # All are live until one is drawn, and most slates have one slot.
    live: Scores | float = 1.0
    unit = float(np.add.reduce(np.abs(scores))) / count if scale is None else scale
    gamma = gamma_of(exploration, rewarded=rewarded) / (unit or 1.0)
    for chance in chances[: min(slots, count)]:
        if drawn:
            if len(drawn) == 1:
                left, live = scores.copy(), np.ones(count)
            left[drawn[-1].position] = -np.inf
            live[drawn[-1].position] = 0.0  # type: ignore[index]
        best = int(left.argmax())
        others, best_p = _others(left, live, count - len(drawn), best, exploration, gamma)
        at, propensity = best, best_p
        if chance >= best_p:
            # The best candidate's share lies first on the line, then the others in order.
            line = others.cumsum()
            at = int(line.searchsorted(chance - best_p, side="right"))
            if at >= count or others[at] == 0.0:
                at = int(np.flatnonzero(others)[-1])
            propensity = float(others[at])
        drawn.append(Drawn(at, propensity, at == best))
    return drawn


def _draw_uniform(count: int, chances: Sequence[float]) -> list[Drawn]:
    left = list(range(count))
    drawn = []
    for chance in chances:
        propensity = 1.0 / len(left)
        drawn.append(Drawn(left.pop(int(chance * len(left))), propensity, False))
    return drawn


def _others(
    scores: Scores,
    live: Scores | float,
    count: int,
    best: int,
    exploration: Exploration,
    gamma: float,
) -> tuple[Scores, float]:
    """Probabilities of the non-best candidates (0 at the best), and the best one's.

    Candidates drawn already have a score of minus infinity, are 0 in `live` and get nothing.
    """
    match exploration.kind:
        case "igw":
            # In place, here and below: at thirty candidates an allocation costs what a sum does.
            others = scores[best] - scores
            others *= gamma
            others += count
            np.reciprocal(others, out=others)
        case "epsilon_greedy":
            others = np.full(len(scores), exploration.epsilon / count)
            others *= live
        case "uniform":
            others = np.full(len(scores), 1.0)
            others *= live
            others /= count
        case "greedy":
            others = np.zeros(len(scores))
        case _:
            assert_never(exploration.kind)
    if exploration.floor and exploration.kind != "greedy":
        others *= 1.0 - exploration.floor
        others += live * (exploration.floor / count)
    others[best] = 0.0
    return others, 1.0 - float(np.add.reduce(others))
