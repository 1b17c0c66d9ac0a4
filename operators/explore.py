"""Which candidate is shown: the draw, and the exact probability with which it was drawn.

The draw is the last thing that happens to a slate; whatever shapes candidates or scores came
before. Slots are filled from the top without replacement: the propensity of an item is its
probability at its rank given the ranks above it. Chance is an argument (a number in [0, 1) per
rank), so the same decision is drawn the same way for ever.

At each rank the rule is applied to the candidates open there: neither on the slate already, nor
fixed at another rank, nor beyond a limit of the slate (operators/diversity.py). K is their number
and the best is the best of them. With `unit` the mean size of all candidates' scores (the rules
are then free of the rewards' unit, and a parameter means the same for clicks and for euros):

- igw: a non-best candidate gets 1 / (K + gamma * gap / unit), the best the rest (Foster and Rakhlin
  2020, after Abe and Long 1999).
- softmax: in proportion to exp(score / (temperature * unit)).
- epsilon_greedy: epsilon / K each, the best the rest. greedy: the best, always. uniform: 1 / K.
- thompson: the share of sampled models in which it is the best (operators/thompson.py). Where the
  model does not know its spread there is nothing to sample, and the rule is igw.

Then a share `floor` is drawn uniformly (not with greedy), and last what all others than the best
have together is cut to `budget` in proportion. The cut is last: a floor beyond the budget is cut
too. Candidates that only a floor or the samples could reach have no support without them: keep a
floor where off-policy estimates are wanted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple, assert_never

import numpy as np

from operators.contents import Flags
from operators.diversity import Limit
from operators.score import Scores
from operators.thompson import Samples
from schemas.learning import Exploration, ExplorationKind

GAMMA_PER_ROOT_REWARD: Final = 30.0
_STEEPEST: Final = 1e200
"""What a gap is multiplied by lies between this and its inverse: no product over- or underflows."""
_ROUNDING: Final = 1e-12
_NONE: Final[Mapping[int, int]] = MappingProxyType({})


class Drawn(NamedTuple):
    """One slot filled: which candidate, its propensity, whether it was the greedy one.

    What was put there rather than drawn is not `learnable`: it tells nothing of other choices.
    """

    position: int
    propensity: float
    greedy: bool
    learnable: bool = True


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
    spread: Scores | None = None,
    noise_of: str = "",
    fixed: Mapping[int, int] = _NONE,
    limit: Limit | None = None,
) -> list[Drawn]:
    """Fill up to `slots` slots from `count` candidates with the given scores (None: no model).

    `chances` holds one number in [0, 1) per slot; `scale` is what gaps are relative to (None: the
    mean of the scores' sizes); `spread` the standard deviation of each score (None: unknown), for
    thompson and optimism; `noise_of` a text that is another for each decision, for thompson.

    `fixed` puts candidates at ranks (from 0): they are not drawn, have propensity 1, and count for
    the `limit` at every rank. Where nothing is open at a rank the slate ends short there, but for
    what is fixed below, which moves up. Without scores every candidate is as good as another: the
    draw is uniform, and none is greedy.

    Raises ValueError where scores or spread are not finite: a bug, that a draw must not hide.
    """
    slots = min(slots, count)
    if fixed:
        fixed = {rank: at for rank, at in fixed.items() if rank < slots}
    rule = _rule(scores, count, exploration, rewarded, scale, spread, noise_of)
    taken = list(fixed.values())
    drawn: list[Drawn] = []
    for rank in range(slots):
        put = fixed.get(rank) if fixed else None
        if put is not None:
            drawn.append(Drawn(put, 1.0, True, False))
            continue
        open_, left = None, count
        if taken:
            open_ = _open(count, taken, limit)
            left = int(np.count_nonzero(open_))
            if not left:
                continue
        if rule is None:
            nth = int(chances[rank] * left)
            at = nth if open_ is None else int(np.flatnonzero(open_)[nth])
            drawn.append(Drawn(at, 1.0 / left, False))
        else:
            drawn.append(rule.draw(chances[rank], open_, left))
        taken.append(drawn[-1].position)
    return drawn


def propensities(
    scores: Scores | None,
    *,
    count: int,
    exploration: Exploration,
    rewarded: int,
    scale: float | None = None,
    spread: Scores | None = None,
    noise_of: str = "",
    taken: Sequence[int] = (),
    limit: Limit | None = None,
) -> Scores:
    """The probability of each candidate at the rank below those `taken`, shape (count,).

    What `draw_slate` draws by, from the same arguments; what is fixed at any rank counts as taken.
    All are 0 where nothing is open.
    """
    rule = _rule(scores, count, exploration, rewarded, scale, spread, noise_of)
    open_ = _open(count, taken, limit) if taken else None
    left = count if open_ is None else int(np.count_nonzero(open_))
    if not left:
        return np.zeros(count)
    if rule is None:
        return np.full(count, 1.0 / left) if open_ is None else open_ / left
    best, others, best_p = rule.shares(open_, left)
    others[best] = best_p
    return others


def _open(count: int, taken: Sequence[int], limit: Limit | None) -> Flags:
    open_ = None if limit is None else limit.open(taken)
    if open_ is None:
        open_ = np.ones(count, np.bool_)
    open_[list(taken)] = False
    return open_


def _rule(
    scores: Scores | None,
    count: int,
    exploration: Exploration,
    rewarded: int,
    scale: float | None,
    spread: Scores | None,
    noise_of: str,
) -> _Rule | None:
    """The rule over these scores; None: every open candidate is as likely as another."""
    if scores is None or not count or (exploration.kind == "uniform" and exploration.budget == 1.0):
        return None
    size = float(np.add.reduce(np.abs(scores)))
    if exploration.optimism and spread is not None:
        scores = scores + exploration.optimism * spread
        finite = math.isfinite(size) and math.isfinite(float(np.add.reduce(scores)))
    else:
        finite = math.isfinite(size)
    if not finite:
        raise ValueError("the scores to draw by must be finite, with a finite sum")
    unit = (size / count if scale is None else scale) or 1.0
    kind: ExplorationKind = exploration.kind
    steepness, samples = 0.0, None
    if kind == "thompson" and spread is not None:
        samples = Samples(
            scores, exploration.spread * spread, draws=exploration.draws, noise_of=noise_of
        )
    elif kind == "igw" or kind == "thompson":
        kind = "igw"
        steepness = _steepness(gamma_of(exploration, rewarded=rewarded), unit)
    elif kind == "softmax":
        steepness = _steepness(1.0 / exploration.temperature, unit)
    return _Rule(scores, exploration, kind, steepness, samples)


def _steepness(greediness: float, unit: float) -> float:
    return max(min(min(greediness, _STEEPEST) / unit, _STEEPEST), 1.0 / _STEEPEST)


class _Rule(NamedTuple):
    """How probability is shared among candidates; `steepness` is by how much a gap counts."""

    scores: Scores
    exploration: Exploration
    kind: ExplorationKind
    steepness: float
    samples: Samples | None

    def draw(self, chance: float, open_: Flags | None, left: int) -> Drawn:
        """One of the `left` open candidates (None: all are open)."""
        best, others, best_p = self.shares(open_, left)
        if chance < best_p:
            return Drawn(best, best_p, True)
        # The best candidate's share lies first on the line, then the others in order.
        line = others.cumsum()
        at = int(line.searchsorted(chance - best_p, side="right"))
        if at >= len(others):
            at = int(np.flatnonzero(others)[-1])
        return Drawn(at, float(others[at]), False)

    def shares(self, open_: Flags | None, left: int) -> tuple[int, Scores, float]:
        """The best candidate, the probabilities of the others (0 at the best), and the best's."""
        exploration = self.exploration
        scores = self.scores if open_ is None else np.where(open_, self.scores, -np.inf)
        best = int(scores.argmax())
        others = self._by_kind(scores, float(scores[best]), open_, left)
        if exploration.floor and self.kind != "greedy":
            floor = exploration.floor / left
            others *= 1.0 - exploration.floor
            others += floor if open_ is None else open_ * floor
        others[best] = 0.0
        rest = float(np.add.reduce(others))
        if rest > exploration.budget:
            others *= exploration.budget / rest
            rest = exploration.budget
        best_p = 1.0 - rest
        # The best by its score may win in no sample: what is left then is rounding.
        return best, others, best_p if best_p > _ROUNDING else 0.0

    def _by_kind(self, scores: Scores, highest: float, open_: Flags | None, left: int) -> Scores:
        """What each kind gives the candidates other than the best; closed ones score -inf."""
        match self.kind:
            case "igw":
                # In place, here and above: at thirty candidates an allocation costs what a sum
                # does. A closed candidate's gap is infinite, its share 0.
                shares = highest - scores
                shares *= self.steepness
                shares += left
                return np.reciprocal(shares, out=shares)
            case "softmax":
                shares = scores - highest
                shares *= self.steepness
                # Through float32, so that the last bit of a machine's `exp` reaches no draw.
                weights: Scores = np.exp(shares).astype(np.float32).astype(np.float64)
                weights /= float(np.add.reduce(weights))
                return weights
            case "thompson":
                assert self.samples is not None, "_rule samples for this kind"
                return self.samples.wins(open_)
            case "epsilon_greedy":
                return _each(self.exploration.epsilon / left, open_, len(scores))
            case "uniform":
                return _each(1.0 / left, open_, len(scores))
            case "greedy":
                return np.zeros(len(scores))
            case _:
                assert_never(self.kind)


def _each(share: float, open_: Flags | None, count: int) -> Scores:
    if open_ is None:
        return np.full(count, share)
    shares: Scores = open_ * np.float64(share)
    return shares
